"""The task `model_serving`: the time of `keras_rafm.export`, and the latency of the exported model.

The model has the ranks 64 and 256 and as many features as Frappe, in ten integer columns of a schema. Requests of
`serving_default` go to a session of TensorFlow's runtime in the same process.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import keras_rafm as kr
from benchmarks.speed.channel import Channel
from benchmarks.speed.specs import Workload
from benchmarks.speed.workloads import FRAPPE_FEATURES, FRAPPE_FIELDS, draw

_RANKS, _THRESHOLDS = (64, 256), (230,)
#: Requests of a repetition, by batch size.
_REQUESTS = {1: 500, 512: 100}
_WARM_UP_REQUESTS = 50


def serve(task: dict[str, Any], channel: Channel) -> None:
    """Send the shortest of the export times and of the median latencies, each after a warm-up that isn't counted."""
    model, schema = _model(task["num_samples"])
    with tempfile.TemporaryDirectory() as folder:
        seconds = []
        for _ in range(1 + task["repetitions"]):
            started = time.perf_counter()
            version = kr.export(model, Path(folder, "model"), schema)
            seconds.append(time.perf_counter() - started)
        times = {"export, ms": 1e3 * min(seconds[1:])}
        times |= {
            f"latency at batch {batch_size}, µs": 1e6 * seconds
            for batch_size, seconds in _latencies(version, schema.num_features, task["repetitions"]).items()
        }
    channel.send(times)


def _model(num_samples: int) -> tuple[kr.RaFMModel, kr.data.Schema]:
    num_values = FRAPPE_FEATURES // FRAPPE_FIELDS
    ids, _ = draw(Workload("log-uniform", num_values, FRAPPE_FIELDS, num_samples))
    columns = {f"c{number}": values.astype(np.int64) for number, values in enumerate(ids.T)}
    schema = kr.data.Schema(dict.fromkeys(columns, "integer_categorical"))
    schema.adapt(columns)
    inputs = schema.inputs()
    plan = kr.RankPlan.from_counts(schema.counts, _RANKS, _THRESHOLDS)
    model = kr.RaFMModel(inputs, kr.RaFMLayer(plan, seed=0)(inputs))
    model.compile(kr.optimizers.LazyAdam(0.01), keras.losses.BinaryCrossentropy(from_logits=True))
    return model, schema


def _latencies(version: Path, num_features: int, repetitions: int) -> dict[int, float]:
    """Return seconds per request by batch size: the lowest median of several repetitions."""
    tf1 = tf.compat.v1
    with tf1.Session(graph=tf.Graph()) as session:
        signature = tf1.saved_model.load(session, ["serve"], str(version)).signature_def["serving_default"]
        request = session.make_callable([signature.outputs["score"].name], [signature.inputs["ids"].name])
        latencies = {}
        for batch_size, number in _REQUESTS.items():
            shape = (batch_size, FRAPPE_FIELDS)
            ids = np.random.default_rng(0).integers(0, num_features, shape, np.int32)
            _median_seconds(request, ids, _WARM_UP_REQUESTS)
            latencies[batch_size] = min(_median_seconds(request, ids, number) for _ in range(repetitions))
        return latencies


def _median_seconds(request: Callable[[np.ndarray], object], ids: np.ndarray, number: int) -> float:
    seconds = []
    for _ in range(number):
        started = time.perf_counter()
        request(ids)
        seconds.append(time.perf_counter() - started)
    return median(seconds)
