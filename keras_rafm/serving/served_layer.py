"""A trained `RaFMLayer` in the form that answers fastest.

Terms of single features are computed once, when the layer is exported, and factors are stored scaled. Then, per sample,

    ŷ_m = b + Σ_i (w_i x_i − ½|v_i^(k_i)|² x_i²) + Σ_k u_k·(u_k + t_k),   u_k = U_k/√2,   t_k = √2·T_k
    ŷ_k = b + Σ_i (w_i x_i − ½|v_i^(k_i)|² x_i²) + Σ_{j<=k} u_j·(u_j + t_j)
          + ¼|t_k|² + Σ_{k_i>k} ½(|v_i^(k_i)|² − |v_i^(k)|²) x_i²

where `score.interactions` defines `U_k` and `T_k`. Every sum over factors is one fused kernel over the rows of a table and
does not copy them. Free and dependent factors are in separate tables, because two kernels can run on two cores, while a
table with both in one row would need one kernel (`benchmarks/README.md`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_rafm.layer import RaFMLayer
from keras_rafm.score.interactions import total
from keras_rafm.score.occurrences import ids_and_values

#: How factors are stored: as they were trained, in 16 bits, or in 8 bits with a scale per row.
Precision = Literal["trained", "bfloat16", "int8"]

_INT8_LIMIT = 127
_Range = tuple[int, int]


class ServedLayer(tf.Module):
    """The tables of a layer for serving.

    Args:
        layer: The trained layer. Its idle rows must be settled.
        level: `k`: the score is the level score `ŷ_k`, and only the tables that it needs are stored.
        precision: How factors are stored.
        has_values: Whether the layer is called with values `x_i`; otherwise all are 1.
    """

    def __init__(self, layer: RaFMLayer, level: int, precision: Precision, has_values: bool) -> None:
        super().__init__(name=layer.name)
        self.num_levels = level
        self._num_features = layer.num_features
        self._dtype = tf.float64 if layer.variable_dtype == "float64" else tf.float32
        self._has_values = has_values
        self._sizes = (*layer.level_sizes[:level], 0)
        with tf.init_scope(), tf.device("CPU:0"):
            self._make_tables(layer, precision)

    def _make_tables(self, layer: RaFMLayer, precision: Precision) -> None:
        sizes = self._sizes
        half_norms = np.zeros(self._num_features)  # ½|v_i^(k_i)|², by slot
        self.free: list[_Table | None] = []
        self.dependent: list[_Table | None] = []
        lower_norms = []
        for index, (size, above) in enumerate(itertools.pairwise(sizes)):
            _, factors = layer.factors(index + 1)
            free = _Table(factors[above:], math.sqrt(0.5), self._dtype, precision, f"free_{index + 1}")
            dependent = _Table(factors[:above], math.sqrt(2), self._dtype, precision, f"dependent_{index + 1}")
            half_norms[above:size] = free.half_norms
            lower_norms.append(dependent.half_norms)
            # A table without rows is not stored.
            self.free.append(free if size > above else None)
            self.dependent.append(dependent if above else None)
        # ½(|v_i^(k_i)|² − |v_i^(k)|²) of the features above level k.
        self.norms_above = [
            _variable(half_norms[: norms.size] - norms, self._dtype, f"norms_above_{index + 1}") if norms.size else None
            for index, norms in enumerate(lower_norms)
        ]
        slots = layer.slots.numpy()
        self.slots = None
        if self.num_levels > 1:  # the rows of one level are stored in the order of feature ids
            self.slots = _variable(_with_unknown(slots, self._num_features), tf.int32, "slots")
        elif layer.num_levels > 1 or np.any(slots[1:] < slots[:-1]):
            (table,) = self.free
            assert table is not None
            table.reorder(slots)
        linear, norms = layer.linear().astype(np.float64), half_norms[slots]
        self.linear = _variable(_with_unknown(linear if self._has_values else linear - norms, 0), self._dtype, "linear")
        self.norms = _variable(_with_unknown(norms, 0), self._dtype, "norms") if self._has_values else None
        self.bias = _variable(np.asarray(layer.bias()), self._dtype, "bias")

    def occurrences(self, inputs: Any) -> _Occurrences:
        """Return the occurrences of a batch, given in any form that the layer takes.

        Raises:
            ValueError: The batch has values, and the layer was made without them.
        """
        has_values = isinstance(inputs, tf.SparseTensor) or (
            isinstance(inputs, Mapping) and inputs.get("values") is not None
        )
        if has_values and not self._has_values:
            raise ValueError(f"{self.name} takes ids without values. Received: values")
        if isinstance(inputs, tf.SparseTensor):
            samples, ids = inputs.indices[:, 0], inputs.indices[:, 1]
            return _FlatOccurrences(self, ids, tf.cast(inputs.values, self._dtype), samples, inputs.dense_shape[0])
        ids, values = ids_and_values(inputs, self.name)
        if isinstance(ids, tf.RaggedTensor):
            samples = tf.cast(ids.value_rowids(), tf.int64)
            flat_values = None if values is None else tf.cast(values.flat_values, self._dtype)
            return _FlatOccurrences(self, ids.flat_values, flat_values, samples, tf.cast(ids.nrows(), tf.int64))
        ids = tf.ensure_shape(ids, [None, None])
        return _PaddedOccurrences(self, ids, None if values is None else tf.cast(values, self._dtype))

    def scores(self, batch: _Occurrences, levels: list[int]) -> list[tf.Tensor]:
        """Return `ŷ_k` of some levels, float `[B]` each. Sums that several levels need are computed once per batch."""
        return [batch.cached(f"score {level}", lambda level=level: self._score(batch, level)) for level in levels]

    def level_sums(self, batch: _Occurrences) -> tuple[list[tf.Tensor | None], list[tf.Tensor | None]]:
        """Return `u_k` and `t_k` of all levels, float `[B, D_k]` each; `None` where no feature has such factors."""
        levels = range(1, self.num_levels + 1)
        return [self._free_sum(batch, k) for k in levels], [self._dependent_sum(batch, k) for k in levels]

    def _score(self, batch: _Occurrences, level: int) -> tf.Tensor:
        terms = [batch.cached("linear", lambda: self._linear(batch))]
        for k in range(1, min(level, self.num_levels) + 1):
            terms += batch.cached(f"level {k}", lambda k=k: self._term_of_level(batch, k))
        if level < self.num_levels:
            terms += batch.cached(f"above {level}", lambda: self._terms_above(batch, level))
        return total(terms)

    def _linear(self, batch: _Occurrences) -> tf.Tensor:
        """Return `b` plus the terms of single features."""
        return batch.sums_of_features(self.linear, self.norms) + self.bias

    def _term_of_level(self, batch: _Occurrences, k: int) -> list[tf.Tensor]:
        """Return `u_k·(u_k + t_k)`, or nothing if no feature is of the level."""
        u = self._free_sum(batch, k)
        if u is None:
            return []
        t = self._dependent_sum(batch, k)
        # `interactions.square_norms` is slightly faster, but ONNX doesn't support its operation.
        return [tf.reduce_sum(u * (u if t is None else u + t), axis=1)]

    def _terms_above(self, batch: _Occurrences, k: int) -> list[tf.Tensor]:
        """Return the terms of `ŷ_k` that come from features above level `k`."""
        t, norms = self._dependent_sum(batch, k), self.norms_above[k - 1]
        if t is None or norms is None:
            return []
        return [0.25 * tf.reduce_sum(t * t, axis=1), batch.reads(self._dependent_range(k)).sum_of_squares(norms)]

    def _free_sum(self, batch: _Occurrences, k: int) -> tf.Tensor | None:
        table = self.free[k - 1]
        return batch.cached(f"free {k}", lambda: self._sum(batch, table, self._free_range(k)))

    def _dependent_sum(self, batch: _Occurrences, k: int) -> tf.Tensor | None:
        table = self.dependent[k - 1]
        return batch.cached(f"dependent {k}", lambda: self._sum(batch, table, self._dependent_range(k)))

    def _sum(self, batch: _Occurrences, table: _Table | None, range_: _Range) -> tf.Tensor | None:
        return None if table is None else batch.reads(range_).sum(table)

    def _free_range(self, k: int) -> _Range:
        return self._sizes[k], self._sizes[k - 1]

    def _dependent_range(self, k: int) -> _Range:
        return 0, self._sizes[k]


class _Table(tf.Module):
    """Factors, scaled and stored in some precision.

    Args:
        factors: `[n, D]`.
        scale: The factor that they are multiplied by.
        dtype: The dtype of sums over them.
        precision: How they are stored.
        name: The name of the table.
    """

    def __init__(self, factors: npt.NDArray[Any], scale: float, dtype: tf.DType, precision: Precision, name: str) -> None:
        super().__init__(name=name)
        self._dtype = dtype
        self.scales = None
        if precision == "int8":
            largest = np.max(np.abs(factors.astype(np.float64)), axis=1, initial=0)
            steps = np.where(largest > 0, largest / _INT8_LIMIT, 1).astype(dtype.as_numpy_dtype)
            codes = np.round(factors / steps[:, np.newaxis]).astype(np.int8)
            self.values = _variable(codes, tf.int8, f"{name}_codes")
            self.scales = _variable(steps * scale, dtype, f"{name}_scales")
            stored = codes * steps[:, np.newaxis]
        else:
            scaled = tf.constant(factors.astype(dtype.as_numpy_dtype) * scale, dtype)
            stored = np.asarray(tf.cast(scaled, tf.bfloat16 if precision == "bfloat16" else dtype))
            self.values = _variable(stored, tf.as_dtype(stored.dtype), name)
            stored = stored.astype(np.float64) / scale
        #: `½|v|²` of each row, of the factors as they are stored.
        self.half_norms = 0.5 * np.sum(np.square(stored, dtype=np.float64), axis=1)

    @property
    def width(self) -> int:
        """`D`."""
        return int(self.values.shape[1])

    @property
    def is_exact(self) -> bool:
        """Whether rows are stored in the dtype of the sums over them."""
        return self.values.dtype == self._dtype

    def reorder(self, rows: npt.NDArray[np.int32]) -> None:
        """Move row `rows[i]` to row `i`."""
        self.half_norms = self.half_norms[rows]
        for variable in (self.values, self.scales):
            if variable is not None:
                variable.assign(tf.gather(variable, rows))

    def rows(self, rows: tf.Tensor) -> tf.Tensor:
        """Return some rows in the dtype of sums: float `[r, D]`."""
        values = tf.cast(tf.gather(self.values, rows), self._dtype)
        return values if self.scales is None else values * tf.gather(self.scales, rows)[:, tf.newaxis]


class _Reads(NamedTuple):
    """The reads from the tables that hold one range of slots.

    Attributes:
        rows: The row of each read: int32 or int64 `[o]`.
        samples: The sample that each read is for, ascending: int64 `[o]`.
        values: `x_i` of each read; `None` where all are 1.
        num_samples: `B`: int64 scalar.
        cache: Tensors derived from these, by name.
    """

    rows: tf.Tensor
    samples: tf.Tensor
    values: tf.Tensor | None
    num_samples: tf.Tensor
    cache: dict[str, Any]

    def sum(self, table: _Table) -> tf.Tensor:
        """Return `Σ x_i v_i`: `[B, D]`."""
        if table.is_exact:
            return self._sum_of_rows(table.values, self.rows, table.values.shape[0], "matrix")
        # Each distinct row is converted once.
        distinct, positions = self._distinct()
        rows = table.rows(distinct)
        if self.values is not None:
            rows = tf.pad(rows, [[0, 1], [0, 0]])  # a sparse matrix must have a row
        return self._sum_of_rows(rows, positions, tf.shape(rows)[0], "matrix of distinct rows")

    def sum_of_squares(self, of_rows: tf.Variable) -> tf.Tensor:
        """Return `Σ x_i² n_i` for one number `n` per row: `[B]`."""
        numbers = tf.gather(of_rows, self.rows)
        if self.values is not None:
            numbers *= tf.square(self.values)
        return _sums_by_sample(numbers, self.samples, self.num_samples)

    def _distinct(self) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the distinct rows, and the position of each read among them."""
        if "distinct" not in self.cache:
            self.cache["distinct"] = tf.unique(self.rows)
        distinct: tuple[tf.Tensor, tf.Tensor] = self.cache["distinct"]
        return distinct

    def _sum_of_rows(self, table: Any, rows: tf.Tensor, num_rows: Any, matrix: str) -> tf.Tensor:
        if self.values is None:
            return tf.raw_ops.SparseSegmentSumWithNumSegments(
                data=table, indices=rows, segment_ids=self.samples, num_segments=self.num_samples
            )
        # TensorFlow has no such kernel for weighted sums. The product with a CSR matrix is fast in all versions; other
        # sparse products take four times as long in some.
        if matrix not in self.cache:
            shape = tf.stack([self.num_samples, tf.cast(num_rows, tf.int64)])
            self.cache[matrix] = tf.raw_ops.SparseTensorToCSRSparseMatrix(
                indices=tf.stack([self.samples, tf.cast(rows, tf.int64)], axis=1),
                values=self.values,
                dense_shape=tf.maximum(shape, 1),  # with no samples, TensorFlow would divide by zero
            )
        product = tf.raw_ops.SparseMatrixMatMul(a=self.cache[matrix], b=tf.convert_to_tensor(table))
        return tf.ensure_shape(product[: self.num_samples], [None, table.shape[1]])


