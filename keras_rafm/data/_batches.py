"""Batches of arrays, gathered whole by shuffled row numbers."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

_ROWS_AT_ONCE = 2**15  # functions of tf.data take as long to call as thousands of rows to gather


def num_batches(num_samples: int, batch_size: int, drop_remainder: bool) -> int:
    """How many batches so many samples make."""
    return num_samples // batch_size if drop_remainder else -(-num_samples // batch_size)


def gathered_batches(
    arrays: Any, num_samples: int, batch_size: int, drop_remainder: bool, rng: np.random.Generator | None
) -> tf.data.Dataset:
    """Batches of arrays that have one row per sample.

    Args:
        arrays: Tuples and dicts of `[N, …]` tensors or NumPy arrays, in any nesting.
        num_samples: `N`.
        batch_size: `B`.
        drop_remainder: Leave out a last batch of less than `batch_size` samples.
        rng: Puts the rows in a new order at every iteration; `None` keeps theirs.

    Returns:
        A dataset with known cardinality of `[B, …]` tensors in the structure of `arrays`.
    """
    with tf.device("CPU:0"):
        held = keras.tree.map_structure(tf.convert_to_tensor, arrays)

    def gathered(rows: tf.Tensor) -> Any:
        return keras.tree.map_structure(lambda tensor: tf.gather(tensor, rows), held)

    blocks = _blocks_of_rows(num_samples, max(1, _ROWS_AT_ONCE // batch_size) * batch_size, rng).map(gathered)
    batches = blocks.rebatch(batch_size, drop_remainder)
    cardinality = num_batches(num_samples, batch_size, drop_remainder)
    return batches.apply(tf.data.experimental.assert_cardinality(cardinality))


def _blocks_of_rows(num_samples: int, size: int, rng: np.random.Generator | None) -> tf.data.Dataset:
    """The rows of each block, int64 `[size]`, the last one shorter; in a new order at every iteration with a generator."""

    def in_order(number: tf.Tensor) -> tf.Tensor:
        start = number * size
        return tf.range(start, tf.minimum(start + size, num_samples))

    numbers = tf.data.Dataset.range(num_batches(num_samples, size, drop_remainder=False))
    if rng is None:
        return numbers.map(in_order)

    def draw_order() -> tf.Tensor:
        drawn = tf.numpy_function(lambda: rng.permutation(num_samples).astype(np.int64, copy=False), [], tf.int64)
        return tf.ensure_shape(drawn, [num_samples])

    def next_rows(order: tf.Tensor, number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        order = tf.cond(tf.equal(number, 0), draw_order, lambda: order)
        return order, order[number * size : (number + 1) * size]

    # The order is carried from block to block. A nested dataset per iteration would take tens of milliseconds to start.
    return numbers.scan(tf.zeros([num_samples], tf.int64), next_rows)
