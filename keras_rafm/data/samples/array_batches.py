"""Batches of arrays, gathered whole by shuffled row numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_rafm.rows.access import read_rows

_BATCH_SIZE, _ENDLESS = "_keras_rafm_batch_size", "_keras_rafm_endless"
# Functions of tf.data take as long to call as thousands of rows to gather.
_ROWS_AT_ONCE, _BYTES_AT_ONCE = 2**15, 2**24


def num_batches(num_samples: int, batch_size: int, drop_remainder: bool) -> int:
    """How many batches so many samples make."""
    return num_samples // batch_size if drop_remainder else -(-num_samples // batch_size)


def on_cpu(arrays: Any) -> Any:
    """Arrays in any nesting as tensors in the memory of the host."""
    with tf.device("CPU:0"):
        return keras.tree.map_structure(tf.convert_to_tensor, arrays)


class Orders:
    """Orders of rows: each depends on the seed and on its number alone.

    There is no Python in it: a thread that draws ahead would wait for the interpreter while that, at its end or at that of
    an iterator, waits for the thread.

    Args:
        seed: An int of 0 or more, or `None` for orders that no other object draws.
        first: The number of the first one that is free.
    """

    def __init__(self, seed: int | None, first: int = 0) -> None:
        self._seed = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]) >> 1
        with tf.init_scope(), tf.device("CPU:0"):  # a table, as a variable would be one per replica under a strategy
            self._free = tf.lookup.experimental.MutableHashTable(tf.int64, tf.int64, default_value=first)

    def reserve(self, number: int) -> tf.Tensor:
        """Numbers of orders that are given to nobody else: the first of so many, an int64 scalar."""
        key = tf.constant(0, tf.int64)
        first = self._free.lookup(key)
        with tf.control_dependencies([self._free.insert(key, first + number)]):
            return tf.identity(first)

    def order(self, number: tf.Tensor, num_rows: int) -> tf.Tensor:
        """The order of a number: int64 `[num_rows]`."""
        return tf.random.experimental.stateless_shuffle(tf.range(num_rows, dtype=tf.int64), [self._seed, number])


def read_ahead(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The same dataset, whose next elements are made while one is used."""
    return without_autotuning(dataset.prefetch(tf.data.AUTOTUNE))


def without_autotuning(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The same dataset, with as many threads as there are cores, whose number nothing tunes."""
    options = tf.data.Options()
    # The thread that would tune it sleeps for up to a minute, and an iterator that ends waits for it: it is woken to see
    # that it was cancelled, but now and then before that can be seen.
    options.autotune.enabled = False
    return dataset.with_options(options)


def declare_batch_size(dataset: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
    """Say how many samples the batches of a dataset have, all but the last one. Returns the dataset."""
    setattr(dataset, _BATCH_SIZE, batch_size)
    return dataset


def batch_size_of(dataset: tf.data.Dataset) -> int | None:
    """How many samples the batches of a dataset have, if it was declared or its shapes tell."""
    declared = getattr(dataset, _BATCH_SIZE, None)
    if declared is not None:
        return int(declared)
    shapes = [getattr(spec, "shape", None) for spec in tf.nest.flatten(dataset.element_spec)]
    sizes = {shape[0] for shape in shapes if shape is not None and shape.rank}
    return sizes.pop() if len(sizes) == 1 else None


def declare_endless(dataset: tf.data.Dataset, endless: Callable[[int], tf.data.Dataset]) -> tf.data.Dataset:
    """Say what has the epochs of a dataset without end, given how many will be read. Returns the dataset."""
    setattr(dataset, _ENDLESS, endless)
    return dataset


def endless_of(dataset: tf.data.Dataset) -> Callable[[int], tf.data.Dataset] | None:
    """What has the epochs of a dataset without end, if it was declared."""
    return getattr(dataset, _ENDLESS, None)


def gathered_batches(
    arrays: Any,
    num_samples: int,
    batch_size: int,
    drop_remainder: bool,
    orders: Orders | None,
    epochs: int | None = None,
) -> tf.data.Dataset:
    """Batches of arrays that have one row per sample.

    Args:
        arrays: Tuples and dicts of `[N, …]` tensors or NumPy arrays, in any nesting.
        num_samples: `N`.
        batch_size: `B`.
        drop_remainder: Leave out a last batch of less than `batch_size` samples.
        orders: Put the rows in a new order in every epoch; `None` keeps theirs.
        epochs: `None`: one iteration is one epoch, with the next order that is free. Otherwise it is an endless sequence of
            epochs, with the next free orders, of which so many are taken when the dataset is made.

    Returns:
        A dataset of `[B, …]` tensors in the structure of `arrays`. Its cardinality is known: that of an epoch, or infinite.
    """
    held = on_cpu(arrays)

    def gathered(rows: tf.Tensor) -> Any:
        return keras.tree.map_structure(lambda tensor: read_rows(tensor, rows), held)

    number = num_batches(num_samples, batch_size, drop_remainder)
    num_rows = min(num_samples, number * batch_size)
    row_bytes = sum(t.dtype.size * math.prod(t.shape[1:]) for t in keras.tree.flatten(held) if t.dtype.size)
    rows_at_once = min(_ROWS_AT_ONCE, _BYTES_AT_ONCE // max(1, row_bytes))
    block_size = max(1, rows_at_once // batch_size) * batch_size
    blocks = _blocks_of_rows(num_samples, num_rows, block_size, orders, epochs).map(gathered)
    remainder = num_rows % batch_size
    sizes = np.array([batch_size] * (number - 1) + [remainder], np.int64) if remainder else batch_size
    batches = blocks.rebatch(sizes, drop_remainder)
    cardinality = number if epochs is None else tf.data.INFINITE_CARDINALITY
    options = tf.data.Options()
    options.experimental_optimization.map_parallelization = False  # it would gather many blocks ahead
    return batches.apply(tf.data.experimental.assert_cardinality(cardinality)).with_options(options)


def _blocks_of_rows(
    num_samples: int, num_rows: int, size: int, orders: Orders | None, epochs: int | None
) -> tf.data.Dataset:
    """The rows of each block, int64 `[size]`, the last one of an epoch shorter.

    Args:
        num_samples: How many rows there are.
        num_rows: How many of them are taken in every epoch.
        size: Of a block.
        orders: As in `gathered_batches`.
        epochs: As in `gathered_batches`.
    """

    def in_order(number: tf.Tensor) -> tf.Tensor:
        start = number * size
        return tf.range(start, tf.minimum(start + size, num_rows))

    numbers = tf.data.Dataset.range(num_batches(num_rows, size, drop_remainder=False))
    if epochs is not None:
        numbers = numbers.repeat()
    if orders is None:
        return numbers.map(in_order)
    first = None if epochs is None else orders.reserve(epochs)

    def next_rows(state: tuple[tf.Tensor, tf.Tensor], number: tf.Tensor) -> tuple[tuple[tf.Tensor, tf.Tensor], tf.Tensor]:
        epoch, order = state

        def drawn() -> tuple[tf.Tensor, tf.Tensor]:
            order_number = orders.reserve(1) if first is None else first + epoch
            return epoch + 1, orders.order(order_number, num_samples)[:num_rows]

        epoch, order = tf.cond(tf.equal(number, 0), drawn, lambda: (epoch, order))
        return (epoch, order), order[number * size : (number + 1) * size]

    # The order is carried from block to block. A nested dataset per epoch would take tens of milliseconds to start.
    return numbers.scan((tf.constant(0, tf.int64), tf.zeros([0], tf.int64)), next_rows)
