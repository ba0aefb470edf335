"""The task `repetitions`: repetitions of a Keras model's training, one for each request.

A worker calls `model.fit` once and blocks at the end of epochs until the next request, so no repetition builds graphs or
starts iterators. A repetition lasts from `on_epoch_begin` of its first epoch to `on_epoch_end` of its last. This includes
the pending decay that `RaFMModel` settles at the end of an epoch.

With cached batches, a repetition is one epoch with as many steps as take about the requested time. This is **the bare
step**, which never waits for data. The batches are cut from the samples in random order, without the last, smaller one,
and repeat. From arrays or `Samples`, a repetition has several whole, shuffled epochs. The progress bar is on, but its
output is discarded.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import keras_rafm as kr
from benchmarks.speed import models, roofline
from benchmarks.speed.channel import Channel
from benchmarks.speed.runtime import versions
from benchmarks.speed.specs import TensorFlowContender
from benchmarks.speed.workloads import draw, frappe_file

_FEWEST_EPOCHS = 3  # in a repetition of whole epochs
_SEED = 20190512


def serve(task: dict[str, Any], channel: Channel) -> None:
    """Answer each `"repeat"` with a repetition and each `{"roofline": array_bytes}` with a roofline, until the end."""
    contender = TensorFlowContender.from_json(task["contender"])
    samples = load(contender)
    counts = kr.count_features(samples, contender.workload.num_features)
    model = models.build(contender, counts, task["steps_per_execution"])
    feed = (CachedBatches if contender.feed == "batches" else _Epochs)(contender, samples, task["steps_per_execution"])
    feed.plan(model, task["seconds"])
    about = {"parameters": models.num_parameters(model), "steps_per_repetition": feed.steps, **versions()}

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        return roofline.measured(contender, models.rank_plan(contender, counts), feed.batches, request["roofline"])

    feed.fit(model, _OnDemand(channel, feed, about, answer))


def load(contender: TensorFlowContender) -> kr.data.Samples:
    """Return the samples of a contender."""
    if contender.workload.source == "frappe":
        return kr.data.read_libfm(frappe_file(Path(contender.workload.folder), "train"))
    ids, labels = draw(contender.workload)
    return kr.data.Samples(ids, np.ones(ids.shape, np.float32), labels)


def seconds_of(times: EpochTimes) -> float:
    """Return the seconds of the fastest epoch but the first, which builds graphs and fills caches."""
    return min(times.seconds[1:])


class EpochTimes(keras.callbacks.Callback):
    """Record the seconds of every epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self._started = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Stop the clock."""
        self.seconds.append(time.perf_counter() - self._started)


class CachedBatches:
    """Batches that have been cut, shuffled and cached before training.

    Attributes:
        batches: Ids `[batches, B, F]`.
        epochs: Epochs in a repetition.
        steps: Steps in a repetition.
        num_samples: Samples in a repetition.
    """

    def __init__(self, contender: TensorFlowContender, samples: kr.data.Samples, steps_per_execution: int) -> None:
        size = contender.batch_size
        number = len(samples) // size
        if number == 0:
            raise ValueError(
                f"`batch_size` must be at most the number of samples, {len(samples)}. Received: batch_size={size}"
            )
        order = np.random.default_rng(_SEED).permutation(len(samples))[: number * size]
        self.batches = samples.ids[order].reshape(number, size, -1)
        labels = samples.labels[order].reshape(number, size, 1)
        self._dataset = (
            tf.data.Dataset.from_tensor_slices((self.batches, labels)).cache().repeat().prefetch(tf.data.AUTOTUNE)
        )
        self._steps_per_execution = steps_per_execution
        self._batch_size = size
        self.epochs, self.steps, self.num_samples = 1, 0, 0

    def plan(self, model: keras.Model, seconds: float) -> None:
        """Choose the number of steps in a repetition."""
        times = EpochTimes()
        self.steps = max(len(self.batches), self._steps_per_execution)  # every batch at least once, to cache it
        self.train(model, 3, times)
        executions = math.ceil(seconds * self.steps / seconds_of(times) / self._steps_per_execution)
        self.steps = executions * self._steps_per_execution
        self.num_samples = self.steps * self._batch_size

    def fit(self, model: keras.Model, callback: keras.callbacks.Callback) -> None:
        """Train until the callback stops it."""
        self.train(model, 10**9, callback)

    def train(self, model: keras.Model, epochs: int, callback: keras.callbacks.Callback) -> None:
        """Train for this number of epochs, each with `steps` steps."""
        model.fit(self._dataset, steps_per_epoch=self.steps, epochs=epochs, verbose=0, shuffle=False, callbacks=[callback])


class _Epochs:
    """Whole, shuffled epochs from arrays or `Samples`. The attributes are those of `CachedBatches`."""

    def __init__(self, contender: TensorFlowContender, samples: kr.data.Samples, steps_per_execution: int) -> None:
        del steps_per_execution
        self._samples, self._batch_size = samples, contender.batch_size
        self._arrays = contender.feed == "arrays"
        self.batches = samples.ids[: contender.batch_size][np.newaxis]
        self.epochs, self.steps, self.num_samples = 0, 0, 0

    def plan(self, model: keras.Model, seconds: float) -> None:
        """Choose the number of epochs in a repetition."""
        times = EpochTimes()
        self.train(model, 3, times)
        self.epochs = max(_FEWEST_EPOCHS, math.ceil(seconds / seconds_of(times)))
        self.steps = self.epochs * math.ceil(len(self._samples) / self._batch_size)
        self.num_samples = self.epochs * len(self._samples)

    def fit(self, model: keras.Model, callback: keras.callbacks.Callback) -> None:
        self.train(model, 10**9, callback)

    def train(self, model: keras.Model, epochs: int, callback: keras.callbacks.Callback) -> None:
        options: dict[str, Any] = {"epochs": epochs, "verbose": 1, "callbacks": [callback]}
        if self._arrays:
            model.fit(self._samples.ids, self._samples.labels, batch_size=self._batch_size, **options)
            return
        batches = self._samples.dataset(self._batch_size, shuffle=True, seed=_SEED, with_values=False)
        model.fit(batches, shuffle=False, **options)


class _OnDemand(keras.callbacks.Callback):
    """Block training between repetitions. The first repetition is a warm-up that is not reported."""

    def __init__(self, channel: Channel, feed: CachedBatches | _Epochs, about: dict[str, Any], answer: Any) -> None:
        super().__init__()
        self._channel, self._feed, self._about, self._answer = channel, feed, about, answer
        self._epochs_left = feed.epochs
        self._is_ready = False
        self._started: float | None = None
        self._cpu_started = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._started is None:
            self._started, self._cpu_started = time.perf_counter(), time.process_time()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._epochs_left -= 1
        if self._epochs_left:
            return
        assert self._started is not None
        seconds, cpu_seconds = time.perf_counter() - self._started, time.process_time() - self._cpu_started
        if self._is_ready:
            self._channel.send(
                {
                    "ms_per_step": 1000 * seconds / self._feed.steps,
                    "samples_per_second": self._feed.num_samples / seconds,
                    "cpu_ms_per_step": 1000 * cpu_seconds / self._feed.steps,
                    "loss": float(logs["loss"]),
                }
            )
        else:
            self._is_ready = True
            self._channel.send(self._about)
        while (request := self._channel.receive()) not in (None, "repeat"):
            self._channel.send(self._answer(request))
        if request is None:
            self.model.stop_training = True
        self._epochs_left, self._started = self._feed.epochs, None