class _Occurrences:
    """The occurrences of a batch, and a cache of tensors that are computed from them.

    Args:
        served: The layer.
        ids: Feature ids of any shape; unknown ones are treated as padding.
        values: `x_i`, of the shape of the ids; `None` where all are 1.
        num_samples: `B`: int64 scalar.
    """

    def __init__(self, served: ServedLayer, ids: tf.Tensor, values: tf.Tensor | None, num_samples: tf.Tensor) -> None:
        self._num_samples = num_samples
        self._cache: dict[str, Any] = {}
        # Tables by feature id have an entry before the first and one after the last feature, for unknown ids and padding.
        limit = served._num_features
        self._places = tf.clip_by_value(_wide_enough(ids, limit), -1, limit) + 1
        self._is_known = None if served.slots is not None and values is None else (ids >= 0) & (ids < limit)
        self._slots = ids if served.slots is None else tf.gather(served.slots, self._places)
        self._slots_are_known = served.slots is not None
        self._limit = limit
        self._values = values
        if values is not None:
            # The value of padding may be NaN, so it is replaced and not multiplied. `Select` does not broadcast.
            self._values = tf.raw_ops.Select(condition=self._is_known, x=values, y=tf.zeros_like(values))

    def cached(self, name: str, make: Any) -> Any:
        """Return the value of this name, calling `make` when it is first needed."""
        if name not in self._cache:
            self._cache[name] = make()
        return self._cache[name]

    def reads(self, range_: _Range) -> _Reads:
        """Return the reads from the tables that hold a range of slots."""
        return self.cached(f"reads {range_}", lambda: self._reads(*range_))

    def sums_of_features(self, linear: tf.Variable, norms: tf.Variable | None) -> tf.Tensor:
        """Return `Σ w_i x_i − n_i x_i²`, or without norms `Σ w_i`: `[B]`."""
        numbers = tf.gather(linear, self._places)
        if norms is not None:
            # A layer with norms gets a call without values if only its other calls have them.
            x = 1.0 if self._values is None else self._values
            numbers = x * (numbers - x * tf.gather(norms, self._places))
        return self._sums_by_sample(numbers)

    def _reads(self, start: int, end: int) -> _Reads:
        if self._slots_are_known:
            inside = self._slots < end if start == 0 else (self._slots >= start) & (self._slots < end)
        else:
            inside = self._is_known
        chosen = tf.where(inside)
        rows = tf.gather_nd(self._slots, chosen)
        values = None if self._values is None else tf.gather_nd(self._values, chosen)
        return _Reads(rows - start if start else rows, self._samples(chosen), values, self._num_samples, {})

    def _samples(self, chosen: tf.Tensor) -> tf.Tensor:
        """Return the samples of the occurrences at some positions."""
        raise NotImplementedError

    def _sums_by_sample(self, numbers: tf.Tensor) -> tf.Tensor:
        """Return the sum over each sample of one number per occurrence."""
        raise NotImplementedError


