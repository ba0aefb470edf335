"""Sparse gradients on several replicas."""

from __future__ import annotations

import itertools
from typing import Any

import tensorflow as tf


def with_row(gradient: tf.IndexedSlices, row: int) -> tf.IndexedSlices:
    """The gradient with one more row, of zeros: summing sparse gradients crashes where all replicas have empty ones."""
    zeros = tf.zeros(tf.concat([[1], tf.shape(gradient.values)[1:]], axis=0), gradient.values.dtype)
    return tf.IndexedSlices(
        tf.ensure_shape(tf.concat([gradient.values, zeros], axis=0), [None, *gradient.values.shape[1:]]),
        tf.concat([gradient.indices, [tf.constant(row, gradient.indices.dtype)]], axis=0),
        gradient.dense_shape,
    )


def rows_below(gradient: tf.IndexedSlices, end: int) -> tf.IndexedSlices:
    """The rows of a gradient that are below `end`."""
    kept = tf.reshape(tf.where(gradient.indices < end), [-1])
    return tf.IndexedSlices(tf.gather(gradient.values, kept), tf.gather(gradient.indices, kept), gradient.dense_shape)


def each_row_on_one_replica(gradients: list[Any]) -> list[Any]:
    """Gradients with the same sum over the replicas, in which no two replicas hold the same row of a table.

    Keras sums sparse gradients over replicas by putting them one behind the other, and its optimizers are wrong on
    repeated indices. They treat a row that is not there as one of zeros, so that row 0 can be added to all of them.
    """
    context = tf.distribute.get_replica_context()
    is_sparse = [isinstance(gradient, tf.IndexedSlices) for gradient in gradients]
    if context.num_replicas_in_sync == 1 or not any(is_sparse):
        return gradients
    replica, num_replicas = context.replica_id_in_sync_group, context.num_replicas_in_sync

    def own_part(slices: tf.IndexedSlices) -> tf.IndexedSlices:
        rows, positions = tf.unique(slices.indices)
        values = tf.math.unsorted_segment_sum(slices.values, positions, tf.size(rows))
        start, end = tf.size(rows) * replica // num_replicas, tf.size(rows) * (replica + 1) // num_replicas
        return tf.IndexedSlices(values[start:end], rows[start:end], slices.dense_shape)

    sparse_gradients = [with_row(gradient, 0) for gradient in itertools.compress(gradients, is_sparse)]
    summed = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, sparse_gradients))
    return [own_part(next(summed)) if sparse else g for g, sparse in zip(gradients, is_sparse, strict=True)]


@tf.custom_gradient
def with_dense_gradient(table: tf.Tensor) -> tuple[tf.Tensor, object]:
    """The table, with a dense gradient of lookups in it.

    For training steps that are not ours: they would sum sparse gradients over replicas by putting them one behind the
    other.
    """
    return tf.identity(table), tf.convert_to_tensor
