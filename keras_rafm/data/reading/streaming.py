"""Blocks of rows from many files -> batches: in parallel, in an order that a seed decides, in shares for workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_rafm.checks.constants import PADDING_ID
from keras_rafm.data.formats.base import Opener
from keras_rafm.data.reading.array_batches import Orders

_FILES_AT_ONCE = 4
#: Orders that an epoch may draw: one of its files, and one for each time that rows are shuffled.
_ORDERS_PER_EPOCH = 2**32


def streamed_batches(
    files: Sequence[str],
    opener: Opener,
    encode: Callable[[Any], tuple[Any, ...]],
    batch_size: int,
    drop_remainder: bool,
    orders: Orders | None,
    shuffled_rows: int,
    shard: tuple[int, int],
) -> tf.data.Dataset:
    """Batches of encoded rows.

    Args:
        files: Their names.
        opener: Opens one of them.
        encode: A block of raw columns -> tensors with one row per row, the first item a dict with `"ids"`.
        batch_size: `B`, rows per batch. Batches run on across files.
        drop_remainder: Leave out a last batch of fewer rows.
        orders: Draw a new order of files, and of rows, in every iteration; `None` keeps theirs.
        shuffled_rows: How many rows are held at least to draw the next ones from.
        shard: Index and number of the worker: it gets every so manyth file if there are enough, else block of rows.

    Returns:
        A dataset of what `encode` gives, `[B, …]`.
    """
    index, number = shard
    by_files = len(files) >= number
    own_files = tf.constant(list(files[index::number] if by_files else files))

    def own_blocks(file: tf.Tensor) -> tf.data.Dataset:
        blocks = opener(own_files[file])
        # Of each file by itself: workers that draw files in other orders still get other blocks. Files of few blocks are
        # shared out in turn.
        return blocks if by_files else blocks.shard(number, (index + file) % number)

    def epoch_batches(epoch: tf.Tensor) -> tf.data.Dataset:
        first_order = epoch * _ORDERS_PER_EPOCH
        numbers = tf.range(own_files.shape[0], dtype=tf.int64)
        if orders is not None:
            numbers = orders.order(first_order, own_files.shape[0])
        blocks = tf.data.Dataset.from_tensor_slices(numbers).interleave(
            own_blocks,
            cycle_length=min(_FILES_AT_ONCE, own_files.shape[0]),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        encoded = blocks.map(encode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        if orders is None and _has_fixed_shapes(encoded.element_spec):
            return encoded.rebatch(batch_size, drop_remainder)
        draw = None if orders is None else _Draw(orders, first_order)
        return _rebatched(encoded, batch_size, drop_remainder, draw, 0 if orders is None else shuffled_rows)

    if orders is None:
        return epoch_batches(tf.constant(0, tf.int64))
    epochs = tf.data.Dataset.from_tensors(0).map(lambda _: orders.reserve(1))
    return epochs.flat_map(epoch_batches)


class _Draw:
    """Orders of one epoch's rows."""

    def __init__(self, orders: Orders, first: tf.Tensor) -> None:
        self._orders, self._first = orders, first

    def __call__(self, number: tf.Tensor, num_rows: tf.Tensor) -> tf.Tensor:
        return self._orders.order(self._first + 1 + number, num_rows)


def _rebatched(
    blocks: tf.data.Dataset, batch_size: int, drop_remainder: bool, draw: _Draw | None, held_rows: int
) -> tf.data.Dataset:
    """The rows of blocks of different width in batches, drawn from at least `held_rows` rows where they are shuffled."""
    spec = blocks.element_spec
    nothing = tf.nest.map_structure(lambda s: tf.zeros([0, *(size or 0 for size in s.shape[1:])], s.dtype), spec)
    ended = blocks.map(lambda *rows: (rows, False)).concatenate(tf.data.Dataset.from_tensors((nothing, True)))

    def collect(state: Any, element: Any) -> Any:
        (held, number), (rows, is_last) = state, element
        rows = _joined(held, rows)
        there = tf.shape(tf.nest.flatten(rows)[0])[0]
        enough = (there >= max(batch_size, held_rows)) | is_last
        whole = there - there % batch_size
        given = tf.where(enough, whole if drop_remainder else tf.where(is_last, there, whole), 0)
        if draw is not None:
            order = tf.cond(enough, lambda: draw(number, there), lambda: tf.range(tf.cast(there, tf.int64)))
            rows = tf.cond(enough, lambda: _taken(rows, order), lambda: rows)
            number += tf.cast(enough, tf.int64)
        ready = tf.nest.map_structure(lambda x: x[:given], rows)
        left = tf.nest.map_structure(lambda x: x[given:], rows)
        return (left, number), ready

    collected = ended.scan((nothing, tf.constant(0, tf.int64)), collect)

    def batches(*ready: Any) -> tf.data.Dataset:
        there = tf.shape(tf.nest.flatten(ready)[0], out_type=tf.int64)[0]
        starts = tf.data.Dataset.range(0, there, batch_size)
        return starts.map(lambda start: tf.nest.map_structure(lambda x: x[start : start + batch_size], ready))

    return collected.flat_map(batches).map(_without_padding_columns)


def _joined(first: Any, second: Any) -> Any:
    """Rows of both, as wide as the wider ones: ids (integers) are padded with −1, values with 0."""

    def joined(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        if a.shape.rank == 2 and b.shape[1] is None:
            padding = tf.constant(PADDING_ID if b.dtype.is_integer else 0, b.dtype)
            width = tf.maximum(tf.shape(a)[1], tf.shape(b)[1])
            a, b = (tf.pad(x, [[0, 0], [0, width - tf.shape(x)[1]]], constant_values=padding) for x in (a, b))
        return tf.concat([a, b], axis=0)

    return tf.nest.map_structure(joined, first, second)


def _taken(rows: Any, order: tf.Tensor) -> Any:
    return tf.nest.map_structure(lambda x: tf.gather(x, order), rows)


def _has_fixed_shapes(spec: Any) -> bool:
    return all(size is not None for own in tf.nest.flatten(spec) for size in own.shape[1:])


def _without_padding_columns(*rows: Any) -> Any:
    """Leave out the columns of ids that are padding in all rows, and their values."""
    inputs = rows[0]
    if inputs["ids"].shape[1] is not None:
        return rows
    columns = tf.where(tf.reduce_any(inputs["ids"] != PADDING_ID, axis=0))[:, 0]
    return {name: tf.gather(own, columns, axis=1) for name, own in inputs.items()}, *rows[1:]
