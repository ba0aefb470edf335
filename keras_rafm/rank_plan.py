"""`RankPlan`: the level of each feature, the rank of each level, and the resulting number of factors.

This module needs NumPy only, so a plan can be made, inspected and saved without TensorFlow.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_rafm.checks.arguments import counts_of_features, increasing_ranks, integer

IntArray = npt.NDArray[np.int32]

_FORMAT = "keras_rafm.RankPlan"
_FORMAT_VERSION = 1
_MAX_FEATURES = 2**31 - 1  # slots are int32


class PlanSizes:
    """The ranks of a plan and the number of features of each level, which determine the shapes of all tables.

    Its size does not depend on the number of features, so a layer's config can hold it.

    Args:
        ranks: `D_1 < … < D_m`: one positive rank per level.
        level_sizes: `|F_1| >= … >= |F_m|`, where `F_k` is the set of features of level `k` or above. `F_1` is the set of
            all features.
        fingerprint: A hex digest of the slots of the features. See `fingerprint_of_slots`.

    Raises:
        TypeError: A rank or a size is not an integer.
        ValueError: Ranks are not positive and increasing, or there is not one size per rank, or sizes increase.
    """

    def __init__(self, ranks: Sequence[int], level_sizes: Sequence[int], fingerprint: str) -> None:
        self._ranks = increasing_ranks(ranks)
        self._level_sizes = tuple(integer(size, "level_sizes", expected="integers") for size in level_sizes)
        self._fingerprint = str(fingerprint)
        if len(self._level_sizes) != len(self._ranks):
            raise ValueError(
                "`level_sizes` must have one entry per rank. "
                f"Received: level_sizes={self._level_sizes}, ranks={self._ranks}"
            )
        if self._level_sizes[0] < 1 or any(b < 0 or b > a for a, b in itertools.pairwise(self._level_sizes)):
            raise ValueError(
                "`level_sizes` must start with the number of features, at least 1, and never increase or be negative. "
                f"Received: level_sizes={self._level_sizes}"
            )

    @property
    def ranks(self) -> tuple[int, ...]:
        """The rank of each level: `D_1 < … < D_m`."""
        return self._ranks

    @property
    def level_sizes(self) -> tuple[int, ...]:
        """The number of features of level `k` or above, for each level: `(|F_1|, …, |F_m|)`."""
        return self._level_sizes

    @property
    def fingerprint(self) -> str:
        """A hex digest of the slots of the features. Equal plans, and only these, can use each other's tables."""
        return self._fingerprint

    @property
    def num_levels(self) -> int:
        """The number of levels `m`."""
        return len(self._ranks)

    @property
    def num_features(self) -> int:
        """The number of features `|F_1|`."""
        return self._level_sizes[0]

    @property
    def num_active_factors(self) -> int:
        """The number of elements of all factor tables: `Σ_k D_k |F_k|`."""
        return sum(rank * size for rank, size in zip(self._ranks, self._level_sizes, strict=True))

    @property
    def num_free_factors(self) -> int:
        """The number of elements of the free factors: `Σ_k D_k (|F_k| − |F_{k+1}|)`."""
        return sum(rank * (size - size_above) for rank, size, size_above in self.levels_with_next())

    @property
    def num_dependent_factors(self) -> int:
        """The number of elements of the dependent factors: `Σ_{k<m} D_k |F_{k+1}|`."""
        return sum(rank * size_above for rank, _, size_above in self.levels_with_next())

    def num_bytes(self, bytes_per_factor: int = 4) -> int:
        """Return the size of the active factors in bytes. By default a factor is a float32 of 4 bytes."""
        return bytes_per_factor * self.num_active_factors

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor in a form that JSON can hold: `PlanSizes(**config)` makes a copy."""
        return {
            "ranks": list(self._ranks),
            "level_sizes": list(self._level_sizes),
            "fingerprint": self._fingerprint,
        }

    def levels_of_slots(self, slots: npt.ArrayLike) -> IntArray:
        """Return the 1-based level of each slot. `F_k` has the slots `0 … |F_k| − 1`."""
        levels = np.zeros(np.shape(slots), np.int32)
        for size in self._level_sizes:
            levels += np.asarray(slots) < size
        return levels

    def levels_with_next(self) -> list[tuple[int, int, int]]:
        """Return `(D_k, |F_k|, |F_{k+1}|)` for each level, with `|F_{m+1}| = 0`.

        The features of level `k` have the slots from `|F_{k+1}|` to `|F_k| − 1`.
        """
        return list(zip(self._ranks, self._level_sizes, (*self._level_sizes[1:], 0), strict=True))


class RankPlan(PlanSizes):
    """The level `k_i` of every feature and the rank `D_k` of every level (Chen et al., ICML 2019, section 3).

    The level of a feature is the highest level at which it has an embedding: a feature of level `k` has one embedding of
    each rank `D_1 … D_k`. Frequent features get high levels, and rare features get low ones. `from_counts` derives levels
    from the counts of the features. A level may have no features.

    Args:
        levels: The 1-based level of each feature: integers `[num_features]` in `1 … len(ranks)`.
        ranks: `D_1 < … < D_m`: one positive rank per level.
        counts: The number of occurrences of each feature in the training data: non-negative numbers `[num_features]`, or
            `None`. The features of a level are ordered by decreasing count in the tables, and `summary` reports the share
            of occurrences of each level.
        slots: The position of each feature in the tables: integers `[num_features]`. By default it follows from levels and
            counts, as described at the property `slots`.

    Raises:
        TypeError: Levels, ranks or slots are not integers.
        ValueError: Ranks are not positive and increasing, a level is outside `1 … len(ranks)`, a count is negative or not
            finite, slots do not put higher levels first, there are no features, or the shapes of the arrays differ.

    Example:

    ```python
    plan = keras_rafm.RankPlan.from_counts([900, 3, 41], ranks=(8, 32), thresholds=(40,))
    plan.levels        # array([2, 1, 2], dtype=int32)
    plan.level_sizes   # (3, 2)
    ```
    """

    def __init__(
        self,
        levels: npt.ArrayLike,
        ranks: Sequence[int],
        counts: npt.ArrayLike | None = None,
        *,
        slots: npt.ArrayLike | None = None,
    ) -> None:
        ranks = increasing_ranks(ranks)
        self._levels = _checked_levels(levels, len(ranks))
        self._counts = None if counts is None else counts_of_features(counts, self._levels.size).copy()
        sizes = np.bincount(self._levels, minlength=len(ranks) + 1)[1:][::-1].cumsum()[::-1].tolist()
        self._slots_are_given = slots is not None
        if slots is None:
            self._slots = _slots_by_level_and_count(self._levels, self._counts)
        else:
            self._slots = _checked_slots(slots, self._levels, sizes)
        super().__init__(ranks, sizes, fingerprint_of_slots(self._slots))

    @classmethod
    def from_counts(cls, counts: npt.ArrayLike, ranks: Sequence[int], thresholds: Sequence[float]) -> RankPlan:
        """Make a plan from the counts of the features.

        The level of a feature is 1 plus the number of thresholds that its count exceeds.

        Args:
            counts: The number of occurrences of each feature in the *training* data: non-negative numbers
                `[num_features]`.
            ranks: `D_1 < … < D_m`: one positive rank per level.
            thresholds: `m − 1` increasing, non-negative counts. A count exceeds a threshold `t` if `count > t`.

        Returns:
            The plan. It keeps `counts`.

        Raises:
            TypeError: Ranks are not integers, or counts are not numbers.
            ValueError: The number of thresholds is not `m − 1`; thresholds are negative, NaN or not increasing; or ranks
                or counts are invalid (see `RankPlan`).
        """
        ranks = increasing_ranks(ranks)
        limits = np.asarray(thresholds, dtype=np.float64).reshape(-1)
        if limits.size != len(ranks) - 1:
            raise ValueError(
                f"`thresholds` must have one entry fewer than `ranks`, here {len(ranks) - 1}. "
                f"Received: thresholds={tuple(thresholds)}, ranks={ranks}"
            )
        if not (np.all(limits >= 0) and np.all(limits[1:] > limits[:-1])):
            raise ValueError(f"`thresholds` must be non-negative and increasing. Received: thresholds={tuple(thresholds)}")
        checked = counts_of_features(counts)
        levels = np.ones(checked.size, np.int32)
        for limit in limits:
            levels += checked > limit
        return cls(levels, ranks, checked)

    @property
    def levels(self) -> IntArray:
        """The 1-based level `k_i` of each feature: int32 `[num_features]`, read-only."""
        return _read_only(self._levels)

    @property
    def counts(self) -> npt.NDArray[Any] | None:
        """The counts that the plan was made from: numbers `[num_features]`, read-only, or `None`."""
        return None if self._counts is None else _read_only(self._counts)

    @property
    def slots(self) -> IntArray:
        """The slot of each feature, its position in the tables: int32 `[num_features]`, read-only.

        Features are ordered by decreasing level, then by decreasing count, then by id. So `F_k` is the set of features
        with `slot < level_sizes[k - 1]`.
        """
        return _read_only(self._slots)

    def summary(self, print_fn: Callable[[str], object] | None = None) -> None:
        """Print the size of each level, and of plain FMs of the highest and the lowest rank for comparison.

        Args:
            print_fn: A function that is called once with the text. By default it is printed.
        """
        (print if print_fn is None else print_fn)(self._summary_table())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan to a file, which later versions can read.

        Args:
            path: The name of the file. It becomes a NumPy `.npz` archive, even if the name ends differently.
        """
        arrays: dict[str, npt.NDArray[Any]] = {
            "format": np.array(_FORMAT),
            "format_version": np.array(_FORMAT_VERSION),
            "ranks": np.array(self._ranks, np.int64),
            "levels": self._levels.astype(np.min_scalar_type(self.num_levels)),
        }
        if self._counts is not None:
            arrays["counts"] = self._counts
        if self._slots_are_given:
            arrays["slots"] = self._slots
        with Path(path).open("wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RankPlan:
        """Read a plan that `save` wrote.

        Raises:
            FileNotFoundError: The file does not exist.
            ValueError: The file is not a plan, is damaged, or has a newer format.
        """
        with Path(path).open("rb") as file:  # given a path, np.load would not close a damaged file
            try:
                with np.load(file, allow_pickle=False) as archive:
                    arrays = {name: archive[name] for name in archive.files}
            except Exception as error:  # zipfile and NumPy raise many kinds of errors for damaged files
                raise ValueError(f"{os.fspath(path)}: expected a RankPlan file, could not read it: {error}") from error
        if str(arrays.get("format", "")) != _FORMAT:
            raise ValueError(f"{os.fspath(path)}: expected a RankPlan file, received one with the entries {sorted(arrays)}")
        try:
            version = int(arrays["format_version"])
            if version <= _FORMAT_VERSION:
                return cls(arrays["levels"], arrays["ranks"].tolist(), arrays.get("counts"), slots=arrays.get("slots"))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)}: damaged RankPlan file: {error}") from error
        raise ValueError(
            f"{os.fspath(path)}: expected a RankPlan file of format {_FORMAT_VERSION} or lower, received format {version}"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RankPlan):
            return NotImplemented
        return (
            self._ranks == other._ranks
            and np.array_equal(self._levels, other._levels)
            and np.array_equal(self._slots, other._slots)
        )

    def __repr__(self) -> str:
        return f"RankPlan(ranks={self._ranks}, level_sizes={self._level_sizes})"

    def _summary_table(self) -> str:
        total = None if self._counts is None else float(self._counts.sum(dtype=np.float64))
        rows = [("level", "rank", "features", "occurrences", "free", "dependent", "MB")]
        for k, (rank, size, size_above) in enumerate(self.levels_with_next(), start=1):
            share = "?"
            if self._counts is not None and total:
                share = f"{float(self._counts[self._levels == k].sum(dtype=np.float64)) / total:.1%}"
            free, dependent = rank * (size - size_above), rank * size_above
            rows.append(
                (
                    str(k),
                    str(rank),
                    f"{size - size_above:,}",
                    share,
                    f"{free:,}",
                    f"{dependent:,}",
                    _megabytes(free + dependent),
                )
            )
        rows.append(
            (
                "RaFM",
                "",
                f"{self.num_features:,}",
                "100.0%" if total else "",
                f"{self.num_free_factors:,}",
                f"{self.num_dependent_factors:,}",
                _megabytes(self.num_active_factors),
            )
        )
        for rank in dict.fromkeys((self._ranks[-1], self._ranks[0])):
            factors = rank * self.num_features
            rows.append(
                (
                    f"FM-{rank}",
                    str(rank),
                    f"{self.num_features:,}",
                    "",
                    f"{factors:,}",
                    "0",
                    _megabytes(factors),
                )
            )
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        rule = "-" * len(lines[0])
        lines.insert(1, rule)
        lines.insert(2 + self.num_levels, rule)
        return "\n".join(lines)


