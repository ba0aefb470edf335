"""Speed of this package against its peers.

    python -m benchmarks --data ../shared/data [--cases large,frappe-rafm] [--xlearn PATH] [--libfm PATH]
                         [--other-python PATH]

Every contender runs in its own process, and their repetitions alternate. The report is printed case by case, and written to
speed.md, speed.json and speed.png in the folder of --output. Contenders whose program or data is missing are left out.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import memory, options
from benchmarks.speed import cases, plot, report, time_to_loss
from benchmarks.speed.cpp_tools import ToolError
from benchmarks.speed.processes import WorkerError
from benchmarks.speed.results import CaseResult
from benchmarks.speed.rounds import run_case
from benchmarks.speed.specs import Settings
from benchmarks.speed.workloads import frappe

#: The cases in the order in which they run.
CASES = (
    "frappe-fm64",
    "frappe-rafm",
    "frappe-batch256",
    "frappe-xlearn",
    "input-pipeline",
    "optimizers",
    time_to_loss.NAME,
    "large",
    "features-50m",
    "versions",
    memory.NAME,
)
_OUTPUT = Path(__file__).resolve().parent / "results"


def main(arguments: list[str] | None = None) -> None:
    chosen = _parser().parse_args(arguments)
    if not chosen.no_plot:
        plot.require_matplotlib()
    settings = Settings(
        runs=chosen.runs,
        seconds=chosen.seconds,
        steps_per_execution=chosen.steps_per_execution,
        threads=chosen.threads,
        python=sys.executable,
        other_python=chosen.other_python,
        xlearn=chosen.xlearn or shutil.which("xlearn_train"),
        libfm=chosen.libfm or shutil.which("libFM"),
    )
    results: list[CaseResult] = []
    failed: list[str] = []
    for name in chosen.cases:
        run = _runner_of(name, chosen.data, settings)
        if isinstance(run, str):
            print(f"{name} is left out: {run}\n", flush=True)
            continue
        try:
            results.append(run())
        except (ToolError, WorkerError) as error:
            print(f"{name} failed: {error}\n", flush=True)
            failed.append(name)
            continue
        print(report.case_text(results[-1]), flush=True)
        # Written after every case, so that the results stay if a later case is interrupted.
        report.write(results, settings, chosen.output)
        if not chosen.no_plot:
            plot.write_plot(results, chosen.output / "speed.png")
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}")


def _runner_of(name: str, data: Path | None, settings: Settings) -> Callable[[], CaseResult] | str:
    """Return a function that runs a case, or the reason why it can't be run."""
    if name == "versions" and not settings.other_python:
        return "it needs an interpreter with another TensorFlow version (--other-python)"
    if name == memory.NAME:
        return lambda: memory.run(settings.python, _log(name))
    drawn = {**cases.DRAWN, **cases.HIDDEN}
    if name in drawn:
        return lambda: run_case(drawn[name](), settings, _log(name))
    if data is None:
        return "it needs the Frappe data (--data)"
    try:
        workload = frappe(data)
    except FileNotFoundError as error:
        return str(error)
    if name == time_to_loss.NAME:
        return lambda: time_to_loss.run(workload, settings, _log(name))
    return lambda: run_case(cases.ON_FRAPPE[name](workload), settings, _log(name))


def _log(name: str) -> Callable[[str], None]:
    return lambda line: print(f"{name}: {line}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder that holds frappe")
    parser.add_argument(
        "--cases",
        type=options.names(CASES, tuple(cases.HIDDEN)),
        default=list(CASES),
        help=f"separated by commas, of {','.join(CASES)}",
    )
    parser.add_argument(
        "--runs", type=options.integer(), default=5, help="measured repetitions of every contender (%(default)s)"
    )
    parser.add_argument(
        "--seconds", type=options.positive, default=2.0, help="approximate length of a repetition (%(default)s)"
    )
    parser.add_argument("--xlearn", type=options.program, help="xlearn_train; default: the one on the PATH")
    parser.add_argument("--libfm", type=options.program, help="libFM; default: the one on the PATH")
    parser.add_argument("--other-python", type=options.program, help="an interpreter with another TensorFlow version")
    parser.add_argument("--output", type=Path, default=_OUTPUT, help="folder for the report (benchmarks/results)")
    parser.add_argument(
        "--steps-per-execution", type=options.integer(), default=16, help="of all Keras models (%(default)s)"
    )
    parser.add_argument(
        "--threads",
        choices=("default", "one-per-op", "best"),
        default="best",
        help="TensorFlow's default, one thread per operation, or the faster of both for each contender (%(default)s)",
    )
    parser.add_argument("--no-plot", action="store_true", help="don't write speed.png, which needs matplotlib")
    return parser


if __name__ == "__main__":
    try:
        main()
    except ModuleNotFoundError as error:
        sys.exit(str(error))
