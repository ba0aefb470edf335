"""The task `footprint`: resident memory of a training process after each of its phases."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np

import keras_rafm as kr
from benchmarks.speed import models, repetitions
from benchmarks.speed.channel import Channel
from benchmarks.speed.specs import TensorFlowContender
from benchmarks.speed.workloads import draw


def serve(task: dict[str, Any], channel: Channel) -> None:
    """Train a model and send the memory after each phase."""
    contender = TensorFlowContender.from_json(task["contender"])
    phases = {"import": _resident()}
    model = _model(contender, task["steps_per_execution"], phases)
    samples = repetitions.load(contender)
    times = repetitions.EpochTimes()
    model.fit(
        samples.ids, samples.labels, batch_size=contender.batch_size, epochs=task["epochs"], verbose=0, callbacks=[times]
    )
    phases["training"] = _resident()
    channel.send({"phases": phases, "peak": phases["training"]["peak"], "parameters": models.num_parameters(model)})


def distinct_ids(contender: TensorFlowContender) -> float:
    """Return the mean number of distinct ids in a batch."""
    ids, _ = draw(contender.workload)
    batches = ids.reshape(-1, contender.batch_size, ids.shape[1])
    return float(np.mean([np.unique(batch).size for batch in batches]))


def _model(contender: TensorFlowContender, steps_per_execution: int, phases: dict[str, Any]) -> Any:
    """Build the same model as `models.build` and record the memory after each part, without a reference to the plan."""
    import keras

    plan = models.rank_plan(contender, None)
    phases["plan"] = _resident()
    layer = kr.RaFMLayer(plan, seed=0)
    del plan
    layer.build()
    phases["tables"] = _resident()
    ids = keras.Input((contender.workload.num_fields,), dtype="int32", name="ids")
    model = kr.RaFMModel(ids, layer(ids))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(models.OPTIMIZERS[contender.optimizer](), loss, steps_per_execution=steps_per_execution)
    model.optimizer.build(model.trainable_variables)
    phases["optimizer"] = _resident()
    return model


def _resident() -> dict[str, int]:
    """Return the resident bytes: the current number, and the peak as in `getrusage(RUSAGE_SELF).ru_maxrss`."""
    bytes_per_unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * bytes_per_unit
    try:
        now = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        now = peak
    return {"now": now, "peak": peak}
