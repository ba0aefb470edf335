"""Models with unusual graphs are exported correctly or refused."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from exported_models import answer
from tensorflow_serving.apis import prediction_log_pb2

import keras_rafm as kr
from keras_rafm.serving import load_model_card

pytestmark = pytest.mark.one_tensorflow

IDS = np.array([[0, 1, 2], [3, 3, 4], [4, 0, 1]], "int32")
OTHER_IDS = IDS[::-1].copy()
VALUES = np.array([[1, 0.5, -2], [2, -1, 0.25], [0.5, 3, 1]], "float32")
OTHER_VALUES = VALUES[:, ::-1].copy()
PLAN = kr.RankPlan([1, 2, 1, 2, 2], (2, 4))


def layer(seed: int = 1, **options: Any) -> kr.RaFMLayer:
    normal = keras.initializers.RandomNormal(stddev=0.5)
    return kr.RaFMLayer(PLAN, factors_initializer=normal, linear_initializer=normal, seed=seed, **options)


def ids_input(name: str = "ids") -> Any:
    return keras.Input((3,), dtype="int32", name=name)


def values_input(name: str = "w") -> Any:
    return keras.Input((3,), name=name)


def assert_scores(scores: np.ndarray, expected: Any) -> None:
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)
    assert np.std(scores) > 0.01


class TestValues:
    def test_one_layer_on_the_same_ids_with_other_values(self, tmp_path: Path) -> None:
        ids, w, v, shared = ids_input(), values_input("w"), values_input("v"), layer()
        both = [shared({"ids": ids, "values": w}), shared({"ids": ids, "values": v})]
        model = keras.Model([ids, w, v], keras.layers.Concatenate()(both))
        expected = model.predict([IDS, VALUES, OTHER_VALUES], verbose=0)
        outputs = answer(kr.export(model, tmp_path / "m"), ids=IDS, w=VALUES, v=OTHER_VALUES)
        assert_scores(outputs["score"], expected)

    @pytest.mark.parametrize("values_first", [False, True])
    def test_one_layer_with_and_without_values(self, tmp_path: Path, values_first: bool) -> None:
        ids, w, other, shared = ids_input(), values_input(), ids_input("other"), layer()
        if values_first:
            with_values, without = shared({"ids": ids, "values": w}), shared(other)
        else:
            without, with_values = shared(other), shared({"ids": ids, "values": w})
        for number, order in enumerate(([with_values, without], [without, with_values])):
            model = keras.Model([ids, w, other], keras.layers.Concatenate()(order))
            expected = model.predict([IDS, VALUES, OTHER_IDS], verbose=0)
            outputs = answer(kr.export(model, tmp_path / str(number)), ids=IDS, w=VALUES, other=OTHER_IDS)
            assert_scores(outputs["score"], expected)

    def test_one_layer_without_values_here_and_with_some_in_a_nested_model(self, tmp_path: Path) -> None:
        shared, inner_ids, inner_w = layer(), ids_input(), values_input()
        inner = keras.Model([inner_ids, inner_w], shared({"ids": inner_ids, "values": inner_w}))
        ids, w = ids_input(), values_input()
        model = keras.Model([ids, w], keras.layers.Add()([shared(ids), inner([ids, w])]))
        expected = model.predict([IDS, VALUES], verbose=0)
        assert_scores(answer(kr.export(model, tmp_path / "m"), ids=IDS, w=VALUES)["score"], expected)

    def test_computed_in_the_graph(self, tmp_path: Path) -> None:
        """Values that are computed from an input belong to no ids, so flat requests have that input padded."""
        ids, w = ids_input(), values_input()
        model = keras.Model([ids, w], layer()({"ids": ids, "values": keras.ops.abs(w)}))
        model.compile("sgd", "mse")
        path = kr.export(model, tmp_path / "m")
        expected = model.predict([IDS, VALUES], verbose=0)
        assert_scores(answer(path, ids=IDS, w=VALUES)["score"], expected)
        assert_scores(answer(path, "ragged", ids=IDS.ravel(), row_splits=[0, 3, 6, 9], w=VALUES)["score"], expected)

    def test_computed_from_another_score(self, tmp_path: Path) -> None:
        """A model cut off at a level has other values too."""
        ids, first_ids = ids_input(), keras.Input((3,), dtype="int32", name="first")
        first = layer(2)(first_ids)
        model = keras.Model([first_ids, ids], layer(1)({"ids": ids, "values": keras.ops.repeat(first, 3, axis=1)}))
        path = kr.export(model, tmp_path / "m")
        request = {"ids": IDS, "first": OTHER_IDS}
        levels = answer(path, "level_scores", **request)["level_scores"]
        assert_scores(levels[:, 1:], answer(path, **request)["score"])
        assert_scores(levels[:, :1], answer(path, "low", **request)["score"])
        assert_scores(levels[:, 1:], model.predict([OTHER_IDS, IDS], verbose=0))
        assert np.max(np.abs(levels[:, 1] - levels[:, 0])) > 0.01


class TestNames:
    def test_other_input_that_is_called_ids(self, tmp_path: Path) -> None:
        features, ids = ids_input("features"), ids_input("ids")
        embedded = keras.layers.Flatten()(keras.layers.Embedding(5, 2)(ids))
        model = keras.Model([features, ids], keras.layers.Add()([layer()(features), keras.layers.Dense(1)(embedded)]))
        path = kr.export(model, tmp_path / "m")
        expected = model.predict([IDS, OTHER_IDS], verbose=0)
        assert_scores(answer(path, features=IDS, ids=OTHER_IDS)["score"], expected)
        flat = answer(path, "ragged", features=IDS.ravel(), features_row_splits=[0, 3, 6, 9], ids=OTHER_IDS)
        assert_scores(flat["score"], expected)

    def test_values_that_belong_to_two_inputs_of_ids(self, tmp_path: Path) -> None:
        user, item, w = ids_input("user"), ids_input("item"), values_input()
        both = [layer(1)({"ids": user, "values": w}), layer(2)({"ids": item, "values": w})]
        model = keras.Model([user, item, w], keras.layers.Add()(both))
        path = kr.export(model, tmp_path / "m")
        inputs = load_model_card(path)["signatures"]["serving_default"]["inputs"]
        assert list(inputs) == ["user", "item", "w"]
        assert "ragged" not in load_model_card(path)["signatures"]
        expected = model.predict([IDS, OTHER_IDS, VALUES], verbose=0)
        assert_scores(answer(path, user=IDS, item=OTHER_IDS, w=VALUES)["score"], expected)

    @pytest.mark.parametrize("name", ["user-age", "1st", "class", "self", "a.b"])
    def test_names_that_a_signature_cannot_have(self, tmp_path: Path, name: str) -> None:
        ids, age = ids_input(), keras.Input((1,), name=name)
        model = keras.Model([ids, age], keras.layers.Add()([layer()(ids), age]))
        with pytest.raises(
            ValueError, match=rf"inputs of an exported model must have distinct names .*Received: \['{name}'\]"
        ):
            kr.export(model, tmp_path / "m")
        assert list(tmp_path.iterdir()) == []

    def test_outputs_of_one_layer(self, tmp_path: Path) -> None:
        user, item, shared = ids_input("user"), ids_input("item"), layer()
        model = keras.Model([user, item], [shared(user), shared(item)])
        outputs = answer(kr.export(model, tmp_path / "m"), user=IDS, item=OTHER_IDS)
        expected = model.predict([IDS, OTHER_IDS], verbose=0)
        assert set(outputs) == {f"score_{shared.name}_0", f"score_{shared.name}_1"}
        for index, scores in enumerate(expected):
            assert_scores(outputs[f"score_{shared.name}_{index}"], scores)


def two_inputs() -> keras.Model:
    user, item = ids_input("user"), ids_input("item")
    return keras.Model([user, item], keras.layers.Add()([layer(1)(user), layer(2)(item)]))


def test_requests_of_unequal_rows_are_refused(tmp_path: Path) -> None:
    path = kr.export(two_inputs(), tmp_path / "m")
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"`(user|item)`, `(user|item)` must have equally many samples"
    ):
        answer(path, user=IDS, item=OTHER_IDS[:1])
    flat = {"user": [0, 1], "user_row_splits": [0, 1, 2], "item": [2], "item_row_splits": [0, 1]}
    with pytest.raises(tf.errors.InvalidArgumentError, match="must have equally many samples"):
        answer(path, "ragged", **flat)


class TestSixteenBits:
    def test_score_where_the_probability_is_one(self, tmp_path: Path) -> None:
        ids = ids_input()
        half_precision = layer(dtype="mixed_float16")
        model = kr.RaFMModel(ids, keras.ops.sigmoid(half_precision(ids)))
        model.compile("sgd", "binary_crossentropy")
        half_precision.assign_bias(20.0)
        outputs = answer(kr.export(model, tmp_path / "m"), ids=np.full((1, 3), -1))
        assert outputs["probability"] == 1
        assert 10 < outputs["score"] < 20

    def test_factors_are_stored_as_they_are(self, tmp_path: Path) -> None:
        ids = ids_input()
        model = keras.Model(ids, layer(dtype="float16")(ids))
        outputs = answer(kr.export(model, tmp_path / "m"), ids=IDS)["score"]
        np.testing.assert_array_equal(outputs, model(IDS))


class TestInputsAsOfPredict:
    def test_columns_of_one_number(self, tmp_path: Path) -> None:
        user, item = keras.Input((1,), dtype="int32", name="user"), keras.Input((1,), dtype="int32", name="item")
        model = kr.RaFMModel([user, item], layer()(keras.ops.concatenate([user, item], axis=1)))
        model.compile("sgd", "mse")
        inputs, labels = [IDS[:, 0], IDS[:, 1]], np.array([1.0, 0.0, 2.0])
        path = kr.export(model, tmp_path / "m", warm_up=inputs, evaluation=(inputs, labels))
        expected = np.mean((model.predict(inputs, verbose=0)[:, 0] - labels) ** 2)
        loss = load_model_card(path)["precision"]["loss"]
        assert loss["exported"] == pytest.approx(expected)
        assert loss["trained"] == pytest.approx(expected)
        (first, *_) = tf.data.TFRecordDataset(str(path / "assets.extra" / "tf_serving_warmup_requests"))
        request = prediction_log_pb2.PredictionLog.FromString(first.numpy()).predict_log.request
        assert tf.make_ndarray(request.inputs["user"]).shape == (1, 1)

    def test_several_inputs_and_outputs_as_lists(self, tmp_path: Path) -> None:
        user, item = ids_input("user"), ids_input("item")
        model = kr.RaFMModel([user, item], [layer(1)(user), layer(2)(item)])
        model.compile("sgd", ["mse", "mse"])
        labels = [np.ones((3, 1)), np.zeros((3, 1))]
        path = kr.export(model, tmp_path / "m", evaluation=([IDS, OTHER_IDS], labels))
        predicted = model.predict([IDS, OTHER_IDS], verbose=0)
        expected = sum(np.mean((scores - y) ** 2) for scores, y in zip(predicted, labels, strict=True))
        assert load_model_card(path)["precision"]["loss"]["exported"] == pytest.approx(expected)

    def test_other_shapes_are_refused(self, tmp_path: Path) -> None:
        model = two_inputs()
        model.compile("sgd", "mse")
        with pytest.raises(ValueError, match=r"'item' must be of shape \(None, 3\)\. Received: \(3, 2\)"):
            kr.export(model, tmp_path / "m", evaluation=([IDS, OTHER_IDS[:, :2]], np.ones(3)))


def test_inputs_of_retrieval_in_any_order(tmp_path: Path) -> None:
    w, ids = values_input(), ids_input()
    model = keras.Model([w, ids], layer()({"ids": ids, "values": w}))
    items = {"ids": np.array([[3], [4]], "int32"), "values": np.array([[1.0], [2.0]], "float32")}
    path = kr.retrieval.export_retrieval(model, tmp_path / "m", items, k=2)
    outputs = answer(path, "retrieve", ids=IDS[:1, :2], values=VALUES[:1, :2])
    for item, score in zip(outputs["item_ids"][0], outputs["scores"][0], strict=True):
        ids_of_pair = np.append(IDS[:1, :2], items["ids"][item : item + 1], axis=1)
        values = np.append(VALUES[:1, :2], items["values"][item : item + 1], axis=1)
        np.testing.assert_allclose(score, model.predict([values, ids_of_pair], verbose=0)[0, 0], rtol=1e-5, atol=1e-5)


def test_in_the_scope_of_a_strategy_and_outside(tmp_path: Path) -> None:
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        model = two_inputs()
        for export in (kr.export, lambda *args: kr.retrieval.export_retrieval(*args, IDS)):
            with pytest.raises(RuntimeError, match=r"outside of `strategy\.scope\(\)`"):
                export(model, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []
    expected = model.predict([IDS, OTHER_IDS], verbose=0)
    assert_scores(answer(kr.export(model, tmp_path / "m"), user=IDS, item=OTHER_IDS)["score"], expected)
