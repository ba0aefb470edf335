"""Items and contexts as vectors whose inner product is the score.

Let an item and a context have level sums `U_k`, `T_k` each (`interactions`). A sample with the features of both has the sum
of these, so in `c_k = ½|U_k|² + U_k·T_k − ½ Σ_{k_i = k} x_i²|v_i^(k)|²` the terms across item and context are

    U_k(item)·(U_k + T_k)(context) + T_k(item)·U_k(context)

which is every pair at the rank of the lower level of both. So a level has two blocks of `D_k` columns. A feature of an
item is in the first one of its own level, where it meets all features of a context of this level or above, and in the
second one of every lower level, where it meets those of just that level. What has no partner is left out: the second block
of the last level, and both of a level that no feature has. Behind the blocks, an item has its own score without `b`, and 1;
a context has 1, and its own score.

Of the scores `ŷ_k`, levels are `min(k_i, k)`, and `U_k + T_k` takes the place of `U_k`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_rafm.layer import RaFMLayer
from keras_rafm.retrieval.scorer import Scorer, scorer_of
from keras_rafm.rows.access import read_rows
from keras_rafm.rows.idle_decay import settle
from keras_rafm.score import interactions
from keras_rafm.score.interactions import LevelSums
from keras_rafm.score.occurrences import Occurrences, occurrences

_LISTS_AT_ONCE = 8192
_DTYPE = "float64"  # of sums


class Block(NamedTuple):
    """Columns of a level.

    Attributes:
        level: `k`.
        is_dependent: Whether items have `T_k` there and contexts `U_k`, and not `U_k` and `U_k + T_k`.
        width: `D_k`.
    """

    level: int
    is_dependent: bool
    width: int

    def of_item(self, U: Sequence[Any], T: Sequence[Any]) -> Any:
        """What an item has there, `[B, D_k]`, of its sums at levels 1, 2, ..."""
        return (T if self.is_dependent else U)[self.level - 1]

    def of_context(self, U: Sequence[Any], T: Sequence[Any]) -> Any:
        """What a context has there, `[B, D_k]`; `T_k` is `None` where it has no features."""
        own, dependent = U[self.level - 1], T[self.level - 1]
        return own if self.is_dependent or dependent is None else own + dependent


class Sums(NamedTuple):
    """What some lists of features sum up to, float64.

    Attributes:
        U: `U_k` of the levels, `[B, D_k]` each.
        T: `T_k` of the levels, `[B, D_k]` each; `None` for the last.
        own: The score of the list alone, without `b`: `[B]`.
    """

    U: list[npt.NDArray[np.float64]]
    T: list[npt.NDArray[np.float64] | None]
    own: npt.NDArray[np.float64]


class FeatureLists:
    """Lists of features: items, or contexts.

    Args:
        layer: The layer that the features are of.
        inputs: The lists, in any form that the layer takes.
        level: `k`, of the scores `ŷ_k`.

    Raises:
        TypeError, ValueError, tf.errors.InvalidArgumentError: As the layer.
    """

    def __init__(self, layer: RaFMLayer, inputs: Any, level: int) -> None:
        layer.require_slots()
        settle(layer.variables)
        self._layer, self._level = layer, level
        self._found = occurrences(inputs, layer.num_features, _DTYPE, where=layer.name)
        self._samples = self._found.samples.numpy()
        self.size = int(self._found.num_samples)

    def sums(self, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int, Sums]]:
        """Their sums, some lists after the other: the numbers of the first and of the one behind the last, and the sums."""
        end = self.size if end is None else end
        for first in range(start, end, _LISTS_AT_ONCE):
            last = min(first + _LISTS_AT_ONCE, end)
            yield first, last, self._sums(first, last)

    def used_blocks(self) -> list[Block]:
        """The blocks in which one of the lists, as an item, may have something else than zeros."""
        ids = self._found.ids
        # Those out of range are refused where they are summed.
        known = tf.boolean_mask(ids, (ids >= 0) & (ids < self._layer.num_features))
        slots = read_rows(self._layer.slots.value, known).numpy()
        used = []
        for block in blocks_of(self._layer, self._level):
            size, above = _slots_of_level(self._layer, block.level, self._level)
            if np.any(slots < above) if block.is_dependent else np.any((slots >= above) & (slots < size)):
                used.append(block)
        return used

    def _sums(self, start: int, end: int) -> Sums:
        first, last = np.searchsorted(self._samples, [start, end])
        linear, sums = _level_sums(
            self._layer,
            self._found._replace(
                samples=self._found.samples[first:last] - start,
                ids=self._found.ids[first:last],
                values=None if self._found.values is None else self._found.values[first:last],
                num_samples=tf.constant(end - start, tf.int64),
            ),
            self._level,
        )
        own = interactions.level_scores(linear, interactions.terms_of_levels(sums))[-1]
        U = [of_level.free_sum.numpy() for of_level in sums]
        T = [None if of_level.dependent_sum is None else of_level.dependent_sum.numpy() for of_level in sums]
        if T[-1] is not None:
            U[-1], T[-1] = U[-1] + T[-1], None
        return Sums(U, T, own.numpy())


def blocks_of(layer: RaFMLayer, level: int) -> list[Block]:
    """The blocks of the scores `ŷ_level`, in the order of their columns."""
    blocks = []
    for k, rank in enumerate(layer.ranks[:level], start=1):
        size, above = _slots_of_level(layer, k, level)
        if size > above:
            blocks.append(Block(k, False, rank))
            if above > 0:
                blocks.append(Block(k, True, rank))
    return blocks


def item_matrix(model: Any, items: Any, *, level: int | None = None) -> npt.NDArray[np.float32]:
    """Items as vectors: `item_matrix(model, items) @ context_vector(model, contexts).T` are the scores.

    Args:
        model: A model whose output is the score of its only `RaFMLayer` or the sigmoid of that, or the layer alone.
        items: The own features of `n` items, in any form that the model or its layer takes: ids `[n, F]` with −1 as
            padding, `{"ids": …, "values": …}`, ragged ones, a `tf.SparseTensor`. `F` is as large as items need.
        level: `k`: scores are `ŷ_k`, with shorter vectors; 1 for "RaFM-low". Default: the highest.

    Returns:
        float32 `[n, width]`. The width depends on the plan and the level alone: at most `2 + Σ_{k<m} 2 D_k + D_m`. Sums are
        made in float64.

    Raises:
        TypeError: The model is neither functional nor a built Sequential nor a layer, or ids are not integers.
        ValueError: The model's output is another one, there is no such level, shapes do not fit, or the layer's weights
            have not been set.
        tf.errors.InvalidArgumentError: An id is outside `[0, num_features)` and not −1, or a value is not finite.
    """
    return _vectors(model, items, level, Block.of_item, lambda own, bias: (own, np.ones_like(own)))


def context_vector(model: Any, contexts: Any, *, level: int | None = None) -> npt.NDArray[np.float32]:
    """Contexts as vectors, for the inner products with those of `item_matrix`.

    Args:
        model: As there.
        contexts: The features of `n` contexts, such as users, in any form as there.
        level: As there.

    Returns:
        float32 `[n, width]`.

    Raises:
        TypeError, ValueError, tf.errors.InvalidArgumentError: As there.
    """
    return _vectors(model, contexts, level, Block.of_context, lambda own, bias: (np.ones_like(own), own + bias))


def _vectors(
    model: Any,
    given: Any,
    level: int | None,
    side: Callable[[Block, Any, Any], Any],
    last_columns: Callable[[npt.NDArray[np.float64], float], tuple[npt.NDArray[np.float64], ...]],
) -> npt.NDArray[np.float32]:
    scorer: Scorer = scorer_of(model)
    k = scorer.level(level)
    lists = FeatureLists(scorer.layer, scorer.inputs(given), k)
    blocks = blocks_of(scorer.layer, k)
    matrix = np.empty((lists.size, sum(block.width for block in blocks) + 2), np.float32)
    for start, end, sums in lists.sums():
        columns = [side(block, sums.U, sums.T) for block in blocks]
        columns += [own[:, np.newaxis] for own in last_columns(sums.own, scorer.layer.bias())]
        np.concatenate(columns, axis=1, out=matrix[start:end], casting="same_kind")
    return matrix


def _slots_of_level(layer: RaFMLayer, k: int, highest: int) -> tuple[int, int]:
    """`|F_k|` and `|F_{k+1}|`, where levels are `min(k_i, highest)`."""
    return layer.level_sizes[k - 1], layer.level_sizes[k] if k < highest else 0


def _level_sums(layer: RaFMLayer, batch: Occurrences, level: int) -> tuple[tf.Tensor, list[LevelSums]]:
    """Return `w·x` (`[B]`) and the sums of levels `1 … level`, of a layer without pending decay."""

    def look_up(name: str, rows: tf.Tensor | None) -> tf.Tensor:
        return tf.cast(read_rows(layer.variable_of(name).value, rows), _DTYPE)

    sums = layer.sum_batch(batch, look_up, num_levels=level)
    linear = tf.zeros([batch.num_samples], _DTYPE) if sums.linear is None else sums.linear
    return linear, layer.form.level_sums(sums.tables, level)
