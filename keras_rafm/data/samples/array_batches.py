"""Batches of arrays in memory. Each batch is gathered at once, by the numbers of its rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_rafm.rows.access import read_rows
from keras_rafm.rows.attached_record import record_of, update_record

# Several batches are gathered at once: a call of a function in tf.data takes as long as gathering thousands of rows.
_ROWS_AT_ONCE, _BYTES_AT_ONCE = 2**15, 2**24


def num_batches(num_samples: int, batch_size: int, drop_remainder: bool) -> int:
    """Return the number of batches of `num_samples` samples."""
    return num_samples // batch_size if drop_remainder else -(-num_samples // batch_size)


def on_cpu(arrays: Any) -> Any:
    """Return arrays in any nesting as tensors in the memory of the host."""
    with tf.device("CPU:0"):
        return keras.tree.map_structure(tf.convert_to_tensor, arrays)


class Orders:
    """A sequence of random orders of rows. Each order depends on the seed and on its number alone.

    All methods run as TensorFlow operations. Python code could deadlock: a thread that draws ahead would wait for the
    interpreter, while the interpreter waits for that thread at the end of an iteration or of the process.

    Args:
        seed: An integer of at least 0, or `None` for a different sequence each time.
        first: The number of the first order to use.
    """

    def __init__(self, seed: int | None, first: int = 0) -> None:
        self._seed = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]) >> 1
        # A table holds the next free number. Under a distribution strategy, a variable would have one per replica.
        with tf.init_scope(), tf.device("CPU:0"):
            self._next = tf.lookup.experimental.MutableHashTable(tf.int64, tf.int64, default_value=first)

    def reserve(self, num_orders: int) -> tf.Tensor:
        """Reserve the numbers of the next orders.

        Args:
            num_orders: How many orders to reserve.

        Returns:
            The first of the consecutive numbers, an int64 scalar.
        """
        key = tf.constant(0, tf.int64)
        first = self._next.lookup(key)
        with tf.control_dependencies([self._next.insert(key, first + num_orders)]):
            return tf.identity(first)

    def order(self, number: tf.Tensor, num_rows: int) -> tf.Tensor:
        """Return the order of this number: a permutation of the rows, int64 `[num_rows]`."""
        return tf.random.experimental.stateless_shuffle(tf.range(num_rows, dtype=tf.int64), [self._seed, number])


def read_ahead(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Return the dataset with prefetching: it prepares the next elements while one is in use."""
    return without_autotuning(dataset.prefetch(tf.data.AUTOTUNE))


def without_autotuning(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Return the dataset with autotuning turned off: it uses as many threads as there are cores."""
    options = tf.data.Options()
    # The end of an iteration waits for the thread that autotunes. That thread is woken to notice its cancellation, but
    # sometimes too early to see it, and then sleeps for up to a minute.
    options.autotune.enabled = False
    return dataset.with_options(options)


def declare_batch_size(dataset: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
    """Record the number of samples per batch on a dataset (the last batch may have fewer), and return the dataset."""
    update_record(dataset, batch_size=batch_size)
    return dataset


def batch_size_of(dataset: tf.data.Dataset) -> int | None:
    """Return the number of samples per batch if it is recorded or in the shapes of the dataset, else `None`."""
    declared = record_of(dataset).batch_size
    if declared is not None:
        return declared
    shapes = [getattr(spec, "shape", None) for spec in tf.nest.flatten(dataset.element_spec)]
    sizes = {shape[0] for shape in shapes if shape is not None and shape.rank}
    return sizes.pop() if len(sizes) == 1 else None


def declare_endless(dataset: tf.data.Dataset, endless: Callable[[int], tf.data.Dataset]) -> tf.data.Dataset:
    """Record a function that makes an endless dataset of the same epochs, and return the dataset.

    Args:
        dataset: A dataset of one epoch.
        endless: Maps the number of epochs that will be read to a dataset of epochs without end.
    """
    update_record(dataset, endless=endless)
    return dataset


def endless_of(dataset: tf.data.Dataset) -> Callable[[int], tf.data.Dataset] | None:
    """Return the function recorded by `declare_endless`, or `None`."""
    return record_of(dataset).endless


def gathered_batches(
    arrays: Any,
    num_samples: int,
    batch_size: int,
    drop_remainder: bool,
    orders: Orders | None,
    epochs: int | None = None,
) -> tf.data.Dataset:
    """Return batches of arrays that have one row per sample.

    Args:
        arrays: Tuples and dicts of `[N, …]` tensors or NumPy arrays, in any nesting.
        num_samples: `N`.
        batch_size: `B`.
        drop_remainder: Leave out a last batch of fewer than `batch_size` samples.
        orders: Put the rows in a new order in every epoch; `None` keeps their order.
        epochs: `None`: an iteration over the dataset is one epoch, which reserves its order when it begins. Otherwise an
            iteration is an endless sequence of epochs, and the orders of the first `epochs` of them are reserved now.

    Returns:
        A dataset of `[B, …]` tensors in the structure of `arrays`. Its cardinality is known: that of an epoch, or infinite.
    """
    tensors = on_cpu(arrays)

    def gathered(rows: tf.Tensor) -> Any:
        return keras.tree.map_structure(lambda tensor: read_rows(tensor, rows), tensors)

    number = num_batches(num_samples, batch_size, drop_remainder)
    num_rows = min(num_samples, number * batch_size)
    row_bytes = sum(t.dtype.size * math.prod(t.shape[1:]) for t in keras.tree.flatten(tensors) if t.dtype.size)
    rows_at_once = min(_ROWS_AT_ONCE, _BYTES_AT_ONCE // max(1, row_bytes))
    block_size = max(1, rows_at_once // batch_size) * batch_size
    blocks = _blocks_of_rows(num_samples, num_rows, size=block_size, orders=orders, epochs=epochs).map(gathered)
    remainder = num_rows % batch_size
    sizes = np.array([batch_size] * (number - 1) + [remainder], np.int64) if remainder else batch_size
    batches = blocks.rebatch(sizes, drop_remainder)
    cardinality = number if epochs is None else tf.data.INFINITE_CARDINALITY
    options = tf.data.Options()
    options.experimental_optimization.map_parallelization = False  # it would hold many gathered blocks in memory
    return batches.apply(tf.data.experimental.assert_cardinality(cardinality)).with_options(options)


def _blocks_of_rows(
    num_samples: int, num_rows: int, size: int, orders: Orders | None, epochs: int | None
) -> tf.data.Dataset:
    """Return a dataset of the row numbers of each block, int64 `[size]`; the last block of an epoch may be shorter.

    Args:
        num_samples: The number of rows.
        num_rows: The number of rows that an epoch uses.
        size: The number of rows of a block.
        orders: See `gathered_batches`.
        epochs: See `gathered_batches`.
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

    # `scan` passes the order from block to block. A nested dataset per epoch would take tens of milliseconds to start.
    return numbers.scan((tf.constant(0, tf.int64), tf.zeros([0], tf.int64)), next_rows)
