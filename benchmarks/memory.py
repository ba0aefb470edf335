"""Peak memory of a training process, relative to the data that it must hold: `python -m benchmarks.memory`.

For each number of features, a process trains an FM of rank 8 on a few batches of 4,096 samples with 39 log-uniform ids. The
peak is its `ru_maxrss` at the end, minus that of a process that imports the same modules and trains a tiny model on as many
samples in batches of 16. The process must hold the tables, their optimizer slots, the slot map (`model_bytes`) and the data
of one batch (`batch_bytes`).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks import options
from benchmarks.speed.processes import Worker
from benchmarks.speed.report import case_text
from benchmarks.speed.results import CaseResult, Verdict
from benchmarks.speed.rounds import Log
from benchmarks.speed.specs import TensorFlowContender, Workload
from benchmarks.speed.spreads import Spread
from benchmarks.speed.workloads import draw

NAME = "memory"
_RANK, _FIELDS, _BATCH, _BATCHES = 8, 39, 4096, 4
_MILLION = 1_000_000
#: The number of features and the optimizer of each process.
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
        contender: The model that was trained.
        model_bytes: Bytes of tables, optimizer slots and slot map.
        batch_bytes: Bytes that a step needs in addition.
        peak: The peak, minus that of the process with a tiny model.
        phases: The same difference after the plan, the tables, the optimizer and the training.
    """

    contender: TensorFlowContender
    model_bytes: int
    batch_bytes: int
    peak: int
    phases: dict[str, int]

    @property
    def ratio(self) -> float:
        """The peak divided by the bytes that the process must hold."""
        return self.peak / (self.model_bytes + self.batch_bytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--features", type=options.integers(2), help="numbers of features, separated by commas, for --optimizer"
    )
    parser.add_argument("--optimizer", choices=tuple(_SLOTS), default="SparseAdagrad")
    arguments = parser.parse_args()
    runs = DEFAULT_RUNS
    if arguments.features:
        runs = tuple((number, arguments.optimizer) for number in arguments.features)
    print(case_text(run(sys.executable, lambda line: print(line, file=sys.stderr), runs)))


def run(python: str, log: Log, runs: Sequence[tuple[int, str]] = DEFAULT_RUNS) -> CaseResult:
    """Run one process after the other."""
    log("a process with a tiny model")
    tiny = _contender(1000, "SparseAdagrad", batch_size=16, num_samples=_BATCHES * _BATCH)
    baseline = _measure(python, tiny)["peak"]
    footprints = []
    for num_features, optimizer in runs:
        log(f"{num_features:,} features, {optimizer}")
        contender = _contender(num_features, optimizer, batch_size=_BATCH, num_samples=_BATCHES * _BATCH)
        footprints.append(_footprint(python, contender, baseline))
    return _result(footprints, baseline)


def model_bytes(num_features: int, rank: int, optimizer: str) -> int:
    """Return the bytes of factors, linear weights and bias, their optimizer slots, the slot map, and idle decay's marks."""
    weights = num_features * (rank + 1) + 1
    marks = num_features * _MARK if optimizer == "LazyAdam" else 0
    return weights * _FLOAT * (1 + _SLOTS[optimizer]) + num_features * _INT + marks


def batch_bytes(num_samples: int, occurrences: int, distinct: float, rank: int, slots: int) -> int:
    """Return the bytes that a step of a plain FM needs, if none are freed before its end.

    - per occurrence: its id, its sample and its position in the CSR matrix (4 + 8 + 16 bytes), its entries in the matrix
      and in the transposed matrix (column and value: 8 each), and the index of the distinct row that it reads (4);
    - per distinct row: its id, slot and index (4 each), the row, its gradient, and the new values of the row and of each
      optimizer slot;
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
    report = _measure(python, contender)
    ids, _ = draw(replace(contender.workload, num_samples=contender.batch_size))
    slots = _SLOTS[contender.optimizer]
    return Footprint(
        contender,
        model_bytes(contender.workload.num_features, _RANK, contender.optimizer),
        batch_bytes(ids.shape[0], ids.size, np.unique(ids).size, _RANK, slots),
        report["peak"] - baseline,
        {phase: report["phases"][phase]["peak"] - baseline for phase in _PHASES},
    )


def _result(footprints: list[Footprint], baseline: int) -> CaseResult:
    header = ["features", "optimizer", "tables, slots, map (MB)", "one batch (MB)", "peak (MB)", "peak over both"]
    header += [f"peak after {phase} (MB)" for phase in _PHASES]
    rows = []
    for footprint in footprints:
        megabytes = [f"{number / 1e6:,.0f}" for number in (footprint.model_bytes, footprint.batch_bytes, footprint.peak)]
        phases = [f"{footprint.phases[phase] / 1e6:,.0f}" for phase in _PHASES]
        features = f"{footprint.contender.workload.num_features:,}"
        rows.append([features, footprint.contender.optimizer, *megabytes, f"{footprint.ratio:.2f}", *phases])
    verdicts = [
        Verdict(
            what=f"peak at {footprint.contender.name}, {footprint.contender.optimizer}, over the bytes it must hold",
            limit=_AT_MOST,
            at_most=True,
            measured=Spread.of([footprint.ratio]),
        )
        for footprint in footprints
    ]
    notes = [f"All peaks are less {baseline / 1e6:,.0f} MB, the peak of a process with a tiny model and as many samples."]
    raw = {
        "baseline": baseline,
        "processes": [
            {
                "features": footprint.contender.workload.num_features,
                "optimizer": footprint.contender.optimizer,
                "model_bytes": footprint.model_bytes,
                "batch_bytes": footprint.batch_bytes,
                "peak": footprint.peak,
                "phases": footprint.phases,
            }
            for footprint in footprints
        ],
    }
    return CaseResult(NAME, "Peak memory of training an FM of rank 8, batch 4,096", header, rows, verdicts, notes, raw)


if __name__ == "__main__":
    main()
