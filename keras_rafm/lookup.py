"""Occurrences -> distinct rows of the tables, sums of them per sample, and their gradients.

No tensor of shape `[occurrences, rank]` is ever made: a sum over occurrences is the product of a sparse matrix
`[samples, distinct rows]` with the rows, and its gradient the product with the transposed matrix. Each table is looked
up once, at distinct rows, so its gradient is a `tf.IndexedSlices` without repeated indices: Keras optimizers are wrong on
repeated ones.

The matrices are in CSR form and made once for both directions. Of all that TensorFlow offers, these products are the
fastest on wide tables, and the only ones that are fast on every version: `python -m benchmarks.kernels` compares them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from keras_rafm.occurrences import PADDING_ID, Occurrences, require
from keras_rafm.scopes import is_inference, is_serving

# A table up to this wide is summed together with the numbers that each row has beside its factors. Wider ones are not:
# to put them side by side is to copy the rows.
_MAX_SHARED_WIDTH = 128


class RangeReads(NamedTuple):
    """What a batch reads from tables that hold one range of slots.

    Attributes:
        rows: Rows of the tables, each once: int32 `[r]`.
        places: Sample of each occurrence that reads these tables, ascending, and where in `rows` its row stands:
            int64 `[o, 2]`.
        values: `x_i` of each of these occurrences: float `[o]`; `None` where all are 1.
    """

    rows: tf.Tensor
    places: tf.Tensor
    values: tf.Tensor | None


class BatchReads(NamedTuple):
    """What a batch reads, found once for all tables.

    Attributes:
        slots: The distinct slots, grouped by level, highest level first: int32 `[n]`.
        ranges: What is read from each of the `ranges_of_slots`.
        num_samples: `B`: int64 scalar.
    """

    slots: tf.Tensor
    ranges: tuple[RangeReads, ...]
    num_samples: tf.Tensor


class Readers(NamedTuple):
    """Which sample reads which distinct row of the tables of one range, as matrices.

    Attributes:
        reads: What the matrices were made from.
        matrix: CSR matrix `[max(B, 1), max(r, 1)]` (these kernels crash on a matrix without rows or columns), for each
            sample and row the sum of `x_i` over the sample's occurrences of the row.
        squares: The same with `x_i²`; `None` where all `x_i` are 1.
        num_samples: `B`: int64 scalar.
    """

    reads: RangeReads
    matrix: tf.Tensor
    squares: tf.Tensor | None
    num_samples: tf.Tensor


def ranges_of_slots(level_sizes: tuple[int, ...]) -> list[tuple[int, int]]:
    """The ranges of slots that tables hold: `free_k` has `|F_{k+1}| … |F_k| − 1`, `dependent_k` has `0 … |F_{k+1}| − 1`."""
    above = (*level_sizes[1:], 0)
    return list(dict.fromkeys([*zip(above, level_sizes, strict=True), *((0, size) for size in level_sizes[1:])]))


def find_reads(found: Occurrences, slot_of_feature: tf.Tensor, level_sizes: tuple[int, ...], where: str) -> BatchReads:
    """The distinct rows of every table that a batch reads, and who reads them.

    Since slots are ordered by level, what a batch reads from a table is a contiguous part of its distinct slots once they
    are grouped by level. Padding, and in an exported model unknown ids, form a last group that nothing reads.

    Args:
        found: The occurrences of the batch.
        slot_of_feature: int32 `[num_features]`.
        level_sizes: `(|F_1|, …, |F_m|)`.
        where: Who asks, for error messages.

    Raises:
        tf.errors.InvalidArgumentError: An id is outside `[0, num_features)` and not padding, at run time.
    """
    num_slots = level_sizes[0]
    ids, positions = tf.unique(found.ids)
    slots = _slots(ids, slot_of_feature, num_slots, where)
    bounds = sorted({0, *level_sizes})
    groups = [_positions_between(slots, low, high) for low, high in itertools.pairwise(bounds)]
    nothing_dropped = tf.reduce_max(slots) < num_slots
    dropped = tf.cast(tf.where(slots >= num_slots)[:, 0], tf.int32)
    # ends[bound] is how many of the distinct slots are below `bound`: where the group of a level ends.
    ends = {0: tf.constant(0), **dict(zip(bounds[1:], tf.unstack(tf.cumsum([tf.size(g) for g in groups])), strict=True))}

    def grouped() -> tuple[tf.Tensor, tf.Tensor]:
        order = tf.concat([*groups, dropped], axis=0)
        return tf.gather(slots, order), tf.gather(tf.math.invert_permutation(order), positions)

    if len(groups) == 1:  # a single level is in order as it is, unless something has to be dropped
        distinct, positions = tf.cond(nothing_dropped, lambda: (slots, positions), grouped)
    else:
        distinct, positions = grouped()
    places = tf.stack([found.samples, tf.cast(positions, tf.int64)], axis=1)
    everything = [places] if found.values is None else [places, found.values]

    def reads(low: int, high: int) -> RangeReads:
        start, end = ends[low], ends[high]

        def read_here() -> list[tf.Tensor]:
            here = positions < end if low == 0 else (positions >= start) & (positions < end)
            chosen = tf.reshape(tf.where(here), [-1])
            its_places = tf.gather(places, chosen)
            if low > 0:
                its_places -= tf.stack([tf.constant(0, tf.int64), tf.cast(start, tf.int64)])
            return [its_places] if found.values is None else [its_places, tf.gather(found.values, chosen)]

        is_full = (low, high) == (0, num_slots)
        kept = tf.cond(nothing_dropped, lambda: everything, read_here) if is_full else read_here()
        return RangeReads(distinct[start:end] - low, kept[0], kept[1] if len(kept) > 1 else None)

    ranges = tuple(reads(low, high) for low, high in ranges_of_slots(level_sizes))
    return BatchReads(distinct[: ends[num_slots]], ranges, found.num_samples)


def readers_of(reads: RangeReads, num_samples: tf.Tensor, dtype: str) -> Readers:
    """The matrices of what a batch reads from tables of one range.

    Args:
        reads: The reads.
        num_samples: `B`.
        dtype: Float dtype of the sums.
    """
    shape = tf.maximum(tf.stack([num_samples, tf.size(reads.rows, tf.int64)]), 1)
    if reads.values is None:
        ones = tf.ones([tf.shape(reads.places)[0]], dtype)
        return Readers(reads, _csr(reads.places, ones, shape), None, num_samples)
    held = tf.stop_gradient(reads.values)
    return Readers(reads, _csr(reads.places, held, shape), _csr(reads.places, tf.square(held), shape), num_samples)


class TableSums(NamedTuple):
    """Sums over the occurrences that read one table.

    Attributes:
        sum: `Σ x_i v_i`: `[B, D]`.
        squares: `Σ x_i²|v_i|²`: `[B]`.
    """

    sum: tf.Tensor
    squares: tf.Tensor


def sum_tables(
    readers: Readers, tables: Sequence[tf.Tensor], weights: tf.Tensor | None = None
) -> tuple[list[TableSums], tf.Tensor | None]:
    """Sums per sample over tables that the same occurrences read.

    Args:
        readers: Who reads them.
        tables: The looked-up rows `v` of each table, float32 or float64 `[r, D]`.
        weights: A number `w` for each row: `[r]`.

    Returns:
        The sums of each table, and `Σ x_i w_i` (`[B]`) if there are weights. Differentiable with respect to the rows,
        the weights and the values.
    """
    given = [*tables] if weights is None else [*tables, weights]
    if is_serving():  # an exported model has no use for gradients, and loading one with such functions warns
        sums = _forward(readers, tables, weights)
    else:
        values = [] if readers.reads.values is None else [readers.reads.values]
        makes_anew = is_inference()

        def differentiable(*arguments: tf.Tensor) -> tuple[list[tf.Tensor], Any]:
            own = arguments[: len(given)]
            rows, row_weights = own[: len(tables)], None if weights is None else own[-1]

            def gradient(*upstream: tf.Tensor) -> list[tf.Tensor]:
                # A SavedModel can't hold a gradient that takes a matrix from the forward pass.
                dtype = own[0].dtype.name
                its_readers = readers_of(readers.reads, readers.num_samples, dtype) if makes_anew else readers
                return _backward(its_readers, rows, row_weights, upstream)

            return _forward(readers, rows, row_weights), gradient

        sums = tf.custom_gradient(differentiable)(*given, *values)
    of_tables = [TableSums(*sums[2 * index : 2 * index + 2]) for index in range(len(tables))]
    return of_tables, None if weights is None else sums[-1]


def _forward(readers: Readers, tables: Sequence[tf.Tensor], weights: tf.Tensor | None) -> list[tf.Tensor]:
    """`Σ x_i v_i` and `Σ x_i²|v_i|²` of each table in turn, then `Σ x_i w_i`."""
    norms = [tf.reduce_sum(tf.square(rows), axis=1) for rows in tables]
    linear = [] if weights is None else [weights]
    if readers.squares is None:
        sums, scalar_sums = _products(readers, readers.matrix, tables, [*norms, *linear])
    else:
        sums, scalar_sums = _products(readers, readers.matrix, tables, linear)
        scalar_sums = _products(readers, readers.squares, [], norms)[1] + scalar_sums
    result = [tensor for pair in zip(sums, scalar_sums[: len(tables)], strict=True) for tensor in pair]
    return result + scalar_sums[len(tables) :]


def _backward(
    readers: Readers, tables: Sequence[tf.Tensor], weights: tf.Tensor | None, upstream: Sequence[tf.Tensor]
) -> list[tf.Tensor]:
    """Gradients of `_forward` with respect to the tables, the weights and, if given, the values."""
    num_tables = len(tables)
    sums, squares, linear = upstream[: 2 * num_tables : 2], upstream[1 : 2 * num_tables : 2], upstream[2 * num_tables :]
    if readers.squares is None:
        to_rows, to_scalars = _products(readers, readers.matrix, sums, [*squares, *linear], transposed=True)
    else:
        to_rows, to_scalars = _products(readers, readers.matrix, sums, linear, transposed=True)
        to_scalars = _products(readers, readers.squares, [], squares, transposed=True)[1] + to_scalars
    result = [
        of_sum + tf.expand_dims(2 * of_norm, 1) * rows
        for of_sum, of_norm, rows in zip(to_rows, to_scalars[:num_tables], tables, strict=True)
    ]
    result += to_scalars[num_tables:]
    if readers.reads.values is not None:
        # In a graph this is pruned unless someone asks for the gradient of the values.
        sample, row = readers.reads.places[:, 0], readers.reads.places[:, 1]
        to_values = tf.zeros_like(readers.reads.values)
        for of_sum, of_square, rows in zip(sums, squares, tables, strict=True):
            norms = tf.reduce_sum(tf.square(rows), axis=1)
            to_values += tf.reduce_sum(tf.gather(of_sum, sample) * tf.gather(rows, row), axis=1)
            to_values += 2 * readers.reads.values * tf.gather(of_square, sample) * tf.gather(norms, row)
        if weights is not None:
            to_values += tf.gather(linear[0], sample) * tf.gather(weights, row)
        result.append(to_values)
    return result


def _products(
    readers: Readers,
    matrix: tf.Tensor,
    wide: Sequence[tf.Tensor],
    scalars: Sequence[tf.Tensor],
    transposed: bool = False,
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """The products of a matrix (or its transpose) with tensors `[rows, D]` and with vectors `[rows]`, in few passes."""
    if transposed:
        # The product with a transposed matrix is faster than `adjoint_a`, which sums up a copy of the result per thread.
        matrix = tf.raw_ops.SparseMatrixTranspose(input=matrix, type=(*wide, *scalars)[0].dtype)
        num_rows = tf.shape(readers.reads.rows)[0]
    else:
        num_rows = tf.cast(readers.num_samples, tf.int32)

    def product(dense: tf.Tensor) -> tf.Tensor:
        rows = tf.shape(dense)[0]
        dense = tf.cond(rows > 0, lambda: dense, lambda: tf.zeros([1, dense.shape[1]], dense.dtype))
        result = tf.raw_ops.SparseMatrixMatMul(a=matrix, b=dense)[:num_rows]
        return tf.ensure_shape(result, [None, dense.shape[1]])

    host = min(range(len(wide)), key=lambda index: wide[index].shape[1], default=None)
    if host is not None and (not scalars or wide[host].shape[1] > _MAX_SHARED_WIDTH):
        host = None
    results = [None if index == host else product(tensor) for index, tensor in enumerate(wide)]
    if not scalars:
        return results, []
    columns = tf.stack(list(scalars), axis=1)
    if host is None:
        shared = product(columns)
    else:
        shared = product(tf.concat([wide[host], columns], axis=1))
        results[host], shared = shared[:, : -len(scalars)], shared[:, -len(scalars) :]
    return results, tf.unstack(shared, num=len(scalars), axis=1)


def _slots(ids: tf.Tensor, slot_of_feature: tf.Tensor, num_features: int, where: str) -> tf.Tensor:
    """The slot of each id, and `num_features` for what is to be dropped."""
    known = (ids >= 0) & (ids < num_features)
    checked = []
    if not is_serving():  # an exported model meets features that training never saw
        legal = known | (ids == PADDING_ID)
        checked = require(
            tf.reduce_all(legal),
            f"{where}: ids must be in [0, {num_features}), or {PADDING_ID} for padding. Received the id",
            lambda: tf.boolean_mask(ids, ~legal)[0],
        )
    with tf.control_dependencies(checked):
        slots = tf.gather(slot_of_feature, tf.where(known, ids, 0))
    return tf.where(known, slots, num_features)


def _positions_between(slots: tf.Tensor, low: int, high: int) -> tf.Tensor:
    inside = slots < high if low == 0 else (slots >= low) & (slots < high)
    return tf.cast(tf.where(inside)[:, 0], tf.int32)


def _csr(places: tf.Tensor, values: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    return tf.raw_ops.SparseTensorToCSRSparseMatrix(indices=places, values=values, dense_shape=shape)
