"""One case from start to end: contenders get ready one after the other, then do their repetitions in turn.

Turns (A B C A B C …) let a drift of the machine hit all contenders alike. Those whose turn it is not are blocked.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol, TypeVar

from benchmarks.speed.cpp_tools import LibFM, XLearn
from benchmarks.speed.processes import Worker
from benchmarks.speed.results import CaseResult, Measured, verdict
from benchmarks.speed.specs import THREADS, Case, Contender, Settings, Target, TensorFlowContender, ToolContender
from benchmarks.speed.spreads import Spread, pairwise_ratios

_TRIALS = 3
Log = Callable[[str], None]
R = TypeVar("R")


class _Runner(Protocol):
    about: dict[str, Any]

    def repeat(self) -> dict[str, Any]: ...


class _TensorFlowRunner:
    """A worker that repeats training steps."""

    def __init__(self, contender: TensorFlowContender, settings: Settings, threads: str) -> None:
        python = settings.other_python if contender.in_other_python else settings.python
        assert python is not None
        task = {
            "name": "repetitions",
            "threads": threads,
            "contender": contender.to_json(),
            "steps_per_execution": settings.steps_per_execution,
            "seconds": settings.seconds,
        }
        self.worker = Worker(python, task)
        try:
            about = self.worker.receive()
        except BaseException:
            self.worker.close()
            raise
        self.about = {
            **about,
            "optimizer": contender.optimizer,
            "batch_size": contender.batch_size,
            "threads": threads,
            "steps_per_execution": settings.steps_per_execution,
        }

    def repeat(self) -> dict[str, Any]:
        return self.worker.ask("repeat")


def run_case(case: Case, settings: Settings, log: Log) -> CaseResult:
    """All rounds of a case."""
    with ExitStack() as stack:
        runners: list[tuple[Contender, _Runner]] = []
        notes: list[str] = []
        for contender in case.contenders:
            missing = _missing(contender, settings)
            if missing:
                notes.append(f"{contender.name} is left out: {missing}.")
                log(notes[-1])
                continue
            log(f"{contender.name} gets ready")
            runners.append((contender, _start(contender, settings, stack, log)))
        if not runners:
            return CaseResult(case.name, case.title, [], [], notes=notes)

        found = [Measured(contender.name, runner.about, is_ours=_is_ours(contender)) for contender, runner in runners]
        raw = _in_turn([runner for _, runner in runners], found, settings.runs, log)
        rooflines: dict[str, dict[str, Any]] = {}
        for contender, runner in runners:
            if isinstance(contender, TensorFlowContender) and contender.roofline:
                log(f"roofline of {contender.name}")
                assert isinstance(runner, _TensorFlowRunner)
                rooflines[contender.name] = runner.worker.ask({"roofline": case.array_bytes})

    by_name = {measured.name: measured for measured in found}
    bandwidth = max((roofline["bandwidth"] for roofline in rooflines.values()), default=0.0)  # one machine has one
    notes += [
        roofline_note(name, Spread.of(by_name[name].ms_per_step), {**roofline, "bandwidth": bandwidth})
        for name, roofline in rooflines.items()
    ]
    targets, unmet = _split_targets(case.targets, by_name)
    notes += [f"No verdict on {target.contender} against {target.against}: one of them is left out." for target in unmet]
    result = CaseResult(case.name, case.title, *table(found, case.reference), notes=notes, bars=found)
    result.verdicts = [verdict(target, by_name) for target in targets]
    result.raw = {
        "contenders": [
            {"name": measured.name, **measured.about, "repetitions": repetitions}
            for measured, repetitions in zip(found, raw, strict=True)
        ],
        "rooflines": rooflines,
    }
    return result


def table(found: Sequence[Measured], reference: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows; the reference is the first contender where the one that is named has been left out."""
    names = [measured.name for measured in found]
    base = found[names.index(reference) if reference in names else 0]
    header = [
        "contender",
        "optimizer",
        "batch",
        "threads",
        "steps per execution",
        "ms per step",
        "samples per second",
        "parameters",
        f"samples per second over {base.name}",
    ]
    rows = []
    for measured in found:
        ratios = Spread.of(pairwise_ratios(measured.samples_per_second, base.samples_per_second))
        name = f"**{measured.name}**" if measured.is_ours else measured.name
        rows.append(
            [
                f"{name} (TensorFlow {measured.about['tensorflow']})" if _versions_differ(found) else name,
                measured.about["optimizer"],
                f"{measured.about['batch_size']:,}" if "batch_size" in measured.about else "",
                measured.about["threads"],
                str(measured.about.get("steps_per_execution", "")),
                Spread.of(measured.ms_per_step).text("{:.2f}") if measured.has_steps else "",
                Spread.of(measured.samples_per_second).text("{:,.0f}"),
                f"{measured.about['parameters']:,}",
                "1" if measured is base else ratios.text("{:.2f}"),
            ]
        )
    return header, rows


