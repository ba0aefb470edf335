"""Samples of varying length, stored end to end, as readers produce them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from keras_rafm.checks.constants import PADDING_ID
from keras_rafm.data.samples.samples import FloatArray, IdArray


@dataclass(frozen=True)
class Rows:
    """The labels of `n` samples, and the occurrences of all samples end to end.

    Args:
        labels: float32 `[n]`.
        lengths: The number of occurrences of each sample, int64 `[n]`.
        ids: Feature ids, int32 or int64 `[sum of lengths]`.
        values: float32 `[sum of lengths]`.
    """

    labels: FloatArray
    lengths: npt.NDArray[np.int64]
    ids: IdArray
    values: FloatArray

    def __len__(self) -> int:
        return self.labels.size

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """Join the samples of one or more parts. Ids are int64 if those of any part are."""
        return cls(
            np.concatenate([part.labels for part in parts]),
            np.concatenate([part.lengths for part in parts]),
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.values for part in parts]),
        )

    def split(self, size: int) -> Iterator[Rows]:
        """Yield parts of `size` samples; the last part may be smaller."""
        ends = np.concatenate([[0], np.cumsum(self.lengths)])
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            flat = slice(ends[start], ends[stop])
            yield Rows(self.labels[start:stop], self.lengths[start:stop], self.ids[flat], self.values[flat])

    def padded(self, num_fields: int | None) -> tuple[IdArray, FloatArray]:
        """Return `ids` and `values` as matrices `[n, num_fields]`.

        Args:
            num_fields: The width; `None` for the length of the longest sample, at least 1.
        """
        width = num_fields or max(1, int(self.lengths.max(initial=0)))
        if np.all(self.lengths == width):
            return self.ids.reshape(-1, width), self.values.reshape(-1, width)
        is_occurrence = np.arange(width) < self.lengths[:, np.newaxis]
        ids = np.full_like(self.ids, PADDING_ID, shape=is_occurrence.shape)
        values = np.zeros(is_occurrence.shape, np.float32)
        ids[is_occurrence] = self.ids
        values[is_occurrence] = self.values
        return ids, values
