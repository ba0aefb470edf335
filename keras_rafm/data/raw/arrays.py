"""Blocks as tensors: how rows get from a reader in Python into a graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from keras_rafm.data.raw.blocks import Block, ListValues, Strings
from keras_rafm.data.raw.columns import RawColumn

_OFFSETS = tf.TensorSpec([None], tf.int32)
_TEXT = tf.TensorSpec([], tf.string)


def block_signature(columns: Sequence[RawColumn], shares_text: bool) -> Any:
    """Return the signature of what `blocks_as_arrays` yields, for `tf.data.Dataset.from_generator`."""
    num_texts = sum(column.dtype == "string" for column in columns)
    return (_TEXT,) * (min(num_texts, 1) if shares_text else num_texts), tuple(map(_column_signature, columns))


def blocks_as_arrays(blocks: Iterator[tuple[int, Block]], columns: Sequence[RawColumn], shares_text: bool) -> Iterator[Any]:
    """Yield each block as nested tuples of plain arrays.

    Args:
        blocks: Pairs of a number of rows and a block with that many rows.
        columns: The columns to yield, in this order.
        shares_text: Whether all strings of a block are in one buffer, which is then yielded once.

    Yields:
        The buffers of strings, and for each column a tuple of arrays: the values, or starts and lengths of strings; the row
        lengths follow if the column has lists.
    """
    for _, block in blocks:
        texts: list[bytes] = []
        arrays = []
        for column in columns:
            column_values = block[column.name]
            values = column_values.values if isinstance(column_values, ListValues) else column_values
            flat: tuple[Any, ...] = (values,)
            if isinstance(values, Strings):
                flat = (values.starts, values.lengths)
                if not (shares_text and texts):
                    texts.append(values.text)
            arrays.append((*flat, column_values.row_lengths) if isinstance(column_values, ListValues) else flat)
        yield tuple(texts), tuple(arrays)


def as_raw_columns(texts: Sequence[tf.Tensor], arrays: Sequence[Sequence[tf.Tensor]], columns: Sequence[RawColumn]) -> Any:
    """Return the raw columns of a block as a dictionary of tensors.

    Args:
        texts: The buffers of strings that `blocks_as_arrays` yielded, as tensors.
        arrays: For each column, the arrays that `blocks_as_arrays` yielded, as tensors.
        columns: The columns in the same order.
    """
    raw, num_string_columns = {}, 0
    for column, column_arrays in zip(columns, arrays, strict=True):
        values = column_arrays[0]
        if column.dtype == "string":
            starts, lengths = column_arrays[:2]
            text = texts[min(num_string_columns, len(texts) - 1)]
            values = tf.strings.substr(text, starts, lengths)
            num_string_columns += 1
        if column.is_list:
            values = tf.RaggedTensor.from_row_lengths(values, column_arrays[-1], validate=False)
        raw[column.name] = values
    return raw


def _column_signature(column: RawColumn) -> tuple[tf.TensorSpec, ...]:
    specs: tuple[tf.TensorSpec, ...] = (tf.TensorSpec([None], tf.as_dtype(column.dtype)),)
    if column.dtype == "string":
        specs = (_OFFSETS, _OFFSETS)
    return (*specs, tf.TensorSpec([None], tf.int64)) if column.is_list else specs
