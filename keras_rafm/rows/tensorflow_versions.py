"""Properties that depend on the version or the settings of TensorFlow.

The differences between versions were measured with `python -m benchmarks.kernels`.
"""

from __future__ import annotations

import tensorflow as tf
from tensorflow.python.framework import config  # the public module can set the switch, but not read it

_VERSION = tuple(map(int, tf.version.VERSION.split(".")[:2]))

#: Whether kernels that work row by row are slow: from 2.20 on they take several times as long as before. These are
#: SparseTensorDenseMatMul from 32 columns on, segment sums, scatter_sub and the sparse updates of optimizers.
HAS_SLOW_ROWS = _VERSION >= (2, 20)


def is_deterministic() -> bool:
    """Return whether `tf.config.experimental.enable_op_determinism` was called."""
    return bool(config.is_op_determinism_enabled())
