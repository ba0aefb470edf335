"""Compare the speed of two checkouts of this project, in alternation.

    python -m benchmarks.compare OLD_CHECKOUT NEW_CHECKOUT [--cases rafm-4096,reading] [--turns 7] [--max-turns 40]
                                 [--data ../shared/data]

A turn measures the old and then the new checkout, each in a fresh process that takes `keras_rafm` from the checkout and
everything else from here. A process reports the shortest time of several repetitions after a warm-up. For each time the
table has the medians over the turns, and the median of the ratios new / old with its 95 % interval (percentile bootstrap):
below 1, the new checkout is faster. After --turns, turns are added until all intervals of a case are within ± 3 % of their
median, or --max-turns is reached.

Cases: a training step with `LazyAdam` (FM 64 and RaFM 64+256 at the size of Frappe, RaFM 32+512 with a million features and
39 fields), reading files by `Schema.dataset`, and `keras_rafm.export` with the latency of the exported model.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import options
from benchmarks.machine import load_averages, machine
from benchmarks.speed.cases import large_rafm
from benchmarks.speed.processes import Worker
from benchmarks.speed.specs import THREADS, TensorFlowContender, Workload
from benchmarks.speed.spreads import Spread, pairwise_ratios
from benchmarks.speed.workloads import FRAPPE_FEATURES, FRAPPE_FIELDS, frappe

CASES = ("fm-4096", "fm-256", "rafm-4096", "rafm-256", "large", "reading", "serving")
_HIDDEN_CASES = ("tiny",)
_KINDS = ("csv", "parquet", "tfrecord", "libfm")
_WITHIN = 0.03
_SAMPLES = 16 * 4096
#: As many features of RaFM's second level as with the thresholds on Frappe's data.
_FREQUENT = 439

#: Milliseconds or microseconds, by what they are the time of.
Times = dict[str, float]


@dataclass(frozen=True)
class Measurements:
    """The times of both checkouts, one of each per turn."""

    old: list[float]
    new: list[float]

    @property
    def ratio(self) -> Spread:
        """The median of the ratios new / old, with its interval."""
        return Spread.of_median(pairwise_ratios(self.new, self.old))

    @property
    def is_precise(self) -> bool:
        """Whether the interval of the ratio is within ± 3 % of the median."""
        ratio = self.ratio
        return max(ratio.high - ratio.median, ratio.median - ratio.low) <= _WITHIN * ratio.median


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=_checkout, metavar="OLD_CHECKOUT")
    parser.add_argument("new", type=_checkout, metavar="NEW_CHECKOUT")
    known_cases = options.names(CASES, _HIDDEN_CASES)
    parser.add_argument("--cases", type=known_cases, default=list(CASES), help=f"separated by commas, of {','.join(CASES)}")
    parser.add_argument("--turns", type=options.integer(), default=7, help="at least this number of turns (%(default)s)")
    parser.add_argument("--max-turns", type=options.integer(), default=40, help="at most this number (%(default)s)")
    parser.add_argument("--repetitions", type=options.integer(), default=5, help="of each process (%(default)s)")
    parser.add_argument("--seconds", type=options.positive, default=1.0, help="approximate length of a repetition of steps")
    parser.add_argument("--rows", type=options.integer(), default=200_000, help="of the files to read (%(default)s)")
    parser.add_argument("--threads", choices=THREADS, default="default", help="TensorFlow's threads (%(default)s)")
    parser.add_argument("--data", type=Path, help="folder that holds frappe; default: drawn samples of the same size")
    arguments = parser.parse_args()
    about = machine()
    print(f"{about['processor']}, {about['cores']} cores, loads before: {load_averages()}\n")
    print("| case | time | old | new | new / old (95 %) | turns |\n|---|---|---:|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory(prefix="keras_rafm_compare_") as folder:
        for name in arguments.cases:
            task = {
                "threads": arguments.threads,
                "repetitions": arguments.repetitions,
                **_task(name, arguments.data, arguments.rows, arguments.seconds, Path(folder)),
            }
            measurements = compare(
                lambda checkout, task=task: _measured(task, checkout),
                arguments.old,
                arguments.new,
                turns=arguments.turns,
                max_turns=arguments.max_turns,
            )
            for time, measured in measurements.items():
                ratio = measured.ratio.text("{:.3f}") + ("" if measured.is_precise else ", not within ± 3 %")
                cells = [name, time, f"{median(measured.old):.4g}", f"{median(measured.new):.4g}", ratio]
                print(f"| {' | '.join(cells)} | {len(measured.old)} |", flush=True)
    print(f"\nLoads after: {load_averages()}")


def compare(
    measure: Callable[[Path], Times], old: Path, new: Path, *, turns: int, max_turns: int
) -> dict[str, Measurements]:
    """Measure both checkouts in turn until all ratios are precise.

    Args:
        measure: Returns the times of a checkout.
        old: The checkout that each turn begins with.
        new: The other checkout.
        turns: The least number of turns.
        max_turns: The greatest number of turns.
    """
    measurements: dict[str, Measurements] = {}
    for turn in range(max(turns, max_turns)):
        old_times, new_times = measure(old), measure(new)
        for name in old_times:
            both = measurements.setdefault(name, Measurements([], []))
            both.old.append(old_times[name])
            both.new.append(new_times[name])
        ratios = ", ".join(f"{name} {new_times[name] / old_times[name]:.3f}" for name in old_times)
        print(f"turn {turn + 1}: {ratios}", file=sys.stderr, flush=True)
        if turn + 1 >= turns and all(both.is_precise for both in measurements.values()):
            break
    return measurements


def _measured(task: dict[str, Any], checkout: Path) -> Times:
    """Return the times of a fresh process."""
    with Worker(sys.executable, task, checkout) as worker:
        if task["name"] != "repetitions":
            return worker.receive()
        worker.receive()  # what the worker reports about itself
        return {"step, ms": min(worker.ask("repeat")["ms_per_step"] for _ in range(task["repetitions"]))}


def _task(name: str, data: Path | None, num_rows: int, seconds: float, folder: Path) -> dict[str, Any]:
    """Return the task of a case for a worker. The files of the case `reading` are written to the folder."""
    if name == "reading":
        from benchmarks.raw_rows import write_files  # imports TensorFlow, which the other cases don't need here

        files = write_files(folder, num_rows, _KINDS)
        return {"name": "file_reading", "files": {kind: str(path) for kind, path in files.items()}, "num_rows": num_rows}
    if name == "serving":
        return {"name": "model_serving", "num_samples": _SAMPLES}
    contender = _contender(name, data)
    return {"name": "repetitions", "contender": contender.to_json(), "steps_per_execution": 16, "seconds": seconds}


def _contender(name: str, data: Path | None) -> TensorFlowContender:
    if name == "large":
        return large_rafm("RaFM 32+512", "LazyAdam")
    if name == "tiny":
        return TensorFlowContender(name, Workload("log-uniform", 500, 6, 640), (2,), "LazyAdam", batch_size=64)
    drawn = Workload("log-uniform", FRAPPE_FEATURES, FRAPPE_FIELDS, _SAMPLES)
    contender = TensorFlowContender(name, drawn if data is None else frappe(data), (64,), "LazyAdam")
    if name.startswith("rafm"):
        levels = {"most_frequent": (_FREQUENT,)} if data is None else {"thresholds": (256,)}
        contender = replace(contender, ranks=(64, 256), **levels)
    return replace(contender, batch_size=int(name.partition("-")[2]))


def _checkout(text: str) -> Path:
    if not Path(text, "keras_rafm", "__init__.py").is_file():
        raise argparse.ArgumentTypeError(f"not a checkout of this project: {text!r} has no keras_rafm/__init__.py")
    return Path(text).resolve()


if __name__ == "__main__":
    main()