def fingerprint_of_slots(slots: npt.NDArray[np.integer[Any]]) -> str:
    """Return a hex digest of a slot map, which is the same on every platform."""
    return hashlib.blake2b(np.ascontiguousarray(slots, "<i4").data, digest_size=16).hexdigest()


def _slots_by_level_and_count(levels: IntArray, counts: npt.NDArray[Any] | None) -> IntArray:
    keys = (-levels,) if counts is None else (-counts.astype(np.float64), -levels)  # lexsort sorts by the last key first
    feature_of_slot = np.lexsort(keys)
    slots = np.empty(levels.size, np.int32)
    slots[feature_of_slot] = np.arange(levels.size, dtype=np.int32)
    return slots


def _checked_levels(levels: npt.ArrayLike, num_levels: int) -> IntArray:
    array = np.asarray(levels)
    if array.ndim != 1 or not 1 <= array.size <= _MAX_FEATURES:
        raise ValueError(
            f"`levels` must be one-dimensional with 1 to {_MAX_FEATURES:,} features. Received: shape {array.shape}"
        )
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"`levels` must be integers. Received: dtype {array.dtype}")
    wrong = np.flatnonzero((array < 1) | (array > num_levels))
    if wrong.size:
        raise ValueError(
            f"`levels` must be in 1 … {num_levels} (one level per rank). "
            f"Received: levels[{wrong[0]}]={array[wrong[0]]} ({wrong.size} such features)"
        )
    return array.astype(np.int32)


def _checked_slots(slots: npt.ArrayLike, levels: IntArray, level_sizes: list[int]) -> IntArray:
    array = np.asarray(slots)
    if array.shape != levels.shape:
        raise ValueError(f"`slots` must have the shape of `levels`, {levels.shape}. Received: shape {array.shape}")
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"`slots` must be integers. Received: dtype {array.dtype}")
    if not np.array_equal(np.sort(array), np.arange(array.size)):
        raise ValueError(f"`slots` must contain each of 0 … {array.size - 1} exactly once. Received: {_abbreviated(array)}")
    expected = sum((array < size).astype(np.int32) for size in level_sizes)
    wrong = np.flatnonzero(expected != levels)
    if wrong.size:
        raise ValueError(
            "`slots` must put features of higher levels first. "
            f"Received: slots[{wrong[0]}]={array[wrong[0]]} for a feature of level {levels[wrong[0]]}"
        )
    return array.astype(np.int32)


def _abbreviated(array: npt.NDArray[Any]) -> str:
    return np.array2string(array, threshold=10, edgeitems=3)


def _megabytes(factors: int) -> str:
    return f"{4 * factors / 1e6:,.2f}"


def _read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view
