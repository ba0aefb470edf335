"""The process of one contender: `python -m benchmarks.speed.worker`, started by `processes.Worker`.

The first line on its standard input is the task, everything after it depends on the task (`repetitions`, `training`,
`footprint`). TensorFlow is imported and its threads are set before anything else is done.
"""

from __future__ import annotations

import os
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from benchmarks.speed.channel import Channel
from benchmarks.speed.specs import THREADS


def main() -> None:
    channel = Channel()
    task = channel.receive()
    set_threads(task["threads"])

    from benchmarks.speed import footprint, repetitions, training

    tasks = {"repetitions": repetitions.serve, "training": training.serve, "footprint": footprint.serve}
    tasks[task.pop("name")](task, channel)


def set_threads(choice: str) -> None:
    if choice not in THREADS:
        raise ValueError(f"`threads` must be one of {THREADS}. Received: threads={choice!r}")
    if choice == "one-per-op":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(os.cpu_count() or 1)


def versions() -> dict[str, Any]:
    """What a worker tells about itself."""
    import keras
    import tensorflow as tf

    return {"tensorflow": tf.__version__, "keras": keras.__version__}


if __name__ == "__main__":
    main()
