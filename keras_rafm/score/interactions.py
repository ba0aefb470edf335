"""The formulas of RaFM on tensors: level sums -> `c_k`, `A_{k+1,k}`, level scores (Chen et al., ICML 2019, section 3).

Everything is a pure function. Symbols, per sample:

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


def terms_of_levels(levels: Sequence[LevelSums], dependent_gradient: DependentGradient = "both") -> list[LevelTerms]:
    """`c_k` and `A_{k+1,k}` of every level.

    In training the gradients of the sums of the last level, by far the widest, are computed before all others: what
    follows from them takes longest, and everything else can be done beside it.

    Args:
        levels: The sums of levels `1 … m`.
        dependent_gradient: `"lower"` keeps the gradient of `U_k·T_k` in the upper problem from the dependent factors.

    Returns:
        The terms of levels `1 … m`.
    """
    moves_dependent = dependent_gradient != "lower"
    sums = [[tensor for tensor in level if tensor is not None] for level in levels]

    def terms(*flat: tf.Tensor) -> tuple[list[tf.Tensor], _Gradient]:
        of_levels = tf.nest.pack_sequence_as(sums, list(flat))
        values, gradients = zip(
            *(_last_level(*its) if len(its) == 2 else _level(moves_dependent, *its) for its in of_levels), strict=True
        )

        def gradient(*upstream: tf.Tensor) -> list[tf.Tensor]:
            result: list[Sequence[tf.Tensor]] = []
            before: list[tf.Tensor] = []
            for index in reversed(range(len(gradients))):
                with tf.control_dependencies(before):
                    result.append(gradients[index](*upstream[3 * index : 3 * index + 3]))
                before = [result[-1][0]]  # that of U_k
            return tf.nest.flatten(result[::-1])

        return tf.nest.flatten(values), gradient

    flat = tf.nest.flatten(sums)
    # An exported model has no use for gradients, and loading one with such functions warns.
    results = terms(*flat)[0] if current_context().is_serving else tf.custom_gradient(terms)(*flat)
    return [LevelTerms(*results[3 * index : 3 * index + 3]) for index in range(len(levels))]


def score(linear: tf.Tensor, levels: Sequence[LevelTerms]) -> tf.Tensor:
    """`ŷ_m = b + w·x + c_1 + … + c_m`, what the upper problem minimises the loss of.

    Args:
        linear: `b + w·x`, float `[B]`.
        levels: The terms of levels `1 … m`.

    Returns:
        Float `[B]`.
    """
    return total([linear, *(level.own for level in levels)])


def level_scores(linear: tf.Tensor, levels: Sequence[LevelTerms]) -> list[tf.Tensor]:
    """`[ŷ_1, …, ŷ_m]`: the model cut off at each rank; each float `[B]`."""
    owns = [level.own for level in levels]
    return [total([linear, *owns[: k + 1], level.among_dependent]) for k, level in enumerate(levels)]


def imitating_scores(linear: tf.Tensor, levels: Sequence[LevelTerms]) -> list[tf.Tensor]:
    """`[ŷ_1, …, ŷ_m]` with the gradient of the lower problem of each level.

    The values are those of `level_scores`. In `ŷ_k` for `k < m` only the dependent factors of level `k` and `b + w·x` are
    variable: the free factors, and `c_1 + … + c_{k-1}` with all in it, are held constant. `ŷ_m` imitates nothing and
    is held constant as a whole.
    """
    owns = [tf.stop_gradient(level.own) for level in levels]
    scores = [
        total([linear, *owns[:k], level.own_to_dependent, level.among_dependent]) for k, level in enumerate(levels[:-1])
    ]
    return [*scores, tf.stop_gradient(score(linear, levels))]


def total(terms: Sequence[tf.Tensor]) -> tf.Tensor:
    """The sum of one or more tensors in this order.

    `tf.add_n` begins with whichever of them nobody else holds by then, so it would round differently from run to run.
    """
    return functools.reduce(operator.add, terms)


def square_norms(rows: tf.Tensor) -> tf.Tensor:
    """`|v|²` of each row of a matrix, in one pass over it."""
    return tf.square(tf.raw_ops.EuclideanNorm(input=rows, axis=1))


# The gradients are written out because automatic ones pass over `[B, D_k]` three times as often.


def _last_level(U_k: tf.Tensor, free_squares: tf.Tensor) -> tuple[list[tf.Tensor], _Gradient]:
    own = 0.5 * (square_norms(U_k) - free_squares)

    def gradient(own: tf.Tensor, *_: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return tf.expand_dims(own, 1) * U_k, -0.5 * own

    return [own, tf.identity(own), tf.zeros_like(own)], gradient


def _level(
    cross_moves_dependent: bool, U_k: tf.Tensor, free_squares: tf.Tensor, T_k: tf.Tensor, dependent_squares: tf.Tensor
) -> tuple[list[tf.Tensor], _Gradient]:
    own = 0.5 * (square_norms(U_k) - free_squares) + tf.reduce_sum(U_k * T_k, axis=-1)
    among_dependent = 0.5 * (square_norms(T_k) - dependent_squares)

    def gradient(own: tf.Tensor, own_to_dependent: tf.Tensor, among: tf.Tensor) -> tuple[tf.Tensor, ...]:
        to_dependent = own + own_to_dependent if cross_moves_dependent else own_to_dependent
        return (
            tf.expand_dims(own, 1) * (U_k + T_k),
            -0.5 * own,
            tf.expand_dims(to_dependent, 1) * U_k + tf.expand_dims(among, 1) * T_k,
            -0.5 * among,
        )

    return [own, tf.identity(own), among_dependent], gradient
