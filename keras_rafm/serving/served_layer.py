"""A trained `RaFMLayer` in the form that answers fastest: what no longer changes is computed beforehand.

With `x_i` constant in training terms of single features are merged, and factors are stored scaled, so that per sample

    ŷ_m = b + Σ_i (w_i x_i − ½|v_i^(k_i)|² x_i²) + Σ_k u_k·(u_k + t_k),   u_k = U_k/√2,   t_k = √2·T_k
    ŷ_k = b + Σ_i (w_i x_i − ½|v_i^(k_i)|² x_i²) + Σ_{j<=k} u_j·(u_j + t_j)
          + ¼|t_k|² + Σ_{k_i>k} ½(|v_i^(k_i)|² − |v_i^(k)|²) x_i²

(`U_k`, `T_k`: `interactions`.) Every sum over factors is one fused kernel over the rows of a table, without a copy of them.
Free and dependent factors stay apart: of one row each, they would be summed by one kernel; two of them run on two cores
(`benchmarks/README.md`).
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
        layer: The trained layer, whose idle rows are settled.
        level: `k`: its level score `ŷ_k` is the score, and only what that needs is stored.
        precision: How factors are stored.
        has_values: Whether it is called with values `x_i`; otherwise all are 1.
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
        own_norms = np.zeros(self._num_features)  # ½|v_i^(k_i)|², by slot
        self.free: list[_Table | None] = []
        self.dependent: list[_Table | None] = []
        lower_norms = []
        for index, (size, above) in enumerate(itertools.pairwise(sizes)):
            _, factors = layer.factors(index + 1)
            free = _Table(factors[above:], math.sqrt(0.5), self._dtype, precision, f"free_{index + 1}")
            dependent = _Table(factors[:above], math.sqrt(2), self._dtype, precision, f"dependent_{index + 1}")
            own_norms[above:size] = free.half_norms
            lower_norms.append(dependent.half_norms)
            # Only what has rows is stored.
            self.free.append(free if size > above else None)
            self.dependent.append(dependent if above else None)
        # ½(|v_i^(k_i)|² − |v_i^(k)|²) of the features above level k.
        self.norms_above = [
            _variable(own_norms[: norms.size] - norms, self._dtype, f"norms_above_{index + 1}") if norms.size else None
            for index, norms in enumerate(lower_norms)
        ]
        slots = layer.slots.numpy()
        self.slots = None
        if self.num_levels > 1:  # one level is stored in the order of the ids
            self.slots = _variable(_with_unknown(slots, self._num_features), tf.int32, "slots")
        elif layer.num_levels > 1 or np.any(slots[1:] < slots[:-1]):
            (table,) = self.free
            assert table is not None
            table.reorder(slots)
        linear, norms = layer.linear().astype(np.float64), own_norms[slots]
        self.linear = _variable(_with_unknown(linear if self._has_values else linear - norms, 0), self._dtype, "linear")
        self.norms = _variable(_with_unknown(norms, 0), self._dtype, "norms") if self._has_values else None
        self.bias = _variable(np.asarray(layer.bias()), self._dtype, "bias")

    def occurrences(self, inputs: Any) -> _Occurrences:
        """Ids and values of a batch, of any kind that the layer takes.

        Raises:
            ValueError: There are values, and it is not called with any.
        """
        has_values = isinstance(inputs, tf.SparseTensor) or (
            isinstance(inputs, Mapping) and inputs.get("values") is not None
        )
        if has_values and not self._has_values:
            raise ValueError(f"{self.name} is made for ids without values. Received: values")
        if isinstance(inputs, tf.SparseTensor):
            samples, ids = inputs.indices[:, 0], inputs.indices[:, 1]
            return _FlatOccurrences(self, ids, tf.cast(inputs.values, self._dtype), samples, inputs.dense_shape[0])
        ids, values = ids_and_values(inputs, self.name)
        if isinstance(ids, tf.RaggedTensor):
            samples = tf.cast(ids.value_rowids(), tf.int64)
            flat = None if values is None else tf.cast(values.flat_values, self._dtype)
            return _FlatOccurrences(self, ids.flat_values, flat, samples, tf.cast(ids.nrows(), tf.int64))
        ids = tf.ensure_shape(ids, [None, None])
        return _PaddedOccurrences(self, ids, None if values is None else tf.cast(values, self._dtype))

    def scores(self, batch: _Occurrences, levels: list[int]) -> list[tf.Tensor]:
        """`ŷ_k` of some levels, float `[B]` each. What several need is computed once for the batch."""
        return [batch.remembered(f"score {level}", lambda level=level: self._score(batch, level)) for level in levels]

    def level_sums(self, batch: _Occurrences) -> tuple[list[tf.Tensor | None], list[tf.Tensor | None]]:
        """`u_k` and `t_k` of all levels, float `[B, D_k]` each; `None` where no feature has such factors."""
        levels = range(1, self.num_levels + 1)
        return [self._free_sum(batch, k) for k in levels], [self._dependent_sum(batch, k) for k in levels]

    def _score(self, batch: _Occurrences, level: int) -> tf.Tensor:
        terms = [batch.remembered("linear", lambda: self._linear(batch))]
        for k in range(1, min(level, self.num_levels) + 1):
            terms += batch.remembered(f"own {k}", lambda k=k: self._own(batch, k))
        if level < self.num_levels:
            terms += batch.remembered(f"above {level}", lambda: self._above(batch, level))
        return total(terms)

    def _linear(self, batch: _Occurrences) -> tf.Tensor:
        """`b` and all that is a sum over single features."""
        return batch.sums_of_features(self.linear, self.norms) + self.bias

    def _own(self, batch: _Occurrences, k: int) -> list[tf.Tensor]:
        u = self._free_sum(batch, k)
        if u is None:
            return []
        t = self._dependent_sum(batch, k)
        # `interactions.square_norms` is a little faster, by an operation that ONNX doesn't know.
        return [tf.reduce_sum(u * (u if t is None else u + t), axis=1)]

    def _above(self, batch: _Occurrences, k: int) -> list[tf.Tensor]:
        t, norms = self._dependent_sum(batch, k), self.norms_above[k - 1]
        if t is None or norms is None:
            return []
        return [0.25 * tf.reduce_sum(t * t, axis=1), batch.reads(self._dependent_range(k)).sum_of_squares(norms)]

    def _free_sum(self, batch: _Occurrences, k: int) -> tf.Tensor | None:
        table = self.free[k - 1]
        return batch.remembered(f"free {k}", lambda: self._sum(batch, table, self._free_range(k)))

    def _dependent_sum(self, batch: _Occurrences, k: int) -> tf.Tensor | None:
        table = self.dependent[k - 1]
        return batch.remembered(f"dependent {k}", lambda: self._sum(batch, table, self._dependent_range(k)))

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
        scale: What they are multiplied by.
        dtype: What they are computed with.
        precision: How they are stored.
        name: Of the table.
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
        #: `½|v|²` of each row as it is stored.
        self.half_norms = 0.5 * np.sum(np.square(stored, dtype=np.float64), axis=1)

    @property
    def width(self) -> int:
        """`D`."""
        return int(self.values.shape[1])

    @property
    def is_exact(self) -> bool:
        """Whether rows are stored as they are computed with."""
        return self.values.dtype == self._dtype

    def reorder(self, rows: npt.NDArray[np.int32]) -> None:
        """Let row `i` be what row `rows[i]` is."""
        self.half_norms = self.half_norms[rows]
        for variable in (self.values, self.scales):
            if variable is not None:
                variable.assign(tf.gather(variable, rows))

    def rows(self, rows: tf.Tensor) -> tf.Tensor:
        """Some rows: float `[r, D]`."""
        found = tf.cast(tf.gather(self.values, rows), self._dtype)
        return found if self.scales is None else found * tf.gather(self.scales, rows)[:, tf.newaxis]


class _Reads(NamedTuple):
    """Who reads which rows of the tables of one range of slots.

    Attributes:
        rows: int32 or int64 `[o]`.
        samples: Sample of each, ascending: int64 `[o]`.
        values: `x_i` of each, or `None` where all are 1.
        num_samples: `B`: int64 scalar.
        made: What was made of them.
    """

    rows: tf.Tensor
    samples: tf.Tensor
    values: tf.Tensor | None
    num_samples: tf.Tensor
    made: dict[str, Any]

    def sum(self, table: _Table) -> tf.Tensor:
        """`Σ x_i v_i`: `[B, D]`."""
        if table.is_exact:
            return self._sum_of_rows(table.values, self.rows, table.values.shape[0], "matrix")
        # Each row is converted once.
        distinct, positions = self._distinct()
        rows = table.rows(distinct)
        if self.values is not None:
            rows = tf.pad(rows, [[0, 1], [0, 0]])  # a matrix must have a row
        return self._sum_of_rows(rows, positions, tf.shape(rows)[0], "matrix of distinct rows")

    def sum_of_squares(self, of_rows: tf.Variable) -> tf.Tensor:
        """`Σ x_i² n_i` for a number `n` of each row: `[B]`."""
        numbers = tf.gather(of_rows, self.rows)
        if self.values is not None:
            numbers *= tf.square(self.values)
        return _sums_by_sample(numbers, self.samples, self.num_samples)

    def _distinct(self) -> tuple[tf.Tensor, tf.Tensor]:
        if "distinct" not in self.made:
            self.made["distinct"] = tf.unique(self.rows)
        found: tuple[tf.Tensor, tf.Tensor] = self.made["distinct"]
        return found

    def _sum_of_rows(self, table: Any, rows: tf.Tensor, num_rows: Any, matrix: str) -> tf.Tensor:
        if self.values is None:
            return tf.raw_ops.SparseSegmentSumWithNumSegments(
                data=table, indices=rows, segment_ids=self.samples, num_segments=self.num_samples
            )
        # Weighted sums have no such kernel, and the sparse product that is as fast in one version of TensorFlow takes
        # four times as long in another: that of a CSR matrix is good in all.
        if matrix not in self.made:
            shape = tf.stack([self.num_samples, tf.cast(num_rows, tf.int64)])
            self.made[matrix] = tf.raw_ops.SparseTensorToCSRSparseMatrix(
                indices=tf.stack([self.samples, tf.cast(rows, tf.int64)], axis=1),
                values=self.values,
                dense_shape=tf.maximum(shape, 1),  # no samples would be a division by zero
            )
        product = tf.raw_ops.SparseMatrixMatMul(a=self.made[matrix], b=tf.convert_to_tensor(table))
        return tf.ensure_shape(product[: self.num_samples], [None, table.shape[1]])


class _Occurrences:
    """The ids of a batch, and what was computed of it."""

    def __init__(self, served: ServedLayer, ids: tf.Tensor, values: tf.Tensor | None, num_samples: tf.Tensor) -> None:
        self._num_samples = num_samples
        self._made: dict[str, Any] = {}
        # Unknown ids and padding become the entries before the first and behind the last.
        limit = served._num_features
        self._places = tf.clip_by_value(_wide_enough(ids, limit), -1, limit) + 1
        self._is_known = None if served.slots is not None and values is None else (ids >= 0) & (ids < limit)
        self._slots = ids if served.slots is None else tf.gather(served.slots, self._places)
        self._slots_are_known = served.slots is not None
        self._limit = limit
        self._values = values
        if values is not None:
            # Whatever it is: of padding it may be NaN. `Select` does not broadcast.
            self._values = tf.raw_ops.Select(condition=self._is_known, x=values, y=tf.zeros_like(values))

    def remembered(self, what: str, make: Any) -> Any:
        """What was made for the batch, made if needed."""
        if what not in self._made:
            self._made[what] = make()
        return self._made[what]

    def reads(self, range_: _Range) -> _Reads:
        """Who reads the tables that hold a range of slots."""
        return self.remembered(f"reads {range_}", lambda: self._reads(*range_))

    def sums_of_features(self, linear: tf.Variable, norms: tf.Variable | None) -> tf.Tensor:
        """`Σ w_i x_i − n_i x_i²`, without norms `Σ w_i`: `[B]`."""
        numbers = tf.gather(linear, self._places)
        if norms is not None:
            # Without values only where other layers have some.
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
        raise NotImplementedError

    def _sums_by_sample(self, numbers: tf.Tensor) -> tf.Tensor:
        raise NotImplementedError


class _PaddedOccurrences(_Occurrences):
    def __init__(self, served: ServedLayer, ids: tf.Tensor, values: tf.Tensor | None) -> None:
        super().__init__(served, ids, values, tf.shape(ids, out_type=tf.int64)[0])

    def _samples(self, chosen: tf.Tensor) -> tf.Tensor:
        return chosen[:, 0]

    def _sums_by_sample(self, numbers: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(numbers, axis=1)


class _FlatOccurrences(_Occurrences):
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
    return ids if num_features + 1 <= ids.dtype.max else tf.cast(ids, tf.int64)


def _with_unknown(of_features: npt.NDArray[Any], of_unknown: float) -> npt.NDArray[Any]:
    return np.concatenate([[of_unknown], of_features, [of_unknown]]).astype(of_features.dtype)


def _variable(values: npt.NDArray[Any], dtype: tf.DType, name: str) -> tf.Variable:
    return tf.Variable(tf.cast(tf.constant(values), dtype), trainable=False, name=name)
