"""Optimizers with steps whose cost depends on the rows in the batch, not on the size of the tables.

Keras's own optimizers pass over whole tables in every step, and their updates are wrong where a batch reads a row more
than once (keras issue #19992). The optimizers here are ordinary Keras optimizers: they train any model with `Embedding`
layers or a `RaFMLayer`.
"""

from keras_rafm.optimizers.flush import FlushIdleDecay
from keras_rafm.optimizers.lazy_adam import LazyAdam
from keras_rafm.optimizers.row_sparse import RowSparse, row_sparse_optimizer
from keras_rafm.optimizers.sparse_adagrad import SparseAdagrad
from keras_rafm.optimizers.sparse_ftrl import SparseFtrl

__all__ = ["FlushIdleDecay", "LazyAdam", "RowSparse", "SparseAdagrad", "SparseFtrl", "row_sparse_optimizer"]
