"""A worker process: `python -m benchmarks.speed.worker`, started by `processes.Worker`.

The first line on its standard input is the task: `name`, `threads`, optionally `checkout`, and the arguments of the task
with this name.
"""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras_rafm as kr
from benchmarks.speed import file_reading, footprint, model_serving, repetitions, training
from benchmarks.speed.channel import Channel
from benchmarks.speed.runtime import set_threads

TASKS = {
    "repetitions": repetitions.serve,
    "training": training.serve,
    "footprint": footprint.serve,
    "file_reading": file_reading.serve,
    "model_serving": model_serving.serve,
}


def main() -> None:
    channel = Channel()
    task = channel.receive()
    set_threads(task["threads"])
    checkout = task.pop("checkout", None)
    package = Path(kr.__file__).resolve().parent
    if checkout is not None and package != Path(checkout, "keras_rafm").resolve():
        raise RuntimeError(f"keras_rafm should have been imported from {checkout}, but it is {package}")
    TASKS[task.pop("name")](task, channel)


if __name__ == "__main__":
    main()
