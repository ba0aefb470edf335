"""The model card, and the options of `export` that it describes: level, precision, evaluation, metrics."""

import datetime
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import keras
import models
import numpy as np
import pytest
import tensorflow as tf
from exported_models import answer

import keras_rafm as kr
from keras_rafm.serving import load_model_card

pytestmark = pytest.mark.one_tensorflow


def log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    return float(-np.mean(np.log(np.where(labels == 1, probabilities, 1 - probabilities))))


def test_contents(tmp_path: Path) -> None:
    schema = models.adapted_schema()
    model = models.raw_model(schema)
    path = kr.export(model, tmp_path / "shop", schema, metrics={"val_log_loss": 0.25, "auc": np.float32(0.75)})
    card = load_model_card(path)
    plan = model.layers[-1].plan
    (layer,) = card["layers"]
    assert layer["ranks"] == list(plan.ranks)
    assert layer["level_sizes"] == list(plan.level_sizes)
    assert layer["num_features"] == schema.num_features
    assert (layer["num_active_factors"], layer["num_free_factors"], layer["num_dependent_factors"]) == (
        plan.num_active_factors,
        plan.num_free_factors,
        plan.num_dependent_factors,
    )
    assert layer["plan_fingerprint"] == plan.fingerprint
    assert card["name"] == "shop"
    assert card["metrics"] == {"val_log_loss": 0.25, "auc": 0.75}
    assert card["precision"] == {"factors": "trained"}
    for package in ("keras_rafm", "tensorflow", "keras", "numpy"):
        assert card["packages"][package] == importlib.metadata.version(package)
    written = datetime.datetime.fromisoformat(card["created"])
    assert abs((datetime.datetime.now(datetime.UTC) - written).total_seconds()) < 600
    schema_file = json.loads((path / "assets.extra" / "schema" / "schema.json").read_text(encoding="utf-8"))
    assert card["schema"] == {"digest": schema_file["digest"]}
    sizes = [file.stat().st_size for file in (path / "variables").iterdir()]
    assert card["bytes"]["variables"] == sum(sizes)
    assert sum(sizes) < card["bytes"]["total"] <= sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def test_metrics_that_are_not_finite(tmp_path: Path) -> None:
    path = kr.export(models.small_model(), tmp_path / "m", metrics={"auc": float("nan"), "loss": float("inf"), "rmse": 1})
    assert load_model_card(path)["metrics"] == {"auc": None, "loss": None, "rmse": 1.0}
    assert "NaN" not in (path / "assets.extra" / "model_card.json").read_text(encoding="utf-8")
    assert "| auc | not finite |" in (path / "assets.extra" / "model_card.md").read_text(encoding="utf-8")


def test_documented_signatures_match_the_model(tmp_path: Path) -> None:
    schema = models.adapted_schema()
    path = kr.export(models.raw_model(schema), tmp_path / "m", schema)
    card = load_model_card(path)["signatures"]
    loaded = tf.saved_model.load(str(path)).signatures
    assert set(card) == set(loaded) == set(models.ALL)
    for name, serve in loaded.items():
        for kind, specs in (("inputs", serve.structured_input_signature[1]), ("outputs", serve.structured_outputs)):
            documented = card[name][kind]
            assert {key: (entry["dtype"], entry["shape"]) for key, entry in documented.items()} == {
                key: (spec.dtype.name, spec.shape.as_list()) for key, spec in specs.items()
            }
            assert all(entry["meaning"] for entry in documented.values())


def test_markdown(tmp_path: Path) -> None:
    schema = models.adapted_schema()
    path = kr.export(models.raw_model(schema), tmp_path / "shop", schema, metrics={"auc": 0.75}, precision="int8")
    text = (path / "assets.extra" / "model_card.md").read_text(encoding="utf-8")
    for line in (
        "# shop",
        "| auc | 0.75 |",
        "| input `price` | float32 | [?] | column 'price'; NaN where a value is missing |",
        "| output `probability` | float32 | [?, 1] | the probability of class 1 |",
        "### classify (tensorflow/serving/classify)",
    ):
        assert line in text.splitlines()
    assert "Factors are stored as int8: " in text


@pytest.mark.parametrize("precision", ["trained", "bfloat16", "int8"])
def test_loss_of_the_exported_model(tmp_path: Path, precision: Any) -> None:
    schema = models.adapted_schema()
    model = models.raw_model(schema)
    encoded = models.encoded(schema)
    path = kr.export(model, tmp_path / "m", schema, precision=precision, evaluation=(encoded, models.LABELS[:, np.newaxis]))
    loss = load_model_card(path)["precision"]["loss"]
    exported = answer(path, **encoded)["probability"][:, 0]
    trained = tf.sigmoid(model.predict(encoded, verbose=0)).numpy()[:, 0]
    assert loss["samples"] == 6
    assert loss["trained"] == pytest.approx(log_loss(models.LABELS, trained), abs=1e-6)
    assert loss["exported"] == pytest.approx(log_loss(models.LABELS, exported), abs=1e-6)
    assert (abs(loss["exported"] - loss["trained"]) < 1e-6) == (precision == "trained")


