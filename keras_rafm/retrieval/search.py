"""Search for the best items for a context, in a graph, by scoring every item.

Items are stored as the columns of tiles: in this form, the matrix product of few contexts with many items is fastest. Tiles
are scored one after the other, and only the best items are kept, so the memory for scores does not depend on the number of
items and contexts.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_rafm.retrieval.vectors import Block, FeatureLists

# Together 64 MiB of scores. Tiles of this size take up to 1.1 times as long as one product with all items; smaller tiles
# take longer.
_MOST_IN_TILE = 2**17
_CONTEXTS_AT_ONCE = 2**7
_ALIGNED = 16  # TensorFlow reads a tile without copying it if it begins at a multiple of 64 bytes


class ItemIndex(tf.Module):
    """The vectors of items, and the search for the best of them.

    Args:
        lists: The features of the items, at least one item.
        blocks: The blocks of columns of the vectors.
        scale: The factor that the blocks of items are multiplied by. Those of contexts must be divided by it.
    """

    def __init__(self, lists: FeatureLists, blocks: list[Block], scale: float) -> None:
        super().__init__(name="items")
        self.size = lists.size
        with tf.init_scope(), tf.device("CPU:0"):
            self._tiles = tf.Variable(_tiles(lists, blocks, scale), trainable=False, name="vectors")

    @property
    def width(self) -> int:
        """The length of context vectors, without the 1 at their end."""
        return int(self._tiles.shape[1]) - 1

    def best(self, contexts: tf.Tensor, k: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the items with the largest inner products.

        Args:
            contexts: The vectors of contexts: float32 `[B, width]`.
            k: How many items to return per context, at most the number of items.

        Returns:
            Inner products plus the scores of the items alone, float32 `[B, k]`, descending; and the positions of the
            items, int32 `[B, k]`. Of equal items, the lower position comes first.
        """
        vectors = tf.concat([contexts, tf.ones([tf.shape(contexts)[0], 1])], axis=1)
        tiles = self._tiles.value()

        def append_contexts(start: tf.Tensor, products: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, ...]:
            end = start + _CONTEXTS_AT_ONCE
            new_products, new_rows = _best_of_tiles(vectors[start:end], tiles, k)
            return end, tf.concat([products, new_products], axis=0), tf.concat([rows, new_rows], axis=0)

        _, products, rows = tf.while_loop(
            lambda start, *_: start < tf.shape(vectors)[0],
            append_contexts,
            [tf.constant(0), tf.zeros([0, k]), tf.zeros([0, k], tf.int32)],
            [tf.TensorShape([]), tf.TensorShape([None, k]), tf.TensorShape([None, k])],
            parallel_iterations=1,
        )
        # For a context with NaN any column may be the best, even a column of padding at the end of the last tile.
        return products, tf.minimum(rows, self.size - 1)


def _best_of_tiles(vectors: tf.Tensor, tiles: tf.Tensor, k: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the `k` largest products of each vector with the columns of all tiles, and the positions of the columns."""
    num_tiles, _, tile_size = tiles.shape

    def best_of_tile(tile: int | tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        products, rows = tf.math.top_k(tf.matmul(vectors, tiles[tile]), min(k, tile_size))
        return products, rows + tile * tile_size

    def merge_tile(tile: tf.Tensor, products: tf.Tensor, rows: tf.Tensor) -> tuple[tf.Tensor, ...]:
        new_products, new_rows = best_of_tile(tile)
        candidates = tf.concat([products, new_products], axis=1)
        products, positions = tf.math.top_k(candidates, tf.minimum(k, tf.shape(candidates)[1]))
        return tile + 1, products, tf.gather(tf.concat([rows, new_rows], axis=1), positions, batch_dims=1)

    best = best_of_tile(0)
    if num_tiles > 1:
        _, *best = tf.while_loop(
            lambda tile, *_: tile < num_tiles,
            merge_tile,
            [tf.constant(1), *best],
            [tf.TensorShape([]), tf.TensorShape([None, None]), tf.TensorShape([None, None])],
            parallel_iterations=1,
        )
    products, rows = (tf.ensure_shape(tensor, [None, k]) for tensor in best)
    return products, rows


def _tiles(lists: FeatureLists, blocks: list[Block], scale: float) -> npt.NDArray[np.float32]:
    """Return the vectors of all items, their blocks and then their scores: float32 `[tiles, width + 1, items per tile]`."""
    num_tiles = math.ceil(lists.size / _MOST_IN_TILE)
    tile_size = _ALIGNED * math.ceil(lists.size / (num_tiles * _ALIGNED))
    tiles = np.zeros((num_tiles, sum(block.width for block in blocks) + 1, tile_size), np.float32)
    # The columns of padding at the end of the last tile score lower than any item.
    tiles[:, -1] = np.finfo(np.float32).min
    for tile, vectors in enumerate(tiles):
        first = tile * tile_size
        for start, end, sums in lists.sums(first, min(first + tile_size, lists.size)):
            columns = [scale * block.of_item(sums.U, sums.T) for block in blocks]
            vectors[:, start - first : end - first] = np.concatenate([*columns, sums.scores[:, np.newaxis]], axis=1).T
    return tiles
