"""Retrieval: inner products are the scores of all pairs, and the exported search finds the best items without Keras."""

import math
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import faiss
import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import KINDS, Oracle, build_input, build_keras_input, large_random_layer, seen_by

import keras_rafm as kr
from keras_rafm.data import Schema
from keras_rafm.retrieval import context_vector, export_retrieval, item_matrix, search

RELATIVE = 1e-5
LOGITS_LOSS = keras.losses.BinaryCrossentropy(from_logits=True)
#: name -> (plan, width of the vectors of its highest level, and of its lowest)
PLANS = {
    "one level": (kr.RankPlan([1] * 6, (3,)), 3, 3),
    "two levels": (kr.RankPlan([2, 1, 2, 1, 1, 2], (2, 4)), 2 + 2 + 4, 2),
    "four levels": (kr.RankPlan([4, 1, 3, 2, 4, 1], (1, 2, 3, 5)), 2 * (1 + 2 + 3) + 5, 1),
    "no feature in the low level": (kr.RankPlan([3, 2, 2, 3, 2, 3], (2, 3, 4)), 3 + 3 + 4, 2),
    "no feature in the middle level": (kr.RankPlan([1, 3, 1, 3, 3, 1], (2, 3, 4)), 2 + 2 + 4, 2),
    "no feature in the top level": (kr.RankPlan([2, 1, 1, 2, 1, 2], (2, 3, 4)), 2 + 2 + 3, 2),
    "all features in the top level": (kr.RankPlan([3] * 6, (2, 3, 4)), 4, 2),
    "all features in the low level": (kr.RankPlan([1] * 6, (2, 3, 4)), 2, 2),
}
FOUR_LEVELS = PLANS["four levels"][0]
#: Features of all levels on both sides, some twice, some missing, negative and zero values.
ITEMS = [[(0, 0.5), (1, -2.0)], [(2, 1.0)], [], [(3, 3.0), (4, -0.25), (5, 1.5)], [(0, 1.0), (0, -2.0)], [(5, 0.0)]]
CONTEXTS = [[(4, 1.0), (2, -1.0), (1, 0.5)], [], [(0, 2.0), (5, 1.0), (3, -1.0), (3, 0.5)]]


def assert_scores(found: np.ndarray, layer: kr.RaFMLayer, contexts: list, items: list, level: int | None = None) -> None:
    """`found` `[contexts, items]` is what a double loop over all pairs of occurrences gives."""
    oracle = Oracle(layer, layer.plan)
    pairs = [[*context, *item] for context in contexts for item in items]
    expected = np.array([oracle.score(pair, level) for pair in pairs]).reshape(len(contexts), len(items))
    error, allowed = np.abs(found - expected), RELATIVE * oracle.magnitudes(pairs).reshape(expected.shape)
    assert np.all(error <= allowed), f"{found} instead of {expected}: off by {error}, allowed are {allowed}"


