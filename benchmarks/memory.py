"""Peak memory of a training process against what it has to hold: `python -m benchmarks.memory`.

An FM of rank 8 trains on a few batches of 4,096 samples with 39 log-uniform ids, in a process of its own for each number of
features. The peak is `ru_maxrss` at its end, minus that of a process that has imported everything and trained a tiny model
on as many samples in batches of 16.
It is held against tables + optimizer slots + slot map + what one batch needs (`held_bytes`, `batch_bytes`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.speed.processes import Worker
from benchmarks.speed.results import CaseResult, Verdict
from benchmarks.speed.rounds import Log
from benchmarks.speed.specs import TensorFlowContender, Workload
from benchmarks.speed.spreads import Spread
from benchmarks.speed.workloads import draw

NAME = "memory"
_RANK, _FIELDS, _BATCH, _BATCHES = 8, 39, 4096, 4
_MILLION = 1_000_000
#: (features, optimizer) of each process.
DEFAULT_RUNS: tuple[tuple[int, str], ...] = (
    (_MILLION, "SparseAdagrad"),
    (10 * _MILLION, "SparseAdagrad"),
    (50 * _MILLION, "SparseAdagrad"),
    (10 * _MILLION, "LazyAdam"),
)
_AT_MOST = 1.3
_FLOAT, _INT, _MARK = 4, 4, 8
_SLOTS = {"SparseAdagrad": 1, "LazyAdam": 2}
_PHASES = ("plan", "tables", "optimizer", "training")


@dataclass(frozen=True)
class Footprint:
    """Bytes of one training process.

    Attributes:
        contender: Who trained.
        held: Tables, optimizer slots and slot map.
        batch: What a step needs besides.
        peak: Over that of the process with a tiny model.
        phases: The same peak after the plan, the tables, the optimizer and the training.
    """

    contender: TensorFlowContender
    held: int
    batch: int
    peak: int
    phases: dict[str, int]

    @property
    def ratio(self) -> float:
        """The peak over what has to be held."""
        return self.peak / (self.held + self.batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=_numbers, help="numbers of features, separated by commas, all with --optimizer")
    parser.add_argument("--optimizer", choices=tuple(_SLOTS), default="SparseAdagrad")
    arguments = parser.parse_args()

    from benchmarks.speed.report import case_text

    runs = DEFAULT_RUNS
    if arguments.features:
        runs = tuple((number, arguments.optimizer) for number in arguments.features)
    print(case_text(run(sys.executable, lambda line: print(line, file=sys.stderr), runs)))


def run(python: str, log: Log, runs: Sequence[tuple[int, str]] = DEFAULT_RUNS) -> CaseResult:
    """One process after the other."""
    log("a process with a tiny model")
    tiny = _contender(1000, "SparseAdagrad", batch_size=16, num_samples=_BATCHES * _BATCH)
    baseline = _measure(python, tiny)["peak"]
    footprints = []
    for num_features, optimizer in runs:
        log(f"{num_features:,} features, {optimizer}")
        footprints.append(_footprint(python, _contender(num_features, optimizer, _BATCH, _BATCHES * _BATCH), baseline))
    return _result(footprints, baseline)


def held_bytes(num_features: int, rank: int, optimizer: str) -> int:
    """Of factors, linear weights and bias, their optimizer slots, the slot map, and the marks of rows that decay."""
    weights = num_features * (rank + 1) + 1
    marks = num_features * _MARK if optimizer == "LazyAdam" else 0
    return weights * _FLOAT * (1 + _SLOTS[optimizer]) + num_features * _INT + marks


def batch_bytes(num_samples: int, occurrences: int, distinct: float, rank: int, slots: int) -> int:
    """What a step of a plain FM can't do without, if nothing of it is given back before the end.

    - per occurrence: its id, its sample and its place in the CSR matrix (4 + 8 + 16 bytes), the matrix's entry and that of
      the transposed matrix (column and value: 8 each), and which distinct row it reads (4);
    - per distinct row: its id, slot and index (4 each), the row, its gradient, and the new values of the row and of each
      slot;
    - per sample: the sum of the rows and its gradient, and a few numbers (16 bytes).
    """
    row = (rank + 1) * _FLOAT
    per_distinct = 3 * _INT + row * (3 + slots)
    return int(occurrences * (28 + 16 + 4) + distinct * per_distinct + num_samples * (2 * row + 16))


def _contender(num_features: int, optimizer: str, batch_size: int, num_samples: int) -> TensorFlowContender:
    workload = Workload("log-uniform", num_features, _FIELDS, num_samples)
    return TensorFlowContender(f"{num_features:,} features", workload, (_RANK,), optimizer, batch_size=batch_size)


def _measure(python: str, contender: TensorFlowContender) -> dict[str, Any]:
    task = {
        "name": "footprint",
        "threads": "default",
        "contender": contender.to_json(),
        "steps_per_execution": 1,
        "epochs": 3,
    }
    with Worker(python, task) as worker:
        return worker.receive()


def _footprint(python: str, contender: TensorFlowContender, baseline: int) -> Footprint:
    found = _measure(python, contender)
    ids, _ = draw(replace(contender.workload, num_samples=contender.batch_size))
    slots = _SLOTS[contender.optimizer]
    return Footprint(
        contender,
        held_bytes(contender.workload.num_features, _RANK, contender.optimizer),
        batch_bytes(ids.shape[0], ids.size, np.unique(ids).size, _RANK, slots),
        found["peak"] - baseline,
        {phase: found["phases"][phase]["peak"] - baseline for phase in _PHASES},
    )


def _result(footprints: list[Footprint], baseline: int) -> CaseResult:
    header = ["features", "optimizer", "tables, slots, map (MB)", "one batch (MB)", "peak (MB)", "peak over both"]
    header += [f"peak after {phase} (MB)" for phase in _PHASES]
    rows = []
    for found in footprints:
        megabytes = [f"{number / 1e6:,.0f}" for number in (found.held, found.batch, found.peak)]
        phases = [f"{found.phases[phase] / 1e6:,.0f}" for phase in _PHASES]
        features = f"{found.contender.workload.num_features:,}"
        rows.append([features, found.contender.optimizer, *megabytes, f"{found.ratio:.2f}", *phases])
    verdicts = [
        Verdict(
            f"peak at {found.contender.name}, {found.contender.optimizer}, over what has to be held",
            _AT_MOST,
            True,
            Spread.of([found.ratio]),
        )
        for found in footprints
    ]
    notes = [
        f"All peaks are over the {baseline / 1e6:,.0f} MB of a process that has trained a tiny model on as many samples."
    ]
    raw = {
        "baseline": baseline,
        "processes": [
            {
                "features": found.contender.workload.num_features,
                "optimizer": found.contender.optimizer,
                "held": found.held,
                "batch": found.batch,
                "peak": found.peak,
                "phases": found.phases,
            }
            for found in footprints
        ],
    }
    return CaseResult(NAME, "Peak memory of training an FM of rank 8, batch 4,096", header, rows, verdicts, notes, raw)


def _numbers(text: str) -> list[int]:
    numbers = text.split(",")
    if not all(number.isdecimal() and int(number) > 1 for number in numbers):
        raise argparse.ArgumentTypeError(f"must be whole numbers above 1, separated by commas, not {text!r}")
    return [int(number) for number in numbers]


if __name__ == "__main__":
    main()
