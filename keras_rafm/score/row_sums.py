"""Sums over the rows that each sample reads, and their gradients.

No tensor of shape `[occurrences, rank]` is ever created. The sums over occurrences are the product of a sparse matrix
`[samples, rows]` with the rows, and their gradient is a product with the transposed matrix.

Which kernel multiplies fastest depends on the version of TensorFlow and on the width of the rows. `python -m
benchmarks.kernels` compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from keras_rafm.rows.tensorflow_versions import HAS_SLOW_ROWS, is_deterministic
from keras_rafm.score.call_context import current_context
from keras_rafm.score.interactions import square_norms
from keras_rafm.score.lookup import RangeReads

# Rows up to this width are multiplied by SparseTensorDenseMatMul, wider ones by a CSR matrix. Building and transposing that
# takes time, but it multiplies on all cores.
_MAX_WIDTH_WITHOUT_CSR = 31 if HAS_SLOW_ROWS else 256


class TableSums(NamedTuple):
    """The sums over the occurrences that read one table, for each sample.

    Attributes:
        sum: `Σ x_i v_i`: `[B, D]`.
        squares: `Σ x_i²|v_i|²`: `[B]`.
    """

    sum: tf.Tensor
    squares: tf.Tensor


def sum_tables(
    reads: RangeReads, num_samples: tf.Tensor, tables: Sequence[tf.Tensor], weights: tf.Tensor | None = None
) -> tuple[list[TableSums], tf.Tensor | None]:
    """Sum, for each sample, the rows of tables that the same occurrences read.

    Args:
        reads: Which occurrence reads which row.
        num_samples: `B`: int64 scalar.
        tables: For each table the rows `v` that are read, float32 or float64 `[r, D]`.
        weights: A linear weight `w` for each row: `[r]`.

    Returns:
        The sums of each table, and `Σ x_i w_i` (`[B]`) or `None` without weights. They are differentiable with respect to
        the rows, the weights and the values.
    """
    operands = [*tables] if weights is None else [*tables, weights]
    dtype = operands[0].dtype
    matrix = _Matrix(reads, num_samples, dtype)
    context = current_context()
    if context.is_serving:  # no gradients are needed, and TensorFlow warns when it loads a model with custom ones
        sums = _forward(matrix, tables, weights)
    else:
        values = [] if reads.values is None else [reads.values]

        def differentiable(*arguments: tf.Tensor) -> tuple[list[tf.Tensor], Any]:
            rows = arguments[: len(tables)]
            row_weights = None if weights is None else arguments[len(tables)]

            def gradient(*upstream: tf.Tensor) -> list[tf.Tensor]:
                # A SavedModel cannot hold a gradient that takes a CSR matrix from the forward pass.
                gradient_matrix = _Matrix(reads, num_samples, dtype) if context.may_be_saved else matrix.copy()
                return _backward(gradient_matrix, rows, row_weights, upstream)

            return _forward(matrix, rows, row_weights), gradient

        sums = tf.custom_gradient(differentiable)(*operands, *values)
    table_sums = [TableSums(*sums[2 * index : 2 * index + 2]) for index in range(len(tables))]
    return table_sums, None if weights is None else sums[-1]


class _Matrix:
    """The sparse matrix `X` `[B, r]`: for each sample and row, the sum of `x_i` over the occurrences that read the row."""

    def __init__(self, reads: RangeReads, num_samples: tf.Tensor, dtype: tf.DType) -> None:
        self.reads = reads
        self._num_samples, self._dtype = num_samples, dtype
        self._computed: dict[str, tf.Tensor] = {}

    def copy(self) -> _Matrix:
        """Return a matrix that shares what is computed so far, but not what comes later, which may be in another graph."""
        copied = _Matrix(self.reads, self._num_samples, self._dtype)
        copied._computed.update(self._computed)
        return copied

    @property
    def has_values(self) -> bool:
        """Whether the occurrences have values; otherwise every `x_i` is 1."""
        return self.reads.values is not None

    def times(self, dense: tf.Tensor) -> tf.Tensor:
        """Return `X · dense`: `[r, D]` -> `[B, D]`."""
        return self._product(dense, transposed=False)

    def transposed_times(self, dense: tf.Tensor) -> tf.Tensor:
        """Return `Xᵀ · dense`: `[B, D]` -> `[r, D]`."""
        return self._product(dense, transposed=True)

    def vectors(self, vectors: Sequence[tf.Tensor], squared: bool = False, transposed: bool = False) -> list[tf.Tensor]:
        """Multiply several vectors in one product.

        Args:
            vectors: Vectors `v`: `[r]` each, or `[B]` if `transposed`.
            squared: Sum `x_i²` in place of `x_i`.
            transposed: Return `Xᵀ · v` in place of `X · v`.
        """
        if not vectors:
            return []
        columns = tf.stack(list(vectors), axis=1)
        return tf.unstack(self._sparse_product(columns, transposed, squared), num=len(vectors), axis=1)

    def _product(self, dense: tf.Tensor, transposed: bool) -> tf.Tensor:
        # The rounding of a CSR product with a transposed matrix differs from run to run.
        if dense.shape[1] <= _MAX_WIDTH_WITHOUT_CSR or is_deterministic():
            return self._sparse_product(dense, transposed)
        # These kernels crash on a matrix without rows or columns, so one row of zeros takes their place.
        rows = tf.shape(dense)[0]
        padded = tf.cond(rows > 0, lambda: dense, lambda: tf.zeros([1, dense.shape[1]], dense.dtype))
        num_rows = self.reads.num_rows if transposed else self._num_samples
        product = tf.raw_ops.SparseMatrixMatMul(a=self._csr(transposed), b=padded)[: tf.cast(num_rows, tf.int32)]
        return tf.ensure_shape(product, [None, dense.shape[1]])

    def _sparse_product(self, dense: tf.Tensor, transposed: bool, squared: bool = False) -> tf.Tensor:
        product = tf.raw_ops.SparseTensorDenseMatMul(
            a_indices=self.reads.places,
            a_values=self._values(squared),
            a_shape=self._once("shape", lambda: tf.stack([self._num_samples, self.reads.num_rows])),
            b=dense,
            adjoint_a=transposed,
        )
        return tf.ensure_shape(product, [None, dense.shape[1]])

    def _csr(self, transposed: bool) -> tf.Tensor:
        if transposed:
            # Faster than a product with `adjoint_a`, which sums one copy of the result per thread.
            return self._once(
                "transposed", lambda: tf.raw_ops.SparseMatrixTranspose(input=self._csr(False), type=self._dtype)
            )
        return self._once(
            "csr",
            lambda: tf.raw_ops.SparseTensorToCSRSparseMatrix(
                indices=self.reads.places,
                values=self._values(squared=False),
                dense_shape=tf.maximum(tf.stack([self._num_samples, self.reads.num_rows]), 1),
            ),
        )

    def _values(self, squared: bool) -> tf.Tensor:
        if self.reads.values is None:
            return self._once("ones", lambda: tf.ones([tf.shape(self.reads.places)[0]], self._dtype))
        values = tf.stop_gradient(self.reads.values)
        return self._once("squares", lambda: tf.square(values)) if squared else values

    def _once(self, key: str, compute: Callable[[], tf.Tensor]) -> tf.Tensor:
        if key not in self._computed:
            self._computed[key] = compute()
        return self._computed[key]


def _forward(matrix: _Matrix, tables: Sequence[tf.Tensor], weights: tf.Tensor | None) -> list[tf.Tensor]:
    """Return `Σ x_i v_i` and `Σ x_i²|v_i|²` of each table in turn, then `Σ x_i w_i`."""
    norms = [square_norms(rows) for rows in tables]
    squares, linear = _vectors(matrix, norms, [] if weights is None else [weights], transposed=False)
    pairs = zip((matrix.times(rows) for rows in tables), squares, strict=True)
    return [tensor for pair in pairs for tensor in pair] + linear


def _backward(
    matrix: _Matrix, tables: Sequence[tf.Tensor], weights: tf.Tensor | None, upstream: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    """Return the gradients of `_forward` with respect to the tables, the weights and the values, if there are any."""
    num_tables = len(tables)
    sums, squares, linear = upstream[: 2 * num_tables : 2], upstream[1 : 2 * num_tables : 2], upstream[2 * num_tables :]
    to_norms, to_weights = _vectors(matrix, squares, linear, transposed=True)
    result = [
        matrix.transposed_times(sum_gradient) + tf.expand_dims(2 * norm_gradient, 1) * rows
        for sum_gradient, norm_gradient, rows in zip(sums, to_norms, tables, strict=True)
    ]
    result += to_weights
    values = matrix.reads.values
    if values is not None:
        # A graph prunes this unless the gradient of the values is used.
        sample, row = matrix.reads.places[:, 0], matrix.reads.places[:, 1]
        to_values = tf.zeros_like(values)
        for sum_gradient, square_gradient, rows in zip(sums, squares, tables, strict=True):
            to_values += tf.reduce_sum(tf.gather(sum_gradient, sample) * tf.gather(rows, row), axis=1)
            norms = tf.reduce_sum(tf.square(rows), axis=1)
            to_values += 2 * values * tf.gather(square_gradient, sample) * tf.gather(norms, row)
        if weights is not None:
            to_values += tf.gather(linear[0], sample) * tf.gather(weights, row)
        result.append(to_values)
    return result


def _vectors(
    matrix: _Matrix, squared: Sequence[tf.Tensor], plain: Sequence[tf.Tensor], transposed: bool
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Multiply some vectors with the matrix of `x_i²`, others with that of `x_i`: without values in one product."""
    if matrix.has_values:
        return matrix.vectors(squared, True, transposed), matrix.vectors(plain, False, transposed)
    together = matrix.vectors([*squared, *plain], False, transposed)
    return together[: len(squared)], together[len(squared) :]
