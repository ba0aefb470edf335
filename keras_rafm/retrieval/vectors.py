"""Items and contexts as vectors whose inner product is the score.

Let an item and a context have level sums `U_k`, `T_k` each (see `score.interactions`). The level sums of a sample with the
features of both are the sums of these. So in `c_k = ½|U_k|² + U_k·T_k − ½ Σ_{k_i = k} x_i²|v_i^(k)|²` the terms that join
item and context are

    U_k(item)·(U_k + T_k)(context) + T_k(item)·U_k(context)

These are all pairs of a feature of the item with one of the context, each at the rank of the lower of their levels. So a
level has two blocks of `D_k` columns. A feature of an item is in the first block of its level, where it meets the features
of a context of this level or above. It is also in the second block of every lower level, where it meets the features of
exactly that level. Blocks without such pairs are left out: the second block of the last level, and both blocks of a level
without features. After the blocks, an item has its score alone, without `b`, and 1; a context has 1, and its score alone.

For the scores `ŷ_k`, the level of a feature is `min(k_i, k)`, and `U_k + T_k` takes the place of `U_k`.
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
_DTYPE = "float64"  # the dtype of sums


class Block(NamedTuple):
    """A block of columns.

    Attributes:
        level: `k`.
        is_dependent: Whether it is the second block of the level, with `T_k` of items and `U_k` of contexts. The first
            block has `U_k` of items and `U_k + T_k` of contexts.
        width: `D_k`.
    """

    level: int
    is_dependent: bool
    width: int

    def of_item(self, U: Sequence[Any], T: Sequence[Any]) -> Any:
        """Return the columns of items, `[B, D_k]`, from their level sums at all levels."""
        return (T if self.is_dependent else U)[self.level - 1]

    def of_context(self, U: Sequence[Any], T: Sequence[Any]) -> Any:
        """Return the columns of contexts, `[B, D_k]`, from their level sums. `None` stands for a `T_k` of zeros."""
        free, dependent = U[self.level - 1], T[self.level - 1]
        return free if self.is_dependent or dependent is None else free + dependent


class Sums(NamedTuple):
    """The level sums and scores of some lists of features, float64.

    Attributes:
        U: `U_k` of the levels, `[B, D_k]` each.
        T: `T_k` of the levels, `[B, D_k]` each; `None` for the last.
        scores: The score of each list alone, without `b`: `[B]`.
    """

    U: list[npt.NDArray[np.float64]]
    T: list[npt.NDArray[np.float64] | None]
    scores: npt.NDArray[np.float64]


class FeatureLists:
    """Lists of features, one per item or one per context.

    Args:
        layer: The layer.
        inputs: The lists, in any form that the layer takes.
        level: `k` of the scores `ŷ_k`.

    Raises:
        TypeError, ValueError, tf.errors.InvalidArgumentError: The layer does not take such inputs.
    """

    def __init__(self, layer: RaFMLayer, inputs: Any, level: int) -> None:
        layer.require_slots()
        settle(layer.variables)
        self._layer, self._level = layer, level
        self._occurrences = occurrences(inputs, layer.num_features, _DTYPE, where=layer.name)
        self._samples = self._occurrences.samples.numpy()
        self.size = int(self._occurrences.num_samples)

    def sums(self, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int, Sums]]:
        """Yield the sums of the lists in groups: the start of a group, its end (exclusive), and its sums."""
        end = self.size if end is None else end
        for first in range(start, end, _LISTS_AT_ONCE):
            last = min(first + _LISTS_AT_ONCE, end)
            yield first, last, self._sums(first, last)

    def used_blocks(self) -> list[Block]:
        """Return the blocks in which any of the lists, as items, may have columns other than zeros."""
        ids = self._occurrences.ids
        # Ids out of range are left out here: summing them raises an error.
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
            self._occurrences._replace(
                samples=self._occurrences.samples[first:last] - start,
                ids=self._occurrences.ids[first:last],
                values=None if self._occurrences.values is None else self._occurrences.values[first:last],
                num_samples=tf.constant(end - start, tf.int64),
            ),
            self._level,
        )
        scores = interactions.level_scores(linear, interactions.terms_of_levels(sums))[-1]
        U = [level_sums.free_sum.numpy() for level_sums in sums]
        T = [None if level_sums.dependent_sum is None else level_sums.dependent_sum.numpy() for level_sums in sums]
        if T[-1] is not None:
            U[-1], T[-1] = U[-1] + T[-1], None
        return Sums(U, T, scores.numpy())


def blocks_of(layer: RaFMLayer, level: int) -> list[Block]:
    """Return the blocks of the scores `ŷ_level`, in the order of their columns."""
    blocks = []
    for k, rank in enumerate(layer.ranks[:level], start=1):
        size, above = _slots_of_level(layer, k, level)
        if size > above:
            blocks.append(Block(k, False, rank))
            if above > 0:
                blocks.append(Block(k, True, rank))
    return blocks


def item_matrix(model: Any, items: Any, *, level: int | None = None) -> npt.NDArray[np.float32]:
    """Return items as vectors: `item_matrix(model, items) @ context_vector(model, contexts).T` are the scores.

    Args:
        model: A model whose output is the score of its only `RaFMLayer` or the sigmoid of that score, or the layer alone.
        items: The features of `n` items, without those of contexts, in any form that the model or its layer takes: ids
            `[n, F]` with −1 as padding, `{"ids": …, "values": …}`, ragged tensors, a `tf.SparseTensor`. `F` may be
            smaller than the model declares.
        level: `k`: scores are `ŷ_k`, with shorter vectors; 1 for "RaFM-low". Default: the highest.

    Returns:
        float32 `[n, width]`. The width depends only on the plan and the level: at most `2 + Σ_{k<m} 2 D_k + D_m`. Sums are
        computed in float64.

    Raises:
        TypeError: The model is neither functional nor a built Sequential nor a layer, or ids are not integers.
        RuntimeError: A model is given inside `strategy.scope()`.
        ValueError: The model has another kind of output, there is no such level, shapes do not fit, or the layer's
            weights have not been set.
        tf.errors.InvalidArgumentError: An id is outside `[0, num_features)` and not −1, or a value is not finite.
    """
    return _vectors(model, items, level, Block.of_item, lambda scores, bias: (scores, np.ones_like(scores)))


def context_vector(model: Any, contexts: Any, *, level: int | None = None) -> npt.NDArray[np.float32]:
    """Return contexts as vectors, for inner products with those of `item_matrix`.

    Args:
        model: The model of the `item_matrix`.
        contexts: The features of `n` contexts, such as users, in any form that `item_matrix` takes.
        level: The level of the `item_matrix`.

    Returns:
        float32 `[n, width]`.

    Raises:
        TypeError, RuntimeError, ValueError, tf.errors.InvalidArgumentError: See `item_matrix`.
    """
    return _vectors(model, contexts, level, Block.of_context, lambda scores, bias: (np.ones_like(scores), scores + bias))


def _vectors(
    model: Any,
    inputs: Any,
    level: int | None,
    columns_of: Callable[[Block, Any, Any], Any],
    last_columns: Callable[[npt.NDArray[np.float64], float], tuple[npt.NDArray[np.float64], ...]],
) -> npt.NDArray[np.float32]:
    """Return lists of features as vectors.

    Args:
        model: The model or layer.
        inputs: The lists.
        level: `k` of the scores `ŷ_k`.
        columns_of: Computes the columns of a block from level sums.
        last_columns: Computes the last two columns from the scores of the lists alone and `b`.
    """
    scorer: Scorer = scorer_of(model)
    k = scorer.checked_level(level)
    lists = FeatureLists(scorer.layer, scorer.layer_inputs(inputs), k)
    blocks = blocks_of(scorer.layer, k)
    matrix = np.empty((lists.size, sum(block.width for block in blocks) + 2), np.float32)
    for start, end, sums in lists.sums():
        columns = [columns_of(block, sums.U, sums.T) for block in blocks]
        columns += [column[:, np.newaxis] for column in last_columns(sums.scores, scorer.layer.bias())]
        np.concatenate(columns, axis=1, out=matrix[start:end], casting="same_kind")
    return matrix


def _slots_of_level(layer: RaFMLayer, k: int, highest: int) -> tuple[int, int]:
    """Return `|F_k|` and `|F_{k+1}|`, with every level capped at `highest`."""
    return layer.level_sizes[k - 1], layer.level_sizes[k] if k < highest else 0


def _level_sums(layer: RaFMLayer, batch: Occurrences, level: int) -> tuple[tf.Tensor, list[LevelSums]]:
    """Return `w·x` (`[B]`) and the sums of levels `1 … level`, of a layer without pending decay."""

    def look_up(name: str, rows: tf.Tensor | None) -> tf.Tensor:
        return tf.cast(read_rows(layer.variable_of(name).value, rows), _DTYPE)

    sums = layer.sum_batch(batch, look_up, num_levels=level)
    linear = tf.zeros([batch.num_samples], _DTYPE) if sums.linear is None else sums.linear
    return linear, layer.form.level_sums(sums.tables, level)
