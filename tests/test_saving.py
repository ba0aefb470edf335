"""A `RaFMModel` saved and loaded: `.keras`, weights, JSON, clones and TensorFlow checkpoints."""

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_rafm as kr

RANKS = (2, 3, 4)
PLAN = kr.RankPlan([3, 1, 2, 2, 1, 3, 1, 1, 2], RANKS)
SAME_SIZES = kr.RankPlan([1, 3, 2, 2, 1, 3, 1, 1, 2], RANKS)
OTHER_SIZES = kr.RankPlan([1, 1, 2, 2, 1, 3, 1, 1, 2], RANKS)
GENERATOR = np.random.default_rng(0)
IDS = GENERATOR.integers(0, 9, (24, 4)).astype("int32")
DENSE = GENERATOR.normal(size=(24, 3)).astype("float32")
LABELS = GENERATOR.integers(0, 2, (24, 1)).astype("float32")
#: The order of sums over threads is not fixed, and Adam amplifies small differences.
TOLERANCE = 2e-5

TRAINING = {"batch_size": 6, "shuffle": False, "verbose": 0}


def layer(plan: kr.RankPlan = PLAN) -> kr.RaFMLayer:
    initializer = keras.initializers.RandomNormal(stddev=0.4)
    return kr.RaFMLayer(plan, factors_initializer=initializer, seed=2, dependent_loss_weight=(0.5, 1.5), name="rafm")


def small(plan: kr.RankPlan = PLAN) -> kr.RaFMModel:
    ids = keras.Input((4,), dtype="int32", name="ids")
    model = kr.RaFMModel(ids, layer(plan)(ids), name="small")
    model.compile(
        keras.optimizers.Adam(0.01, epsilon=1e-3),
        keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.1),
        metrics=[keras.metrics.AUC(from_logits=True, num_thresholds=20, name="auc")],
    )
    # The first training step does this. Keras warns when it loads a model whose optimizer has no state yet.
    model.optimizer.build(model.trainable_variables)
    return model


def wide_and_deep() -> kr.RaFMModel:
    ids, inputs = keras.Input((4,), dtype="int32", name="ids"), keras.Input((3,), name="dense_input")
    hidden = keras.layers.Dense(4, activation="relu", name="hidden")(inputs)
    joined = keras.layers.Concatenate(name="joined")([layer()(ids), hidden])
    top = keras.layers.Dense(1, activation="sigmoid", name="top")(keras.layers.BatchNormalization(name="norm")(joined))
    model = kr.RaFMModel({"ids": ids, "dense_input": inputs}, top, name="wide_and_deep")
    model.compile(keras.optimizers.Adam(0.01, epsilon=1e-3), "binary_crossentropy", run_eagerly=True)
    return model


def ragged() -> kr.RaFMModel:
    ids = keras.Input((None,), dtype="int64", ragged=True, name="ids")
    model = kr.RaFMModel(ids, layer()(ids), name="ragged")
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    return model


def weights_of(model: keras.Model) -> dict[str, np.ndarray]:
    return {weight.path: weight.numpy() for weight in model.weights}


