"""Models, features and options that `keras_rafm.retrieval` refuses."""

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracle import build_keras_input
from retrieval_models import (
    FOUR_LEVELS,
    ITEM_COLUMNS,
    ITEM_IDS,
    RAW_CONTEXTS,
    RAW_ITEMS,
    adapted_schema,
    ids_model,
    raw_model,
)

import keras_rafm as kr
from keras_rafm.retrieval import context_vector, export_retrieval, item_matrix


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
            (computed_ids, "must take its ids and values from the inputs of .* Pass rafm itself"),
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
        ("features", "error", "message"),
        [
            (np.array([[0, 6]]), tf.errors.InvalidArgumentError, r"ids must be in \[0, 6\).* 6"),
            (np.array([[0, -2]]), tf.errors.InvalidArgumentError, r"-2"),
            (np.array([[0.5]]), TypeError, "float64"),
            (np.array([0, 1]), ValueError, r"\[batch, occurrences\]"),
            ({"item": ["a"]}, ValueError, r"the keys 'ids' and 'values'. Received: \['item'\]"),
            ({"ids": [[0]], "values": [[math.nan]]}, tf.errors.InvalidArgumentError, "finite"),
        ],
    )
    def test_bad_features(self, features: Any, error: type[Exception], message: str) -> None:
        inputs = build_keras_input("dense_values", 6)
        layer = kr.RaFMLayer(FOUR_LEVELS)
        for model in (layer, keras.Model(inputs, layer(inputs))):
            with pytest.raises(error, match=message):
                item_matrix(model, features)
            with pytest.raises(error, match=message):
                context_vector(model, features)

    def test_values_for_a_model_without_values(self) -> None:
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
            ({"items": ITEM_IDS[:0]}, ValueError, "`items` must have at least one item. Received: none"),
            ({"items": np.array([[7]])}, tf.errors.InvalidArgumentError, r"\[0, 6\)"),
            ({"item_ids": [1, 2]}, ValueError, r"of shape \(5,\). Received: shape \(2,\)"),
            ({"item_ids": np.arange(5.0)}, TypeError, "64-bit integers or strings. Received: dtype float64"),
            ({"item_ids": [1, None, 2, 3, 4]}, TypeError, "64-bit integers or strings. Received: dtype object"),
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
            (None, TypeError, "`item_columns` must be the names of the schema's columns that describe items"),
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
