"""Speed of this package against its peers.

    python -m benchmarks --data ../shared/data [--cases large,frappe-rafm] [--xlearn PATH] [--libfm PATH]
                         [--other-python PATH]

Every contender has a process of its own; their repetitions alternate. The report goes to standard output as it comes, and
to speed.md, speed.json and speed.png in the folder named by --output. Contenders whose program or data is not there are
left out.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import memory
from benchmarks.speed import cases, plot, report, time_to_loss
from benchmarks.speed.cpp_tools import ToolError
from benchmarks.speed.processes import WorkerError
from benchmarks.speed.results import CaseResult
from benchmarks.speed.rounds import run_case
from benchmarks.speed.specs import Settings
from benchmarks.speed.workloads import frappe

#: In the order in which they run.
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
    options = _parser().parse_args(arguments)
    if not options.no_plot:
        plot.require_matplotlib()
    settings = Settings(
        runs=options.runs,
        seconds=options.seconds,
        steps_per_execution=options.steps_per_execution,
        threads=options.threads,
        python=sys.executable,
        other_python=options.other_python,
        xlearn=options.xlearn or shutil.which("xlearn_train"),
        libfm=options.libfm or shutil.which("libFM"),
    )
    results: list[CaseResult] = []
    failed: list[str] = []
    for name in options.cases:
        run = _runner_of(name, options.data, settings)
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
        report.write(results, settings, options.output)  # after every case: what is there stays if a later one is stopped
        if not options.no_plot:
            plot.write_plot(results, options.output / "speed.png")
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}")


def _runner_of(name: str, data: Path | None, settings: Settings) -> Callable[[], CaseResult] | str:
    """What runs a case, or why it can't be run."""
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
    parser.add_argument("--cases", type=_cases, default=list(CASES), help=f"separated by commas, of {','.join(CASES)}")
    parser.add_argument("--runs", type=_at_least_1, default=5, help="measured repetitions of every contender (%(default)s)")
    parser.add_argument("--seconds", type=_positive, default=2.0, help="how long a repetition lasts, roughly (%(default)s)")
    parser.add_argument("--xlearn", type=_program, help="xlearn_train; default: the one on the PATH")
    parser.add_argument("--libfm", type=_program, help="libFM; default: the one on the PATH")
    parser.add_argument("--other-python", type=_program, help="an interpreter with another TensorFlow version")
    parser.add_argument("--output", type=Path, default=_OUTPUT, help="folder for the report (benchmarks/results)")
    parser.add_argument("--steps-per-execution", type=_at_least_1, default=16, help="of all Keras models (%(default)s)")
    parser.add_argument(
        "--threads",
        choices=("default", "one-per-op", "best"),
        default="best",
        help="TensorFlow's threads: its default, one per operation, or for each contender the faster of both (%(default)s)",
    )
    parser.add_argument("--no-plot", action="store_true", help="write no speed.png, for which matplotlib is needed")
    return parser


def _cases(text: str) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in CASES and name not in cases.HIDDEN]
    if unknown:
        raise argparse.ArgumentTypeError(f"there is no case {unknown[0]!r}: there are {', '.join(CASES)}")
    return names


def _at_least_1(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, not {text!r}")
    return number


def _program(text: str) -> str:
    found = shutil.which(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no program that can be run")
    return str(Path(found).absolute())  # not resolved: an interpreter of a virtual environment is a link


if __name__ == "__main__":
    try:
        main()
    except ModuleNotFoundError as error:
        sys.exit(str(error))
