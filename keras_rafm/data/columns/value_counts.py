"""Counts of the values of a raw column: what vocabularies, bins and levels are learnt from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_rafm.data.raw.columns import RawDType


@dataclass(frozen=True, eq=False)
class ValueCounts:
    """The distinct values of a column with their counts: the most frequent first, equally frequent ones ascending.

    The order of rows, files and batches makes no difference.

    Args:
        values: `[n]`: `bytes` objects for a column of strings, else int64 or float32.
        counts: Occurrences of each value, int64 `[n]`, at least 1.
        num_missing: The number of rows without a value.
    """

    values: npt.NDArray[Any]
    counts: npt.NDArray[np.int64]
    num_missing: int

    @classmethod
    def of(cls, dtype: RawDType, values: Iterable[Any], counts: Iterable[int], num_missing: int) -> ValueCounts:
        """Make it from distinct values in any order.

        Args:
            dtype: The dtype of the column.
            values: Distinct values.
            counts: Occurrences of each value.
            num_missing: The number of rows without a value.
        """
        occurrences = np.fromiter(counts, np.int64)
        if dtype == "string":
            distinct = np.empty(occurrences.size, object)
            distinct[:] = list(values)
        else:
            distinct = np.fromiter(values, dtype, count=occurrences.size)
            distinct += distinct.dtype.type(0)  # makes 0.0 of -0.0, so that it does not matter which of them came first
        order = np.argsort(distinct, kind="stable")
        order = order[np.argsort(-occurrences[order], kind="stable")]
        return cls(distinct[order], occurrences[order], num_missing)

    @property
    def total(self) -> int:
        """Occurrences of all values together."""
        return int(self.counts.sum())


class ValueCounter:
    """Adds up the value counts of one column, batch by batch.

    Args:
        dtype: The dtype of the column.
    """

    def __init__(self, dtype: RawDType) -> None:
        self._dtype = dtype
        self._counts: Counter[Any] = Counter()
        self._num_missing = 0

    def add(self, values: npt.NDArray[Any], counts: npt.NDArray[np.integer[Any]], num_missing: int) -> None:
        """Add the counts of one batch.

        Args:
            values: Distinct values of the batch, `[n]`.
            counts: Occurrences of each value, `[n]`.
            num_missing: The number of rows without a value.
        """
        totals = self._counts
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            totals[value] += count
        self._num_missing += num_missing

    def result(self) -> ValueCounts:
        """Return the counts of all batches added so far."""
        return ValueCounts.of(self._dtype, self._counts.keys(), self._counts.values(), self._num_missing)