def assert_best(rows: np.ndarray, scores: np.ndarray, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    """`rows` `[B, k]` are the best items in their order, given the scores of all (`[B, n]`), and `scores` are theirs."""
    best = -np.sort(-expected, axis=1)[:, : rows.shape[1]]
    np.testing.assert_allclose(scores, best, rtol=0, atol=tolerance)
    np.testing.assert_allclose(np.take_along_axis(expected, rows, axis=1), best, rtol=0, atol=tolerance)
    assert all(len(set(row)) == len(row) for row in rows.tolist())
    clear = np.all(np.diff(-np.sort(-expected, axis=1)) < -2 * tolerance, axis=1)
    np.testing.assert_array_equal(rows[clear], np.argsort(-expected[clear], axis=1)[:, : rows.shape[1]])


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

    def test_some_lists_at_a_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
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
        given_ids, given_values = np.array([[0, 3, -1], [5, 5, 1]]), np.array([[1, 2, 0], [0.5, 1, -1]])
        both, alone = item_matrix(layer, {"ids": given_ids, "values": given_values}), item_matrix(layer, given_ids)
        forms = [
            (keras.Model(ids, score), given_ids, alone),
            (keras.Model(ids, score), given_ids.astype("int8"), alone),
            (keras.Model(ids, score), [given_ids], alone),
            (keras.Model(ids, score), given_ids.tolist(), alone),
            (keras.Model(ids, score), {"features": given_ids}, alone),
            (keras.Model({"features": ids}, score), {"features": given_ids.tolist()}, alone),
            (keras.Model(ids, keras.layers.Activation("sigmoid")(score)), {"ids": given_ids}, alone),
            (keras.Model(ids, keras.ops.sigmoid(score)), given_ids, alone),
            (keras.Sequential([ids, layer, keras.layers.Activation("sigmoid")]), given_ids, alone),
            (keras.Model([ids, values], with_values), [given_ids, given_values], both),
            (keras.Model({"features": ids, "x": values}, with_values), {"features": given_ids, "x": given_values}, both),
            (keras.Model([ids, values], with_values), {"ids": given_ids, "values": given_values}, both),
            (keras.Model([ids, values], with_values), given_ids, alone),
        ]
        for model, given_inputs, expected in forms:
            np.testing.assert_array_equal(item_matrix(model, given_inputs), expected)


class Trained:
    """A model trained on synthetic data: fields 0 to 4 are of contexts, 5 to 7 of items."""

    def __init__(self) -> None:
        keras.utils.set_random_seed(0)
        drawn = kr.data.synthetic(6000, features_per_field=60)
        counts = kr.count_features(drawn.samples, drawn.num_features)
        ids = keras.Input((8,), dtype="int32", name="ids")
        plan = kr.RankPlan.from_counts(counts, ranks=(4, 16, 24), thresholds=(40, 400))
        # Tables are read by rows, so that decay waits on some of them at the end.
        self.layer = kr.RaFMLayer(plan, max_dense_rows=0)
        self.model = kr.RaFMModel(ids, self.layer(ids))
        self.model.compile(kr.optimizers.LazyAdam(0.02), LOGITS_LOSS)
        self.model.fit(drawn.samples.ids, drawn.samples.labels, batch_size=500, epochs=3, verbose=0)
        self.items = np.unique(drawn.samples.ids[:400, 5:], axis=0)
        self.contexts = drawn.samples.ids[:40, :5]

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
        answer = answer_of(path, ids=trained.contexts)
        assert_best(answer["item_ids"], answer["scores"], trained.scores())
        card = kr.serving.load_model_card(path)
        assert card["retrieval"] == {"items": len(trained.items), "k": 20, "width": 2 * 4 + 2 * 16 + 24}
        assert list(card["signatures"]) == ["retrieve"]
        assert set(card["signatures"]["retrieve"]["outputs"]) == {"item_ids", "scores", "probabilities"}

    def test_faiss_finds_the_same(self, trained: Trained) -> None:
        matrix = item_matrix(trained.model, trained.items)
        index = faiss.IndexFlatIP(matrix.shape[1])
        index.add(matrix)
        scores, rows = index.search(context_vector(trained.model, trained.contexts), 20)
        assert_best(rows, scores, trained.scores())


def answer_of(path: Path, signature: str = "retrieve", **request: Any) -> dict[str, np.ndarray]:
    loaded = tf.saved_model.load(str(path))
    serve = loaded.signatures[signature]
    specs = serve.structured_input_signature[1]
    answer = serve(**{name: tf.constant(values, specs[name].dtype) for name, values in request.items()})
    return {name: value.numpy() for name, value in answer.items()}


def ids_model(layer: kr.RaFMLayer, loss: Any = None, sigmoid: bool = False) -> kr.RaFMModel:
    ids = keras.Input((None,), dtype="int32", name="ids")
    score = layer(ids)
    made = kr.RaFMModel(ids, keras.layers.Activation("sigmoid")(score) if sigmoid else score)
    if loss is not None:
        made.compile("sgd", loss)
    return made


class TestSearch:
    @pytest.mark.parametrize("k", [1, 7, 40, 100])
    @pytest.mark.parametrize("batch_size", [0, 1, 5, 8])
    def test_tiles_of_items_and_of_contexts(self, monkeypatch: pytest.MonkeyPatch, k: int, batch_size: int) -> None:
        """Every tile of 16 is a matrix product, or all 100 items are one."""
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
    def test_of_equal_items_the_first_ones(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tile_size: int) -> None:
        monkeypatch.setattr(search, "_MOST_IN_TILE", tile_size)
        items = np.tile([[0, 1], [2, 3]], (40, 1))
        answer = answer_of(
            export_retrieval(ids_model(large_random_layer(FOUR_LEVELS)), tmp_path / "m", items, k=60), ids=[[4], [5]]
        )
        for rows, scores in zip(answer["item_ids"], answer["scores"], strict=True):
            assert np.unique(scores).size == 2
            first = rows[0]
            np.testing.assert_array_equal(rows[:40], np.arange(first, 80, 2))
            np.testing.assert_array_equal(rows[40:], np.arange(1 - first, 80, 2)[:20])

    @pytest.mark.parametrize("tile_size", [16, 2**17])
    def test_value_that_is_not_a_number_spoils_its_own_row(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tile_size: int
    ) -> None:
        monkeypatch.setattr(search, "_MOST_IN_TILE", tile_size)
        inputs = {"ids": keras.Input((None,), dtype="int32", name="ids"), "values": keras.Input((None,), name="values")}
        model = keras.Model(inputs, large_random_layer(FOUR_LEVELS)(inputs))
        names = [f"item {row}" for row in range(20)]
        path = export_retrieval(model, tmp_path / "m", np.arange(20)[:, np.newaxis] % 6, item_ids=names, k=20)
        values = [[1.0, 1.0], [math.nan, 1.0], [math.inf, 1.0]]
        answer = answer_of(path, ids=[[0, 1]] * 3, values=values)
        assert np.all(np.isnan(answer["scores"]) == [[False], [True], [True]])
        alone = answer_of(path, ids=[[0, 1]], values=values[:1])
        np.testing.assert_array_equal(answer["item_ids"][:1], alone["item_ids"])
        assert set(answer["item_ids"].ravel()) == {name.encode() for name in names}

    def test_blocks_of_levels_that_no_item_has_are_left_out(self, tmp_path: Path) -> None:
        """Features of level 4: 0 and 4, 3: 2, 2: 3, 1: 1 and 5."""
        layer = large_random_layer(FOUR_LEVELS)
        model = ids_model(layer)
        contexts = [[(i, 1.0)] for i in range(6)]
        widths = [([[1], [5]], 1), ([[3], [4]], 1 + 2 + 2 + 3 + 5), ([[0], [4]], 1 + 2 + 3 + 5), ([[-1]], 0)]
        for items, width in widths:
            path = export_retrieval(model, tmp_path / "m", np.array(items))
            assert kr.serving.load_model_card(path)["retrieval"]["width"] == width
            answer = answer_of(path, ids=[[i] for i in range(6)])
            in_order = np.take_along_axis(answer["scores"], np.argsort(answer["item_ids"], axis=1), axis=1)
            assert_scores(in_order, layer, contexts, [[(i, 1.0) for i in item if i >= 0] for item in items])


def all_products(index: search.ItemIndex, contexts: tf.Tensor) -> np.ndarray:
    products, rows = (tensor.numpy() for tensor in index.best(contexts, index.size))
    return np.take_along_axis(products, np.argsort(rows, axis=1), axis=1)


def adapted_schema() -> Schema:
    schema = Schema(
        {
            "item": "string_categorical",
            "user": "string_categorical",
            "genres": Schema.string_categorical(separator="|", combiner="mean"),
            "age": Schema.float_discretized(3, missing="category"),
            "visited": Schema.integer_categorical(multivalued=True, missing="ignore"),
            "price": Schema.float("standard"),
        },
        label="y",
    )
    schema.adapt({**{name: [own[i % 4] for i in range(12)] for name, own in RAW_ITEMS.items()}, **RAW_CONTEXTS_FOR_ADAPT})
    return schema


RAW_ITEMS: dict[str, list[Any]] = {
    "item": ["a", "b", "c", "never seen"],
    "genres": ["jazz|folk", "rock", "", "folk"],
    "price": [1.0, 5.0, float("nan"), -2.0],
}
RAW_CONTEXTS: dict[str, list[Any]] = {
    "user": ["ann", "", "new"],
    "age": [20.0, float("nan"), 60.0],
    "visited": [[3, 5], [], [77, 3]],
}
RAW_CONTEXTS_FOR_ADAPT = {
    "user": ["ann", "bob", "cy"] * 4,
    "age": [20.0, 33.0, 60.0, float("nan")] * 3,
    "visited": [[3, 5], [], [5]] * 4,
}
ITEM_COLUMNS = ["price", "item", "genres"]


def raw_model(schema: Schema) -> kr.RaFMModel:
    levels = 1 + np.arange(schema.num_features) % 3
    normal = keras.initializers.RandomNormal(stddev=0.5)
    inputs = schema.inputs()
    layer = kr.RaFMLayer(kr.RankPlan(levels, (2, 3, 4)), factors_initializer=normal, linear_initializer=normal, seed=1)
    made = kr.RaFMModel(inputs, layer(inputs))
    made.compile("sgd", LOGITS_LOSS)
    return made


def scores_of_raw_pairs(model: kr.RaFMModel, schema: Schema) -> np.ndarray:
    pairs = {name: [own for own in values for _ in range(4)] for name, values in RAW_CONTEXTS.items()}
    pairs.update({name: values * 3 for name, values in RAW_ITEMS.items()})
    return model(schema(pairs)).numpy().reshape(3, 4)


#: Serves without Keras and without this package. An import of a module that is `None` in `sys.modules` fails.
SERVER = """
import pickle, sys
sys.modules["keras"] = sys.modules["keras_rafm"] = None
import tensorflow as tf
with open(sys.argv[1], "rb") as file:
    exported = pickle.load(file)
answers = {}
for name, (path, signature, requests) in exported.items():
    loaded = tf.saved_model.load(path)
    serve = loaded.signatures[signature]
    specs = serve.structured_input_signature[1]
    answers[name] = [sorted(loaded.signatures)] + [
        {k: v.numpy() for k, v in serve(**{k: tf.constant(v, specs[k].dtype) for k, v in request.items()}).items()}
        for request in requests
    ]
assert sys.modules["keras"] is None and sys.modules["keras_rafm"] is None
with open(sys.argv[1], "wb") as file:
    pickle.dump(answers, file)
"""

ITEM_IDS = np.array([[0, 1], [2, -1], [-1, -1], [3, 4], [5, 5]])
CONTEXT_IDS = np.array([[4, 2, 1], [0, 0, -1], [-1, -1, -1]])
UNKNOWN_IDS = np.where(CONTEXT_IDS < 0, [[99, 6, 2**31 - 1]], CONTEXT_IDS)


def as_lists(ids: np.ndarray, values: np.ndarray | None = None) -> list:
    values = np.ones(ids.shape) if values is None else values
    return [[(int(i), float(x)) for i, x in zip(*row, strict=True) if i >= 0] for row in zip(ids, values, strict=True)]


def served_layer() -> kr.RaFMLayer:
    return large_random_layer(FOUR_LEVELS, seed=3)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Name of an export -> its signatures, then its answers."""
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("retrieval")
    of_ids = [{"ids": ids} for ids in (CONTEXT_IDS, UNKNOWN_IDS, CONTEXT_IDS[:1], CONTEXT_IDS[:0], CONTEXT_IDS[:, :0])]
    values = keras.Input((None,), name="x")
    ids = keras.Input((None,), dtype="int64", name="features")
    with_values = keras.Model([ids, values], served_layer()({"ids": ids, "values": values}))
    schema = adapted_schema()
    model = raw_model(schema)
    padded = {**RAW_CONTEXTS, "visited": [[3, 5], [-(2**63)] * 2, [77, 3]]}
    none = {"user": np.zeros(0, str), "age": [], "visited": np.zeros((0, 0))}
    frame = pd.DataFrame(RAW_ITEMS)
    exports = {
        "ids": (ids_model(served_layer(), LOGITS_LOSS), ITEM_IDS, {"k": 3}, of_ids),
        "one": (ids_model(served_layer(), "mse"), ITEM_IDS, {"k": 1, "item_ids": [7, -3, 2**60, 0, 5]}, of_ids),
        "all": (ids_model(served_layer()), ITEM_IDS, {"item_ids": pd.Series(list("abcdé"))}, of_ids),
        "low": (ids_model(served_layer(), "binary_crossentropy", sigmoid=True), ITEM_IDS, {"level": 1}, of_ids),
        "values": (
            with_values,
            {"ids": ITEM_IDS, "values": ITEM_IDS / 2},
            {},
            [{"ids": CONTEXT_IDS, "values": CONTEXT_IDS - 0.5}, {"ids": UNKNOWN_IDS, "values": UNKNOWN_IDS - 0.5}],
        ),
        "raw": (model, frame, {"schema": schema, "item_columns": ITEM_COLUMNS}, [padded, none]),
    }
    exported = {}
    for name, (made, items, options, requests) in exports.items():
        path = export_retrieval(made, folder / name / "m", items, **options)
        # A SavedModel may be moved.
        path = path.rename(folder / f"moved {name}")
        exported[name] = (str(path), "retrieve_raw" if name == "raw" else "retrieve", requests)
    exchange = folder / "exchange.pickle"
    exchange.write_bytes(pickle.dumps(exported))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", SERVER, str(exchange)]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    answers: dict[str, Any] = pickle.loads(exchange.read_bytes())
    answers["raw"].append(scores_of_raw_pairs(model, schema))
    return answers


class TestServing:
    def expected(self, level: int | None = None) -> np.ndarray:
        oracle = Oracle(served_layer(), FOUR_LEVELS)
        lists = as_lists(CONTEXT_IDS), as_lists(ITEM_IDS)
        return np.array([[oracle.score([*context, *item], level) for item in lists[1]] for context in lists[0]])

    @pytest.mark.parametrize(
        ("name", "k", "level", "names"),
        [
            ("ids", 3, None, range(5)),
            ("one", 1, None, [7, -3, 2**60, 0, 5]),
            ("all", 5, None, [letter.encode() for letter in "abcdé"]),
            ("low", 5, 1, range(5)),
        ],
    )
    def test_best_items(self, served: dict[str, Any], name: str, k: int, level: int | None, names: Any) -> None:
        signatures, whole, unknown, one, none, no_features = served[name]
        assert signatures == ["retrieve"]
        row_of = {own: row for row, own in enumerate(names)}
        rows = np.vectorize(row_of.__getitem__)(whole["item_ids"])
        assert rows.shape == (3, k)
        assert_best(rows, whole["scores"], self.expected(level))
        assert ("probabilities" in whole) == (name in ("ids", "low"))
        if "probabilities" in whole:
            np.testing.assert_allclose(whole["probabilities"], 1 / (1 + np.exp(-whole["scores"])), rtol=0, atol=1e-6)
        for answer, count in ((one, 1), (unknown, 3), (none, 0), (no_features, 3)):
            assert {key: value.shape for key, value in answer.items()} == dict.fromkeys(whole, (count, k))
        for answer in (one, unknown):
            for key, value in answer.items():
                expected = whole[key][: len(value)]
                if value.dtype == np.float32:
                    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
                else:
                    np.testing.assert_array_equal(value, expected)
        np.testing.assert_allclose(no_features["scores"][0], whole["scores"][2], rtol=1e-5, atol=1e-5)

    def test_values(self, served: dict[str, Any]) -> None:
        _, *answers = served["values"]
        oracle = Oracle(served_layer(), FOUR_LEVELS)
        contexts, items = as_lists(CONTEXT_IDS, CONTEXT_IDS - 0.5), as_lists(ITEM_IDS, ITEM_IDS / 2)
        expected = np.array([[oracle.score([*context, *item]) for item in items] for context in contexts])
        for answer in answers:
            assert_best(answer["item_ids"], answer["scores"], expected, tolerance=1e-4)

    def test_raw_columns(self, served: dict[str, Any]) -> None:
        signatures, whole, none, expected = served["raw"]
        assert signatures == ["retrieve", "retrieve_raw"]
        assert np.std(expected, axis=1).min() > 0.1
        assert_best(whole["item_ids"], whole["scores"], expected)
        assert {key: value.shape for key, value in none.items()} == dict.fromkeys(whole, (0, 4))

    def test_encoded_items_and_contexts_with_a_schema(self, tmp_path: Path) -> None:
        schema = adapted_schema()
        model = raw_model(schema)
        nothing = {"user": [""] * 4, "age": [math.nan] * 4, "visited": [[]] * 4}
        encoded = {name: tensor.numpy() for name, tensor in schema({**RAW_ITEMS, **nothing}).items()}
        of_contexts = [i for name in RAW_CONTEXTS for i in schema.id_range(name)]
        encoded["ids"] = np.where(np.isin(encoded["ids"], of_contexts), -1, encoded["ids"])
        path = export_retrieval(model, tmp_path / "m", encoded, schema=schema, item_columns=ITEM_COLUMNS)
        padded = {**RAW_CONTEXTS, "visited": [[3, 5], [-(2**63)] * 2, [77, 3]]}
        answer = answer_of(path, "retrieve_raw", **padded)
        assert_best(answer["item_ids"], answer["scores"], scores_of_raw_pairs(model, schema))
        kept = Schema.load(path / "assets.extra" / "schema")
        assert kept.get_config() == schema.get_config()
        # The vocabularies of items are not among what a server loads.
        assert len(list((path / "assets").iterdir())) == 2

    def test_in_a_session(self, tmp_path: Path) -> None:
        """TF Serving restores variables and look-up tables by the names in the graph."""
        schema = adapted_schema()
        model = raw_model(schema)
        path = export_retrieval(
            model, tmp_path / "m", RAW_ITEMS, item_ids=list("abcd"), schema=schema, item_columns=ITEM_COLUMNS, k=2
        )
        request = {**RAW_CONTEXTS, "visited": [[3, 5], [-(2**63)] * 2, [77, 3]]}
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            signature = tf.compat.v1.saved_model.load(session, ["serve"], str(path)).signature_def["retrieve_raw"]
            fed = {signature.inputs[name].name: values for name, values in request.items()}
            answer = session.run({name: own.name for name, own in signature.outputs.items()}, fed)
        rows = np.searchsorted([b"a", b"b", b"c", b"d"], answer["item_ids"].astype(bytes))
        assert_best(rows, answer["scores"], scores_of_raw_pairs(model, schema))

    def test_versions(self, tmp_path: Path) -> None:
        model = ids_model(served_layer())
        paths = [export_retrieval(model, tmp_path / "m", ITEM_IDS, keep=2) for _ in range(3)]
        assert [path.name for path in paths] == ["1", "2", "3"]
        assert {entry.name for entry in (tmp_path / "m").iterdir()} == {"2", "3"}
        assert export_retrieval(model, tmp_path / "m", ITEM_IDS, version=7) == tmp_path / "m" / "7"
        with pytest.raises(FileExistsError, match="7 is there already"):
            export_retrieval(model, tmp_path / "m", ITEM_IDS, version=7)
        assert [entry.name for entry in tmp_path.iterdir()] == ["m"]


def wide_and_deep(layer: kr.RaFMLayer) -> keras.Model:
    ids = keras.Input((3,), dtype="int32", name="ids")
    tower = keras.layers.Dense(1)(keras.layers.Flatten()(keras.layers.Embedding(6, 2)(ids)))
    return keras.Model(ids, keras.layers.Add(name="sum")([layer(ids), tower]))


def two_layers(layer: kr.RaFMLayer) -> keras.Model:
    ids = keras.Input((3,), dtype="int32", name="ids")
    return keras.Model(ids, keras.layers.Add(name="sum")([layer(ids), kr.RaFMLayer(FOUR_LEVELS)(ids)]))


def two_outputs(layer: kr.RaFMLayer) -> keras.Model:
    ids = keras.Input((3,), dtype="int32", name="ids")
    score = layer(ids)
    return keras.Model(ids, [score, keras.layers.Activation("sigmoid")(score)])


def nested(layer: kr.RaFMLayer) -> keras.Model:
    ids = keras.Input((3,), dtype="int32", name="ids")
    return keras.Model(ids, keras.Model(ids, layer(ids), name="inner")(ids))


def other_activation(layer: kr.RaFMLayer) -> keras.Model:
    ids = keras.Input((3,), dtype="int32", name="ids")
    return keras.Model(ids, keras.layers.Activation("softplus", name="top")(layer(ids)))


def computed_ids(layer: kr.RaFMLayer) -> keras.Model:
    users, items = (keras.Input((2,), dtype="int32", name=name) for name in ("users", "items"))
    return keras.Model([users, items], layer(keras.ops.concatenate([users, items], axis=1)))


class TestErrors:
    @pytest.mark.parametrize(
        ("build", "message"),
        [
            (wide_and_deep, "one inner product of an item and a context. Received: the output of sum, a Add"),
            (two_layers, "Received: the output of sum, a Add"),
            (two_outputs, "must have one output, the score of a RaFMLayer. Received: 2"),
            (nested, "Received: the output of inner, a Functional"),
            (other_activation, "Received: the output of top, a Activation"),
            (computed_ids, "must take its ids and values from the inputs of .* Give rafm alone"),
        ],
    )
    def test_other_models(self, build: Any, message: str, tmp_path: Path) -> None:
        model = build(kr.RaFMLayer(FOUR_LEVELS, name="rafm"))
        for call in (item_matrix, context_vector):
            with pytest.raises(ValueError, match=message):
                call(model, ITEM_IDS)
        with pytest.raises(ValueError, match=message):
            export_retrieval(model, tmp_path / "m", ITEM_IDS)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("model", [None, keras.layers.Dense(1)], ids=["none", "layer"])
    def test_no_model(self, model: Any) -> None:
        with pytest.raises(TypeError, match=r"functional keras\.Model or a built Sequential"):
            item_matrix(model, ITEM_IDS)

    @pytest.mark.parametrize(
        ("given", "error", "message"),
        [
            (np.array([[0, 6]]), tf.errors.InvalidArgumentError, r"ids must be in \[0, 6\).* 6"),
            (np.array([[0, -2]]), tf.errors.InvalidArgumentError, r"-2"),
            (np.array([[0.5]]), TypeError, "float64"),
            (np.array([0, 1]), ValueError, r"\[batch, occurrences\]"),
            ({"item": ["a"]}, ValueError, r"the keys 'ids' and 'values'. Received: \['item'\]"),
            ({"ids": [[0]], "values": [[math.nan]]}, tf.errors.InvalidArgumentError, "finite"),
        ],
    )
    def test_bad_features(self, given: Any, error: type[Exception], message: str) -> None:
        inputs = build_keras_input("dense_values", 6)
        layer = kr.RaFMLayer(FOUR_LEVELS)
        for model in (layer, keras.Model(inputs, layer(inputs))):
            with pytest.raises(error, match=message):
                item_matrix(model, given)
            with pytest.raises(error, match=message):
                context_vector(model, given)

    def test_values_for_a_model_without(self) -> None:
        model = ids_model(kr.RaFMLayer(FOUR_LEVELS))
        with pytest.raises(ValueError, match="takes ids without values"):
            item_matrix(model, {"ids": ITEM_IDS, "values": ITEM_IDS})

    def test_ids_that_a_cast_would_change(self) -> None:
        with pytest.raises(tf.errors.InvalidArgumentError, match=str(2**32)):
            item_matrix(ids_model(kr.RaFMLayer(FOUR_LEVELS)), np.array([[2**32]]))

    def test_layer_without_weights(self) -> None:
        clone = kr.RaFMLayer.from_config(kr.RaFMLayer(FOUR_LEVELS).get_config())
        with pytest.raises(ValueError, match="Set its weights"):
            context_vector(clone, ITEM_IDS)

    @pytest.mark.parametrize("level", [0, 5])
    def test_no_such_level(self, level: int, tmp_path: Path) -> None:
        layer = kr.RaFMLayer(FOUR_LEVELS)
        message = rf"`level` must be in 1 … 4. Received: level={level}"
        with pytest.raises(ValueError, match=message):
            item_matrix(layer, ITEM_IDS, level=level)
        with pytest.raises(ValueError, match=message):
            export_retrieval(ids_model(layer), tmp_path / "m", ITEM_IDS, level=level)

    @pytest.mark.parametrize(
        ("options", "error", "message"),
        [
            ({"k": 0}, ValueError, "`k` must be at least 1. Received: k=0"),
            ({"k": 1.5}, TypeError, "`k` must be an integer"),
            ({"items": ITEM_IDS[:0]}, ValueError, "`items` must be at least one. Received: none"),
            ({"items": np.array([[7]])}, tf.errors.InvalidArgumentError, r"\[0, 6\)"),
            ({"item_ids": [1, 2]}, ValueError, r"of shape \(5,\). Received: shape \(2,\)"),
            ({"item_ids": np.arange(5.0)}, TypeError, "integers of 64 bits or strings. Received: dtype float64"),
            ({"item_ids": [1, None, 2, 3, 4]}, TypeError, "integers of 64 bits or strings. Received: dtype object"),
            ({"item_ids": np.full(5, 2**63, "uint64")}, TypeError, "Received: dtype uint64, 9223372036854775808, …"),
            ({"item_columns": ["item"]}, ValueError, "columns of a schema. Received: no schema"),
            ({"keep": 0}, ValueError, "`keep` must be at least 1"),
            ({"version": -1}, ValueError, "`version` must be at least 0"),
        ],
        ids=str,
    )
    def test_bad_options(self, options: dict[str, Any], error: type[Exception], message: str, tmp_path: Path) -> None:
        model = ids_model(kr.RaFMLayer(FOUR_LEVELS))
        with pytest.raises(error, match=message):
            export_retrieval(model, tmp_path / "m", **{"items": ITEM_IDS, **options})
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("item_columns", "error", "message"),
        [
            (None, TypeError, "`item_columns` must be the names of those columns of the schema that are of items"),
            ("item", TypeError, "Received: 'item'"),
            ([], ValueError, r"Received: \[\]"),
            (["item", "colour"], ValueError, r"Received: \['item', 'colour'\]"),
            (list({**RAW_ITEMS, **RAW_CONTEXTS}), ValueError, "but not all"),
        ],
    )
    def test_bad_item_columns(self, item_columns: Any, error: type[Exception], message: str, tmp_path: Path) -> None:
        schema = adapted_schema()
        with pytest.raises(error, match=message):
            export_retrieval(raw_model(schema), tmp_path / "m", RAW_ITEMS, schema=schema, item_columns=item_columns)
        assert list(tmp_path.iterdir()) == []

    def test_schema_of_another_model(self, tmp_path: Path) -> None:
        schema = adapted_schema()
        with pytest.raises(ValueError, match=r"must have the inputs of schema\.inputs"):
            export_retrieval(
                ids_model(kr.RaFMLayer(FOUR_LEVELS)), tmp_path / "m", RAW_ITEMS, schema=schema, item_columns=ITEM_COLUMNS
            )

    def test_raw_items_without_a_column(self, tmp_path: Path) -> None:
        schema = adapted_schema()
        items = {"item": ["a"], "genres": ["jazz"]}
        with pytest.raises(ValueError, match="there is no column 'price'"):
            export_retrieval(raw_model(schema), tmp_path / "m", items, schema=schema, item_columns=ITEM_COLUMNS)
        assert list(tmp_path.iterdir()) == []
