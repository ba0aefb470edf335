"""The factor tables of a plan: which factors each table holds, and what the sums over its rows contribute to the score.

A form of factors is a class like `SeparateFactors`: the tables that it stores, the way from sums over them to the terms of
each level, and the place of every factor `v_i^(k)`. Everything else about tables (creating variables, looking rows up,
summing them, reading and assigning factors) works on the `FactorTable`s and is the same for every form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from keras_rafm.rank_plan import PlanSizes
from keras_rafm.score.interactions import DependentGradient, LevelSums, LevelTerms, terms_of_levels
from keras_rafm.score.row_sums import TableSums


class FactorTable(NamedTuple):
    """One table of factors: a row for each slot of a range, for one level.

    Attributes:
        name: Name of the variable, unique in the layer.
        level: `k`: the factors are (part of) `v_i^(k)`.
        start: The first slot of the range.
        end: The slot behind the range.
        width: The number of columns.
        reads_linear: Whether the linear weights of the range are summed along with this table. The ranges of these tables
            are disjoint and cover all slots.
    """

    name: str
    level: int
    start: int
    end: int
    width: int
    reads_linear: bool

    @property
    def num_rows(self) -> int:
        """The number of slots in the range."""
        return self.end - self.start


class SeparateFactors:
    """The paper's form: every feature has an embedding of its own for each level `1 … k_i`.

    Level `k` has a table `free_k` with the factors of the features of level `k`, and, except for the last level, a table
    `dependent_k` with those of the features of higher levels. Both are `D_k` wide.

    Args:
        sizes: Ranks and level sizes of the plan.
    """

    def __init__(self, sizes: PlanSizes) -> None:
        self.free: tuple[FactorTable, ...] = ()
        self.dependent: tuple[FactorTable, ...] = ()
        for level, (rank, size, above) in enumerate(sizes.levels_with_next(), start=1):
            self.free += (FactorTable(f"free_{level}", level, above, size, rank, reads_linear=True),)
            if level < sizes.num_levels:
                self.dependent += (FactorTable(f"dependent_{level}", level, 0, above, rank, reads_linear=False),)

    @property
    def tables(self) -> tuple[FactorTable, ...]:
        """All tables, lowest level first, in the order in which a layer creates and saves them."""
        return tuple(table for level in range(1, len(self.free) + 1) for table in self.tables_of_level(level)[::-1])

    def tables_of_level(self, level: int) -> tuple[FactorTable, ...]:
        """Return the tables that hold the factors `v_i^(level)`, in the order of their slots."""
        return (*self.dependent[level - 1 : level], self.free[level - 1])

    def terms(
        self, sums: Mapping[str, TableSums], dependent_gradient: DependentGradient = "both", num_levels: int | None = None
    ) -> list[LevelTerms]:
        """Return the terms of levels `1 … num_levels` (default: all), whose sum is the score.

        Args:
            sums: The sums over each table, by its name.
            dependent_gradient: See `interactions.terms_of_levels`.
            num_levels: The number of levels.
        """
        return terms_of_levels(self.level_sums(sums, num_levels), dependent_gradient)

    def level_sums(self, sums: Mapping[str, TableSums], num_levels: int | None = None) -> list[LevelSums]:
        """Return `U_k`, `T_k` and the sums of squares of levels `1 … num_levels` (default: all)."""
        levels = range(1, len(self.free) + 1 if num_levels is None else num_levels + 1)
        return [LevelSums(*sums[f"free_{level}"], *sums.get(f"dependent_{level}", ())) for level in levels]


def tables_by_range(tables: Sequence[FactorTable]) -> dict[tuple[int, int], list[FactorTable]]:
    """Group tables by their range of slots: the same occurrences read all tables of a range.

    Ranges whose linear weights are summed along come first.
    """
    linear_first = sorted(tables, key=lambda table: not table.reads_linear)  # keeps the order otherwise
    grouped: dict[tuple[int, int], list[FactorTable]] = {(table.start, table.end): [] for table in linear_first}
    for table in tables:
        grouped[table.start, table.end].append(table)
    return grouped
