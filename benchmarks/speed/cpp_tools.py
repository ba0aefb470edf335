"""The C++ tools: their input files, their command lines, and the times that they measure themselves.

xLearn prints a line per epoch whose last column is the seconds of the epoch, including validation if there is any. libFM,
which has one thread, logs the CPU seconds of every iteration. Neither counts the time to read files and make the model. The
result of a run is the median of all epochs but the first.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.speed.specs import ToolContender
from benchmarks.speed.workloads import write_libsvm

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_EPOCH = re.compile(r"^\[\s*\d+%\s*\]\s+(?P<epoch>\d+)\s+(?P<numbers>[-+\d.a-z]+(?:\s+[-+\d.a-z]+)*)\s*$")
_XLEARN_SETTINGS = "-s 1 -r 0.2 -b 0.00002 -nthread 2 -p adagrad --dis-es -m none"
_LIBFM_SETTINGS = (
    "-task c -iter {epochs} -method sgd -learn_rate 0.05 -regular 0,0,0.01 -init_stdev 0.1 -seed 1 -dim 1,1,{rank}"
)
_FEWEST_TIMED_EPOCHS, _MOST_TIMED_EPOCHS = 3, 20
_LEAST_EPOCH_SECONDS, _MOST_COPIES = 0.5, 20
_ROWS_OF_IDLE_TEST = 10


class ToolError(RuntimeError):
    """A tool failed, or its output could not be parsed."""


@dataclass(frozen=True)
class Epoch:
    """A line of xLearn's output. Losses may be infinite or NaN."""

    number: int
    train_log_loss: float
    test_log_loss: float | None
    seconds: float


class XLearn:
    """An FM of xLearn (AdaGrad, two threads).

    Args:
        program: Path of `xlearn_train`.
        contender: The model to train.
        folder: An empty folder for its files.
    """

    def __init__(self, program: str, contender: ToolContender, folder: Path) -> None:
        self._program, self._rank, self._folder = program, contender.rank, folder
        self._normalised = contender.normalised
        self.about = _about(contender, "AdaGrad", "2")
        self._workload = contender.workload
        self._epochs = 0
        self._write(copies=1)

    def get_ready(self, seconds: float) -> None:
        """Choose the number of copies of the samples in an epoch, and the number of epochs in a repetition.

        xLearn's clock shows hundredths of a second. If an epoch takes less than half a second, the training file is
        rewritten to hold all samples several times. The first run also writes a binary copy of the file.
        """
        epoch_seconds = self.run(2)[-1].seconds
        if epoch_seconds < _LEAST_EPOCH_SECONDS:
            self._write(copies=min(math.ceil(2 * _LEAST_EPOCH_SECONDS / max(epoch_seconds, 0.01)), _MOST_COPIES))
            epoch_seconds = self.run(2)[-1].seconds
        self._epochs = _epochs_for(seconds, epoch_seconds)

    def repeat(self) -> dict[str, Any]:
        """Return the samples per second of one run."""
        epoch_seconds = [epoch.seconds / self._copies for epoch in self.run(self._epochs)]
        return _repetition(epoch_seconds, self._workload.num_samples, "xLearn")

    def run(self, epochs: int, with_test: bool = False) -> list[Epoch]:
        """Return the epochs of one run. If `with_test` (Frappe only), their times include validation."""
        command = [self._program, str(self._train), *_XLEARN_SETTINGS.split()]
        command += ["-k", str(self._rank), "-e", str(epochs), "-l", str(self._folder / "log")]
        if not self._normalised:
            command.append("--no-norm")
        if with_test:
            test = self._folder / "test.libsvm"
            write_libsvm(self._workload, test, part="test")
            command += ["-v", str(test)]
        environment = {"USER": "benchmark", **os.environ}  # xLearn aborts without USER
        finished = parse_xlearn(_run(command, self._folder, environment))
        if len(finished) != epochs:
            raise ToolError(f"xLearn's output should have {epochs} epochs, but has {len(finished)}")
        return finished

    def _write(self, copies: int) -> None:
        self._copies = copies
        self._train = self._folder / f"train-{copies}.libsvm"
        write_libsvm(self._workload, self._train, copies=copies)


