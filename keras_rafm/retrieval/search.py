"""The best items for a context, in a graph: every item is scored.

Items are stored in tiles, as columns, the form in which a matrix product of few contexts with many items is fastest. A tile
is scored at a time and the best are kept, so memory for scores is bounded however many items and contexts there are.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_rafm.retrieval.vectors import Block, FeatureLists

# Together 64 MiB of scores. Tiles of this size take up to 1.1 of the time of one product of all items, smaller ones longer.
_MOST_IN_TILE = 2**17
_CONTEXTS_AT_ONCE = 2**7
_ALIGNED = 16  # a tile that begins at a multiple of 64 bytes is read where it is


class ItemIndex(tf.Module):
    """The vectors of items, and the search for the best of them.

    Args:
        lists: The features of the items, at least one item.
        blocks: The blocks of columns that vectors have. Those of items are stored multiplied by `scale`, which is what
            vectors of contexts are divided by.
        scale: A number.
    """

    def __init__(self, lists: FeatureLists, blocks: list[Block], scale: float) -> None:
        super().__init__(name="items")
        self.size = lists.size
        with tf.init_scope(), tf.device("CPU:0"):
            self._tiles = tf.Variable(_tiles(lists, blocks, scale), trainable=False, name="vectors")

    @property
    def width(self) -> int:
        """How long vectors are, without the 1 that contexts have at the end."""
        return int(self._tiles.shape[1]) - 1

    def best(self, contexts: tf.Tensor, k: int) -> tuple[tf.Tensor, tf.Tensor]:
        """The items with the largest inner products.

        Args:
            contexts: float32 `[B, width]`.
            k: How many, at most as many as there are.

        Returns:
            Inner products plus own scores of the items, float32 `[B, k]`, descending, and the numbers of the items,
            int32 `[B, k]`; of equal ones the lower number comes first.
        """
        vectors = tf.concat([contexts, tf.ones([tf.shape(contexts)[0], 1])], axis=1)
        tiles = self._tiles.value()

        def best_of_some(start: tf.Tensor, products: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, ...]:
            end = start + _CONTEXTS_AT_ONCE
            own_products, own_rows = _best_of_tiles(vectors[start:end], tiles, k)
            return end, tf.concat([products, own_products], axis=0), tf.concat([rows, own_rows], axis=0)

        _, products, rows = tf.while_loop(
            lambda start, *_: start < tf.shape(vectors)[0],
            best_of_some,
            [tf.constant(0), tf.zeros([0, k]), tf.zeros([0, k], tf.int32)],
            [tf.TensorShape([]), tf.TensorShape([None, k]), tf.TensorShape([None, k])],
            parallel_iterations=1,
        )
        # Where a context is not a number, any items are the best, even those that fill the last tile up.
        return products, tf.minimum(rows, self.size - 1)


def _best_of_tiles(vectors: tf.Tensor, tiles: tf.Tensor, k: int) -> tuple[tf.Tensor, tf.Tensor]:
    num_tiles, _, tile_size = tiles.shape

    def best_of_tile(tile: int | tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        products, rows = tf.math.top_k(tf.matmul(vectors, tiles[tile]), min(k, tile_size))
        return products, rows + tile * tile_size

    def with_tile(tile: tf.Tensor, products: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, ...]:
        own_products, own_rows = best_of_tile(tile)
        candidates = tf.concat([products, own_products], axis=1)
        products, places = tf.math.top_k(candidates, tf.minimum(k, tf.shape(candidates)[1]))
        return tile + 1, products, tf.gather(tf.concat([rows, own_rows], axis=1), places, batch_dims=1)

    best = best_of_tile(0)
    if num_tiles > 1:
        _, *best = tf.while_loop(
            lambda tile, *_: tile < num_tiles,
            with_tile,
            [tf.constant(1), *best],
            [tf.TensorShape([]), tf.TensorShape([None, None]), tf.TensorShape([None, None])],
            parallel_iterations=1,
        )
    products, rows = (tf.ensure_shape(tensor, [None, k]) for tensor in best)
    return products, rows


def _tiles(lists: FeatureLists, blocks: list[Block], scale: float) -> npt.NDArray[np.float32]:
    """The vectors of all items, float32 `[tiles, width + 1, items of a tile]`: their blocks, and then their own scores."""
    num_tiles = math.ceil(lists.size / _MOST_IN_TILE)
    tile_size = _ALIGNED * math.ceil(lists.size / (num_tiles * _ALIGNED))
    tiles = np.zeros((num_tiles, sum(block.width for block in blocks) + 1, tile_size), np.float32)
    # No item is as bad as those that fill up the last tile.
    tiles[:, -1] = np.finfo(np.float32).min
    for tile, vectors in enumerate(tiles):
        first = tile * tile_size
        for start, end, sums in lists.sums(first, min(first + tile_size, lists.size)):
            columns = [scale * block.of_item(sums.U, sums.T) for block in blocks]
            vectors[:, start - first : end - first] = np.concatenate([*columns, sums.own[:, np.newaxis]], axis=1).T
    return tiles
