"""The formulas of RaFM on tensors: level sums -> `c_k`, `A_{k+1,k}`, level scores (Chen et al., ICML 2019, section 3).

Everything is a pure function. Symbols, per sample:

    U_k = Σ_{k_i = k} x_i v_i^(k)      sum of the free factors of level k
    T_k = Σ_{k_i > k} x_i v_i^(k)      sum of the dependent factors of level k
    c_k = A_{k,k} − A_{k+1,k} = ½|U_k|² + U_k·T_k − ½ Σ_{k_i = k} x_i²|v_i^(k)|²
    A_{k+1,k} = ½(|T_k|² − Σ_{k_i > k} x_i²|v_i^(k)|²)
    B_{1,k} = c_1 + … + c_k + A_{k+1,k},   ŷ_k = b + w·x + B_{1,k},   A_{m+1,m} = 0
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import tensorflow as tf

DependentGradient = Literal["both", "lower", "upper"]


class LevelSums(NamedTuple):
    """What one level `k` sums up over the occurrences of each sample.

    Attributes:
        free_sum: `U_k`, float `[B, D_k]`.
        free_squares: `Σ_{k_i = k} x_i²|v_i^(k)|²`, float `[B]`.
        dependent_sum: `T_k`, float `[B, D_k]`.
        dependent_squares: `Σ_{k_i > k} x_i²|v_i^(k)|²`, float `[B]`.
    """

    free_sum: tf.Tensor
    free_squares: tf.Tensor
    dependent_sum: tf.Tensor
    dependent_squares: tf.Tensor


def score(linear: tf.Tensor, levels: Sequence[LevelSums], dependent_gradient: DependentGradient = "both") -> tf.Tensor:
    """`ŷ_m = b + w·x + c_1 + … + c_m`, what the upper problem minimises the loss of.

    Args:
        linear: `b + w·x`, float `[B]`.
        levels: The sums of levels `1 … m`.
        dependent_gradient: `"lower"` holds the dependent factors constant, else they take the gradient of `U_k·T_k`.

    Returns:
        Float `[B]`.
    """
    total = linear
    for level in levels:
        dependent_sum = level.dependent_sum
        if dependent_gradient == "lower":
            dependent_sum = tf.stop_gradient(dependent_sum)
        total += _among_free(level) + _dot(level.free_sum, dependent_sum)
    return total


def level_scores(linear: tf.Tensor, levels: Sequence[LevelSums]) -> list[tf.Tensor]:
    """`[ŷ_1, …, ŷ_m]`: the model cut off at each rank; each float `[B]`, nothing held constant."""
    scores = []
    total = linear
    for level in levels:
        total += _among_free(level) + _dot(level.free_sum, level.dependent_sum)
        scores.append(total + _among_dependent(level))
    return scores


def imitating_scores(linear: tf.Tensor, levels: Sequence[LevelSums]) -> list[tf.Tensor]:
    """`[ŷ_1, …, ŷ_m]` with the gradient of the lower problem of each level.

    The values are those of `level_scores`. In `ŷ_k` for `k < m` only the dependent factors of level `k` and `b + w·x` are
    variable: the free factors, and `c_1 + … + c_{k-1}` with all in it, are held constant. `ŷ_m` imitates nothing and
    is held constant as a whole.
    """
    scores = []
    below = tf.zeros_like(linear)
    for level in levels[:-1]:
        free_sum = tf.stop_gradient(level.free_sum)
        among_free = tf.stop_gradient(_among_free(level))
        cross = _dot(free_sum, level.dependent_sum)
        scores.append(linear + below + among_free + cross + _among_dependent(level))
        below = tf.stop_gradient(below + among_free + cross)
    scores.append(tf.stop_gradient(score(linear, levels)))
    return scores


def _among_free(level: LevelSums) -> tf.Tensor:
    """`½|U_k|² − ½ Σ_{k_i = k} x_i²|v_i^(k)|²`: pairs of two features of level k."""
    return 0.5 * (_dot(level.free_sum, level.free_sum) - level.free_squares)


def _among_dependent(level: LevelSums) -> tf.Tensor:
    """`A_{k+1,k}`: pairs of two features above level k, seen at rank `D_k`."""
    return 0.5 * (_dot(level.dependent_sum, level.dependent_sum) - level.dependent_squares)


def _dot(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(a * b, axis=-1)
