"""What a case has found, and how well its targets are met."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.speed.specs import Target
from benchmarks.speed.spreads import Spread, pairwise_ratios


@dataclass
class Measured:
    """A contender and its repetitions, in the order of the rounds.

    Attributes:
        name: In the table.
        about: What does not change: `parameters`, `optimizer`, `batch_size`, `threads`, `steps_per_execution`,
            `tensorflow`.
        samples_per_second: Of each round.
        ms_per_step: Of each round; empty for tools that don't have steps.
        is_ours: Whether it is of this package.
    """

    name: str
    about: dict[str, Any]
    samples_per_second: list[float] = field(default_factory=list)
    ms_per_step: list[float] = field(default_factory=list)
    is_ours: bool = False

    @property
    def has_steps(self) -> bool:
        """Whether it is a Keras model: the C++ tools have no steps."""
        return bool(self.ms_per_step)


@dataclass(frozen=True)
class Verdict:
    """A target beside what was measured. Lower is better where `at_most`."""

    what: str
    limit: float
    at_most: bool
    measured: Spread

    @property
    def reached(self) -> bool:
        """Whether the median is on the right side."""
        return self.measured.median <= self.limit if self.at_most else self.measured.median >= self.limit


@dataclass
class CaseResult:
    """The outcome of a case.

    Attributes:
        name: Of the case.
        title: Of the case.
        header: Of the table.
        rows: Of the table.
        verdicts: One for each target.
        notes: What the tables don't say.
        raw: All measurements, as JSON.
        bars: What the plot shows.
    """

    name: str
    title: str
    header: list[str]
    rows: list[list[str]]
    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)
    bars: list[Measured] = field(default_factory=list)


_PHRASES = {
    "speed": ("samples per second of {} over those of {}", False),
    "time": ("time of {} over that of {}", True),
    "parameters": ("parameters of {} over those of {}", True),
}


def verdict(target: Target, measured: dict[str, Measured]) -> Verdict:
    """How a target is met, from the ratios of each round.

    Raises:
        KeyError: One of the two was not measured.
    """
    ours, other = measured[target.contender], measured[target.against]
    if target.kind == "parameters":
        ratios = [ours.about["parameters"] / other.about["parameters"]]
    elif target.kind == "speed":
        ratios = pairwise_ratios(ours.samples_per_second, other.samples_per_second)
    else:
        ratios = pairwise_ratios(other.samples_per_second, ours.samples_per_second)
    phrase, at_most = _PHRASES[target.kind]
    return Verdict(phrase.format(ours.name, other.name), target.limit, at_most, Spread.of(ratios))
