"""The compiled Keras models of the contenders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

import keras_rafm as kr
from benchmarks.speed.specs import TensorFlowContender

#: Learning rates don't change the time of a step, but the time to reach a loss. That of `LazyAdam` is the best one with the
#: default `idle_decay` on Frappe's validation data (`benchmarks/README.md`).
OPTIMIZERS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "LazyAdam": lambda: kr.optimizers.LazyAdam(0.016),
    "LazyAdam, idle_decay=0": lambda: kr.optimizers.LazyAdam(0.004, idle_decay=0.0),
    "SparseAdagrad": lambda: kr.optimizers.SparseAdagrad(0.05),
    "SparseFtrl": lambda: kr.optimizers.SparseFtrl(0.05),
    "Keras Adam": lambda: keras.optimizers.Adam(0.004),
}


class EmbeddingFM(keras.Model):
    """An FM as a Keras user would write it, with `Embedding` layers: square of the sum minus sum of the squares."""

    def __init__(self, num_features: int, rank: int) -> None:
        super().__init__()
        normal = keras.initializers.RandomNormal(stddev=0.01)
        self.vectors = keras.layers.Embedding(num_features, rank, embeddings_initializer=normal)
        self.weights_of_features = keras.layers.Embedding(num_features, 1, embeddings_initializer="zeros")
        self.bias = self.add_weight(shape=(), initializer="zeros", name="bias")

    def call(self, ids: Any) -> Any:
        """Return the score `[B, 1]`."""
        vectors = self.vectors(ids)
        square_of_sum = ops.square(ops.sum(vectors, axis=1))
        sum_of_squares = ops.sum(ops.square(vectors), axis=1)
        pairwise = 0.5 * ops.sum(square_of_sum - sum_of_squares, axis=1, keepdims=True)
        return self.bias + ops.sum(self.weights_of_features(ids), axis=1) + pairwise


def build(contender: TensorFlowContender, counts: npt.NDArray[Any] | None, steps_per_execution: int) -> keras.Model:
    """Return the compiled model of a contender. If it has thresholds, the counts of the features are needed."""
    model = _uncompiled(contender, counts)
    if contender.optimizer not in OPTIMIZERS:
        raise ValueError(f"`optimizer` must be one of {', '.join(OPTIMIZERS)}. Received: optimizer={contender.optimizer!r}")
    model.compile(
        OPTIMIZERS[contender.optimizer](),
        keras.losses.BinaryCrossentropy(from_logits=True),
        steps_per_execution=steps_per_execution,
    )
    return model


def num_parameters(model: keras.Model) -> int:
    """Return the number of trainable parameters."""
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


def rank_plan(contender: TensorFlowContender, counts: npt.NDArray[Any] | None) -> kr.RankPlan:
    """Return the rank plan of a contender. With counts, features of a level are in the order of their counts."""
    if contender.thresholds:
        if counts is None:
            raise ValueError(
                f"`counts` are needed for thresholds. Received: thresholds={contender.thresholds}, counts=None"
            )
        return kr.RankPlan.from_counts(counts, contender.ranks, contender.thresholds)
    levels = np.ones(contender.workload.num_features, np.int8)
    for end in contender.most_frequent:
        levels[: end * contender.workload.spread] += 1
    return kr.RankPlan(levels, contender.ranks, counts)


def _uncompiled(contender: TensorFlowContender, counts: npt.NDArray[Any] | None) -> keras.Model:
    if contender.model == "embedding":
        (rank,) = contender.ranks
        model = EmbeddingFM(contender.workload.num_features, rank)
        model(np.zeros((1, contender.workload.num_fields), np.int32))  # creates the weights
        return model
    ids = keras.Input((contender.workload.num_fields,), dtype="int32", name="ids")
    layer = kr.RaFMLayer(rank_plan(contender, counts), factors_l2=contender.factors_l2, seed=0)
    return kr.RaFMModel(ids, layer(ids))
