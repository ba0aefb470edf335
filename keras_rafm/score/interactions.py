"""The formulas of RaFM on tensors: level sums -> `c_k`, `A_{k+1,k}`, level scores (Chen et al., ICML 2019, section 3).

Every function is pure. Symbols, for one sample:

    U_k = Σ_{k_i = k} x_i v_i^(k)      sum of the free factors of level k
    T_k = Σ_{k_i > k} x_i v_i^(k)      sum of the dependent factors of level k
    c_k = A_{k,k} − A_{k+1,k} = ½|U_k|² + U_k·T_k − ½ Σ_{k_i = k} x_i²|v_i^(k)|²
    A_{k+1,k} = ½(|T_k|² − Σ_{k_i > k} x_i²|v_i^(k)|²)
    B_{1,k} = c_1 + … + c_k + A_{k+1,k},   ŷ_k = b + w·x + B_{1,k},   A_{m+1,m} = 0
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import tensorflow as tf

from keras_rafm.score.call_context import current_context

DependentGradient = Literal["both", "lower", "upper"]
_Gradient = Callable[..., Sequence[tf.Tensor]]


class LevelSums(NamedTuple):
    """The sums of one level `k` over the occurrences of each sample.

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
    """The terms of the score that belong to one level `k`, each float `[B]`.

    Attributes:
        upper: `c_k` with the gradient of the upper loss.
        lower: `c_k` with the gradient of the lower loss of level `k`, which reaches `T_k` alone.
        dependent_pairs: `A_{k+1,k}`, the pairs of features above level `k`; zero for the last level.
    """

    upper: tf.Tensor
    lower: tf.Tensor
    dependent_pairs: tf.Tensor


def terms_of_levels(levels: Sequence[LevelSums], dependent_gradient: DependentGradient = "both") -> list[LevelTerms]:
    """Return `c_k` and `A_{k+1,k}` of every level.

    In training, the gradients of the last level's sums are computed first. That level is by far the widest, so the
    operations that depend on these gradients take longest, and everything else can run beside them.

    Args:
        levels: The sums of levels `1 … m`.
        dependent_gradient: `"lower"` stops the upper gradient of `U_k·T_k` before it reaches the dependent factors.

    Returns:
        The terms of levels `1 … m`.
    """
    upper_moves_dependent = dependent_gradient != "lower"
    sums = [[tensor for tensor in level if tensor is not None] for level in levels]

    def terms(*flat: tf.Tensor) -> tuple[list[tf.Tensor], _Gradient]:
        values, gradients = zip(
            *(
                _last_level(*level_sums) if len(level_sums) == 2 else _level(upper_moves_dependent, *level_sums)
                for level_sums in tf.nest.pack_sequence_as(sums, list(flat))
            ),
            strict=True,
        )

        def gradient(*upstream: tf.Tensor) -> list[tf.Tensor]:
            result: list[Sequence[tf.Tensor]] = []
            before: list[tf.Tensor] = []
            for index in reversed(range(len(gradients))):
                with tf.control_dependencies(before):
                    result.append(gradients[index](*upstream[3 * index : 3 * index + 3]))
                before = [result[-1][0]]  # the gradient of U_k
            return tf.nest.flatten(result[::-1])

        return tf.nest.flatten(values), gradient

    flat = tf.nest.flatten(sums)
    # An exported model needs no gradients, and TensorFlow warns when it loads a model with custom ones.
    results = terms(*flat)[0] if current_context().is_serving else tf.custom_gradient(terms)(*flat)
    return [LevelTerms(*results[3 * index : 3 * index + 3]) for index in range(len(levels))]


def score(linear: tf.Tensor, levels: Sequence[LevelTerms]) -> tf.Tensor:
    """Return the score `ŷ_m = b + w·x + c_1 + … + c_m`, with the gradient of the upper loss.

    Args:
        linear: `b + w·x`, float `[B]`.
        levels: The terms of levels `1 … m`.

    Returns:
        Float `[B]`.
    """
    return total([linear, *(level.upper for level in levels)])


def level_scores(linear: tf.Tensor, levels: Sequence[LevelTerms]) -> list[tf.Tensor]:
    """Return the level scores `[ŷ_1, …, ŷ_m]`, the model cut off at each rank: each float `[B]`."""
    contributions = [level.upper for level in levels]
    return [total([linear, *contributions[: k + 1], level.dependent_pairs]) for k, level in enumerate(levels)]


def imitating_scores(linear: tf.Tensor, levels: Sequence[LevelTerms]) -> list[tf.Tensor]:
    """Return the level scores `[ŷ_1, …, ŷ_m]` with the gradients of the lower losses.

    The values equal those of `level_scores`. For `k < m`, the gradient of `ŷ_k` reaches only the dependent factors of level
    `k` and `b + w·x`; the free factors and `c_1 + … + c_{k-1}` are held constant. `ŷ_m` imitates no other level and is held
    constant as a whole.
    """
    constants = [tf.stop_gradient(level.upper) for level in levels]
    scores = [total([linear, *constants[:k], level.lower, level.dependent_pairs]) for k, level in enumerate(levels[:-1])]
    return [*scores, tf.stop_gradient(score(linear, levels))]


def total(terms: Sequence[tf.Tensor]) -> tf.Tensor:
    """Return the sum of one or more tensors, added in this order.

    `tf.add_n` starts with any tensor whose memory it may reuse, so its rounding differs from run to run.
    """
    return functools.reduce(operator.add, terms)


def square_norms(rows: tf.Tensor) -> tf.Tensor:
    """Return `|v|²` of each row of a matrix, in one pass over it."""
    return tf.square(tf.raw_ops.EuclideanNorm(input=rows, axis=1))


# The gradients are written out because automatic differentiation passes over `[B, D_k]` three times as often.


def _last_level(U_k: tf.Tensor, free_squares: tf.Tensor) -> tuple[list[tf.Tensor], _Gradient]:
    c_k = 0.5 * (square_norms(U_k) - free_squares)

    def gradient(upper: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return tf.expand_dims(upper, 1) * U_k, -0.5 * upper

    return [c_k, tf.identity(c_k), tf.zeros_like(c_k)], gradient


def _level(
    upper_moves_dependent: bool, U_k: tf.Tensor, free_squares: tf.Tensor, T_k: tf.Tensor, dependent_squares: tf.Tensor
) -> tuple[list[tf.Tensor], _Gradient]:
    c_k = 0.5 * (square_norms(U_k) - free_squares) + tf.reduce_sum(U_k * T_k, axis=-1)
    dependent_pairs = 0.5 * (square_norms(T_k) - dependent_squares)

    def gradient(upper: tf.Tensor, lower: tf.Tensor, pairs: tf.Tensor) -> tuple[tf.Tensor, ...]:
        to_dependent = upper + lower if upper_moves_dependent else lower
        return (
            tf.expand_dims(upper, 1) * (U_k + T_k),
            -0.5 * upper,
            tf.expand_dims(to_dependent, 1) * U_k + tf.expand_dims(pairs, 1) * T_k,
            -0.5 * pairs,
        )

    return [c_k, tf.identity(c_k), dependent_pairs], gradient
