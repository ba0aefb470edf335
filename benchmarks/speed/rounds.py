"""A case from start to end: contenders are prepared one after the other, then their repetitions alternate.

Because they alternate (A B C A B C …), a drift of the machine's speed affects all contenders alike. While one runs, the
others are blocked.
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
    """A contender that is ready to run."""

    about: dict[str, Any]

    def repeat(self) -> dict[str, Any]: ...


class _TensorFlowRunner:
    """A worker with the task `repetitions`."""

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
    """Run all rounds of a case."""
    with ExitStack() as stack:
        runners: list[tuple[Contender, _Runner]] = []
        notes: list[str] = []
        for contender in case.contenders:
            missing = _missing(contender, settings)
            if missing:
                notes.append(f"{contender.name} is left out: {missing}.")
                log(notes[-1])
                continue
            log(f"preparing {contender.name}")
            runners.append((contender, _start(contender, settings, stack, log)))
        if not runners:
            return CaseResult(case.name, case.title, [], [], notes=notes)

        measured = [Measured(contender.name, runner.about, is_ours=_is_ours(contender)) for contender, runner in runners]
        raw = _alternate([runner for _, runner in runners], measured, settings.runs, log)
        rooflines: dict[str, dict[str, Any]] = {}
        for contender, runner in runners:
            if isinstance(contender, TensorFlowContender) and contender.roofline:
                log(f"roofline of {contender.name}")
                assert isinstance(runner, _TensorFlowRunner)
                rooflines[contender.name] = runner.worker.ask({"roofline": case.array_bytes})

    by_name = {each.name: each for each in measured}
    bandwidth = max((roofline["bandwidth"] for roofline in rooflines.values()), default=0.0)  # of the same machine
    notes += [
        roofline_note(name, Spread.of(by_name[name].ms_per_step), {**roofline, "bandwidth": bandwidth})
        for name, roofline in rooflines.items()
    ]
    targets, left_out = _split_targets(case.targets, by_name)
    notes += [f"No verdict on {target.contender} against {target.against}: one of them is left out." for target in left_out]
    result = CaseResult(case.name, case.title, *table(measured, case.reference), notes=notes, bars=measured)
    result.verdicts = [verdict(target, by_name) for target in targets]
    result.raw = {
        "contenders": [
            {"name": each.name, **each.about, "repetitions": repetitions}
            for each, repetitions in zip(measured, raw, strict=True)
        ],
        "rooflines": rooflines,
    }
    return result


def table(contenders: Sequence[Measured], reference: str) -> tuple[list[str], list[list[str]]]:
    """Return header and rows. If the reference was left out, the first contender takes its place."""
    names = [measured.name for measured in contenders]
    base = contenders[names.index(reference) if reference in names else 0]
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
    for measured in contenders:
        ratios = Spread.of(pairwise_ratios(measured.samples_per_second, base.samples_per_second))
        name = f"**{measured.name}**" if measured.is_ours else measured.name
        rows.append(
            [
                f"{name} (TensorFlow {measured.about['tensorflow']})" if _versions_differ(contenders) else name,
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
    """Compare the time of a step with the result of `roofline.measured`."""
    least_ms = 1000 * measured["memory"] / measured["bandwidth"]
    return (
        f"Roofline of {name}: a step must touch {measured['memory'] / 1e6:,.1f} MB of memory. That takes "
        f"{least_ms:.2f} ms at {measured['bandwidth'] / 1e9:.1f} GB/s, the bandwidth of copying or adding arrays of "
        f"{measured['array_bytes'] / 1e6:,.0f} MB. The step reaches {least_ms / ms_per_step.median:.0%} of that speed. "
        f"Its sparse products read {measured['cache'] / 1e6:,.1f} MB from the cache."
    )


def start_faster(
    start: Callable[[str], R], close: Callable[[R], None], trial: Callable[[R], float], settings: Settings, log: Log
) -> R:
    """Start a runner with the requested thread setting, or with the faster one of both.

    Args:
        start: Starts a runner with a thread setting.
        close: Ends a runner.
        trial: Returns the time of a repetition, in any unit.
        settings: Has the requested threads.
        log: Called with the choice.
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


def _alternate(
    runners: Sequence[_Runner], contenders: Sequence[Measured], rounds: int, log: Log
) -> list[list[dict[str, Any]]]:
    """Return the reports of all repetitions by runner, and add their speeds to `contenders`."""
    reports: list[list[dict[str, Any]]] = [[] for _ in runners]
    for number in range(rounds):
        log(f"round {number + 1} of {rounds}")
        for measured, repetitions, runner in zip(contenders, reports, runners, strict=True):
            repetitions.append(runner.repeat())
            measured.samples_per_second.append(repetitions[-1]["samples_per_second"])
            if "ms_per_step" in repetitions[-1]:
                measured.ms_per_step.append(repetitions[-1]["ms_per_step"])
    return reports


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
    """Return why a contender can't take part, or an empty string if it can."""
    if isinstance(contender, ToolContender):
        program = settings.xlearn if contender.tool == "xlearn" else settings.libfm
        option = f"--{contender.tool}"
        return "" if program else f"its program is not on the PATH and not given by {option}"
    if contender.in_other_python and not settings.other_python:
        return "--other-python is not given"
    return ""


def _is_ours(contender: Contender) -> bool:
    return isinstance(contender, TensorFlowContender) and contender.model == "rafm"


def _versions_differ(contenders: Sequence[Measured]) -> bool:
    return len({measured.about["tensorflow"] for measured in contenders if "tensorflow" in measured.about}) > 1


def _split_targets(targets: Sequence[Target], measured: dict[str, Measured]) -> tuple[list[Target], list[Target]]:
    """Return the targets whose two contenders were both measured, and the others."""
    complete = [target for target in targets if target.contender in measured and target.against in measured]
    return complete, [target for target in targets if target not in complete]
