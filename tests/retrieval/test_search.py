"""The search of an exported retrieval model finds the best items, in tiles of items and of contexts."""

import math
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from exported_models import answer
from oracle import large_random_layer
from retrieval_models import (
    FOUR_LEVELS,
    assert_best,
    assert_scores,
    ids_model,
)

import keras_rafm as kr
from keras_rafm.retrieval import export_retrieval, search


class TestSearch:
    @pytest.mark.parametrize("k", [1, 7, 40, 100])
    @pytest.mark.parametrize("batch_size", [0, 1, 5, 8])
    def test_tiles_of_items_and_of_contexts(self, monkeypatch: pytest.MonkeyPatch, k: int, batch_size: int) -> None:
        """The result is the same with tiles of 16 items and with all 100 items in one tile."""
        layer = large_random_layer(FOUR_LEVELS)
        random = np.random.default_rng(0)
        lists = kr.retrieval.vectors.FeatureLists(layer, random.integers(-1, 6, (100, 3)), 4)
        contexts = tf.constant(random.normal(size=(batch_size, 17)), tf.float32)
        whole = search.ItemIndex(lists, lists.used_blocks(), 1.0)
        expected = [tensor.numpy() for tensor in whole.best(contexts, k)]
        monkeypatch.setattr(search, "_MOST_IN_TILE", 16)
        monkeypatch.setattr(search, "_CONTEXTS_AT_ONCE", 4)
        tiled = search.ItemIndex(lists, lists.used_blocks(), 1.0)
        graph = tf.function(lambda x: tiled.best(x, k), autograph=False, input_signature=[tf.TensorSpec([None, 17])])
        products, rows = (tensor.numpy() for tensor in graph(contexts))
        assert products.shape == rows.shape == (batch_size, k)
        np.testing.assert_allclose(products, expected[0], rtol=1e-6, atol=1e-5)
        assert np.all((rows >= 0) & (rows < 100))
        assert all(len(set(row)) == k for row in rows.tolist())
        assert_best(rows, products, all_products(whole, contexts))

    @pytest.mark.parametrize("tile_size", [16, 2**17])
    def test_equal_items_are_in_their_order(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tile_size: int) -> None:
        monkeypatch.setattr(search, "_MOST_IN_TILE", tile_size)
        items = np.tile([[0, 1], [2, 3]], (40, 1))
        path = export_retrieval(ids_model(large_random_layer(FOUR_LEVELS)), tmp_path / "m", items, k=60)
        outputs = answer(path, "retrieve", ids=[[4], [5]])
        for rows, scores in zip(outputs["item_ids"], outputs["scores"], strict=True):
            assert np.unique(scores).size == 2
            first = rows[0]
            np.testing.assert_array_equal(rows[:40], np.arange(first, 80, 2))
            np.testing.assert_array_equal(rows[40:], np.arange(1 - first, 80, 2)[:20])

    @pytest.mark.parametrize("tile_size", [16, 2**17])
    def test_value_that_is_not_finite_affects_only_its_own_row(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tile_size: int
    ) -> None:
        monkeypatch.setattr(search, "_MOST_IN_TILE", tile_size)
        inputs = {"ids": keras.Input((None,), dtype="int32", name="ids"), "values": keras.Input((None,), name="values")}
        model = keras.Model(inputs, large_random_layer(FOUR_LEVELS)(inputs))
        names = [f"item {row}" for row in range(20)]
        path = export_retrieval(model, tmp_path / "m", np.arange(20)[:, np.newaxis] % 6, item_ids=names, k=20)
        values = [[1.0, 1.0], [math.nan, 1.0], [math.inf, 1.0]]
        outputs = answer(path, "retrieve", ids=[[0, 1]] * 3, values=values)
        assert np.all(np.isnan(outputs["scores"]) == [[False], [True], [True]])
        alone = answer(path, "retrieve", ids=[[0, 1]], values=values[:1])
        np.testing.assert_array_equal(outputs["item_ids"][:1], alone["item_ids"])
        assert set(outputs["item_ids"].ravel()) == {name.encode() for name in names}

    def test_blocks_of_levels_that_no_item_has_are_left_out(self, tmp_path: Path) -> None:
        """The features of level 4 are 0 and 4, of level 3: 2, of level 2: 3, of level 1: 1 and 5."""
        layer = large_random_layer(FOUR_LEVELS)
        model = ids_model(layer)
        contexts = [[(i, 1.0)] for i in range(6)]
        widths = [([[1], [5]], 1), ([[3], [4]], 1 + 2 + 2 + 3 + 5), ([[0], [4]], 1 + 2 + 3 + 5), ([[-1]], 0)]
        for items, width in widths:
            path = export_retrieval(model, tmp_path / "m", np.array(items))
            assert kr.serving.load_model_card(path)["retrieval"]["width"] == width
            outputs = answer(path, "retrieve", ids=[[i] for i in range(6)])
            in_order = np.take_along_axis(outputs["scores"], np.argsort(outputs["item_ids"], axis=1), axis=1)
            assert_scores(in_order, layer, contexts, [[(i, 1.0) for i in item if i >= 0] for item in items])


def all_products(index: search.ItemIndex, contexts: tf.Tensor) -> np.ndarray:
    """Return the products of each context with all items, in the order of the items."""
    products, rows = (tensor.numpy() for tensor in index.best(contexts, index.size))
    return np.take_along_axis(products, np.argsort(rows, axis=1), axis=1)
