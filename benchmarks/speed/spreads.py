"""Medians with their spread, and ratios of measurements that alternate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

_RESAMPLES, _SEED = 10_000, 0


@dataclass(frozen=True)
class Spread:
    """Median, lowest and highest of several measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one measurement."""
        if not values:
            raise ValueError("`values` must hold at least one measurement. Received none")
        return cls(median(values), min(values), max(values))

    @classmethod
    def of_median(cls, values: Sequence[float]) -> Spread:
        """Return the median with its 95 % interval, by the percentile bootstrap with a fixed seed."""
        sample = np.asarray(values, float)
        resamples = np.random.default_rng(_SEED).choice(sample, (_RESAMPLES, sample.size))
        low, high = np.quantile(np.median(resamples, axis=1), [0.025, 0.975])
        return cls(median(values), float(low), float(high))

    def text(self, form: str = "{:.3g}") -> str:
        """Format the spread as `median (low – high)`, with each number in this form."""
        number = form.format
        return f"{number(self.median)} ({number(self.low)} – {number(self.high)})"


def pairwise_ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    """Return the ratio of each round. Both of its measurements follow each other, so a drift of the machine cancels.

    Raises:
        ValueError: The numbers of measurements differ.
    """
    if len(numerators) != len(denominators):
        raise ValueError(
            "`numerators` and `denominators` must be of equal length, one of each per round. "
            f"Received lengths {len(numerators)} and {len(denominators)}"
        )
    return [numerator / denominator for numerator, denominator in zip(numerators, denominators, strict=True)]
