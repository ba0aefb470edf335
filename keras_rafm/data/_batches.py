"""Batches of arrays, gathered whole by shuffled row numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_rafm.row_access import read_rows

_BATCH_SIZE, _EPOCHS = "_keras_rafm_batch_size", "_keras_rafm_epochs"
_ROWS_AT_ONCE = 2**15  # functions of tf.data take as long to call as thousands of rows to gather


def num_batches(num_samples: int, batch_size: int, drop_remainder: bool) -> int:
    """How many batches so many samples make."""
    return num_samples // batch_size if drop_remainder else -(-num_samples // batch_size)


def on_cpu(arrays: Any) -> Any:
    """Arrays in any nesting as tensors in the memory of the host."""
    with tf.device("CPU:0"):
        return keras.tree.map_structure(tf.convert_to_tensor, arrays)


class Orders:
    """Orders of rows, drawn one after the other: each depends on the seed and on its number alone.

    There is no Python in it: a thread that draws ahead would wait for the interpreter while that, at its end or at that of
    an iterator, waits for the thread.

    Args:
        seed: An int of 0 or more, or `None` for orders that no other object draws.
    """

    def __init__(self, seed: int | None) -> None:
        self._seed = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]) >> 1
        with tf.init_scope(), tf.device("CPU:0"):  # a table, as a variable would be one per replica under a strategy
            self._number = tf.lookup.experimental.MutableHashTable(tf.int64, tf.int64, default_value=0)

    def draw(self, num_rows: int) -> tf.Tensor:
        """The next one: int64 `[num_rows]`."""
        key = tf.constant(0, tf.int64)
        number = self._number.lookup(key)
        with tf.control_dependencies([self._number.insert(key, number + 1)]):
            return tf.random.experimental.stateless_shuffle(tf.range(num_rows, dtype=tf.int64), [self._seed, number])


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


def declare_epochs(dataset: tf.data.Dataset, epochs: Callable[[int], tf.data.Dataset]) -> tf.data.Dataset:
    """Say how to get several epochs of a dataset in one iteration, which may read ahead. Returns the dataset."""
    setattr(dataset, _EPOCHS, epochs)
    return dataset


def epochs_of(dataset: tf.data.Dataset) -> Callable[[int], tf.data.Dataset] | None:
    """How to get several epochs of a dataset in one iteration, if it was declared."""
    return getattr(dataset, _EPOCHS, None)


def gathered_batches(
    arrays: Any,
    num_samples: int,
    batch_size: int,
    drop_remainder: bool,
    orders: Orders | None,
    epochs: int = 1,
) -> tf.data.Dataset:
    """Batches of arrays that have one row per sample.

    Args:
        arrays: Tuples and dicts of `[N, …]` tensors or NumPy arrays, in any nesting.
        num_samples: `N`.
        batch_size: `B`.
        drop_remainder: Leave out a last batch of less than `batch_size` samples.
        orders: Put the rows in a new order in every epoch; `None` keeps theirs.
        epochs: How many come one after the other in one iteration.

    Returns:
        A dataset with known cardinality of `[B, …]` tensors in the structure of `arrays`.
    """
    held = on_cpu(arrays)

    def gathered(rows: tf.Tensor) -> Any:
        return keras.tree.map_structure(lambda tensor: read_rows(tensor, rows), held)

    number = num_batches(num_samples, batch_size, drop_remainder)
    num_rows = min(num_samples, number * batch_size)
    block_size = max(1, _ROWS_AT_ONCE // batch_size) * batch_size
    blocks = _blocks_of_rows(num_samples, num_rows, block_size, orders, epochs).map(gathered)
    remainder = num_rows % batch_size
    sizes = np.array([batch_size] * (number - 1) + [remainder], np.int64) if remainder else batch_size
    batches = blocks.rebatch(sizes, drop_remainder)
    return batches.apply(tf.data.experimental.assert_cardinality(epochs * number))


def _blocks_of_rows(num_samples: int, num_rows: int, size: int, orders: Orders | None, epochs: int) -> tf.data.Dataset:
    """The rows of each block, int64 `[size]`, the last one of an epoch shorter.

    Args:
        num_samples: How many rows there are.
        num_rows: How many of them are taken in every epoch.
        size: Of a block.
        orders: Put the rows in a new order in every epoch.
        epochs: How many there are.
    """

    def in_order(number: tf.Tensor) -> tf.Tensor:
        start = number * size
        return tf.range(start, tf.minimum(start + size, num_rows))

    numbers = tf.data.Dataset.range(num_batches(num_rows, size, drop_remainder=False)).repeat(epochs)
    if orders is None:
        return numbers.map(in_order)

    def next_rows(order: tf.Tensor, number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        order = tf.cond(tf.equal(number, 0), lambda: orders.draw(num_samples)[:num_rows], lambda: order)
        return order, order[number * size : (number + 1) * size]

    # The order is carried from block to block. A nested dataset per epoch would take tens of milliseconds to start.
    return numbers.scan(tf.zeros([num_rows], tf.int64), next_rows)