def assert_same_weights(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for path, value in one.items():
        np.testing.assert_allclose(value, other[path], rtol=0, atol=TOLERANCE, err_msg=path)


#: Loads each model after `import keras_rafm` alone, predicts and continues training.
FRESH_PROCESS = """
import json, sys
import keras_rafm
import keras, numpy as np
folder, training = sys.argv[1], json.loads(sys.argv[2])
data = np.load(folder + "/data.npz")
results = {}
for name, inputs in {"small": data["ids"], "wide_and_deep": {"ids": data["ids"], "dense_input": data["dense"]}}.items():
    model = keras.models.load_model(f"{folder}/{name}.keras")
    assert type(model) is keras_rafm.RaFMModel and model.compiled, (type(model), model.compiled)
    results[name + ":prediction"] = model(inputs).numpy()
    history = model.fit(inputs, data["labels"], **training).history
    results.update({f"{name}:log:{key}": values for key, values in history.items()})
    results.update({f"{name}:{weight.path}": weight.numpy() for weight in model.weights})
    results[name + ":iterations"] = model.optimizer.iterations.numpy()
np.savez(folder + "/results.npz", **results)
"""


def run_python(program: str, *arguments: str) -> None:
    root = str(Path(kr.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": root, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]


def test_training_goes_on_in_a_fresh_process(tmp_path: Path) -> None:
    builds = {"small": (small, IDS), "wide_and_deep": (wide_and_deep, {"ids": IDS, "dense_input": DENSE})}
    np.savez(tmp_path / "data.npz", ids=IDS, dense=DENSE, labels=LABELS)
    expected: dict[str, Any] = {}
    for name, (build, inputs) in builds.items():
        model = build()
        model.fit(inputs, LABELS, epochs=2, **TRAINING)
        model.save(tmp_path / f"{name}.keras")
        expected[name + ":prediction"] = model(inputs).numpy()
        history = model.fit(inputs, LABELS, epochs=2, **TRAINING).history
        expected.update({f"{name}:log:{key}": values for key, values in history.items()})
        expected.update({f"{name}:{path}": value for path, value in weights_of(model).items()})
        expected[name + ":iterations"] = 16

    run_python(FRESH_PROCESS, str(tmp_path), json.dumps({"epochs": 2, **TRAINING}))

    results = dict(np.load(tmp_path / "results.npz"))
    assert results.keys() == expected.keys()
    assert "small:log:dependent_loss_2" in results
    assert "small:log:auc" in results
    for key, value in expected.items():
        np.testing.assert_allclose(results[key], value, rtol=0, atol=TOLERANCE, err_msg=key)


def test_loaded_optimizer_state_matters() -> None:
    """The test above would notice a lost state of Adam: training continues differently without it."""
    model, stateless = small(), small()
    model.run_eagerly = stateless.run_eagerly = True
    model.fit(IDS, LABELS, epochs=2, **TRAINING)
    stateless.set_weights(model.get_weights())
    for each in (model, stateless):
        each.fit(IDS, LABELS, epochs=1, **TRAINING)
    difference = max(np.max(np.abs(a - b)) for a, b in zip(model.get_weights(), stateless.get_weights(), strict=True))
    assert difference > 20 * TOLERANCE


def test_ragged_model(tmp_path: Path) -> None:
    model = ragged()
    ids = tf.RaggedTensor.from_tensor(IDS.astype("int64"), lengths=np.arange(24) % 5)
    model.train_on_batch(ids, LABELS)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(ids).numpy(), model(ids).numpy(), rtol=0, atol=1e-6)
    assert loaded.train_on_batch(ids, LABELS, return_dict=True).keys() == {
        "loss",
        "dependent_loss_1",
        "dependent_loss_2",
    }


@pytest.mark.parametrize("through", ["file", "pickle"])
def test_compile_options_are_kept(tmp_path: Path, through: str) -> None:
    ids = keras.Input((4,), dtype="int32", name="ids")
    score = layer()(ids)
    model = kr.RaFMModel(ids, {"p": keras.layers.Activation("sigmoid", name="p")(score), "score": score})
    model.compile(
        keras.optimizers.Adagrad(0.07, clipnorm=2.0),
        {
            "p": keras.losses.BinaryCrossentropy(label_smoothing=0.2),
            "score": keras.losses.MeanSquaredError(reduction="sum"),
        },
        loss_weights={"p": 3.0, "score": 0.25},
        metrics={"p": ["accuracy"]},
        weighted_metrics={"score": [keras.metrics.MeanAbsoluteError(name="mae")]},
        steps_per_execution=3,
        run_eagerly=True,
    )
    targets, weight = {"p": LABELS, "score": LABELS}, {"p": np.ones(24), "score": np.linspace(0.1, 2, 24)}
    model.train_on_batch(IDS, targets, sample_weight=weight)
    if through == "file":
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
    else:
        loaded = pickle.loads(pickle.dumps(model))
    assert isinstance(loaded.optimizer, keras.optimizers.Adagrad)
    assert float(loaded.optimizer.learning_rate) == pytest.approx(0.07)
    assert loaded.optimizer.clipnorm == 2.0
    assert loaded.steps_per_execution == 3
    assert loaded.run_eagerly
    assert loaded.loss["p"].get_config()["label_smoothing"] == 0.2
    assert loaded.loss["score"].reduction == "sum"
    for each in (model, loaded):
        each.reset_metrics()
    logs = [each.train_on_batch(IDS, targets, sample_weight=weight, return_dict=True) for each in (model, loaded)]
    assert logs[0].keys() >= {"p_accuracy", "score_mae", "loss", "dependent_loss_1"}
    assert logs[1] == pytest.approx(logs[0], rel=1e-5)
    assert_same_weights(weights_of(model), weights_of(loaded))


def test_layer_options_are_kept(tmp_path: Path) -> None:
    small().save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras").get_layer("rafm")
    assert loaded.dependent_loss_weight == (0.5, 1.5)
    assert loaded.plan == PLAN


def test_uncompiled_model(tmp_path: Path) -> None:
    model = small()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", compile=False)
    assert not loaded.compiled
    np.testing.assert_allclose(loaded(IDS).numpy(), model(IDS).numpy(), rtol=0, atol=1e-6)
    loaded.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    assert "dependent_loss_1" in loaded.train_on_batch(IDS, LABELS, return_dict=True)


class TestWeights:
    def test_round_trip(self, tmp_path: Path) -> None:
        model, other = small(), small()
        for weight in other.trainable_weights:
            weight.assign(weight + 1)
        model.save_weights(tmp_path / "model.weights.h5")
        other.load_weights(tmp_path / "model.weights.h5")
        assert_same_weights(weights_of(model), weights_of(other))
        np.testing.assert_allclose(other(IDS).numpy(), model(IDS).numpy(), rtol=0, atol=1e-6)

    def test_into_a_clone(self, tmp_path: Path) -> None:
        model = small()
        model.save_weights(tmp_path / "model.weights.h5")
        clone = keras.models.clone_model(model)
        clone.load_weights(tmp_path / "model.weights.h5")
        np.testing.assert_allclose(clone(IDS).numpy(), model(IDS).numpy(), rtol=0, atol=1e-6)
        assert clone.get_layer("rafm").plan == PLAN

    @pytest.mark.filterwarnings("ignore:Skipping nested container")
    @pytest.mark.parametrize("remake", [lambda model: model, keras.models.clone_model], ids=["model", "clone"])
    def test_of_another_plan_with_equal_shapes(
        self, tmp_path: Path, remake: Callable[[kr.RaFMModel], kr.RaFMModel]
    ) -> None:
        assert SAME_SIZES.level_sizes == PLAN.level_sizes
        small(SAME_SIZES).save_weights(tmp_path / "model.weights.h5")
        model = remake(small())
        with pytest.raises(ValueError, match=f"another RankPlan.*{PLAN.fingerprint}.*{SAME_SIZES.fingerprint}"):
            model.load_weights(tmp_path / "model.weights.h5")

    @pytest.mark.filterwarnings("ignore:Skipping nested container")
    def test_of_another_plan_with_other_shapes(self, tmp_path: Path) -> None:
        small(OTHER_SIZES).save_weights(tmp_path / "model.weights.h5")
        with pytest.raises(ValueError, match="shape"):
            small().load_weights(tmp_path / "model.weights.h5")


class TestRemadeFromConfig:
    """A config does not hold the level of every feature; the weights do."""

    @pytest.fixture(
        params=[
            keras.models.clone_model,
            lambda model: kr.RaFMModel.from_config(model.get_config()),
            lambda model: keras.models.model_from_json(model.to_json()),
        ],
        ids=["clone", "config", "json"],
    )
    def remake(self, request: pytest.FixtureRequest) -> Callable[[kr.RaFMModel], kr.RaFMModel]:
        return request.param

    def test_works_once_its_weights_are_set(self, remake: Callable[[kr.RaFMModel], kr.RaFMModel]) -> None:
        model = small()
        other = remake(model)
        assert isinstance(other, kr.RaFMModel)
        other.set_weights(model.get_weights())
        np.testing.assert_allclose(other(IDS).numpy(), model(IDS).numpy(), rtol=0, atol=1e-6)
        for each in (model, other):
            each.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"], run_eagerly=True)
        logs = [each.train_on_batch(IDS, LABELS, return_dict=True) for each in (model, other)]
        assert logs[1] == pytest.approx(logs[0], rel=1e-5)
        assert_same_weights(weights_of(model), weights_of(other))

    def test_raises_before(self, remake: Callable[[kr.RaFMModel], kr.RaFMModel]) -> None:
        other = remake(small())
        message = r"rafm was made from a config, which does not say which feature has which level.*set_weights"
        with pytest.raises(ValueError, match=message):
            other(IDS)
        with pytest.raises(ValueError, match=message):
            other.predict(IDS, verbose=0)
        other.compile("sgd", "mse", run_eagerly=True)
        with pytest.raises(ValueError, match=message):
            other.fit(IDS, LABELS, verbose=0)

    def test_raises_on_weights_of_another_plan(self, remake: Callable[[kr.RaFMModel], kr.RaFMModel]) -> None:
        other = remake(small())
        other.set_weights(small(SAME_SIZES).get_weights())
        with pytest.raises(ValueError, match="belong to another RankPlan"):
            other(IDS)


class TestTensorFlowCheckpoint:
    def test_round_trip(self, tmp_path: Path) -> None:
        model, fresh = small(), small()
        model.run_eagerly = fresh.run_eagerly = True
        model.fit(IDS, LABELS, epochs=1, **TRAINING)
        path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(tmp_path / "checkpoint")
        for weight in fresh.trainable_weights:
            weight.assign(weight + 1)
        tf.train.Checkpoint(model=fresh, optimizer=fresh.optimizer).restore(path).assert_existing_objects_matched()
        assert_same_weights(weights_of(model), weights_of(fresh))
        for each in (model, fresh):
            each.fit(IDS, LABELS, epochs=1, **TRAINING)
        assert_same_weights(weights_of(model), weights_of(fresh))

    def test_into_a_clone(self, tmp_path: Path) -> None:
        model = small()
        path = tf.train.Checkpoint(model=model).save(tmp_path / "checkpoint")
        clone = keras.models.clone_model(model)
        tf.train.Checkpoint(model=clone).restore(path)
        np.testing.assert_allclose(clone(IDS).numpy(), model(IDS).numpy(), rtol=0, atol=1e-6)