def test_loss_of_many_batches_with_regularisation(tmp_path: Path) -> None:
    """The loss excludes regularisation, and the last batch is smaller."""
    ids = keras.Input((3,), dtype="int32", name="ids")
    layer = kr.RaFMLayer(kr.RankPlan([1, 2, 2], (2, 3)), factors_l2=0.1, linear_l2=0.1, seed=1)
    model = kr.RaFMModel(ids, layer(ids))
    model.compile("sgd", "mse")
    random = np.random.default_rng(0)
    request, labels = random.integers(0, 3, (5000, 3)), random.normal(size=5000)
    path = kr.export(model, tmp_path / "m", evaluation=(request, labels))
    loss = load_model_card(path)["precision"]["loss"]
    expected = float(np.mean((model.predict(request, verbose=0)[:, 0] - labels) ** 2))
    assert loss == {"samples": 5000, "trained": pytest.approx(expected), "exported": pytest.approx(expected)}


def test_evaluation_of_a_model_without_loss(tmp_path: Path) -> None:
    model = models.small_model()
    with pytest.raises(RuntimeError, match="must be compiled with a loss"):
        kr.export(model, tmp_path / "m", evaluation=(models.IDS, np.ones(3)))
    assert list(tmp_path.iterdir()) == []


class TestLevel:
    def test_only_factors_up_to_the_level_are_stored(self, tmp_path: Path) -> None:
        schema = models.adapted_schema()
        model = models.raw_model(schema)
        layer = model.layers[-1]
        for level in (1, 2, 3):
            path = kr.export(model, tmp_path / "m", schema, level=level)
            card = load_model_card(path)
            sizes, ranks = layer.level_sizes[:level], layer.ranks[:level]
            (entry,) = card["layers"]
            assert (entry["ranks"], entry["trained_ranks"]) == (list(ranks), list(layer.ranks))
            assert entry["num_active_factors"] == sum(rank * size for rank, size in zip(ranks, sizes, strict=True))
            shapes = [tuple(shape) for _, shape in tf.train.list_variables(str(path / "variables" / "variables"))]
            assert sum(a * b for a, b in (shape for shape in shapes if len(shape) == 2)) == entry["num_active_factors"]

    @pytest.mark.parametrize("level", [0, 4, -1])
    def test_unknown_level(self, tmp_path: Path, level: int) -> None:
        schema = models.adapted_schema()
        with pytest.raises(ValueError, match=rf"`level` must be in 1 … 3\. Received: level={level}"):
            kr.export(models.raw_model(schema), tmp_path / "m", schema, level=level)
        assert list(tmp_path.iterdir()) == []


def test_unknown_precision(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"`precision`.*float16"):
        kr.export(models.small_model(), tmp_path / "m", precision="float16")


def test_sizes(tmp_path: Path) -> None:
    """int8 stores a scale per row, so wide rows make the comparison with other precisions clear."""
    plan = kr.RankPlan.from_counts(np.arange(2000), (64, 256), (1800,))
    ids = keras.Input((5,), dtype="int32", name="ids")

    def size(plan: kr.RankPlan, **options: Any) -> int:
        model = keras.Model(ids, kr.RaFMLayer(plan)(ids))
        return int(load_model_card(kr.export(model, tmp_path / "m", **options))["bytes"]["variables"])

    trained, fm = size(plan), size(kr.RankPlan([1] * 2000, (256,)))
    assert trained < 0.36 * fm
    assert size(plan, precision="int8") < 0.3 * trained
    assert size(plan, precision="bfloat16") < 0.53 * trained
    assert size(plan, level=1) < 0.26 * fm


class TestUnreadableCards:
    def write(self, tmp_path: Path, text: str) -> Path:
        (tmp_path / "assets.extra").mkdir()
        (tmp_path / "assets.extra" / "model_card.json").write_text(text, encoding="utf-8")
        return tmp_path

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            load_model_card(tmp_path)

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "other", "format_version": 1}', '{"format_version": 1}'])
    def test_damaged(self, tmp_path: Path, text: str) -> None:
        with pytest.raises(ValueError, match="is not a readable model card"):
            load_model_card(self.write(tmp_path, text))

    def test_newer(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="has format 2; this version reads up to 1"):
            load_model_card(self.write(tmp_path, '{"format": "keras_rafm.model_card", "format_version": 2}'))