class LibFM:
    """An FM of libFM (SGD, one thread).

    Args:
        program: Path of `libFM`.
        contender: The model to train.
        folder: An empty folder for its files.
    """

    def __init__(self, program: str, contender: ToolContender, folder: Path) -> None:
        self._program, self._rank, self._folder = program, contender.rank, folder
        self.about = _about(contender, "SGD", "1")
        self._num_samples = contender.workload.num_samples
        self._train, self._test = folder / "train.libsvm", folder / "test.libsvm"
        write_libsvm(contender.workload, self._train)
        with self._train.open() as lines:  # libFM demands test samples, but does not learn from them
            self._test.write_text("".join(islice(lines, _ROWS_OF_IDLE_TEST)))
        self._epochs = 0

    def get_ready(self, seconds: float) -> None:
        """Choose the number of epochs in a repetition from the time of a first run."""
        self._epochs = _epochs_for(seconds, self._run(2)[-1])

    def repeat(self) -> dict[str, Any]:
        """Return the samples per second of one run."""
        return _repetition(self._run(self._epochs), self._num_samples, "libFM")

    def _run(self, epochs: int) -> list[float]:
        log = self._folder / "log.tsv"
        settings = _LIBFM_SETTINGS.format(epochs=epochs, rank=self._rank).split()
        files = ["-train", self._train, "-test", self._test, "-out", self._folder / "out", "-rlog", log]
        _run([self._program, *settings, *map(str, files)], self._folder, dict(os.environ))
        return parse_libfm(log.read_text())


def parse_xlearn(output: str) -> list[Epoch]:
    """Return the epochs in xLearn's output.

    Raises:
        ToolError: The output reports an error or has no epochs.
    """
    lines = _COLOURS.sub("", output).splitlines()
    errors = [line for line in lines if line.startswith("[ ERROR")]
    if errors:
        raise ToolError("xLearn: " + "; ".join(errors))
    epochs = []
    for match in filter(None, map(_EPOCH.match, lines)):
        train, *test, seconds = map(float, match["numbers"].split())
        epochs.append(Epoch(int(match["epoch"]), train, test[0] if test else None, seconds))
    if not epochs:
        raise ToolError("xLearn's output has no epochs. Its last lines:\n" + "\n".join(lines[-5:]))
    return epochs


def parse_libfm(log: str) -> list[float]:
    """Return the seconds of every iteration in libFM's log.

    Raises:
        ToolError: The log has no column `time_learn` or no rows.
    """
    header, *rows = [line.split("\t") for line in log.splitlines() if line.strip()] or [[]]
    if "time_learn" not in header or not rows:
        raise ToolError(f"libFM's log must have rows with a column time_learn. Received the first line: {header}")
    return [float(row[header.index("time_learn")]) for row in rows]


def _about(contender: ToolContender, optimizer: str, threads: str) -> dict[str, Any]:
    return {
        "parameters": contender.workload.num_features * (contender.rank + 1) + 1,
        "optimizer": optimizer,
        "threads": threads,
    }


def _epochs_for(seconds: float, epoch_seconds: float) -> int:
    """Return the number of epochs of a repetition; the first one is not timed."""
    timed = _MOST_TIMED_EPOCHS if epoch_seconds <= 0 else math.ceil(seconds / epoch_seconds)
    return 1 + min(max(timed, _FEWEST_TIMED_EPOCHS), _MOST_TIMED_EPOCHS)


def _repetition(epoch_seconds: list[float], num_samples: int, tool: str) -> dict[str, Any]:
    seconds = median(epoch_seconds[1:])
    if seconds <= 0:
        raise ToolError(f"{tool} needs more than {num_samples} samples, because its clock shows {seconds} s for an epoch")
    return {"samples_per_second": num_samples / seconds, "epoch_seconds": epoch_seconds}


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    try:
        result = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        raise ToolError(f"{command[0]} can't be run: {error}") from error
    if result.returncode != 0:
        last = "\n".join((result.stdout + result.stderr).splitlines()[-5:])
        raise ToolError(f"{Path(command[0]).name} ended with exit code {result.returncode}:\n{last}")
    return result.stdout
