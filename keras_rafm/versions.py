"""What differs between versions of TensorFlow, as measured by `python -m benchmarks.kernels`."""

from __future__ import annotations

import tensorflow as tf

_VERSION = tuple(map(int, tf.version.VERSION.split(".")[:2]))

#: From 2.20 on, kernels that work on one row after the other take several times as long as before:
#: SparseTensorDenseMatMul from 32 columns on, segment sums, scatter_sub and the sparse updates of optimizers.
HAS_SLOW_ROWS = _VERSION >= (2, 20)
