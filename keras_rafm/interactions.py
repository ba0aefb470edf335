"""The formulas of RaFM on tensors: level sums -> `c_k`, `A_{k+1,k}`, level scores (Chen et al., ICML 2019, section 3).

Everything is a pure function. Symbols, per sample:

    U_k = Σ_{k_i = k} x_i v_i^(k)      sum of the free factors of level k
    T_k = Σ_{k_i > k} x_i v_i^(k)      sum of the dependent factors of level k
    c_k = A_{k,k} − A_{k+1,k} = ½|U_k|² + U_k·T_k − ½ Σ_{k_i = k} x_i²|v_i^(k)|²
    A_{k+1,k} = ½(|T_k|² − Σ_{k_i > k} x_i²|v_i^(k)|²)
    B_{1,k} = c_1 + … + c_k + A_{k+1,k},   ŷ_k = b + w·x + B_{1,k},   A_{m+1,m} = 0
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import tensorflow as tf

from keras_rafm.scopes import is_serving

DependentGradient = Literal["both", "lower", "upper"]


class LevelSums(NamedTuple):
    """What one level `k` sums up over the occurrences of each sample.

    Attributes:
        free_sum: `U_k`, float `[B, D_k]`.
        free_squares: `Σ_{k_i = k} x_i²|v_i^(k)|²`, float `[B]`.
        dependent_sum: `T_k`, float `[B, D_k]`; `None` for the last level, which has no dependent factors.
        dependent_squares: `Σ_{k_i > k} x_i²|v_i^(k)|²`, float `[B]`, or `None`.
    """

    free_sum: tf.Tensor
    free_squares: tf.Tensor
    dependent_sum: tf.Tensor | None = None
    dependent_squares: tf.Tensor | None = None


class LevelTerms(NamedTuple):
    """The products of the sums of one level `k`, each float `[B]`.

    Attributes:
        own: `c_k`, with the gradient of the upper problem.
        own_to_dependent: `c_k` again, with the gradient of the lower problem of level `k`: to `T_k` alone.
        among_dependent: `A_{k+1,k}`; zero for the last level.
    """

    own: tf.Tensor
    own_to_dependent: tf.Tensor
    among_dependent: tf.Tensor


def level_terms(level: LevelSums, dependent_gradient: DependentGradient = "both") -> LevelTerms:
    """`c_k` and `A_{k+1,k}`.

    Args:
        level: The sums of level `k`.
        dependent_gradient: `"lower"` keeps the gradient of `U_k·T_k` in the upper problem from the dependent factors.
    """
    if level.dependent_sum is None:
        own = 0.5 * (_squared_norm(level.free_sum) - level.free_squares)
        return LevelTerms(own, tf.stop_gradient(own), tf.zeros_like(own))
    products = _dot_products(level.free_sum, level.dependent_sum, dependent_gradient != "lower")
    free_norm, cross, cross_to_dependent, dependent_norm = products
    among_free = 0.5 * (free_norm - level.free_squares)
    return LevelTerms(
        own=among_free + cross,
        own_to_dependent=tf.stop_gradient(among_free) + cross_to_dependent,
        among_dependent=0.5 * (dependent_norm - level.dependent_squares),
    )


def score(linear: tf.Tensor, levels: Sequence[LevelTerms]) -> tf.Tensor:
    """`ŷ_m = b + w·x + c_1 + … + c_m`, what the upper problem minimises the loss of.

    Args:
        linear: `b + w·x`, float `[B]`.
        levels: The terms of levels `1 … m`.

    Returns:
        Float `[B]`.
    """
    return tf.add_n([linear, *(level.own for level in levels)])


def level_scores(linear: tf.Tensor, levels: Sequence[LevelTerms]) -> list[tf.Tensor]:
    """`[ŷ_1, …, ŷ_m]`: the model cut off at each rank; each float `[B]`."""
    scores = []
    total = linear
    for level in levels:
        total += level.own
        scores.append(total + level.among_dependent)
    return scores


def imitating_scores(linear: tf.Tensor, levels: Sequence[LevelTerms]) -> list[tf.Tensor]:
    """`[ŷ_1, …, ŷ_m]` with the gradient of the lower problem of each level.

    The values are those of `level_scores`. In `ŷ_k` for `k < m` only the dependent factors of level `k` and `b + w·x` are
    variable: the free factors, and `c_1 + … + c_{k-1}` with all in it, are held constant. `ŷ_m` imitates nothing and
    is held constant as a whole.
    """
    scores = []
    below = tf.zeros_like(linear)
    for level in levels[:-1]:
        scores.append(linear + below + level.own_to_dependent + level.among_dependent)
        below = tf.stop_gradient(below + level.own)
    scores.append(tf.stop_gradient(score(linear, levels)))
    return scores


def _squared_norm(a: tf.Tensor) -> tf.Tensor:
    def norm(a: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        return tf.reduce_sum(tf.square(a), axis=-1), lambda upstream: (2 * upstream)[:, None] * a

    # An exported model has no use for gradients, and loading one with such functions warns.
    return norm(a)[0] if is_serving() else tf.custom_gradient(norm)(a)


def _dot_products(U_k: tf.Tensor, T_k: tf.Tensor, cross_moves_dependent: bool) -> list[tf.Tensor]:
    """`|U_k|²`, `U_k·T_k` for the upper problem, `U_k·T_k` for the lower one, and `|T_k|²`.

    The gradients are written out because automatic ones pass over `[B, D_k]` three times as often.
    """

    def products(U_k: tf.Tensor, T_k: tf.Tensor) -> tuple[list[tf.Tensor], Callable[..., tuple[tf.Tensor, tf.Tensor]]]:
        cross = tf.reduce_sum(U_k * T_k, axis=-1)

        def gradient(*upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            free_norm, cross, cross_to_dependent, dependent_norm = (u[:, None] for u in upstream)
            to_dependent = cross + cross_to_dependent if cross_moves_dependent else cross_to_dependent
            return 2 * free_norm * U_k + cross * T_k, to_dependent * U_k + 2 * dependent_norm * T_k

        free_norm, dependent_norm = (tf.reduce_sum(tf.square(a), axis=-1) for a in (U_k, T_k))
        return [free_norm, cross, tf.identity(cross), dependent_norm], gradient

    return products(U_k, T_k)[0] if is_serving() else tf.custom_gradient(products)(U_k, T_k)