class _PaddedOccurrences(_Occurrences):
    """Occurrences as a dense matrix: `[B, F]`."""

    def __init__(self, served: ServedLayer, ids: tf.Tensor, values: tf.Tensor | None) -> None:
        super().__init__(served, ids, values, tf.shape(ids, out_type=tf.int64)[0])

    def _samples(self, chosen: tf.Tensor) -> tf.Tensor:
        return chosen[:, 0]

    def _sums_by_sample(self, numbers: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(numbers, axis=1)


class _FlatOccurrences(_Occurrences):
    """Occurrences of all samples end to end: `[o]`.

    Args:
        served: The layer.
        ids: int32 or int64 `[o]`.
        values: `x_i`, `[o]`; `None` where all are 1.
        samples: The sample of each occurrence: int64 `[o]`, ascending.
        num_samples: `B`: int64 scalar.
    """

    def __init__(
        self, served: ServedLayer, ids: tf.Tensor, values: tf.Tensor | None, samples: tf.Tensor, num_samples: tf.Tensor
    ) -> None:
        super().__init__(served, ids, values, num_samples)
        self._all_samples = samples

    def _samples(self, chosen: tf.Tensor) -> tf.Tensor:
        return tf.gather_nd(self._all_samples, chosen)

    def _sums_by_sample(self, numbers: tf.Tensor) -> tf.Tensor:
        return _sums_by_sample(numbers, self._all_samples, self._num_samples)


def _sums_by_sample(numbers: tf.Tensor, samples: tf.Tensor, num_samples: tf.Tensor) -> tf.Tensor:
    return tf.math.unsorted_segment_sum(numbers, samples, num_samples)


def _wide_enough(ids: tf.Tensor, num_features: int) -> tf.Tensor:
    """Return ids in a dtype that can hold `num_features + 1`."""
    return ids if num_features + 1 <= ids.dtype.max else tf.cast(ids, tf.int64)


def _with_unknown(values: npt.NDArray[Any], unknown: float) -> npt.NDArray[Any]:
    """Return values by feature id with an entry for unknown ids before the first and after the last."""
    return np.concatenate([[unknown], values, [unknown]]).astype(values.dtype)


def _variable(values: npt.NDArray[Any], dtype: tf.DType, name: str) -> tf.Variable:
    return tf.Variable(tf.cast(tf.constant(values), dtype), trainable=False, name=name)
