"""RaFM by brute force in NumPy: a double loop over pairs of occurrences, which the package itself never runs.

It uses the layer's public methods alone. A sample is a list of occurrences `(feature id, value)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import keras_rafm as kr

Sample = Sequence[tuple[int, float]]

#: Every kind of input that a RaFMLayer takes.
KINDS = ("dense", "dense_values", "ragged", "ragged_values", "sparse")
#: The kinds whose occurrences all have the value 1.
KINDS_WITHOUT_VALUES = ("dense", "ragged")


class Oracle:
    """`ŷ_k = b + Σ_i w_i x_i + Σ_{i<j} <v_i^(q), v_j^(q)> x_i x_j` with `q = min(k_i, k_j, k)`, in float64.

    Args:
        layer: The layer whose weights to use.
        plan: The plan of the layer.
    """

    def __init__(self, layer: kr.RaFMLayer, plan: kr.RankPlan) -> None:
        self.levels = plan.levels
        self.num_levels = len(plan.ranks)
        #: factors[k][i] is `v_i^(k)`; a KeyError means that the feature has no factors of the level.
        self.factors: dict[int, dict[int, np.ndarray]] = {}
        for k in range(1, self.num_levels + 1):
            ids, matrix = layer.factors(k)
            self.factors[k] = dict(zip(ids.tolist(), matrix.astype(np.float64), strict=True))
        self.linear = layer.linear().astype(np.float64)
        self.bias = layer.bias()

    def score(self, sample: Sample, cut: int | None = None) -> float:
        """Return `ŷ_cut` of one sample, or `ŷ_m` without a cut."""
        cut = self.num_levels if cut is None else cut
        total = self.bias + sum(self.linear[i] * x for i, x in sample)
        for position, (i, x_i) in enumerate(sample):
            for j, x_j in sample[position + 1 :]:
                q = min(self.levels[i], self.levels[j], cut)
                total += self.factors[q][i] @ self.factors[q][j] * x_i * x_j
        return float(total)

    def scores(self, samples: Sequence[Sample]) -> np.ndarray:
        """`ŷ_m`: `[B, 1]`."""
        return np.array([[self.score(sample)] for sample in samples]).reshape(-1, 1)

    def level_scores(self, samples: Sequence[Sample]) -> np.ndarray:
        """`ŷ_1 … ŷ_m`: `[B, m]`."""
        cuts = range(1, self.num_levels + 1)
        return np.array([[self.score(sample, cut) for cut in cuts] for sample in samples]).reshape(-1, self.num_levels)

    def magnitudes(self, samples: Sequence[Sample]) -> np.ndarray:
        """Return the magnitude of the terms of a score, which its rounding error is relative to: `[B, 1]`.

        A score itself may be a small difference of large terms, and `½(|Σ x v|² − Σ x²|v|²)` is one.
        """
        rows = []
        for sample in samples:
            size = abs(self.bias) + sum(abs(self.linear[i] * x) for i, x in sample)
            for factors in self.factors.values():
                size += sum(abs(x) * np.linalg.norm(factors[i]) for i, x in sample if i in factors) ** 2
            rows.append([size])
        return np.array(rows).reshape(-1, 1)


def large_random_layer(plan: kr.RankPlan, seed: int = 0, **options: Any) -> kr.RaFMLayer:
    """Return a layer whose factors, linear weights and bias are all of size 1, so that no term hides another."""
    normal = keras.initializers.RandomNormal(stddev=1.0)
    layer = kr.RaFMLayer(plan, factors_initializer=normal, linear_initializer=normal, seed=seed, **options)
    if layer.use_bias:
        layer.assign_bias(0.7)
    return layer


def assert_close(actual: Any, expected: np.ndarray, magnitudes: np.ndarray, relative: float) -> None:
    """Assert equal shapes, and that no number differs by more than `relative` times the magnitude of its terms."""
    actual = np.asarray(tf.cast(actual, tf.float64))
    assert actual.shape == expected.shape
    error = np.abs(actual - expected)
    allowed = np.broadcast_to(relative * magnitudes, error.shape)
    assert np.all(error <= allowed), f"{actual} instead of {expected}: off by {error}, allowed are {allowed}"


def seen_by(kind: str, samples: Sequence[Sample]) -> list[Sample]:
    """Return the samples as a kind of input can hold them: without values, every value is 1."""
    if kind in KINDS_WITHOUT_VALUES:
        return [[(i, 1.0) for i, _ in sample] for sample in samples]
    return [list(sample) for sample in samples]


def build_input(
    kind: str, samples: Sequence[Sample], num_features: int, id_dtype: str = "int32", num_padding: int = 0, seed: int = 0
) -> Any:
    """Return samples as an input of some kind.

    Args:
        kind: One of `KINDS`.
        samples: Occurrences of each sample.
        num_features: Width of a sparse input.
        id_dtype: dtype of ids; a sparse input has int64 always.
        num_padding: How many ids −1 each row gets, at random places (a dense input also gets what makes its rows equally
            long; a sparse one none). Their values are 7.
        seed: Decides the places.
    """
    if kind == "sparse":
        indices = [(row, i) for row, sample in enumerate(samples) for i, _ in sample]
        values = [x for sample in samples for _, x in sample]
        return tf.SparseTensor(
            np.array(indices, np.int64).reshape(-1, 2), np.array(values, np.float32), (len(samples), num_features)
        )
    random = np.random.default_rng(seed)
    longest = max((len(sample) for sample in samples), default=0)
    padded = []
    for sample in samples:
        row = list(sample)
        missing = num_padding + (longest - len(sample) if kind.startswith("dense") else 0)
        for place in sorted(random.integers(0, len(row) + 1, missing), reverse=True):
            row.insert(place, (-1, 7.0))
        padded.append(row)
    ids = [[i for i, _ in row] for row in padded]
    values = [[x for _, x in row] for row in padded]
    if kind.startswith("dense"):
        shape = (len(samples), longest + num_padding)
        dense_ids = tf.constant(np.array(ids, id_dtype).reshape(shape))
        dense_values = tf.constant(np.array(values, np.float32).reshape(shape))
        return dense_ids if kind == "dense" else {"ids": dense_ids, "values": dense_values}
    ragged_ids = tf.ragged.constant(ids, id_dtype, ragged_rank=1)
    ragged_values = tf.ragged.constant(values, "float32", ragged_rank=1)
    return ragged_ids if kind == "ragged" else {"ids": ragged_ids, "values": ragged_values}


def build_keras_input(kind: str, num_features: int, id_dtype: str = "int32", width: int | None = None) -> Any:
    """Return the Keras inputs that a functional model declares for a kind of input."""
    if kind == "sparse":
        return keras.Input((num_features,), sparse=True, name="features")
    ragged = kind.startswith("ragged")
    ids = keras.Input((width,), dtype=id_dtype, ragged=ragged, name="ids")
    if kind in KINDS_WITHOUT_VALUES:
        return ids
    return {"ids": ids, "values": keras.Input((width,), dtype="float32", ragged=ragged, name="values")}


def input_signature(kind: str, num_features: int, id_dtype: str = "int32") -> Any:
    """Return the least specific `tf.function` signature for a kind of input."""
    if kind == "sparse":
        return tf.SparseTensorSpec([None, num_features], tf.float32)
    spec = tf.RaggedTensorSpec if kind.startswith("ragged") else tf.TensorSpec
    ids = spec([None, None], id_dtype)
    return ids if kind in KINDS_WITHOUT_VALUES else {"ids": ids, "values": spec([None, None], tf.float32)}
