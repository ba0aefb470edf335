"""Rows of variables, read and written by the fastest of TensorFlow's kernels."""

from __future__ import annotations

import uuid
from typing import Any

import tensorflow as tf

# `ResourceHandle::ANONYMOUS_NAME` of TensorFlow: each time such a variable is made, it is a new one.
_ANONYMOUS = "cd2c89b7-88b7-44c8-ad83-06c2a9158347"


def read_rows(table: Any, rows: tf.Tensor) -> tf.Tensor:
    """Some rows of a table.

    Up to rows of 32 numbers it takes 0.7 to 0.85 of the time of `tf.gather`, wide rows the same (`benchmarks/kernels.py`).

    Args:
        table: A variable or a tensor `[n, …]`.
        rows: int32 or int64 `[r]`.

    Returns:
        `[r, …]`. The gradient with respect to a variable is `tf.IndexedSlices` of these rows.
    """
    return tf.gather_nd(table, tf.expand_dims(rows, 1))


def in_scratch_variable(values: tf.Tensor, device: str) -> tf.Tensor:
    """The handle of a variable that holds these values (`[r, …]`) and is gone when nobody holds the handle any more.

    For rows of a table, so that TensorFlow's fused kernels can update them in one pass.
    """
    with tf.device(device):
        shape = tf.TensorShape([None, *values.shape[1:]])
        # `tf.saved_model.load` makes an ordinary name of it, which all would share: so each has a container of its own.
        handle = tf.raw_ops.VarHandleOp(
            dtype=values.dtype, shape=shape, shared_name=_ANONYMOUS, container=f"keras_rafm_{uuid.uuid4().hex}"
        )
        tf.raw_ops.AssignVariableOp(resource=handle, value=values)
    return handle


def of_scratch_variable(handle: tf.Tensor, like: tf.Tensor) -> tf.Tensor:
    """What it holds now, with the dtype and the static shape of another tensor."""
    return tf.ensure_shape(tf.raw_ops.ReadVariableOp(resource=handle, dtype=like.dtype), like.shape)


def write_rows(table: Any, rows: tf.Tensor, values: tf.Tensor) -> None:
    """Set some rows of a variable `[n, …]`, each given once (int `[r]`), to values `[r, …]`."""
    table.scatter_update(tf.IndexedSlices(values, rows))
