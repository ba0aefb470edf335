"""Inner products of item and context vectors are the scores of all pairs."""

from pathlib import Path
from typing import Any

import faiss
import keras
import numpy as np
import pytest
from exported_models import answer
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import KINDS, build_input, build_keras_input, large_random_layer, seen_by
from retrieval_models import (
    CONTEXTS,
    FOUR_LEVELS,
    ITEMS,
    LOGITS_LOSS,
    PLANS,
    assert_best,
    assert_scores,
)

import keras_rafm as kr
from keras_rafm.retrieval import context_vector, export_retrieval, item_matrix


@st.composite
def plans_and_lists(draw: st.DrawFn) -> tuple[kr.RankPlan, list, list]:
    ranks = sorted(draw(st.sets(st.integers(1, 6), min_size=1, max_size=4)))
    levels = draw(st.lists(st.integers(1, len(ranks)), min_size=1, max_size=8))
    occurrence = st.tuples(st.integers(0, len(levels) - 1), st.floats(-3, 3, width=32))
    lists = st.lists(st.lists(occurrence, max_size=4), min_size=1, max_size=4)
    return kr.RankPlan(levels, ranks), draw(lists), draw(lists)


class TestVectors:
    @settings(max_examples=40)
    @given(plans_and_lists(), st.sampled_from(KINDS), st.sampled_from(KINDS), st.integers(0, 2), st.integers(0, 1000))
    def test_any_plan_and_any_input(self, drawn: tuple, kind: str, other: str, num_padding: int, seed: int) -> None:
        plan, contexts, items = drawn
        contexts, items = seen_by(kind, contexts), seen_by(other, items)
        layer = large_random_layer(plan, seed)
        of_contexts = build_input(kind, contexts, plan.num_features, "int32", num_padding, seed)
        of_items = build_input(other, items, plan.num_features, "int64", num_padding, seed)
        for level in (None, 1 + seed % len(plan.ranks)):
            matrix, vectors = item_matrix(layer, of_items, level=level), context_vector(layer, of_contexts, level=level)
            assert matrix.dtype == vectors.dtype == np.float32
            assert_scores(vectors @ matrix.T, layer, contexts, items, level)

    @pytest.mark.parametrize("name", PLANS)
    def test_width(self, name: str) -> None:
        plan, width, low_width = PLANS[name]
        layer = large_random_layer(plan)
        items, contexts = (build_input("dense_values", lists, 6) for lists in (ITEMS, CONTEXTS))
        for level, expected in ((None, width), (1, low_width)):
            matrix = item_matrix(layer, items, level=level)
            assert matrix.shape == (len(ITEMS), expected + 2)
            assert_scores(context_vector(layer, contexts, level=level) @ matrix.T, layer, CONTEXTS, ITEMS, level)

    @pytest.mark.parametrize("num_items", [0, 1])
    def test_few_items(self, num_items: int) -> None:
        layer = large_random_layer(FOUR_LEVELS)
        matrix = item_matrix(layer, np.zeros((num_items, 2), "int32"))
        vectors = context_vector(layer, np.full((1, 1), 2))
        assert_scores(vectors @ matrix.T, layer, [[(2, 1.0)]], [[(0, 1.0), (0, 1.0)]] * num_items)

    def test_lists_are_summed_in_groups(self, monkeypatch: pytest.MonkeyPatch) -> None:
        layer = large_random_layer(FOUR_LEVELS)
        expected = [item_matrix(layer, build_input(kind, ITEMS, 6)) for kind in KINDS]
        monkeypatch.setattr("keras_rafm.retrieval.vectors._LISTS_AT_ONCE", 4)
        for kind, whole in zip(KINDS, expected, strict=True):
            np.testing.assert_allclose(item_matrix(layer, build_input(kind, ITEMS, 6)), whole, rtol=1e-6, atol=1e-6)

    @pytest.mark.parametrize(
        "options", [{"dtype": "float64"}, {"dtype": "mixed_float16"}, {"use_linear": False}, {"use_bias": False}], ids=str
    )
    def test_options_of_the_layer(self, options: dict[str, Any]) -> None:
        layer = large_random_layer(FOUR_LEVELS, **options)
        items, contexts = (build_input("ragged_values", lists, 6) for lists in (ITEMS, CONTEXTS))
        assert_scores(context_vector(layer, contexts) @ item_matrix(layer, items).T, layer, CONTEXTS, ITEMS)

    @pytest.mark.parametrize("kind", KINDS)
    def test_models_of_every_kind_of_input(self, kind: str) -> None:
        layer = large_random_layer(FOUR_LEVELS)
        inputs = build_keras_input(kind, 6)
        model = keras.Model(inputs, layer(inputs))
        items = build_input(kind, ITEMS, 6)
        np.testing.assert_array_equal(item_matrix(model, items), item_matrix(layer, items))

    def test_forms_of_models_and_of_their_inputs(self) -> None:
        layer = large_random_layer(FOUR_LEVELS)
        ids, values = keras.Input((None,), dtype="int32", name="features"), keras.Input((None,), name="x")
        score = layer(ids)
        with_values = layer({"ids": ids, "values": values})
        some_ids, some_values = np.array([[0, 3, -1], [5, 5, 1]]), np.array([[1, 2, 0], [0.5, 1, -1]])
        both, alone = item_matrix(layer, {"ids": some_ids, "values": some_values}), item_matrix(layer, some_ids)
        forms = [
            (keras.Model(ids, score), some_ids, alone),
            (keras.Model(ids, score), some_ids.astype("int8"), alone),
            (keras.Model(ids, score), [some_ids], alone),
            (keras.Model(ids, score), some_ids.tolist(), alone),
            (keras.Model(ids, score), {"features": some_ids}, alone),
            (keras.Model({"features": ids}, score), {"features": some_ids.tolist()}, alone),
            (keras.Model(ids, keras.layers.Activation("sigmoid")(score)), {"ids": some_ids}, alone),
            (keras.Model(ids, keras.ops.sigmoid(score)), some_ids, alone),
            (keras.Sequential([ids, layer, keras.layers.Activation("sigmoid")]), some_ids, alone),
            (keras.Model([ids, values], with_values), [some_ids, some_values], both),
            (keras.Model({"features": ids, "x": values}, with_values), {"features": some_ids, "x": some_values}, both),
            (keras.Model([ids, values], with_values), {"ids": some_ids, "values": some_values}, both),
            (keras.Model([ids, values], with_values), some_ids, alone),
        ]
        for model, model_inputs, expected in forms:
            np.testing.assert_array_equal(item_matrix(model, model_inputs), expected)


