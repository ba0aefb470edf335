"""Sparse gradients on several replicas of a distribution strategy."""

from __future__ import annotations

import itertools
from typing import Any

import tensorflow as tf


def with_row_of_zeros(gradient: tf.IndexedSlices, row: int) -> tf.IndexedSlices:
    """Return the gradient with a row of zeros appended.

    TensorFlow crashes when it sums sparse gradients that are empty on all replicas.
    """
    zeros = tf.zeros(tf.concat([[1], tf.shape(gradient.values)[1:]], axis=0), gradient.values.dtype)
    return tf.IndexedSlices(
        tf.ensure_shape(tf.concat([gradient.values, zeros], axis=0), [None, *gradient.values.shape[1:]]),
        tf.concat([gradient.indices, [tf.constant(row, gradient.indices.dtype)]], axis=0),
        gradient.dense_shape,
    )


def rows_below(gradient: tf.IndexedSlices, end: int) -> tf.IndexedSlices:
    """Return the part of a sparse gradient whose row numbers are less than `end`."""
    kept = tf.reshape(tf.where(gradient.indices < end), [-1])
    return tf.IndexedSlices(tf.gather(gradient.values, kept), tf.gather(gradient.indices, kept), gradient.dense_shape)


def each_row_on_one_replica(gradients: list[Any]) -> list[Any]:
    """Return gradients with the same sum over the replicas, such that no two replicas hold the same row of a table.

    Keras sums sparse gradients over replicas by concatenating them, and the updates of its optimizers are wrong for
    repeated rows. They treat a missing row as a row of zeros, so adding row 0 to all gradients does no harm.
    """
    context = tf.distribute.get_replica_context()
    is_sparse = [isinstance(gradient, tf.IndexedSlices) for gradient in gradients]
    if context.num_replicas_in_sync == 1 or not any(is_sparse):
        return gradients
    replica, num_replicas = context.replica_id_in_sync_group, context.num_replicas_in_sync

    def part_of_this_replica(slices: tf.IndexedSlices) -> tf.IndexedSlices:
        rows, positions = tf.unique(slices.indices)
        values = tf.math.unsorted_segment_sum(slices.values, positions, tf.size(rows))
        start, end = tf.size(rows) * replica // num_replicas, tf.size(rows) * (replica + 1) // num_replicas
        return tf.IndexedSlices(values[start:end], rows[start:end], slices.dense_shape)

    sparse_gradients = [with_row_of_zeros(gradient, 0) for gradient in itertools.compress(gradients, is_sparse)]
    summed = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, sparse_gradients))
    return [part_of_this_replica(next(summed)) if sparse else g for g, sparse in zip(gradients, is_sparse, strict=True)]


@tf.custom_gradient
def with_dense_gradient(table: tf.Tensor) -> tuple[tf.Tensor, object]:
    """Return the table, such that lookups in it have a dense gradient.

    Training steps of models other than `RaFMModel` would concatenate sparse gradients over replicas.
    """
    return tf.identity(table), tf.convert_to_tensor
