"""Warm-up requests: they call every signature with real rows, and the answers are those of the model."""

import sys
from pathlib import Path
from typing import Any

import keras
import models
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

import keras_rafm as kr

pytestmark = pytest.mark.one_tensorflow


def logs_of(path: Path) -> list[Any]:
    """Return the warm-up requests of a version."""
    file = path / "assets.extra" / "tf_serving_warmup_requests"
    return [prediction_log_pb2.PredictionLog.FromString(text.numpy()) for text in tf.data.TFRecordDataset(str(file))]


def replayed(path: Path) -> dict[tuple[str, int], dict[str, np.ndarray]]:
    """Replay the requests as a server does, by the type of each log. Returns the answers by signature and batch size."""
    loaded = tf.saved_model.load(str(path))
    answers: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    for log in logs_of(path):
        kind = log.WhichOneof("log_type")
        request = getattr(log, kind).request
        name = request.model_spec.signature_name
        assert request.model_spec.name == path.parent.name
        assert kind == {"classify": "classify_log", "regress": "regress_log"}.get(name, "predict_log")
        if kind == "predict_log":
            inputs = {key: tf.constant(tf.make_ndarray(tensor)) for key, tensor in request.inputs.items()}
        else:
            texts = [example.SerializeToString() for example in request.input.example_list.examples]
            inputs = {"inputs": tf.constant(texts)}
        answer = {key: tensor.numpy() for key, tensor in loaded.signatures[name](**inputs).items()}
        answers[name, len(next(iter(answer.values())))] = answer
    return answers


SIZES = (1, 4, 9)


def check(path: Path, signatures: tuple[str, ...], probability: np.ndarray) -> None:
    """The answers to all requests are those of the model for the rows in turn."""
    answers = replayed(path)
    assert set(answers) == {(name, size) for name in signatures for size in SIZES}
    for (name, size), answer in answers.items():
        if name in ("low", "level_scores"):
            continue
        if name == "classify":
            actual = answer["scores"][:, 1:]
        else:
            actual = answer["outputs" if name == "regress" else "probability"]
        expected = probability[np.arange(size) % len(probability)]
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("as_frame", [False, True])
def test_raw_rows(tmp_path: Path, as_frame: bool) -> None:
    schema = models.adapted_schema()
    model = models.raw_model(schema)
    rows: Any = pd.DataFrame(models.ROWS) if as_frame else models.ROWS
    options: Any = {"warm_up_batch_sizes": SIZES, "warm_up_signatures": models.ALL}
    path = kr.export(model, tmp_path / "shop", schema, warm_up=rows, **options)
    check(path, models.ALL, tf.sigmoid(model.predict(schema(models.ROWS), verbose=0)).numpy())


def test_ids(tmp_path: Path) -> None:
    model = models.deep_model()
    inputs = [models.IDS, models.NUMBERS]
    path = kr.export(model, tmp_path / "deep", warm_up=inputs, warm_up_batch_sizes=SIZES)
    check(path, tuple(name for name in models.ALL if name not in ("raw", "ragged")), model.predict(inputs, verbose=0))


@pytest.mark.parametrize("kind", ["ragged", "sparse"])
def test_ids_of_samples_of_several_lengths(tmp_path: Path, kind: str) -> None:
    plan = kr.RankPlan([1, 2, 2, 1], (2, 3))
    normal = keras.initializers.RandomNormal(stddev=0.5)
    layer = kr.RaFMLayer(plan, factors_initializer=normal, seed=1)
    ids, values = [[0, 1], [3], [], [2, 0, 1]], [[1.0, 0.5], [2.0], [], [-1.0, 1.0, 3.0]]
    if kind == "ragged":
        inputs = {
            "ids": keras.Input((None,), dtype="int64", ragged=True, name="ids"),
            "values": keras.Input((None,), ragged=True, name="values"),
        }
        rows: Any = {"ids": tf.ragged.constant(ids, tf.int64), "values": tf.ragged.constant(values)}
    else:
        inputs = keras.Input((4,), sparse=True, name="features")
        dense = np.zeros((4, 4), np.float32)
        for row, (row_ids, row_values) in enumerate(zip(ids, values, strict=True)):
            dense[row, row_ids] = row_values
        rows = tf.sparse.from_dense(dense)
    model = kr.RaFMModel(inputs, layer(inputs))
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    called = tuple(name for name in models.ALL if name != "raw")
    path = kr.export(model, tmp_path / kind, warm_up=rows, warm_up_batch_sizes=SIZES, warm_up_signatures=called)
    check(path, called, tf.sigmoid(model(rows)).numpy())


def test_chosen_signatures_only(tmp_path: Path) -> None:
    schema = models.adapted_schema()
    model = models.raw_model(schema)
    path = kr.export(model, tmp_path / "m", schema, signatures=["raw"], warm_up=models.ROWS)
    assert set(replayed(path)) == {("serving_default", 1), ("raw", 1)}


class TestErrors:
    def assert_refused(self, tmp_path: Path, error: type[Exception], message: str, **options: Any) -> None:
        with pytest.raises(error, match=message):
            kr.export(models.deep_model(), tmp_path / "m", **options)
        assert list(tmp_path.iterdir()) == []

    def test_no_rows(self, tmp_path: Path) -> None:
        self.assert_refused(tmp_path, ValueError, "at least one row", warm_up=[models.IDS[:0], models.NUMBERS[:0]])

    def test_other_inputs(self, tmp_path: Path) -> None:
        self.assert_refused(tmp_path, ValueError, r"those of the model: \['ids', 'numbers'\]", warm_up=models.IDS)

    @pytest.mark.parametrize("sizes", [(0,), (1, -2), (1.5,)])
    def test_batch_sizes(self, tmp_path: Path, sizes: Any) -> None:
        rows = [models.IDS, models.NUMBERS]
        with pytest.raises((TypeError, ValueError), match="`warm_up_batch_sizes`"):
            kr.export(models.deep_model(), tmp_path / "m", warm_up=rows, warm_up_batch_sizes=sizes)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("sizes", [(), tuple(range(1, 202))])
    def test_number_of_requests(self, tmp_path: Path, sizes: Any) -> None:
        rows = [models.IDS, models.NUMBERS]
        self.assert_refused(tmp_path, ValueError, "1 to 1000 warm-up requests", warm_up=rows, warm_up_batch_sizes=sizes)

    @pytest.mark.parametrize("names", [["raw"], ["ragged", "other"]])
    def test_signatures(self, tmp_path: Path, names: list[str]) -> None:
        rows = [models.IDS, models.NUMBERS]
        message = rf"`warm_up_signatures` must be among serving_default, .*Received: \['{names[-1]}'\]"
        self.assert_refused(tmp_path, ValueError, message, warm_up=rows, warm_up_signatures=names)

    def test_package_is_not_installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "tensorflow_serving.apis.prediction_log_pb2", None)
        message = r"tensorflow_serving is needed here: pip install 'keras_rafm\[serving\]'"
        self.assert_refused(tmp_path, ImportError, message, warm_up=[models.IDS, models.NUMBERS])
