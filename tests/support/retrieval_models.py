"""Models, items and contexts for tests of `keras_rafm.retrieval`, and checks of scores and best items."""

from typing import Any

import keras
import numpy as np
from oracle import Oracle

import keras_rafm as kr
from keras_rafm.data import Schema

RELATIVE = 1e-5
LOGITS_LOSS = keras.losses.BinaryCrossentropy(from_logits=True)
#: Names -> (plan, width of the vectors of its highest level, width of those of its lowest level).
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
#: Both have features of all levels, repeated features, empty lists, and negative values; items have a value of 0 too.
ITEMS = [[(0, 0.5), (1, -2.0)], [(2, 1.0)], [], [(3, 3.0), (4, -0.25), (5, 1.5)], [(0, 1.0), (0, -2.0)], [(5, 0.0)]]
CONTEXTS = [[(4, 1.0), (2, -1.0), (1, 0.5)], [], [(0, 2.0), (5, 1.0), (3, -1.0), (3, 0.5)]]
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
ITEM_IDS = np.array([[0, 1], [2, -1], [-1, -1], [3, 4], [5, 5]])
CONTEXT_IDS = np.array([[4, 2, 1], [0, 0, -1], [-1, -1, -1]])


def assert_scores(scores: np.ndarray, layer: kr.RaFMLayer, contexts: list, items: list, level: int | None = None) -> None:
    """Scores `[contexts, items]` equal those of a double loop over all pairs of occurrences."""
    oracle = Oracle(layer, layer.plan)
    pairs = [[*context, *item] for context in contexts for item in items]
    expected = np.array([oracle.score(pair, level) for pair in pairs]).reshape(len(contexts), len(items))
    error, allowed = np.abs(scores - expected), RELATIVE * oracle.magnitudes(pairs).reshape(expected.shape)
    assert np.all(error <= allowed), f"{scores} instead of {expected}: off by {error}, allowed are {allowed}"


def assert_best(rows: np.ndarray, scores: np.ndarray, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    """`rows` `[B, k]` are the best items in order, and `scores` their scores, given those of all items `[B, n]`."""
    best = -np.sort(-expected, axis=1)[:, : rows.shape[1]]
    np.testing.assert_allclose(scores, best, rtol=0, atol=tolerance)
    np.testing.assert_allclose(np.take_along_axis(expected, rows, axis=1), best, rtol=0, atol=tolerance)
    assert all(len(set(row)) == len(row) for row in rows.tolist())
    clear = np.all(np.diff(-np.sort(-expected, axis=1)) < -2 * tolerance, axis=1)
    np.testing.assert_array_equal(rows[clear], np.argsort(-expected[clear], axis=1)[:, : rows.shape[1]])


def ids_model(layer: kr.RaFMLayer, loss: Any = None, sigmoid: bool = False) -> kr.RaFMModel:
    ids = keras.Input((None,), dtype="int32", name="ids")
    score = layer(ids)
    model = kr.RaFMModel(ids, keras.layers.Activation("sigmoid")(score) if sigmoid else score)
    if loss is not None:
        model.compile("sgd", loss)
    return model


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
    items = {name: [values[i % 4] for i in range(12)] for name, values in RAW_ITEMS.items()}
    schema.adapt({**items, **RAW_CONTEXTS_FOR_ADAPT})
    return schema


def raw_model(schema: Schema) -> kr.RaFMModel:
    levels = 1 + np.arange(schema.num_features) % 3
    normal = keras.initializers.RandomNormal(stddev=0.5)
    inputs = schema.inputs()
    layer = kr.RaFMLayer(kr.RankPlan(levels, (2, 3, 4)), factors_initializer=normal, linear_initializer=normal, seed=1)
    model = kr.RaFMModel(inputs, layer(inputs))
    model.compile("sgd", LOGITS_LOSS)
    return model


def scores_of_raw_pairs(model: kr.RaFMModel, schema: Schema) -> np.ndarray:
    """Return the scores of all contexts with all items: `[3, 4]`."""
    pairs = {name: [value for value in values for _ in range(4)] for name, values in RAW_CONTEXTS.items()}
    pairs.update({name: values * 3 for name, values in RAW_ITEMS.items()})
    return model(schema(pairs)).numpy().reshape(3, 4)