class Trained:
    """A model trained on synthetic data. Fields 0 to 4 describe contexts, and fields 5 to 7 items."""

    def __init__(self) -> None:
        keras.utils.set_random_seed(0)
        data = kr.data.synthetic(6000, features_per_field=60)
        counts = kr.count_features(data.samples, data.num_features)
        ids = keras.Input((8,), dtype="int32", name="ids")
        plan = kr.RankPlan.from_counts(counts, ranks=(4, 16, 24), thresholds=(40, 400))
        # Without dense rows, some rows have pending decay at the end.
        self.layer = kr.RaFMLayer(plan, max_dense_rows=0)
        self.model = kr.RaFMModel(ids, self.layer(ids))
        self.model.compile(kr.optimizers.LazyAdam(0.02), LOGITS_LOSS)
        self.model.fit(data.samples.ids, data.samples.labels, batch_size=500, epochs=3, verbose=0)
        self.items = np.unique(data.samples.ids[:400, 5:], axis=0)
        self.contexts = data.samples.ids[:40, :5]

    def pairs(self) -> np.ndarray:
        contexts = np.repeat(self.contexts, len(self.items), axis=0)
        return np.concatenate([contexts, np.tile(self.items, (len(self.contexts), 1))], axis=1)

    def scores(self) -> np.ndarray:
        predicted = self.model.predict(self.pairs(), batch_size=4096, verbose=0)
        return predicted.reshape(len(self.contexts), len(self.items))


@pytest.fixture(scope="module")
def trained() -> Trained:
    return Trained()


class TestTrainedModel:
    def test_scores_are_those_of_predict(self, trained: Trained) -> None:
        vectors = context_vector(trained.model, trained.contexts)
        scores, expected = vectors @ item_matrix(trained.model, trained.items).T, trained.scores()
        assert np.std(expected) > 0.5
        np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)
        rows = np.argsort(-scores, axis=1, kind="stable")[:, :20]
        assert_best(rows, np.take_along_axis(scores, rows, axis=1), expected)

    @pytest.mark.parametrize("level", [1, 2, 3])
    def test_level_scores(self, trained: Trained, level: int) -> None:
        vectors = context_vector(trained.model, trained.contexts, level=level)
        scores = vectors @ item_matrix(trained.model, trained.items, level=level).T
        expected = trained.layer.level_scores(trained.pairs()).numpy()[:, level - 1].reshape(scores.shape)
        np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)

    def test_export(self, trained: Trained, tmp_path: Path) -> None:
        path = export_retrieval(trained.model, tmp_path / "m", trained.items, k=20)
        outputs = answer(path, "retrieve", ids=trained.contexts)
        assert_best(outputs["item_ids"], outputs["scores"], trained.scores())
        card = kr.serving.load_model_card(path)
        assert card["retrieval"] == {"items": len(trained.items), "k": 20, "width": 2 * 4 + 2 * 16 + 24}
        assert list(card["signatures"]) == ["retrieve"]
        assert set(card["signatures"]["retrieve"]["outputs"]) == {"item_ids", "scores", "probabilities"}

    def test_faiss_finds_the_best_items(self, trained: Trained) -> None:
        matrix = item_matrix(trained.model, trained.items)
        index = faiss.IndexFlatIP(matrix.shape[1])
        index.add(matrix)
        scores, rows = index.search(context_vector(trained.model, trained.contexts), 20)
        assert_best(rows, scores, trained.scores())
