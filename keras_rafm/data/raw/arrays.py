"""Blocks of raw columns as tensors: how rows get from a reader that is Python into a graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from keras_rafm.data.raw.columns import Block, ListValues, RawColumn, Strings

_OFFSETS = tf.TensorSpec([None], tf.int32)
_TEXT = tf.TensorSpec([], tf.string)


def block_signature(columns: Sequence[RawColumn], shares_text: bool) -> Any:
    """What `tf.data.Dataset.from_generator` has to know of `as_arrays`."""
    num_texts = sum(column.dtype == "string" for column in columns)
    return (_TEXT,) * (min(num_texts, 1) if shares_text else num_texts), tuple(map(_signature, columns))


def blocks_as_arrays(blocks: Iterator[tuple[int, Block]], columns: Sequence[RawColumn], shares_text: bool) -> Iterator[Any]:
    """Each block as plain arrays.

    Args:
        blocks: Numbers of rows, and blocks.
        columns: Those of the blocks that are asked for.
        shares_text: Whether all strings of a block are in one buffer, which goes over once.
    """
    for _, block in blocks:
        texts: list[bytes] = []
        arrays = []
        for column in columns:
            value = block[column.name]
            values = value.values if isinstance(value, ListValues) else value
            flat: tuple[Any, ...] = (values,)
            if isinstance(values, Strings):
                flat = (values.starts, values.lengths)
                if not (shares_text and texts):
                    texts.append(values.text)
            arrays.append((*flat, value.row_lengths) if isinstance(value, ListValues) else flat)
        yield tuple(texts), tuple(arrays)


def as_raw_columns(texts: Sequence[tf.Tensor], arrays: Sequence[Sequence[tf.Tensor]], columns: Sequence[RawColumn]) -> Any:
    """The raw columns of a block, from the tensors of its arrays."""
    raw, string_columns = {}, 0
    for column, own in zip(columns, arrays, strict=True):
        values = own[0]
        if column.dtype == "string":
            text = texts[min(string_columns, len(texts) - 1)]
            values = tf.strings.substr(text, own[0], own[1])
            string_columns += 1
        raw[column.name] = tf.RaggedTensor.from_row_lengths(values, own[-1], validate=False) if column.is_list else values
    return raw


def _signature(column: RawColumn) -> tuple[tf.TensorSpec, ...]:
    own: tuple[tf.TensorSpec, ...] = (tf.TensorSpec([None], tf.as_dtype(column.dtype)),)
    if column.dtype == "string":
        own = (_OFFSETS, _OFFSETS)
    return (*own, tf.TensorSpec([None], tf.int64)) if column.is_list else own
