"""The measurements of a case, and whether they reach its targets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.speed.specs import Target
from benchmarks.speed.spreads import Spread, pairwise_ratios


@dataclass
class Measured:
    """A contender and its repetitions, in the order of the rounds.

    Attributes:
        name: The contender's name in the table.
        about: What is the same in all rounds: `parameters`, `optimizer`, `batch_size`, `threads`, `steps_per_execution`,
            `tensorflow`.
        samples_per_second: One value per round.
        ms_per_step: One value per round. Empty for the C++ tools, which have no steps.
        is_ours: Whether the model is of this package.
    """

    name: str
    about: dict[str, Any]
    samples_per_second: list[float] = field(default_factory=list)
    ms_per_step: list[float] = field(default_factory=list)
    is_ours: bool = False

    @property
    def has_steps(self) -> bool:
        """Whether the contender is a Keras model. The C++ tools have no steps."""
        return bool(self.ms_per_step)


@dataclass(frozen=True)
class Verdict:
    """A target and the measurement. If `at_most`, lower is better."""

    what: str
    limit: float
    at_most: bool
    measured: Spread

    @property
    def reached(self) -> bool:
        """Whether the median reaches the target."""
        return self.measured.median <= self.limit if self.at_most else self.measured.median >= self.limit


@dataclass
class CaseResult:
    """The outcome of a case.

    Attributes:
        name: Name of the case.
        title: Title of the case.
        header: Header of the table.
        rows: Rows of the table.
        verdicts: One verdict for each target.
        notes: Sentences below the tables.
        raw: All measurements, as JSON values.
        bars: Contenders that the plot shows.
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
    """Compare a target with the ratios of each round.

    Raises:
        KeyError: One of the two contenders was not measured.
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
