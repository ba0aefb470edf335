"""Sparse gradients without repeated rows.

An optimizer's update is not linear in the gradient, so it is wrong if a gradient holds the same row twice. `RaFMLayer`
looks up every row once and declares its row numbers distinct. Other layers, such as `Embedding`, look up rows repeatedly:
there the gradients of one row are summed first. Finding out that no row is repeated costs a pass over the row numbers,
which the declaration saves.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_rafm.rows.attached_record import record_of, update_record
from keras_rafm.rows.table_reading import TableReading

# Operations between a lookup and its gradient that pass a tensor on, at most with another shape or integer type.
_PASSING_ON = {"Identity", "Reshape", "ExpandDims", "Squeeze", "Cast", "StopGradient"}


def declare_distinct(rows: tf.Tensor) -> tf.Tensor:
    """Declare that `rows` has no repeated row numbers, and return `rows`. In eager mode, nothing happens."""
    if not tf.executing_eagerly():
        distinct = record_of(rows.graph).distinct_row_ids
        update_record(rows.graph, distinct_row_ids=distinct | {rows.name})
    return rows


def declare_reading(table: keras.Variable, reading: TableReading) -> None:
    """Declare how training reads a table."""
    update_record(table, reading=reading)


def reading_of(table: keras.Variable) -> TableReading:
    """Return how training reads a variable, as `declare_reading` was last called for it."""
    return record_of(table).reading


def without_zeros(gradient: tf.Tensor | tf.IndexedSlices) -> tf.IndexedSlices:
    """Return the rows of a gradient that are not zero.

    Args:
        gradient: Dense, or sparse without repeated rows.
    """
    is_sparse = isinstance(gradient, tf.IndexedSlices)
    values = gradient.values if is_sparse else gradient
    kept = tf.where(tf.reduce_any(values != 0, axis=list(range(1, values.shape.rank))))[:, 0]
    rows = declare_distinct(tf.gather(gradient.indices, kept) if is_sparse else kept)
    shape = gradient.dense_shape if is_sparse else tf.shape(gradient)
    return tf.IndexedSlices(tf.gather(values, kept), rows, shape)


def merged(gradient: tf.IndexedSlices) -> tf.IndexedSlices:
    """Return the same gradient without repeated rows: their values are summed."""
    if _are_declared_distinct(gradient.indices):
        return gradient
    rows, positions = tf.unique(gradient.indices)
    values = tf.cond(
        tf.size(rows) == tf.size(positions),
        lambda: gradient.values,
        lambda: tf.math.unsorted_segment_sum(gradient.values, positions, tf.size(rows)),
    )
    return tf.IndexedSlices(tf.ensure_shape(values, [None, *gradient.values.shape[1:]]), rows, gradient.dense_shape)


def _are_declared_distinct(rows: tf.Tensor) -> bool:
    if tf.executing_eagerly() or not hasattr(rows, "graph"):  # a constant from outside the graph has no graph
        return False
    distinct = record_of(rows.graph).distinct_row_ids
    while rows.name not in distinct:
        if rows.op.type not in _PASSING_ON:
            return False
        rows = rows.op.inputs[0]
    return True
