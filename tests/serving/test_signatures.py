"""Every signature of every kind of exported model: its answers are those of the trained model, wherever it is loaded."""

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import keras
import models
import numpy as np
import pytest
import replay
import tensorflow as tf
from exported_models import answer
from losses import sigmoid
from models import ALL, Exported

import keras_rafm as kr

WITHOUT_COLUMNS = tuple(name for name in ALL if name != "raw")
ONE_LEVEL = tuple(name for name in ALL if name not in ("low", "level_scores"))
SIGNATURES = {"raw": ALL, "int8": ALL, "bfloat16": ALL, "level": ONE_LEVEL, "deep": WITHOUT_COLUMNS}
#: The largest error of probabilities.
TOLERANCE = {"raw": 1e-6, "deep": 1e-6, "level": 1e-6, "bfloat16": 5e-3, "int8": 1e-2}
METHODS = {"classify": "tensorflow/serving/classify", "regress": "tensorflow/serving/regress"}


class Written(NamedTuple):
    """Exported models of every kind, and the answers of each by signature."""

    folder: Path
    exported: dict[str, Exported]
    records: dict[str, dict[str, dict[str, np.ndarray]]]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("models")
    exported = models.write_all(folder)
    return Written(folder, exported, {name: recorded_answers(folder / name / "record.json") for name in exported})


