"""Sums over the rows that each sample reads, and their gradients.

No tensor of shape `[occurrences, rank]` is ever made: a sum over occurrences is the product of a sparse matrix
`[samples, rows]` with the rows, and its gradient the product with the transposed matrix.

Which of TensorFlow's kernels multiplies fastest depends on its version and on the width of the rows:
`python -m benchmarks.kernels` compares them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from keras_rafm.rows.tensorflow_versions import HAS_SLOW_ROWS, is_deterministic
from keras_rafm.score.call_context import current_context
from keras_rafm.score.interactions import square_norms
from keras_rafm.score.lookup import RangeReads

# Rows up to this width are multiplied by SparseTensorDenseMatMul, wider ones by a CSR matrix, which has to be made and
# transposed but multiplies on all cores.
_MAX_WIDTH_WITHOUT_CSR = 31 if HAS_SLOW_ROWS else 256


class TableSums(NamedTuple):
    """Sums over the occurrences that read one table.

    Attributes:
        sum: `Σ x_i v_i`: `[B, D]`.
        squares: `Σ x_i²|v_i|²`: `[B]`.
    """

    sum: tf.Tensor
    squares: tf.Tensor


def sum_tables(
    reads: RangeReads, num_samples: tf.Tensor, tables: Sequence[tf.Tensor], weights: tf.Tensor | None = None
) -> tuple[list[TableSums], tf.Tensor | None]:
    """Sums per sample over tables that the same occurrences read.

    Args:
        reads: Who reads what.
        num_samples: `B`: int64 scalar.
        tables: The rows `v` that are read of each table, float32 or float64 `[r, D]`.
        weights: A number `w` for each row: `[r]`.

    Returns:
        The sums of each table, and `Σ x_i w_i` (`[B]`) if there are weights. Differentiable with respect to the rows,
        the weights and the values.
    """
    given = [*tables] if weights is None else [*tables, weights]
    dtype = given[0].dtype
    matrix = _Matrix(reads, num_samples, dtype)
    context = current_context()
    if context.is_serving:  # an exported model has no use for gradients, and loading one with such functions warns
        sums = _forward(matrix, tables, weights)
    else:
        values = [] if reads.values is None else [reads.values]
        makes_anew = context.may_be_saved

        def differentiable(*arguments: tf.Tensor) -> tuple[list[tf.Tensor], Any]:
            own = arguments[: len(given)]
            rows, row_weights = own[: len(tables)], None if weights is None else own[-1]

            def gradient(*upstream: tf.Tensor) -> list[tf.Tensor]:
                # A SavedModel can't hold a gradient that takes a CSR matrix from the forward pass.
                its_matrix = _Matrix(reads, num_samples, dtype) if makes_anew else matrix.copy()
                return _backward(its_matrix, rows, row_weights, upstream)

            return _forward(matrix, rows, row_weights), gradient

        sums = tf.custom_gradient(differentiable)(*given, *values)
    of_tables = [TableSums(*sums[2 * index : 2 * index + 2]) for index in range(len(tables))]
    return of_tables, None if weights is None else sums[-1]


class _Matrix:
    """Who reads what, as a sparse matrix `X` `[B, r]`: for each sample and row the sum of `x_i` over its occurrences."""

    def __init__(self, reads: RangeReads, num_samples: tf.Tensor, dtype: tf.DType) -> None:
        self.reads = reads
        self._num_samples, self._dtype = num_samples, dtype
        self._made: dict[str, tf.Tensor] = {}

    def copy(self) -> _Matrix:
        """One that keeps what it makes from now on for itself: for a graph that may be another one."""
        copied = _Matrix(self.reads, self._num_samples, self._dtype)
        copied._made.update(self._made)
        return copied

    @property
    def has_values(self) -> bool:
        """Whether any `x_i` is not 1."""
        return self.reads.values is not None

    def times(self, dense: tf.Tensor) -> tf.Tensor:
        """`X · dense`: `[B, D]` of `[r, D]`."""
        return self._product(dense, transposed=False)

    def transposed_times(self, dense: tf.Tensor) -> tf.Tensor:
        """`Xᵀ · dense`: `[r, D]` of `[B, D]`."""
        return self._product(dense, transposed=True)

    def vectors(self, vectors: Sequence[tf.Tensor], squared: bool = False, transposed: bool = False) -> list[tf.Tensor]:
        """`X · v` of vectors (`[B]` of `[r]`), or `Xᵀ · v`, all in one product; `squared`: of the sums of `x_i²`."""
        if not vectors:
            return []
        columns = tf.stack(list(vectors), axis=1)
        return tf.unstack(self._sparse_product(columns, transposed, squared), num=len(vectors), axis=1)

    def _product(self, dense: tf.Tensor, transposed: bool) -> tf.Tensor:
        # The CSR product with a transposed matrix rounds differently from run to run.
        if dense.shape[1] <= _MAX_WIDTH_WITHOUT_CSR or is_deterministic():
            return self._sparse_product(dense, transposed)
        # These kernels crash on a matrix without rows or columns, hence the guards.
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
            # Faster than a product with `adjoint_a`, which sums up a copy of the result per thread.
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
        held = tf.stop_gradient(self.reads.values)
        return self._once("squares", lambda: tf.square(held)) if squared else held

    def _once(self, key: str, make: Callable[[], tf.Tensor]) -> tf.Tensor:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


def _forward(matrix: _Matrix, tables: Sequence[tf.Tensor], weights: tf.Tensor | None) -> list[tf.Tensor]:
    """`Σ x_i v_i` and `Σ x_i²|v_i|²` of each table in turn, then `Σ x_i w_i`."""
    norms = [square_norms(rows) for rows in tables]
    squares, linear = _vectors(matrix, norms, [] if weights is None else [weights], transposed=False)
    pairs = zip((matrix.times(rows) for rows in tables), squares, strict=True)
    return [tensor for pair in pairs for tensor in pair] + linear


def _backward(
    matrix: _Matrix, tables: Sequence[tf.Tensor], weights: tf.Tensor | None, upstream: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    """Gradients of `_forward` with respect to the tables, the weights and, if given, the values."""
    num_tables = len(tables)
    sums, squares, linear = upstream[: 2 * num_tables : 2], upstream[1 : 2 * num_tables : 2], upstream[2 * num_tables :]
    to_norms, to_weights = _vectors(matrix, squares, linear, transposed=True)
    result = [
        matrix.transposed_times(of_sum) + tf.expand_dims(2 * of_norm, 1) * rows
        for of_sum, of_norm, rows in zip(sums, to_norms, tables, strict=True)
    ]
    result += to_weights
    values = matrix.reads.values
    if values is not None:
        # In a graph this is pruned unless someone asks for the gradient of the values.
        sample, row = matrix.reads.places[:, 0], matrix.reads.places[:, 1]
        to_values = tf.zeros_like(values)
        for of_sum, of_square, rows in zip(sums, squares, tables, strict=True):
            to_values += tf.reduce_sum(tf.gather(of_sum, sample) * tf.gather(rows, row), axis=1)
            norms = tf.reduce_sum(tf.square(rows), axis=1)
            to_values += 2 * values * tf.gather(of_square, sample) * tf.gather(norms, row)
        if weights is not None:
            to_values += tf.gather(linear[0], sample) * tf.gather(weights, row)
        result.append(to_values)
    return result


def _vectors(
    matrix: _Matrix, of_squares: Sequence[tf.Tensor], of_values: Sequence[tf.Tensor], transposed: bool
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Products of vectors with the sums of `x_i²` and of others with those of `x_i`: one product where all are 1."""
    if matrix.has_values:
        return matrix.vectors(of_squares, True, transposed), matrix.vectors(of_values, False, transposed)
    together = matrix.vectors([*of_squares, *of_values], False, transposed)
    return together[: len(of_squares)], together[len(of_squares) :]