def roofline_note(name: str, ms_per_step: Spread, measured: dict[str, Any]) -> str:
    """What `roofline.measured` has found beside the time of a step."""
    least_ms = 1000 * measured["memory"] / measured["bandwidth"]
    return (
        f"Roofline of {name}: a step must touch {measured['memory'] / 1e6:,.1f} MB of memory, "
        f"{least_ms:.2f} ms at the {measured['bandwidth'] / 1e9:.1f} GB/s that copying or adding arrays of "
        f"{measured['array_bytes'] / 1e6:,.0f} MB reaches. Its step reaches {least_ms / ms_per_step.median:.0%} of that. "
        f"Its sparse products go through {measured['cache'] / 1e6:,.1f} MB in the cache."
    )


def start_faster(
    start: Callable[[str], R], close: Callable[[R], None], trial: Callable[[R], float], settings: Settings, log: Log
) -> R:
    """With the thread setting that is asked for, or with the faster one of both.

    Args:
        start: Makes a runner with a thread setting.
        close: Ends one.
        trial: Milliseconds, or anything that is less for the faster.
        settings: Says which threads are asked for.
        log: Is told what was chosen.
    """
    if settings.threads != "best":
        return start(settings.threads)
    runners: dict[str, R] = {}
    try:
        for threads in THREADS:
            runners[threads] = start(threads)
        times: dict[str, list[float]] = {threads: [] for threads in THREADS}
        for _ in range(_TRIALS):
            for threads, runner in runners.items():
                times[threads].append(trial(runner))
        best = min(THREADS, key=lambda threads: min(times[threads]))
        log("threads: " + ", ".join(f"{threads} {min(times[threads]):.4g}" for threads in THREADS) + f" -> {best}")
        return runners.pop(best)
    finally:
        for runner in runners.values():
            close(runner)


def _in_turn(runners: Sequence[_Runner], found: Sequence[Measured], rounds: int, log: Log) -> list[list[dict[str, Any]]]:
    """Everything that the repetitions of each runner have told; their speeds are put into `found`."""
    told: list[list[dict[str, Any]]] = [[] for _ in runners]
    for number in range(rounds):
        log(f"round {number + 1} of {rounds}")
        for measured, repetitions, runner in zip(found, told, runners, strict=True):
            repetitions.append(runner.repeat())
            measured.samples_per_second.append(repetitions[-1]["samples_per_second"])
            if "ms_per_step" in repetitions[-1]:
                measured.ms_per_step.append(repetitions[-1]["ms_per_step"])
    return told


def _start(contender: Contender, settings: Settings, stack: ExitStack, log: Log) -> _Runner:
    if isinstance(contender, ToolContender):
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        program = settings.xlearn if contender.tool == "xlearn" else settings.libfm
        assert program is not None
        tool = (XLearn if contender.tool == "xlearn" else LibFM)(program, contender, folder)
        tool.get_ready(settings.seconds)
        return tool
    runner = start_faster(
        lambda threads: _TensorFlowRunner(contender, settings, threads),
        lambda runner: runner.worker.close(),
        lambda runner: runner.repeat()["ms_per_step"],
        settings,
        log,
    )
    stack.callback(runner.worker.close)
    return runner


def _missing(contender: Contender, settings: Settings) -> str:
    """Why a contender can't take part, if it can't."""
    if isinstance(contender, ToolContender):
        program = settings.xlearn if contender.tool == "xlearn" else settings.libfm
        option = f"--{contender.tool}"
        return "" if program else f"its program is neither on the PATH nor named by {option}"
    if contender.in_other_python and not settings.other_python:
        return "no interpreter is named by --other-python"
    return ""


def _is_ours(contender: Contender) -> bool:
    return isinstance(contender, TensorFlowContender) and contender.model == "rafm"


def _versions_differ(found: Sequence[Measured]) -> bool:
    return len({measured.about["tensorflow"] for measured in found if "tensorflow" in measured.about}) > 1


def _split_targets(targets: Sequence[Target], known: dict[str, Measured]) -> tuple[list[Target], list[Target]]:
    have = [target for target in targets if target.contender in known and target.against in known]
    return have, [target for target in targets if target not in have]
