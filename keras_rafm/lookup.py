"""Occurrences -> distinct rows of the tables, sums of them per sample, and their gradients.

No tensor of shape `[occurrences, rank]` is ever made: a sum over occurrences is the product of a sparse matrix
`[samples, distinct rows]` with the rows, and its gradient the product with the transposed matrix. Each table is looked
up once, at distinct rows, so its gradient is a `tf.IndexedSlices` without repeated indices: Keras optimizers are wrong on
repeated ones.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import tensorflow as tf

from keras_rafm.scopes import is_serving


class Rows(NamedTuple):
    """The distinct rows that a batch reads from one table, and who reads them.

    Attributes:
        indices: Rows of the table, each once: int32 `[r]`.
        samples: Sample of each occurrence that reads this table, ascending: int64 `[o]`.
        positions: Where in `indices` the row of each of these occurrences stands: int64 `[o]`.
        values: `x_i` of these occurrences: float `[o]`.
        num_samples: `B`: int64 scalar.
    """

    indices: tf.Tensor
    samples: tf.Tensor
    positions: tf.Tensor
    values: tf.Tensor
    num_samples: tf.Tensor


class DistinctSlots:
    """The distinct slots of a batch, found once for all tables and grouped by level, highest level first.

    Since slots are ordered by level, every table holds a range of slots, and what a batch reads from it is a contiguous
    part of the groups.

    Args:
        slots: Slot of each occurrence: int32 `[n]`.
        samples: Sample of each occurrence, ascending: int64 `[n]`.
        values: `x_i` of each occurrence: float `[n]`.
        num_samples: `B`: int64 scalar.
        level_sizes: `(|F_1|, …, |F_m|)`.
    """

    def __init__(
        self,
        slots: tf.Tensor,
        samples: tf.Tensor,
        values: tf.Tensor,
        num_samples: tf.Tensor,
        level_sizes: tuple[int, ...],
    ) -> None:
        distinct, positions = tf.unique(slots)
        self._samples, self._values, self._num_samples = samples, values, num_samples
        # ends[size] is how many of the distinct slots are below `size`: where the group of a level ends.
        self._ends = {0: tf.constant(0), level_sizes[0]: tf.size(distinct)}
        bounds = sorted({0, *level_sizes})
        if len(bounds) > 2:
            groups = [
                tf.cast(tf.where((distinct >= low) & (distinct < high))[:, 0], tf.int32)
                for low, high in itertools.pairwise(bounds)
            ]
            for bound, end in zip(bounds[1:], tf.unstack(tf.cumsum([tf.size(group) for group in groups])), strict=True):
                self._ends[bound] = end
            order = tf.concat(groups, axis=0)
            distinct = tf.gather(distinct, order)
            place = tf.scatter_nd(order[:, None], tf.range(tf.size(order)), tf.shape(order))
            positions = tf.gather(place, positions)
        self._distinct, self._positions = distinct, positions
        self._bounds = bounds

    def rows(self, low: int, high: int) -> Rows:
        """What the batch reads from a table that holds the slots `low … high − 1`, both level sizes or 0."""
        start, end = self._ends[low], self._ends[high]
        indices = self._distinct[start:end] - low
        if (low, high) == (0, self._bounds[-1]):
            return Rows(indices, self._samples, tf.cast(self._positions, tf.int64), self._values, self._num_samples)
        reading = tf.where((self._positions >= start) & (self._positions < end))[:, 0]
        return Rows(
            indices,
            tf.gather(self._samples, reading),
            tf.cast(tf.gather(self._positions, reading) - start, tf.int64),
            tf.gather(self._values, reading),
            self._num_samples,
        )


def sum_rows(table_rows: tf.Tensor, rows: Rows) -> tf.Tensor:
    """`Σ x_i v_i` per sample.

    Args:
        table_rows: The looked-up rows `[r, D]`, float32 or float64.
        rows: Who reads them.

    Returns:
        `[B, D]`. Differentiable with respect to the rows and to the values.
    """
    arguments = (table_rows, rows.values, rows.samples, rows.positions, rows.num_samples)
    return _product(*arguments) if is_serving() else _differentiable_product(*arguments)


def sum_scalars(row_scalars: tf.Tensor, rows: Rows, values: tf.Tensor) -> tf.Tensor:
    """`Σ value · scalar` per sample.

    Args:
        row_scalars: One number per distinct row: `[r]`.
        rows: Who reads them.
        values: What each occurrence multiplies its row's number with: `[o]`.

    Returns:
        `[B]`.
    """
    return tf.math.unsorted_segment_sum(
        values * tf.gather(row_scalars, rows.positions), rows.samples, tf.cast(rows.num_samples, tf.int32)
    )


def _product(
    table_rows: tf.Tensor, values: tf.Tensor, samples: tf.Tensor, positions: tf.Tensor, num_samples: tf.Tensor
) -> tf.Tensor:
    """The sparse matrix `[num_samples, r]` with `values` at `(samples, positions)` times the rows: `[num_samples, D]`."""
    rank = table_rows.shape[1]
    product = tf.cond(
        tf.size(values) > 0,
        lambda: _csr_product(table_rows, values, samples, positions, num_samples, tf.shape(table_rows)[0]),
        lambda: tf.zeros([num_samples, rank], table_rows.dtype),
    )
    return tf.ensure_shape(product, [None, rank])


@tf.custom_gradient
def _differentiable_product(
    table_rows: tf.Tensor, values: tf.Tensor, samples: tf.Tensor, positions: tf.Tensor, num_samples: tf.Tensor
) -> tuple[tf.Tensor, object]:
    def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, None, None, None]:
        row_gradient = tf.cond(
            tf.size(values) > 0,
            lambda: _csr_product(
                upstream, values, samples, positions, num_samples, tf.shape(table_rows)[0], adjoint_a=True
            ),
            lambda: tf.zeros_like(table_rows),
        )
        # In a graph this is pruned unless someone asks for the gradient of the values.
        value_gradient = tf.reduce_sum(tf.gather(upstream, samples) * tf.gather(table_rows, positions), axis=1)
        return row_gradient, value_gradient, None, None, None

    return _product(table_rows, values, samples, positions, num_samples), gradient


def _csr_product(
    dense: tf.Tensor,
    values: tf.Tensor,
    samples: tf.Tensor,
    positions: tf.Tensor,
    num_samples: tf.Tensor,
    num_rows: tf.Tensor,
    adjoint_a: bool = False,
) -> tf.Tensor:
    """The CSR kernels crash the process on a matrix without rows or columns: call it for one occurrence or more.

    The matrix is made where it is used: one that is handed into a branch of `tf.cond` can't be read back from a SavedModel.
    """
    matrix = tf.raw_ops.SparseTensorToCSRSparseMatrix(
        indices=tf.stack([samples, positions], axis=1),
        values=values,
        dense_shape=tf.stack([num_samples, tf.cast(num_rows, tf.int64)]),
    )
    return tf.raw_ops.SparseMatrixMatMul(a=matrix, b=dense, adjoint_a=adjoint_a)
