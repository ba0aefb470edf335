"""All columns of a schema with what each learnt from training data, and the one numbering of their features."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from keras_rafm.data.columns.categorical import UNSEEN_NAME
from keras_rafm.data.columns.column import MISSING_NAME, Column, Learnt
from keras_rafm.data.columns.value_counts import ValueCounts


class LearntColumns(NamedTuple):
    """Columns and what each learnt, by name, in the order of their features."""

    columns: Mapping[str, Column]
    learnt: Mapping[str, Learnt]

    @classmethod
    def from_counts(cls, columns: Mapping[str, Column], counts: Mapping[str, ValueCounts]) -> LearntColumns:
        """Let each column learn from the counts of its values in training data.

        Raises:
            ValueError: A column has no counts or no rows, a number is not finite, or no feature is left.
        """
        absent = sorted(set(columns) - set(counts))
        if absent:
            raise ValueError(f"there are no counts of the columns {absent}")
        learnt = {}
        for name, column in columns.items():
            if not counts[name].total and not counts[name].num_missing:
                raise ValueError(f"column '{name}' has no rows to learn from")
            try:
                learnt[name] = column.learn(counts[name])
            except ValueError as error:
                raise ValueError(f"column '{name}': {error}") from error
        if not any(of_column.num_ids for of_column in learnt.values()):
            raise ValueError(
                f"no feature is left of the columns {list(learnt)}: no value occurs `min_count` times, and neither unseen "
                "nor missing values have a feature"
            )
        return cls(columns, learnt)

    @property
    def num_features(self) -> int:
        """The number of features of all columns together."""
        return sum(of_column.num_ids for of_column in self.learnt.values())

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Occurrences of each feature in training data, int64 `[num_features]`."""
        return np.concatenate([of_column.counts for of_column in self.learnt.values()])

    def id_range(self, name: str) -> range:
        """Return the ids of a column's features.

        Raises:
            KeyError: There is no column of this name.
        """
        if name not in self.learnt:
            raise KeyError(f"there is no column '{name}' among {sorted(self.learnt)}")
        sizes = [of_column.num_ids for of_column in self.learnt.values()]
        ends = dict(zip(self.learnt, itertools.accumulate(sizes), strict=True))
        return range(ends[name] - self.learnt[name].num_ids, ends[name])

    def vocabulary(self, name: str) -> list[str]:
        """Return the name of each of a column's features, in the order of their ids.

        Raises:
            KeyError: There is no column of this name.
        """
        self.id_range(name)
        return self.columns[name].feature_names(self.learnt[name])

    def summary(self) -> str:
        """Return a table of the columns: their features, occurrences, and shares of missing and unseen values."""
        rows: list[tuple[str, ...]] = [("column", "kind", "features", "occurrences", "missing", "unseen")]
        for name, column in self.columns.items():
            counts = self.learnt[name].counts
            total = int(counts.sum())
            reserved = dict(zip(column.reserved_names(), counts.tolist(), strict=False))
            shares = [
                f"{reserved[key] / max(total, 1):.1%}" if key in reserved else "" for key in (MISSING_NAME, UNSEEN_NAME)
            ]
            rows.append((name, column.kind, f"{counts.size:,}", f"{total:,}", *shares))
        rows.append(("total", "", f"{self.num_features:,}", f"{int(self.counts.sum()):,}", "", ""))
        widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
        lines = [
            "  ".join(
                cell.ljust(width) if index < 2 else cell.rjust(width)
                for index, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        rule = "-" * max(map(len, lines))
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])
