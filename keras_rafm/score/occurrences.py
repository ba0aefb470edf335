"""Inputs of every kind -> one checked, flat list of occurrences.

An occurrence is a feature id with its value in one sample. Each occurrence is a term of its own, so an id may occur more
than once in a sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from keras_rafm.checks.tensors import after_checks, require


class Occurrences(NamedTuple):
    """The occurrences of a batch in the order of its samples, padding included.

    Attributes:
        samples: The index of the sample that each occurrence belongs to, ascending: int64 `[n]`.
        ids: The feature id of each occurrence, whose range is not checked yet: int32 or int64 `[n]`.
        values: The value `x_i` of each occurrence: float `[n]`; `None` if all values are 1.
        num_samples: `B`: int64 scalar.
        dtype: The float dtype to compute in.
    """

    samples: tf.Tensor
    ids: tf.Tensor
    values: tf.Tensor | None
    num_samples: tf.Tensor
    dtype: str


def occurrences(inputs: Any, num_features: int, dtype: str, where: str) -> Occurrences:
    """Flatten an input of any kind.

    Args:
        inputs: One of
            dense or ragged integer ids `[B, F]`;
            a mapping `{"ids": …, "values": …}` of such ids and numeric values of the same shape, both dense or both ragged;
            a `tf.SparseTensor` `[B, num_features]` (column = id, value = value) in row-major order.
            Id −1 is padding.
        num_features: Ids are in `[0, num_features)`.
        dtype: Float dtype that the values are cast to.
        where: The name of the layer, for error messages.

    Raises:
        TypeError: Ids are not int32 or int64, values are not numeric, or the kind of input is unknown.
        ValueError: Static shapes do not fit.
        tf.errors.InvalidArgumentError: Ids and values have different shapes, or a value is NaN or infinite, at run time.
    """
    if isinstance(inputs, tf.SparseTensor):
        flat = _from_sparse(inputs, num_features, dtype, where)
    else:
        ids, values = ids_and_values(inputs, where)
        ragged = isinstance(ids, tf.RaggedTensor)
        if values is not None and isinstance(values, tf.RaggedTensor) != ragged:
            raise TypeError(f"{where}: `ids` and `values` must both be dense or both be tf.RaggedTensor")
        flat = (_from_ragged if ragged else _from_dense)(ids, values, dtype, where)
    return _check_finite(flat._replace(num_samples=_hide_static_value(flat.num_samples)), num_features, where)


def _hide_static_value(size: tf.Tensor) -> tf.Tensor:
    """Return the same size, hidden from Grappler.

    If Grappler knows the shapes of sums, it adds them in another order. The last bit of a score would then depend on
    whether the graph was made for one batch size or for all.
    """
    return size if tf.executing_eagerly() else tf.raw_ops.PlaceholderWithDefault(input=size, shape=[])


def check_symbolic_inputs(inputs: Any, num_features: int, where: str) -> None:
    """Check the dtypes and static shapes of symbolic inputs (`keras.KerasTensor`s).

    Raises:
        TypeError, ValueError: See `occurrences`.
    """
    if getattr(inputs, "sparse", False):
        _check_dtype_of_values(tf.as_dtype(inputs.dtype), where)
        if not tf.TensorShape(inputs.shape).is_compatible_with([None, num_features]):
            raise ValueError(
                f"{where}: a sparse input must be of shape [batch, num_features={num_features}]. "
                f"Received: shape {tuple(inputs.shape)}"
            )
        return
    ids, values = _split(inputs, where)
    _check_ids_and_values(ids, values, where)
    if values is not None and getattr(ids, "ragged", False) != getattr(values, "ragged", False):
        raise TypeError(f"{where}: `ids` and `values` must both be dense or both be ragged")


def ids_and_values(inputs: Any, where: str) -> tuple[Any, Any]:
    """Split inputs that are not sparse into ids and values (or `None`), as dense or ragged tensors.

    Raises:
        TypeError, ValueError: See `occurrences`.
    """
    ids, values = _split(inputs, where)
    ids, values = _as_tensor(ids), None if values is None else _as_tensor(values)
    _check_ids_and_values(ids, values, where)
    return ids, values


def _split(inputs: Any, where: str) -> tuple[Any, Any]:
    if isinstance(inputs, (list, tuple)) and any(hasattr(x, "dtype") for x in inputs):
        raise TypeError(
            f"{where}: inputs must be ids, or {{'ids': ids, 'values': values}}. Received: a {type(inputs).__name__} of "
            f"{len(inputs)}"
        )
    if not isinstance(inputs, Mapping):
        return inputs, None
    if set(inputs) - {"ids", "values"} or "ids" not in inputs:
        raise ValueError(f"{where}: a mapping of inputs must have the keys 'ids' and 'values'. Received: {sorted(inputs)}")
    return inputs["ids"], inputs.get("values")


def _check_ids_and_values(ids: Any, values: Any, where: str) -> None:
    """Check kinds, dtypes and static shapes of tensors or `keras.KerasTensor`s."""
    if any(isinstance(x, tf.SparseTensor) or getattr(x, "sparse", False) for x in (ids, values)):
        raise TypeError(f"{where}: a tf.SparseTensor holds both ids and values, so it must be the only input")
    dtype = tf.as_dtype(ids.dtype)
    if dtype not in (tf.int32, tf.int64):
        hint = " (declare the input with keras.Input(shape, dtype='int32'))" if dtype.is_floating else ""
        raise TypeError(f"{where}: ids must be int32 or int64. Received: dtype {dtype.name}{hint}")
    if values is not None:
        _check_dtype_of_values(tf.as_dtype(values.dtype), where)
    for name, tensor in (("ids", ids), ("values", values)):
        if tensor is not None and tf.TensorShape(tensor.shape).rank not in (None, 2):
            raise ValueError(
                f"{where}: `{name}` must be of shape [batch, occurrences]. Received: shape {tuple(tensor.shape)}"
            )
    if values is not None and not tf.TensorShape(ids.shape).is_compatible_with(values.shape):
        raise ValueError(
            f"{where}: `ids` and `values` must have the same shape. "
            f"Received: ids {tuple(ids.shape)}, values {tuple(values.shape)}"
        )


def _check_dtype_of_values(dtype: tf.DType, where: str) -> None:
    if not (dtype.is_floating or dtype.is_integer):
        raise TypeError(f"{where}: values must be numbers. Received: dtype {dtype.name}")


def _as_tensor(x: Any) -> Any:
    return x if isinstance(x, (tf.RaggedTensor, tf.SparseTensor)) else tf.convert_to_tensor(x)


def _from_dense(ids: tf.Tensor, values: tf.Tensor | None, dtype: str, where: str) -> Occurrences:
    checked = []
    if ids.shape.rank is None:
        checked += require(
            tf.equal(tf.rank(ids), 2),
            f"{where}: `ids` must be of shape [batch, occurrences]. Received the shape",
            lambda: tf.shape(ids),
        )
    with tf.control_dependencies(checked):
        shape = tf.shape(ids, out_type=tf.int64)
    if values is not None:
        checked += require(
            tf.reduce_all(shape == tf.shape(values, out_type=tf.int64)),
            f"{where}: `ids` and `values` must have the same shape. Received the shapes",
            lambda: tf.stack([shape, tf.shape(values, out_type=tf.int64)]),
        )
    with tf.control_dependencies(checked):
        flat_values = _flat_values(values, dtype)
        samples = tf.repeat(tf.range(shape[0]), shape[1])
    return Occurrences(samples, tf.reshape(ids, [-1]), flat_values, shape[0], dtype)


def _from_ragged(ids: tf.RaggedTensor, values: tf.RaggedTensor | None, dtype: str, where: str) -> Occurrences:
    if ids.ragged_rank != 1 or ids.flat_values.shape.rank not in (None, 1):
        raise ValueError(f"{where}: ragged ids must be of shape [batch, None]. Received: shape {ids.shape}")
    flat_values, checked = None, []
    if values is not None:
        flat_values = values.flat_values
        id_splits, value_splits = tf.cast(ids.row_splits, tf.int64), tf.cast(values.row_splits, tf.int64)
        same_length = tf.equal(tf.size(id_splits), tf.size(value_splits))
        checked = require(
            tf.cond(same_length, lambda: tf.reduce_all(id_splits == value_splits), lambda: tf.constant(False)),
            f"{where}: ragged `ids` and `values` must have rows of the same lengths. Received the row lengths, ids first",
            lambda: tf.concat([id_splits[1:] - id_splits[:-1], value_splits[1:] - value_splits[:-1]], axis=0),
        )
    if flat_values is not None:
        # A reshape alone would not wait for the checks: Grappler removes one that changes nothing.
        flat_values = _flat_values(after_checks(checked, flat_values), dtype)
    samples, num_samples = tf.cast(ids.value_rowids(), tf.int64), tf.cast(ids.nrows(), tf.int64)
    return Occurrences(samples, ids.flat_values, flat_values, num_samples, dtype)


def _from_sparse(inputs: tf.SparseTensor, num_features: int, dtype: str, where: str) -> Occurrences:
    if inputs.shape.rank not in (None, 2):
        raise ValueError(
            f"{where}: a tf.SparseTensor must be of shape [batch, num_features={num_features}]. "
            f"Received: shape {inputs.shape}"
        )
    _check_dtype_of_values(inputs.dtype, where)
    checked = require(
        tf.equal(inputs.dense_shape[1], num_features),
        f"{where}: a tf.SparseTensor must be of shape [batch, num_features={num_features}]. Received the shape",
        lambda: inputs.dense_shape,
    )
    samples = inputs.indices[:, 0]
    checked += require(
        tf.reduce_all(samples[1:] >= samples[:-1]),
        f"{where}: the rows of a tf.SparseTensor must be in order (use tf.sparse.reorder). Received the first row",
        lambda: samples[0],
    )
    samples = after_checks(checked, samples)
    return Occurrences(samples, inputs.indices[:, 1], tf.cast(inputs.values, dtype), inputs.dense_shape[0], dtype)


def _flat_values(values: tf.Tensor | None, dtype: str) -> tf.Tensor | None:
    return None if values is None else tf.reshape(tf.cast(values, dtype), [-1])


def _check_finite(flat: Occurrences, num_features: int, where: str) -> Occurrences:
    if flat.values is None:
        return flat
    # The values of padding, and in an exported model of unknown ids, are ignored.
    finite = tf.math.is_finite(flat.values) | (flat.ids < 0) | (flat.ids >= num_features)
    checked = require(
        tf.reduce_all(finite),
        f"{where}: values must be finite. Received the value",
        lambda: tf.boolean_mask(flat.values, ~finite)[0],
    )
    return flat._replace(values=after_checks(checked, flat.values))
