"""Batches from blocks of rows of many files: read in parallel, in an order that a seed decides, in shares for workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_rafm.checks.constants import PADDING_ID
from keras_rafm.data.formats.base import Opener
from keras_rafm.data.samples.array_batches import Orders

_FILES_AT_ONCE = 4
#: The number of orders that an epoch may draw: one for its files, and one each time that rows are shuffled.
_ORDERS_PER_EPOCH = 2**32


def streamed_batches(
    files: Sequence[str],
    opener: Opener,
    encode: Callable[[Any], tuple[Any, ...]],
    *,
    batch_size: int,
    drop_remainder: bool,
    orders: Orders | None,
    shuffled_rows: int,
    num_shards: int,
    shard_index: int,
) -> tf.data.Dataset:
    """Stream batches of encoded rows.

    Args:
        files: Names of the files.
        opener: Opens one file.
        encode: Maps a block of raw columns to tensors with one row per raw row; the first item is a dict with `"ids"`.
        batch_size: `B`, rows per batch. A batch may span files.
        drop_remainder: Leave out a last batch of fewer rows.
        orders: Draw a new order of files and of rows in every iteration; `None` keeps their order.
        shuffled_rows: The least number of rows held in memory to draw from.
        num_shards: The number of workers that share the files.
        shard_index: The number of this worker. It reads every `num_shards`-th file or, if there are fewer files than
            workers, every `num_shards`-th block of rows.

    Returns:
        A dataset of the results of `encode`, `[B, …]`.
    """
    shares_files = len(files) >= num_shards
    shard_files = tf.constant(list(files[shard_index::num_shards] if shares_files else files))

    def shard_blocks(file_number: tf.Tensor) -> tf.data.Dataset:
        blocks = opener(shard_files[file_number])
        # Each file is divided by itself, so that workers that read files in different orders still get different blocks.
        # The first block of each next file goes to the next worker, so that files with few blocks are shared evenly.
        return blocks if shares_files else blocks.shard(num_shards, (shard_index + file_number) % num_shards)

    def epoch_batches(epoch: tf.Tensor) -> tf.data.Dataset:
        first_order = epoch * _ORDERS_PER_EPOCH
        file_numbers = tf.range(shard_files.shape[0], dtype=tf.int64)
        if orders is not None:
            file_numbers = orders.order(first_order, shard_files.shape[0])
        blocks = tf.data.Dataset.from_tensor_slices(file_numbers).interleave(
            shard_blocks,
            cycle_length=min(_FILES_AT_ONCE, shard_files.shape[0]),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
        encoded = blocks.map(encode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        if orders is None and _has_fixed_shapes(encoded.element_spec):
            return encoded.rebatch(batch_size, drop_remainder)
        row_orders = None if orders is None else _RowOrders(orders, first_order)
        return _rebatched(
            encoded,
            batch_size,
            drop_remainder=drop_remainder,
            row_orders=row_orders,
            least_held_rows=0 if orders is None else shuffled_rows,
        )

    if orders is None:
        return epoch_batches(tf.constant(0, tf.int64))
    epochs = tf.data.Dataset.from_tensors(0).map(lambda _: orders.reserve(1))
    return epochs.flat_map(epoch_batches)


class _RowOrders:
    """The orders of rows that one epoch draws.

    Args:
        orders: All orders.
        first: The number of the epoch's first order, which is that of its files.
    """

    def __init__(self, orders: Orders, first: tf.Tensor) -> None:
        self._orders, self._first = orders, first

    def __call__(self, number: tf.Tensor, num_rows: tf.Tensor) -> tf.Tensor:
        return self._orders.order(self._first + 1 + number, num_rows)


def _rebatched(
    blocks: tf.data.Dataset, batch_size: int, drop_remainder: bool, row_orders: _RowOrders | None, least_held_rows: int
) -> tf.data.Dataset:
    """Batch the rows of blocks of different width.

    Args:
        blocks: Encoded blocks.
        batch_size: `B`, rows per batch.
        drop_remainder: Leave out a last batch of fewer rows.
        row_orders: Shuffle the rows; `None` keeps their order.
        least_held_rows: The least number of rows to collect before they are shuffled.
    """
    spec = blocks.element_spec
    no_rows = tf.nest.map_structure(lambda s: tf.zeros([0, *(size or 0 for size in s.shape[1:])], s.dtype), spec)
    ended = blocks.map(lambda *rows: (rows, False)).concatenate(tf.data.Dataset.from_tensors((no_rows, True)))

    def collect(state: Any, element: Any) -> Any:
        (held, number), (rows, is_last) = state, element
        rows = _joined(held, rows)
        num_rows = tf.shape(tf.nest.flatten(rows)[0])[0]
        is_enough = (num_rows >= max(batch_size, least_held_rows)) | is_last
        in_whole_batches = num_rows - num_rows % batch_size
        at_end = in_whole_batches if drop_remainder else tf.where(is_last, num_rows, in_whole_batches)
        num_ready = tf.where(is_enough, at_end, 0)
        if row_orders is not None:
            order = tf.cond(is_enough, lambda: row_orders(number, num_rows), lambda: tf.range(tf.cast(num_rows, tf.int64)))
            rows = tf.cond(is_enough, lambda: _reordered(rows, order), lambda: rows)
            number += tf.cast(is_enough, tf.int64)
        ready = tf.nest.map_structure(lambda x: x[:num_ready], rows)
        left = tf.nest.map_structure(lambda x: x[num_ready:], rows)
        return (left, number), ready

    collected = ended.scan((no_rows, tf.constant(0, tf.int64)), collect)

    def batches(*ready: Any) -> tf.data.Dataset:
        num_rows = tf.shape(tf.nest.flatten(ready)[0], out_type=tf.int64)[0]
        starts = tf.data.Dataset.range(0, num_rows, batch_size)
        return starts.map(lambda start: tf.nest.map_structure(lambda x: x[start : start + batch_size], ready))

    return collected.flat_map(batches).map(_without_padding_columns)


def _joined(first: Any, second: Any) -> Any:
    """Join rows; the narrower ones are padded: ids (integers) with −1, values with 0."""

    def joined(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
        if a.shape.rank == 2 and b.shape[1] is None:
            padding = tf.constant(PADDING_ID if b.dtype.is_integer else 0, b.dtype)
            width = tf.maximum(tf.shape(a)[1], tf.shape(b)[1])
            a, b = (tf.pad(x, [[0, 0], [0, width - tf.shape(x)[1]]], constant_values=padding) for x in (a, b))
        return tf.concat([a, b], axis=0)

    return tf.nest.map_structure(joined, first, second)


def _reordered(rows: Any, order: tf.Tensor) -> Any:
    return tf.nest.map_structure(lambda x: tf.gather(x, order), rows)


def _has_fixed_shapes(spec: Any) -> bool:
    return all(size is not None for tensor_spec in tf.nest.flatten(spec) for size in tensor_spec.shape[1:])


def _without_padding_columns(*rows: Any) -> Any:
    """Leave out the columns of ids that are padding in all rows, and their values."""
    inputs = rows[0]
    if inputs["ids"].shape[1] is not None:
        return rows
    columns = tf.where(tf.reduce_any(inputs["ids"] != PADDING_ID, axis=0))[:, 0]
    return {name: tf.gather(tensor, columns, axis=1) for name, tensor in inputs.items()}, *rows[1:]
