"""How often each value of a raw column occurs: what vocabularies, bins and levels are learnt from."""

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
    """The distinct values of a column and how often each occurs, the most frequent first, then in ascending order.

    The order of rows, of files and of batches makes no difference to it.

    Args:
        values: Of strings `bytes` objects, else int64 or float32: `[n]`.
        counts: int64 `[n]`, each at least 1.
        num_missing: Rows that have no value.
    """

    values: npt.NDArray[Any]
    counts: npt.NDArray[np.int64]
    num_missing: int

    @classmethod
    def of(cls, dtype: RawDType, values: Iterable[Any], counts: Iterable[int], num_missing: int) -> ValueCounts:
        """Of distinct values in any order."""
        number = np.fromiter(counts, np.int64)
        if dtype == "string":
            distinct = np.empty(number.size, object)
            distinct[:] = list(values)
        else:
            distinct = np.fromiter(values, dtype, count=number.size)
            distinct += distinct.dtype.type(0)  # -0.0 becomes 0.0, whichever of them came first
        order = np.argsort(distinct, kind="stable")
        order = order[np.argsort(-number[order], kind="stable")]
        return cls(distinct[order], number[order], num_missing)

    @property
    def total(self) -> int:
        """Occurrences of all values."""
        return int(self.counts.sum())


class ValueCounter:
    """Adds up the values of one column, batch by batch.

    Args:
        dtype: Of the column.
    """

    def __init__(self, dtype: RawDType) -> None:
        self._dtype = dtype
        self._counts: Counter[Any] = Counter()
        self._num_missing = 0

    def add(self, values: npt.NDArray[Any], counts: npt.NDArray[np.integer[Any]], num_missing: int) -> None:
        """Add distinct values with their counts, and rows without a value."""
        known = self._counts
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            known[value] += count
        self._num_missing += num_missing

    def result(self) -> ValueCounts:
        """What was added up so far."""
        return ValueCounts.of(self._dtype, self._counts.keys(), self._counts.values(), self._num_missing)
