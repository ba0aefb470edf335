"""Columns of numbers: as values of one feature, or with one feature per bin."""

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

# As Python numbers: NumPy 2 would convert what they are compared with to float32.
_LARGEST, _LEAST_NORMAL = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Number(Column):
    """A number that is the value `x_i` of one feature; a missing one contributes nothing."""

    kind: ClassVar[str] = "number"

    scaling: Scaling
    dtype: RawDType = dataclasses.field(default="float32", init=False)

    def __post_init__(self) -> None:
        one_of(self.scaling, get_args(Scaling), "scaling")

    @property
    def has_values(self) -> bool:
        """It has."""
        return True

    def learn(self, counted: ValueCounts) -> Learnt:
        """How numbers are scaled."""
        _check_finite(counted.values)
        counts = np.array([counted.total], np.int64)
        if self.scaling == "none" or not counted.total:
            return Learnt(counts)
        order = np.argsort(counted.values)  # sums that do not depend on counts
        values, weights = counted.values[order].astype(np.float64), counted.counts[order] / counted.total
        low, high = float(values[0]), float(values[-1])
        if high - low > _LARGEST:
            raise ValueError(f"numbers from {low:g} to {high:g} are too far apart to be scaled in float32")
        if self.scaling == "min_max":
            offset, scale = low, high - low
        else:
            offset = float(values @ weights)
            scale = math.sqrt(float((values - offset) ** 2 @ weights))
        return Learnt(counts, offset=offset, scale=scale if scale >= _LEAST_NORMAL else 1.0)

    def encoding(self, name: str, learnt: Learnt, table: tf.lookup.StaticHashTable | None) -> Encoding:
        """The scaled value."""

        def encode(values: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            missing = is_missing(values)
            if self.scaling != "none":
                # Not `/`: graphs multiply by the reciprocal of a constant, which may differ in the last bit.
                values = tf.math.divide_no_nan(values - learnt.offset, learnt.scale)
            ids = tf.where(missing, tf.constant(PADDING_ID, tf.int64), tf.constant(0, tf.int64))
            return ids, tf.where(missing, tf.constant(0.0), values)

        return encode

    def feature_names(self, learnt: Learnt) -> list[str]:
        """One, for the column itself."""
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
                raise ValueError("`bin_boundaries` excludes `num_bins` and `binning`")
        elif self.binning == "quantile":
            if self.num_bins is None:
                raise ValueError("one of `num_bins`, `bin_boundaries` and binning='log' must be given")
            as_positive_int(self, "num_bins")
            if self.num_bins < 2:
                raise ValueError(f"`num_bins` must be at least 2. Received: num_bins={self.num_bins}")
        elif self.num_bins is not None:
            raise ValueError("`num_bins` is for quantile bins: with binning='log' the data tell how many there are")

    def learn(self, counted: ValueCounts) -> Learnt:
        """The boundaries, and how many numbers are in each bin."""
        _check_finite(counted.values)
        order = np.argsort(counted.values)
        values, counts = counted.values[order], counted.counts[order]
        if self.bin_boundaries is not None:
            boundaries = np.array(self.bin_boundaries, np.float32)
        elif self.binning == "quantile":
            boundaries = _quantiles(values, counts, self.num_bins or 0)
        else:
            boundaries = _log_boundaries(values)
        in_bins = np.zeros(boundaries.size + 1, np.int64)
        np.add.at(in_bins, np.searchsorted(boundaries, values, side="right"), counts)
        missing = [counted.num_missing] if self.missing == "category" else []
        return Learnt(
            np.concatenate([np.array(missing, np.int64), in_bins]), boundaries=tuple(float(b) for b in boundaries)
        )

    def encoding(self, name: str, learnt: Learnt, table: tf.lookup.StaticHashTable | None) -> Encoding:
        """The number of the bin."""
        first = int(self.missing == "category")
        of_missing = tf.constant(0 if first else PADDING_ID, tf.int64)
        boundaries = list(learnt.boundaries or ())

        def encode(values: tf.Tensor) -> tuple[tf.Tensor, None]:
            missing = is_missing(values)
            bins = tf.cast(tf.raw_ops.Bucketize(input=values, boundaries=boundaries), tf.int64)
            return tf.where(missing, of_missing, first + bins), None

        return encode

    def feature_names(self, learnt: Learnt) -> list[str]:
        """Intervals."""
        ends = [-math.inf, *(learnt.boundaries or ()), math.inf]
        bins = [f"[{low:g}, {high:g})" for low, high in itertools.pairwise(ends)]
        return self.reserved_names() + bins

    def reserved_names(self) -> list[str]:
        """Of missing numbers."""
        return [MISSING_NAME] if self.missing == "category" else []


def _checked_boundaries(given: Any) -> tuple[float, ...]:
    message = f"`bin_boundaries` must be numbers, finite and increasing in float32, at least one. Received: {given!r}"
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(message)
    boundaries = tuple(given)
    if not all(isinstance(boundary, numbers.Real) for boundary in boundaries):
        raise TypeError(message)
    boundaries = tuple(map(float, boundaries))
    finite = all(abs(boundary) <= _LARGEST for boundary in boundaries)
    if not boundaries or not finite or (np.diff(np.array(boundaries, np.float32)) <= 0).any():
        raise ValueError(message)
    return boundaries


def _check_finite(values: npt.NDArray[Any]) -> None:
    wrong = values[~np.isfinite(values)]
    if wrong.size:
        raise ValueError(f"numbers must be finite. Received: {wrong[0]}")


def _quantiles(values: npt.NDArray[Any], counts: npt.NDArray[np.int64], num_bins: int) -> npt.NDArray[np.float32]:
    """Boundaries between bins of about equally many numbers; fewer where one number fills several bins."""
    if values.size < 2:
        return np.zeros(0, np.float32)
    below = np.cumsum(counts) - counts  # how many numbers are less than each value
    wanted = np.arange(1, num_bins) * (below[-1] + counts[-1]) / num_bins
    # The value whose start is nearest to the wanted share; the first value has none below it.
    after = np.clip(np.searchsorted(below, wanted), 1, values.size - 1)
    before = np.maximum(after - 1, 1)
    nearest = np.where(wanted - below[before] < below[after] - wanted, before, after)
    return np.unique(values[nearest]).astype(np.float32)


def _log_boundaries(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Bins of `floor(ln(x)²)` above 2 and of whole numbers up to 2, as used for Criteo's integer columns."""
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
    """The least float32 `x` with `ln(x)² ≥ number`: rounding to float32 could put a whole number on the wrong side."""
    boundary = np.float32(math.exp(math.sqrt(number)))
    while math.log(boundary) ** 2 < number:
        boundary = np.nextafter(boundary, np.float32(np.inf))
    while math.log(below := np.nextafter(boundary, np.float32(0))) ** 2 >= number:
        boundary = below
    return float(boundary)
