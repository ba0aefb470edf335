"""Numeric columns: the number as the value of one feature, or one feature per bin."""

from __future__ import annotations

import dataclasses
import itertools
import math
import numbers
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_rafm.checks.arguments import one_of
from keras_rafm.checks.constants import PADDING_ID
from keras_rafm.data.columns.column import MISSING_NAME, Column, Encoding, Learnt, Missing, as_positive_int, is_missing
from keras_rafm.data.columns.value_counts import ValueCounts
from keras_rafm.data.raw.columns import RawDType

Scaling = Literal["none", "standard", "min_max"]
Binning = Literal["quantile", "log"]

# Python floats, because NumPy 2 would convert the numbers they are compared with to float32.
_LARGEST, _LEAST_NORMAL = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Number(Column):
    """A number that is the value `x_i` of one feature; a missing number contributes nothing."""

    kind: ClassVar[str] = "number"

    scaling: Scaling
    dtype: RawDType = dataclasses.field(default="float32", init=False)

    def __post_init__(self) -> None:
        one_of(self.scaling, get_args(Scaling), "scaling")

    @property
    def has_values(self) -> bool:
        """Whether `x_i` may differ from 1: always."""
        return True

    def learn(self, counted: ValueCounts) -> Learnt:
        """Learn offset and scale."""
        _check_finite(counted.values)
        counts = np.array([counted.total], np.int64)
        if self.scaling == "none" or not counted.total:
            return Learnt(counts)
        order = np.argsort(counted.values)  # sums in this order do not depend on how often each number occurs
        values, weights = counted.values[order].astype(np.float64), counted.counts[order] / counted.total
        low, high = float(values[0]), float(values[-1])
        if high - low > _LARGEST:
            raise ValueError(
                f"numbers to be scaled must differ by at most {_LARGEST:g}, the largest float32. "
                f"Received: numbers from {low:g} to {high:g}"
            )
        if self.scaling == "min_max":
            offset, scale = low, high - low
        else:
            offset = float(values @ weights)
            scale = math.sqrt(float((values - offset) ** 2 @ weights))
        return Learnt(counts, offset=offset, scale=scale if scale >= _LEAST_NORMAL else 1.0)

    def encoding(self, name: str, learnt: Learnt, table: tf.lookup.StaticHashTable | None) -> Encoding:
        """Return the scaling."""

        def encode(values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            missing = is_missing(values)
            if self.scaling != "none":
                # Graphs replace `/` by a product with the reciprocal, which may differ in the last bit.
                values = tf.math.divide_no_nan(values - learnt.offset, learnt.scale)
            ids = tf.where(missing, tf.constant(PADDING_ID, tf.int64), tf.constant(0, tf.int64))
            return ids, tf.where(missing, tf.constant(0.0), values)

        return encode

    def feature_names(self, learnt: Learnt) -> list[str]:
        """Return one empty name: the feature is named after the column alone."""
        return [""]


@dataclass(frozen=True)
class Discretized(Column):
    """One feature per bin of a number."""

    kind: ClassVar[str] = "discretized"

    num_bins: int | None
    bin_boundaries: tuple[float, ...] | None
    binning: Binning
    missing: Missing
    dtype: RawDType = dataclasses.field(default="float32", init=False)

    def __post_init__(self) -> None:
        one_of(self.missing, get_args(Missing), "missing")
        one_of(self.binning, get_args(Binning), "binning")
        if self.bin_boundaries is not None:
            object.__setattr__(self, "bin_boundaries", _checked_boundaries(self.bin_boundaries))
            if self.num_bins is not None or self.binning != "quantile":
                raise ValueError(
                    "`bin_boundaries` excludes `num_bins` and `binning`. "
                    f"Received: num_bins={self.num_bins!r}, binning={self.binning!r}"
                )
        elif self.binning == "quantile":
            if self.num_bins is None:
                raise ValueError(
                    "one of `num_bins`, `bin_boundaries` and binning='log' must be given. Received: none of them"
                )
            as_positive_int(self, "num_bins")
            if self.num_bins < 2:
                raise ValueError(f"`num_bins` must be at least 2. Received: num_bins={self.num_bins}")
        elif self.num_bins is not None:
            raise ValueError(
                "`num_bins` is for quantile bins: with binning='log' the data determine the number of bins. "
                f"Received: num_bins={self.num_bins!r}"
            )

    def learn(self, counted: ValueCounts) -> Learnt:
        """Learn the boundaries, and count the numbers in each bin."""
        _check_finite(counted.values)
        order = np.argsort(counted.values)
        values, counts = counted.values[order], counted.counts[order]
        if self.bin_boundaries is not None:
            boundaries = np.array(self.bin_boundaries, np.float32)
        elif self.binning == "quantile":
            boundaries = _quantiles(values, counts, self.num_bins or 0)
        else:
            boundaries = _log_boundaries(values)
        counts_per_bin = np.zeros(boundaries.size + 1, np.int64)
        np.add.at(counts_per_bin, np.searchsorted(boundaries, values, side="right"), counts)
        missing = [counted.num_missing] if self.missing == "category" else []
        return Learnt(
            np.concatenate([np.array(missing, np.int64), counts_per_bin]),
            boundaries=tuple(float(boundary) for boundary in boundaries),
        )

    def encoding(self, name: str, learnt: Learnt, table: tf.lookup.StaticHashTable | None) -> Encoding:
        """Return the function that finds the bin of each number."""
        first = int(self.missing == "category")
        missing_id = tf.constant(0 if first else PADDING_ID, tf.int64)
        boundaries = list(learnt.boundaries or ())

        def encode(values: tf.Tensor) -> tuple[tf.Tensor, None]:
            missing = is_missing(values)
            bins = tf.cast(tf.raw_ops.Bucketize(input=values, boundaries=boundaries), tf.int64)
            return tf.where(missing, missing_id, first + bins), None

        return encode

    def feature_names(self, learnt: Learnt) -> list[str]:
        """Return the name of the feature of missing numbers if they have one, then the bins as intervals."""
        ends = [-math.inf, *(learnt.boundaries or ()), math.inf]
        bins = [f"[{low:g}, {high:g})" for low, high in itertools.pairwise(ends)]
        return self.reserved_names() + bins

    def reserved_names(self) -> list[str]:
        """Return the name of the feature of missing numbers, if they have one."""
        return [MISSING_NAME] if self.missing == "category" else []


def _checked_boundaries(bin_boundaries: Any) -> tuple[float, ...]:
    message = (
        "`bin_boundaries` must be numbers, finite and increasing in float32, at least one. "
        f"Received: bin_boundaries={bin_boundaries!r}"
    )
    if isinstance(bin_boundaries, str) or not isinstance(bin_boundaries, Iterable):
        raise TypeError(message)
    boundaries = tuple(bin_boundaries)
    if not all(isinstance(boundary, numbers.Real) for boundary in boundaries):
        raise TypeError(message)
    boundaries = tuple(map(float, boundaries))
    are_finite = all(abs(boundary) <= _LARGEST for boundary in boundaries)
    if not boundaries or not are_finite or (np.diff(np.array(boundaries, np.float32)) <= 0).any():
        raise ValueError(message)
    return boundaries


def _check_finite(values: npt.NDArray[Any]) -> None:
    infinite = values[~np.isfinite(values)]
    if infinite.size:
        raise ValueError(f"numbers must be finite. Received: {infinite[0]}")


def _quantiles(values: npt.NDArray[Any], counts: npt.NDArray[np.int64], num_bins: int) -> npt.NDArray[np.float32]:
    """Return the boundaries between bins of about equally many numbers; there are fewer if one number fills several bins.

    Args:
        values: Distinct numbers, increasing.
        counts: Occurrences of each number.
        num_bins: The largest number of bins.
    """
    if values.size < 2:
        return np.zeros(0, np.float32)
    num_below = np.cumsum(counts) - counts  # occurrences of smaller numbers than each value
    targets = np.arange(1, num_bins) * (num_below[-1] + counts[-1]) / num_bins
    # Each boundary is the value whose `num_below` is nearest to the target; no boundary is needed below the first value.
    after = np.clip(np.searchsorted(num_below, targets), 1, values.size - 1)
    before = np.maximum(after - 1, 1)
    nearest = np.where(targets - num_below[before] < num_below[after] - targets, before, after)
    return np.unique(values[nearest]).astype(np.float32)


def _log_boundaries(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return the boundaries of the bins `floor(ln(x)²)` above 2 and of whole numbers up to 2, as used for Criteo's columns.

    Args:
        values: Distinct numbers, increasing.
    """
    if not values.size:
        return np.zeros(0, np.float32)
    low, high = float(values[0]), float(values[-1])
    small = np.arange(max(math.floor(low), -(2**10)) + 1, min(math.floor(high), 2) + 1, dtype=np.float32)
    large: list[float] = []
    if high > 2:
        large = [float(np.nextafter(np.float32(2), np.float32(3)))]
        number = 1
        while math.log(high) ** 2 >= number:
            large.append(_log_boundary(number))
            number += 1
    return np.unique(np.concatenate([small, np.array(large, np.float32)])).astype(np.float32)


def _log_boundary(number: int) -> float:
    """Return the least float32 `x` with `ln(x)² ≥ number`."""
    # Rounding the exact boundary to float32 could put a whole number on the wrong side of it.
    boundary = np.float32(math.exp(math.sqrt(number)))
    while math.log(boundary) ** 2 < number:
        boundary = np.nextafter(boundary, np.float32(np.inf))
    while math.log(below := np.nextafter(boundary, np.float32(0))) ** 2 >= number:
        boundary = below
    return float(boundary)