def recorded_answers(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Return the answers in a record by signature."""
    entries = json.loads(path.read_text(encoding="utf-8"))["requests"]
    return {
        entry["signature"]: {name: replay.from_json(array).numpy() for name, array in entry["outputs"].items()}
        for entry in entries
    }


def level_logits(exported: Exported) -> np.ndarray:
    """Return the logits of the model with each level score in place of the highest: `[B, m]`."""
    layer = next(layer for layer in exported.model.layers if isinstance(layer, kr.RaFMLayer))
    if exported.schema is not None:
        return layer.level_scores(exported.schema(models.ROWS)).numpy()
    inputs = [models.IDS, models.NUMBERS]
    probability = exported.model.predict(inputs, verbose=0)
    scores = layer.level_scores(models.IDS).numpy()
    return np.log(probability / (1 - probability)) - scores[:, -1:] + scores


@pytest.mark.parametrize("kind", SIGNATURES)
class TestAnswers:
    def test_has_all_signatures(self, written: Written, kind: str) -> None:
        assert set(written.records[kind]) == set(SIGNATURES[kind])
        assert set(tf.saved_model.load(str(written.exported[kind].path)).signatures) == set(SIGNATURES[kind])

    def test_scores_probabilities_and_classes(self, written: Written, kind: str) -> None:
        logits = level_logits(written.exported[kind])
        logit = logits[:, :1] if kind == "level" else logits[:, -1:]
        assert np.std(logit) > 0.05
        for name in set(SIGNATURES[kind]) & {"serving_default", "ragged", "raw", "examples"}:
            answer = written.records[kind][name]
            assert set(answer) == {"score", "probability", "class"}
            np.testing.assert_allclose(answer["probability"], sigmoid(logit), rtol=0, atol=TOLERANCE[kind], err_msg=name)
            np.testing.assert_allclose(answer["score"], logit, rtol=0, atol=10 * TOLERANCE[kind], err_msg=name)
            np.testing.assert_array_equal(answer["class"], (logit > 0).astype(np.int64), err_msg=name)

    def test_classify_and_regress(self, written: Written, kind: str) -> None:
        record = written.records[kind]
        probability = record["examples"]["probability"]
        classes, scores = record["classify"]["classes"], record["classify"]["scores"]
        assert classes.tolist() == [[b"0", b"1"]] * len(probability)
        np.testing.assert_array_equal(scores, np.concatenate([1 - probability, probability], axis=1))
        np.testing.assert_array_equal(record["regress"]["outputs"], probability)

    def test_levels(self, written: Written, kind: str) -> None:
        if kind == "level":
            return
        logits = level_logits(written.exported[kind])
        record = written.records[kind]
        np.testing.assert_allclose(record["level_scores"]["level_scores"], logits, rtol=0, atol=10 * TOLERANCE[kind])
        np.testing.assert_allclose(
            record["level_scores"]["level_probabilities"], sigmoid(logits), rtol=0, atol=TOLERANCE[kind]
        )
        low = {"score": "level_scores", "probability": "level_probabilities"}
        for name, of_levels in low.items():
            np.testing.assert_allclose(record["low"][name], record["level_scores"][of_levels][:, :1], rtol=0, atol=1e-6)

    def test_methods_of_tensorflow_serving(self, written: Written, kind: str) -> None:
        from tensorflow.core.protobuf import saved_model_pb2

        saved = saved_model_pb2.SavedModel.FromString((written.exported[kind].path / "saved_model.pb").read_bytes())
        (graph,) = saved.meta_graphs
        methods = {name: entry.method_name for name, entry in graph.signature_def.items() if not name.startswith("__")}
        assert methods == {name: METHODS.get(name, "tensorflow/serving/predict") for name in SIGNATURES[kind]}


def test_without_keras_and_this_package(written: Written) -> None:
    records = [str(written.folder / name / "record.json") for name in SIGNATURES]
    script = Path(replay.__file__)
    done = subprocess.run([sys.executable, str(script), *records], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("answers as recorded") == len(SIGNATURES)


def test_saved_model_cli(written: Written) -> None:
    _, schema, path = written.exported["raw"]
    assert schema is not None
    tool = Path(sys.executable).with_name("saved_model_cli")

    def run(*arguments: str) -> str:
        command = [str(tool), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    where = ["--dir", str(path), "--tag_set", "serve"]
    shown = run("show", *where, "--signature_def", "raw")
    for name, dtype, shape in (
        ("user", "DT_STRING", "(-1)"),
        ("shop", "DT_INT64", "(-1)"),
        ("price", "DT_FLOAT", "(-1)"),
        ("tags", "DT_STRING", "(-1, -1)"),
    ):
        assert f"inputs['{name}'] tensor_info:\n      dtype: {dtype}\n      shape: {shape}" in shown
    assert "outputs['probability'] tensor_info:\n      dtype: DT_FLOAT\n      shape: (-1, 1)" in shown

    request = dict(models.requests_of_columns(schema))["serving_default"]
    inputs = ";".join(f"{name}={array.tolist()}" for name, array in request.items())
    folder = written.folder / "answers"
    run("run", *where, "--signature_def", "serving_default", "--input_exprs", inputs, "--outdir", str(folder))
    probability = np.load(folder / "probability.npy")
    np.testing.assert_allclose(probability, written.records["raw"]["serving_default"]["probability"], rtol=0, atol=1e-6)


def test_one_row_and_no_rows(written: Written) -> None:
    exported = written.exported["raw"]
    assert exported.schema is not None
    loaded = tf.saved_model.load(str(exported.path))
    for rows in (slice(1), slice(0)):
        for name, request in models.requests_of_columns(exported.schema, rows):
            serve = loaded.signatures[name]
            specs = serve.structured_input_signature[1]
            tensors = {
                key: tf.reshape(tf.constant(x, specs[key].dtype), [len(x), *np.shape(models.RAW.get(key, x))[1:]])
                for key, x in request.items()
            }
            for key, actual in serve(**tensors).items():
                expected = written.records["raw"][name][key][rows]
                assert actual.shape == expected.shape
                if actual.dtype == tf.string:
                    assert actual.numpy().tolist() == expected.tolist()
                else:
                    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5)


class TestChoice:
    def signatures(self, path: Path) -> set[str]:
        return set(tf.saved_model.load(str(path)).signatures)

    def test_some(self, tmp_path: Path) -> None:
        path = kr.export(models.deep_model(), tmp_path / "m", signatures=["classify", "low", "low"])
        assert self.signatures(path) == {"serving_default", "classify", "low"}

    def test_none_but_the_default(self, tmp_path: Path) -> None:
        assert self.signatures(kr.export(models.deep_model(), tmp_path / "m", signatures=[])) == {"serving_default"}

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("raw", "'raw': it is exported without a schema"),
            ("other", "must be among serving_default, .*Received: 'other'"),
            ("low", "'low': it has one level"),
            ("classify", "'classify': it was not compiled with a log-loss"),
        ],
    )
    def test_signatures_that_a_model_cannot_have(self, tmp_path: Path, name: str, message: str) -> None:
        ids = keras.Input((2,), dtype="int32", name="ids")
        model = keras.Model(ids, kr.RaFMLayer(kr.RankPlan([1, 1], (2,)))(ids))
        model.compile("sgd", "mse")
        with pytest.raises(ValueError, match=message):
            kr.export(model, tmp_path / "m", signatures=[name])
        assert list(tmp_path.iterdir()) == []


def test_float64(tmp_path: Path) -> None:
    ids = keras.Input((3,), dtype="int32", name="ids")
    normal = keras.initializers.RandomNormal(stddev=1.0)
    layer = kr.RaFMLayer(kr.RankPlan([1, 2, 2], (2, 3)), factors_initializer=normal, seed=1, dtype="float64")
    model = keras.Model(ids, layer(ids))
    path = kr.export(model, tmp_path / "m")
    request = np.array([[0, 1, 2], [1, 1, -1]])
    actual = answer(path, "serving_default", ids=request)["score"]
    assert actual.dtype == np.float64
    np.testing.assert_allclose(actual, layer(request), rtol=1e-12)


def test_ids_computed_in_the_graph(tmp_path: Path) -> None:
    """User and item are separate inputs, and the ids of each begin at 0."""
    user, item = keras.Input((1,), dtype="int32", name="user"), keras.Input((1,), dtype="int32", name="item")
    ids = keras.ops.concatenate([user, item + 3], axis=1)
    normal = keras.initializers.RandomNormal(stddev=1.0, seed=1)
    model = kr.RaFMModel([user, item], kr.RaFMLayer(kr.RankPlan([1, 2, 2, 1, 2], (2, 3)), factors_initializer=normal)(ids))
    model.compile("sgd", "mse")
    path = kr.export(model, tmp_path / "m")
    assert set(tf.saved_model.load(str(path)).signatures) == {"serving_default", "low", "level_scores"}
    request = {"user": np.array([[0], [2]]), "item": np.array([[1], [0]])}
    expected = model.predict([request["user"], request["item"]], verbose=0)
    np.testing.assert_allclose(answer(path, "serving_default", **request)["score"], expected, rtol=1e-5, atol=1e-6)
    levels = answer(path, "level_scores", **request)["level_scores"]
    np.testing.assert_allclose(levels[:, 1:], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(levels[:, :1], answer(path, "low", **request)["score"], rtol=1e-5, atol=1e-6)


def test_layer_in_a_nested_model(tmp_path: Path) -> None:
    """A layer of the model and one of a nested model are both exported."""

    def layer(seed: int) -> kr.RaFMLayer:
        normal = keras.initializers.RandomNormal(stddev=1.0)
        return kr.RaFMLayer(kr.RankPlan([1, 2, 2], (2, 3)), factors_initializer=normal, seed=seed)

    inner_ids = keras.Input((2,), dtype="int32")
    inner = keras.Model(inner_ids, layer(1)(inner_ids))
    ids = keras.Input((2,), dtype="int32", name="ids")
    model = keras.Model(ids, keras.layers.Add()([layer(2)(ids), inner(ids)]))
    path = kr.export(model, tmp_path / "m")
    request = np.array([[0, 1], [1, 2]])
    actual = answer(path, "serving_default", ids=request)["score"]
    np.testing.assert_allclose(actual, model.predict(request, verbose=0), rtol=1e-5, atol=1e-6)


def test_look_up_table_of_another_layer(tmp_path: Path) -> None:
    ids, names = keras.Input((2,), dtype="int32", name="ids"), keras.Input((1,), dtype="string", name="names")
    looked_up = keras.layers.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")(names)
    model = keras.Model(
        [ids, names],
        keras.layers.Add()([kr.RaFMLayer(kr.RankPlan([1, 1], (2,)))(ids), keras.layers.Dense(1)(looked_up)]),
    )
    request = {"ids": np.array([[0, 1], [1, -1]]), "names": np.array([["b"], ["zz"]])}
    expected = model([tf.constant(x) for x in request.values()])
    path = kr.export(model, tmp_path / "m")
    np.testing.assert_allclose(answer(path, "serving_default", **request)["score"], expected, rtol=1e-5, atol=1e-6)
