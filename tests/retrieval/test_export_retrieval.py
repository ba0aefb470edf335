"""`export_retrieval`: answers of every kind of export without Keras, raw columns, versions."""

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from exported_models import Requests, answer, answers_without_keras
from oracle import Oracle, large_random_layer
from retrieval_models import (
    CONTEXT_IDS,
    FOUR_LEVELS,
    ITEM_COLUMNS,
    ITEM_IDS,
    LOGITS_LOSS,
    RAW_CONTEXTS,
    RAW_ITEMS,
    adapted_schema,
    assert_best,
    ids_model,
    raw_model,
    scores_of_raw_pairs,
)

import keras_rafm as kr
from keras_rafm.data import Schema
from keras_rafm.retrieval import export_retrieval

UNKNOWN_IDS = np.where(CONTEXT_IDS < 0, [[99, 6, 2**31 - 1]], CONTEXT_IDS)


def as_lists(ids: np.ndarray, values: np.ndarray | None = None) -> list:
    values = np.ones(ids.shape) if values is None else values
    return [[(int(i), float(x)) for i, x in zip(*row, strict=True) if i >= 0] for row in zip(ids, values, strict=True)]


def served_layer() -> kr.RaFMLayer:
    return large_random_layer(FOUR_LEVELS, seed=3)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The answers of each export by its name, and the expected scores of raw pairs by the name `expected`."""
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
    for name, (exported_model, items, options, requests) in exports.items():
        path = export_retrieval(exported_model, folder / name / "m", items, **options)
        # A SavedModel may be moved.
        path = path.rename(folder / f"moved {name}")
        exported[name] = Requests(str(path), "retrieve_raw" if name == "raw" else "retrieve", requests)
    answers: dict[str, Any] = dict(answers_without_keras(exported, folder)[0])
    answers["expected"] = scores_of_raw_pairs(model, schema)
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
        whole, unknown, one, none, no_features = served[name].outputs
        assert served[name].signatures == ["retrieve"]
        row_of = {item_id: row for row, item_id in enumerate(names)}
        rows = np.vectorize(row_of.__getitem__)(whole["item_ids"])
        assert rows.shape == (3, k)
        assert_best(rows, whole["scores"], self.expected(level))
        assert ("probabilities" in whole) == (name in ("ids", "low"))
        if "probabilities" in whole:
            np.testing.assert_allclose(whole["probabilities"], 1 / (1 + np.exp(-whole["scores"])), rtol=0, atol=1e-6)
        for outputs, count in ((one, 1), (unknown, 3), (none, 0), (no_features, 3)):
            assert {key: value.shape for key, value in outputs.items()} == dict.fromkeys(whole, (count, k))
        for outputs in (one, unknown):
            for key, value in outputs.items():
                expected = whole[key][: len(value)]
                if value.dtype == np.float32:
                    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5)
                else:
                    np.testing.assert_array_equal(value, expected)
        np.testing.assert_allclose(no_features["scores"][0], whole["scores"][2], rtol=1e-5, atol=1e-5)

    def test_values(self, served: dict[str, Any]) -> None:
        oracle = Oracle(served_layer(), FOUR_LEVELS)
        contexts, items = as_lists(CONTEXT_IDS, CONTEXT_IDS - 0.5), as_lists(ITEM_IDS, ITEM_IDS / 2)
        expected = np.array([[oracle.score([*context, *item]) for item in items] for context in contexts])
        for outputs in served["values"].outputs:
            assert_best(outputs["item_ids"], outputs["scores"], expected, tolerance=1e-4)

    def test_raw_columns(self, served: dict[str, Any]) -> None:
        whole, none = served["raw"].outputs
        expected = served["expected"]
        assert served["raw"].signatures == ["retrieve", "retrieve_raw"]
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
        outputs = answer(path, "retrieve_raw", **padded)
        assert_best(outputs["item_ids"], outputs["scores"], scores_of_raw_pairs(model, schema))
        kept = Schema.load(path / "assets.extra" / "schema")
        assert kept.get_config() == schema.get_config()
        # A server does not load the vocabularies of items.
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
            feeds = {signature.inputs[name].name: values for name, values in request.items()}
            outputs = session.run({name: info.name for name, info in signature.outputs.items()}, feeds)
        rows = np.searchsorted([b"a", b"b", b"c", b"d"], outputs["item_ids"].astype(bytes))
        assert_best(rows, outputs["scores"], scores_of_raw_pairs(model, schema))

    def test_versions(self, tmp_path: Path) -> None:
        model = ids_model(served_layer())
        paths = [export_retrieval(model, tmp_path / "m", ITEM_IDS, keep=2) for _ in range(3)]
        assert [path.name for path in paths] == ["1", "2", "3"]
        assert {entry.name for entry in (tmp_path / "m").iterdir()} == {"2", "3"}
        assert export_retrieval(model, tmp_path / "m", ITEM_IDS, version=7) == tmp_path / "m" / "7"
        with pytest.raises(FileExistsError, match="7 exists"):
            export_retrieval(model, tmp_path / "m", ITEM_IDS, version=7)
        assert [entry.name for entry in tmp_path.iterdir()] == ["m"]
