"""Medians with their spread, and ratios of measurements that were made in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Spread:
    """Median, lowest and highest of several measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one measurement."""
        if not values:
            raise ValueError("There is nothing to take the median of")
        return cls(median(values), min(values), max(values))

    def text(self, form: str = "{:.3g}") -> str:
        """`median (low – high)`, each in this form."""
        number = form.format
        return f"{number(self.median)} ({number(self.low)} – {number(self.high)})"


def pairwise_ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """The ratio of each round: what was measured right after each other is compared, so that drift of the machine cancels.

    Raises:
        ValueError: There are not equally many of both.
    """
    if len(numerators) != len(denominators):
        raise ValueError(f"There must be one of each per round. Received: {len(numerators)} and {len(denominators)}")
    return [numerator / denominator for numerator, denominator in zip(numerators, denominators, strict=True)]
