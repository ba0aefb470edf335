"""Sparse gradients on several replicas."""

from __future__ import annotations

import itertools
from typing import Any

import tensorflow as tf


def each_row_on_one_replica(gradients: list[Any]) -> list[Any]:
    """Gradients with the same sum over the replicas, in which no two replicas hold the same row of a table.

    Keras sums sparse gradients over replicas by putting them one behind the other, and its optimizers are wrong on
    repeated indices.
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

    summed = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, list(itertools.compress(gradients, is_sparse))))
    return [own_part(next(summed)) if sparse else g for g, sparse in zip(gradients, is_sparse, strict=True)]


@tf.custom_gradient
def with_dense_gradient(table: tf.Tensor) -> tuple[tf.Tensor, object]:
    """The table, with a dense gradient of lookups in it.

    For training steps that are not ours: they would sum sparse gradients over replicas by putting them one behind the
    other.
    """
    return tf.identity(table), tf.convert_to_tensor
