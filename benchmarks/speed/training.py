"""The task `training`: training from scratch until the test log-loss is low enough.

The clock starts before the model is made and stops at the end of an epoch. It does not count evaluation, and test data is
only used to stop it. The first epoch includes building the graph. For the time without graph building, the median of the
later epochs takes the place of the first, so at least three epochs are trained. The order and the first batches of an epoch
may be prepared during the evaluation before it, which takes a few milliseconds.
"""

from __future__ import annotations

import time
from pathlib import Path
from statistics import median
from typing import Any

import keras
import numpy as np

import keras_rafm as kr
from benchmarks.speed import models
from benchmarks.speed.channel import Channel
from benchmarks.speed.runtime import versions
from benchmarks.speed.specs import TensorFlowContender
from benchmarks.speed.workloads import frappe_file

_FEWEST_EPOCHS = 3


def serve(task: dict[str, Any], channel: Channel) -> None:
    """Train from scratch for every seed that is received."""
    contender = TensorFlowContender.from_json(task["contender"])
    folder = Path(contender.workload.folder)
    train, test = (kr.data.read_libfm(frappe_file(folder, part)) for part in ("train", "test"))
    counts = kr.count_features(train, contender.workload.num_features)
    channel.send(versions())
    while (seed := channel.receive()) is not None:
        keras.backend.clear_session()
        keras.utils.set_random_seed(seed)
        clock = _Clock(test, task["log_loss"])
        model = models.build(contender, counts, task["steps_per_execution"])
        model.fit(
            train.dataset(contender.batch_size, shuffle=True, seed=seed, with_values=False),
            epochs=task["max_epochs"],
            shuffle=False,
            verbose=0,
            callbacks=[clock],
        )
        channel.send({"parameters": models.num_parameters(model), **clock.result()})


class _Clock(keras.callbacks.Callback):
    """Time the epochs without their evaluation, and stop training when the test log-loss is low enough."""

    def __init__(self, test: kr.data.Samples, goal: float) -> None:
        super().__init__()
        self._test, self._goal = test, goal
        self._seconds: list[float] = []
        self._log_losses: list[float] = []
        self._reached_after: int | None = None
        self._started = time.perf_counter()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if epoch > 0:
            self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._seconds.append(time.perf_counter() - self._started)
        self._log_losses.append(self._log_loss())
        if self._reached_after is None and self._log_losses[-1] <= self._goal:
            self._reached_after = epoch + 1
        self.model.stop_training = self._reached_after is not None and epoch + 1 >= _FEWEST_EPOCHS

    def result(self) -> dict[str, Any]:
        epochs = self._reached_after or len(self._seconds)
        seconds = sum(self._seconds[:epochs])
        return {
            "reached": self._reached_after is not None,
            "epochs": epochs,
            "log_loss": self._log_losses[epochs - 1],
            "seconds": seconds,
            "seconds_without_graph": seconds - self._seconds[0] + median(self._seconds[1:]),
            "epoch_seconds": self._seconds,
        }

    def _log_loss(self) -> float:
        layer = next(layer for layer in self.model.layers if isinstance(layer, kr.RaFMLayer))
        batches = (inputs["ids"] for inputs, _ in self._test.dataset(8192))
        scores = np.concatenate([layer.level_scores(ids).numpy()[:, -1] for ids in batches]).astype(np.float64)
        return float(np.mean(np.logaddexp(0, scores) - self._test.labels * scores))
