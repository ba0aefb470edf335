"""What TensorFlow's public modules don't tell; what differs between its versions is as `benchmarks.kernels` measured it."""

from __future__ import annotations

import tensorflow as tf
from tensorflow.python.framework import config  # the public module has the switch, but nothing that tells how it is set

_VERSION = tuple(map(int, tf.version.VERSION.split(".")[:2]))

#: From 2.20 on, kernels that work on one row after the other take several times as long as before:
#: SparseTensorDenseMatMul from 32 columns on, segment sums, scatter_sub and the sparse updates of optimizers.
HAS_SLOW_ROWS = _VERSION >= (2, 20)


def is_deterministic() -> bool:
    """Whether `tf.config.experimental.enable_op_determinism` was called."""
    return bool(config.is_op_determinism_enabled())
