"""The time in which RaFM 64+256 and xLearn's FM-256 reach a test log-loss on Frappe from scratch.

For RaFM, the task `training` measures `fit`, with another seed in each round. A training before the rounds, which also
chooses the threads, is not counted. xLearn first trains with validation to find the epoch that reaches the loss. Since
those times include validation, each round trains a few epochs without it. xLearn's time is the median of these epochs times
the number of epochs needed.

xLearn has the settings of the other cases, once with its default normalisation of samples and once without.
"""

from __future__ import annotations

import math
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.speed.cases import time_to_loss_contenders
from benchmarks.speed.cpp_tools import Epoch, XLearn
from benchmarks.speed.processes import Worker
from benchmarks.speed.results import CaseResult, Verdict
from benchmarks.speed.rounds import Log, start_faster
from benchmarks.speed.specs import Settings, TensorFlowContender, ToolContender, Workload
from benchmarks.speed.spreads import Spread, pairwise_ratios

NAME = "time-to-loss"
_LOG_LOSS = 0.217
_MAX_EPOCHS, _XLEARN_EPOCHS = 40, 60
_AT_LEAST = 15.0
_SEEDS = 3
_SEED_OF_TRIAL = 100
_HEADER = ["contender", "optimizer", "batch", "threads", "epochs", "test log-loss", "seconds"]
_CLOCKS = {
    "seconds": "with making the model and building its graph",
    "seconds_without_graph": "without graph building",
}


def run(frappe: Workload, settings: Settings, log: Log) -> CaseResult:
    """One round for each seed."""
    ours, peers = time_to_loss_contenders(frappe)
    with ExitStack() as stack:
        trained_peers = []
        for peer in peers if settings.xlearn else []:
            log(f"{peer.name}: training {_XLEARN_EPOCHS} epochs with validation")
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            trained_peers.append(_Peer.trained(peer, settings, folder))
        runner = start_faster(
            lambda threads: _Trainer(ours, settings, threads),
            lambda runner: runner.worker.close(),
            lambda runner: runner.train(_SEED_OF_TRIAL)["seconds_without_graph"],
            settings,
            log,
        )
        stack.callback(runner.worker.close)
        trainings = []
        for seed in range(_SEEDS):
            log(f"round {seed + 1} of {_SEEDS}")
            trainings.append(runner.train(seed))
            for peer in trained_peers:
                peer.repeat()
    result = _result(ours, runner.about, trainings, trained_peers)
    if not settings.xlearn:
        result.notes.append("xLearn is left out: its program is not on the PATH and not given by --xlearn.")
    return result


def epoch_that_reaches(epochs: list[Epoch], log_loss: float) -> Epoch:
    """Return the first epoch whose test log-loss is low enough, or the last one if there is none."""
    reached = (epoch for epoch in epochs if epoch.test_log_loss is not None and epoch.test_log_loss <= log_loss)
    return next(reached, epochs[-1])


@dataclass
class _Peer:
    """xLearn, its epochs with validation, and the seconds of each round until the epoch that reaches the loss."""

    contender: ToolContender
    xlearn: XLearn
    epochs: list[Epoch]
    seconds: list[float] = field(default_factory=list)

    @classmethod
    def trained(cls, contender: ToolContender, settings: Settings, folder: Path) -> _Peer:
        assert settings.xlearn is not None
        xlearn = XLearn(settings.xlearn, contender, folder)
        epochs = xlearn.run(_XLEARN_EPOCHS, with_test=True)
        xlearn.get_ready(settings.seconds)
        return cls(contender, xlearn, epochs)

    @property
    def goal(self) -> Epoch:
        """The epoch that reaches the loss."""
        return epoch_that_reaches(self.epochs, _LOG_LOSS)

    def repeat(self) -> None:
        epoch_seconds = self.contender.workload.num_samples / self.xlearn.repeat()["samples_per_second"]
        self.seconds.append(self.goal.number * epoch_seconds)


class _Trainer:
    """A worker that trains from scratch."""

    def __init__(self, contender: TensorFlowContender, settings: Settings, threads: str) -> None:
        task = {
            "name": "training",
            "threads": threads,
            "contender": contender.to_json(),
            "steps_per_execution": settings.steps_per_execution,
            "log_loss": _LOG_LOSS,
            "max_epochs": _MAX_EPOCHS,
        }
        self.worker = Worker(settings.python, task)
        try:
            self.about = {"threads": threads, **self.worker.receive()}
            self.train(_SEED_OF_TRIAL)  # Work that TensorFlow does once per process is done here.
        except BaseException:
            self.worker.close()
            raise

    def train(self, seed: int) -> dict[str, Any]:
        return self.worker.ask(seed)


def _result(
    ours: TensorFlowContender, about: dict[str, Any], trainings: list[dict[str, Any]], peers: list[_Peer]
) -> CaseResult:
    result = CaseResult(NAME, f"Frappe: training until the test log-loss is at most {_LOG_LOSS}", _HEADER, [])
    losses = Spread.of([training["log_loss"] for training in trainings])
    epochs = ", ".join(str(training["epochs"]) for training in trainings)
    for clock, what in _CLOCKS.items():
        seconds = [training[clock] for training in trainings]
        name = f"{ours.name}, {what}"
        cells = [ours.optimizer, f"{ours.batch_size:,}", about["threads"], epochs, losses.text("{:.4f}")]
        result.rows.append([f"**{name}**", *cells, Spread.of(seconds).text("{:.2f}")])
        for peer in peers:
            phrase = f"seconds of {peer.contender.name} over those of {name}"
            ratios = pairwise_ratios(peer.seconds, seconds)
            result.verdicts.append(Verdict(phrase, _AT_LEAST, False, Spread.of(ratios)))
    for peer in peers:
        goal, name = peer.goal, peer.contender.name
        cells = ["AdaGrad", "", "2", str(goal.number), f"{goal.test_log_loss:.4f}"]
        result.rows.append([name, *cells, Spread.of(peer.seconds).text("{:.2f}")])
        if goal.test_log_loss is None or not goal.test_log_loss <= _LOG_LOSS:
            result.notes.append(
                f"{name} does not reach {_LOG_LOSS} in {goal.number} epochs, so its time is that of all of them."
            )
        result.notes.append(f"The lowest test log-loss of {name} in {_XLEARN_EPOCHS} epochs is {_lowest(peer.epochs)}.")
    if not all(training["reached"] for training in trainings):
        result.notes.append(f"{ours.name} does not reach {_LOG_LOSS} with every seed, so there are no verdicts.")
        result.verdicts = []
    result.raw = {
        "ours": {"name": ours.name, **about, "trainings": trainings},
        "peers": [
            {
                "name": peer.contender.name,
                "epochs": peer.goal.number,
                "seconds": peer.seconds,
                "test_log_losses": [epoch.test_log_loss for epoch in peer.epochs],
            }
            for peer in peers
        ],
    }
    return result


def _lowest(epochs: list[Epoch]) -> str:
    losses = {epoch.number: epoch.test_log_loss for epoch in epochs}
    finite = {number: loss for number, loss in losses.items() if loss is not None and math.isfinite(loss)}
    best = min(finite, key=lambda number: finite[number])
    return f"{finite[best]:.4f}, after {best}"
