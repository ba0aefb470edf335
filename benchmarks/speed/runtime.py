"""TensorFlow's thread settings, and the versions in use."""

from __future__ import annotations

import os
from typing import Any

import keras
import tensorflow as tf

from benchmarks.speed.specs import THREADS


def set_threads(choice: str) -> None:
    """Apply a thread setting of `specs.THREADS`. TensorFlow must not have run an operation yet."""
    if choice not in THREADS:
        raise ValueError(f"`threads` must be one of {THREADS}. Received: threads={choice!r}")
    if choice == "one-per-op":
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(os.cpu_count() or 1)


def versions() -> dict[str, Any]:
    """Return the versions of TensorFlow and Keras."""
    return {"tensorflow": tf.__version__, "keras": keras.__version__}
