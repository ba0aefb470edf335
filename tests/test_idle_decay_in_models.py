"""Idle decay in models with a `RaFMLayer`: training and weights are as if all rows decayed in every step."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from idle_decay_models import (
    DECAY,
    IDS,
    LABELS,
    LEVELS,
    NEVER_READ,
    PLAN,
    QUERY,
    RATE,
    EveryRowInEveryStep,
    assert_close,
    assert_same_weights,
    build,
    every_kind,
    expected,
    halfway,
    is_table,
    largest_difference,
    layer_of,
    lazy_adam,
    normal,
    raw_weights_of,
    reference,
    train,
    weights_of,
)
from replicas import strategy_of

import keras_rafm as kr


class TestTraining:
    @pytest.mark.parametrize(
        ("kind", "run_eagerly"),
        [("rafm_model", True), ("rafm_model", False), ("model", True)],
        ids=["rafm_model", "rafm_model, graph", "model"],
    )
    def test_equals_decay_in_every_step(self, kind: str, run_eagerly: bool) -> None:
        model = build(lazy_adam(), kind, run_eagerly)
        start = weights_of(model)
        train(model, range(6))
        assert_same_weights(weights_of(model), expected(6, kind))
        for name, weights in weights_of(model).items():
            assert name == "slots" or np.max(np.abs(weights - start[name])) > 0.03, name

    @pytest.mark.parametrize(
        "rate",
        [
            lambda: keras.optimizers.schedules.PiecewiseConstantDecay([1, 3], [0.2, 0.05, 0.1]),
            lambda: keras.optimizers.schedules.ExponentialDecay(0.2, 2, 0.5),
        ],
        ids=["piecewise", "exponential"],
    )
    def test_schedules(self, rate: Callable[[], Any]) -> None:
        models = [build(lazy_adam(rate())), build(EveryRowInEveryStep(rate()))]
        for model in models:
            train(model, range(6))
        assert_same_weights(*(weights_of(model) for model in models))

    def test_learning_rate_changed_during_training(self) -> None:
        models = [build(lazy_adam()), build(EveryRowInEveryStep())]
        for model in models:
            for batch, rate in zip(range(6), (0.1, 0.3, 0.0, 0.02, 0.2, 0.1), strict=True):
                model.optimizer.learning_rate = rate
                train(model, [batch])
        assert_same_weights(*(weights_of(model) for model in models))

    def test_what_decays(self) -> None:
        """Factors decay, also those of rank 1. Linear weights and the bias don't."""
        model = build(lazy_adam())
        layer, train_steps = model.get_layer("rafm"), 6
        factors, linear = {k: dict(zip(*layer.factors(k), strict=True)) for k in LEVELS}, layer.linear()
        train(model, range(train_steps))
        for level in LEVELS:
            for feature, vector in zip(*layer.factors(level), strict=True):
                if feature in NEVER_READ:
                    assert_close(vector, factors[level][feature] * 0.8**train_steps)
        never = list(NEVER_READ)
        assert np.array_equal(layer.linear()[never], linear[never])
        biases = [build(lazy_adam(decay=decay), dependent_gradient="upper") for decay in (0.0, DECAY)]
        for each in biases:
            each.get_layer("rafm").assign_bias(1.0)
            empty = np.full((2, 3), -1, "int32")
            for _ in range(3):
                each.train_on_batch(empty, LABELS[0])
        assert biases[0].get_layer("rafm").bias() == biases[1].get_layer("rafm").bias() != 1.0

    def test_gradients_after_long_idle_times(self) -> None:
        """Gradients are computed from the decayed rows."""
        num_idle, rate, decay = 250, 0.01, 0.5
        model = build(lazy_adam(rate, decay), run_eagerly=False)
        start = model.get_layer("rafm").get_weights()
        # Samples of weight 0 have no gradient, so these steps do nothing but decay.
        idle = tf.data.Dataset.from_tensors((IDS[1], LABELS[1], np.zeros(2, "float32"))).repeat(num_idle)
        model.fit(idle, shuffle=False, verbose=0)
        train(model, [0])

        other, decayed = build(EveryRowInEveryStep(rate, decay)), []
        for variable, value in zip(other.get_layer("rafm").weights, start, strict=True):
            decayed.append(value * (1 - rate * decay) ** num_idle if is_table(variable) else value)
        other.set_weights(decayed)
        other.optimizer.iterations.assign(num_idle)
        train(other, [0])
        assert_same_weights(weights_of(model), weights_of(other))
        assert largest_difference(weights_of(model), dict(zip(weights_of(model), decayed, strict=True))) > 1e-3

    def test_penalty_over_the_batch(self) -> None:
        """The penalty is computed from the decayed rows."""
        options = {"factors_l2": 0.3, "factors_l2_scope": "batch", "linear_l2": 0.1}
        models = [build(lazy_adam(), **options), build(EveryRowInEveryStep(), **options)]
        for model in models:
            train(model, range(6))
        assert_same_weights(*(weights_of(model) for model in models))

    def test_penalty_over_tables(self) -> None:
        """The gradients are dense, and the tables decay all the same."""
        models = [build(lazy_adam(), factors_l2=0.3), build(EveryRowInEveryStep(), factors_l2=0.3)]
        for model in models:
            train(model, range(6))
        assert_same_weights(*(raw_weights_of(model) for model in models), 5e-6)

    def test_float64(self) -> None:
        models = [build(lazy_adam(), dtype="float64"), build(EveryRowInEveryStep(), dtype="float64")]
        for model in models:
            train(model, range(6))
        assert models[0].get_layer("rafm").free_tables[0].dtype == "float64"
        assert_same_weights(*(weights_of(model) for model in models), 1e-7)

    def test_excluded_tables(self) -> None:
        optimizer = lazy_adam()
        optimizer.exclude_from_weight_decay(var_names=["free_2", "dependent_1"])
        model = build(optimizer)
        before = {k: dict(zip(*layer_of(model).factors(k), strict=True)) for k in LEVELS}
        train(model, range(4))
        # The factors of level 1 of features of level 2 are dependent factors.
        for level, feature_level in ((1, 1), (1, 2), (2, 2)):
            for feature, vector in zip(*layer_of(model).factors(level), strict=True):
                if feature in NEVER_READ and PLAN.levels[feature] == feature_level:
                    assert_close(vector, before[level][feature] * (0.8**4 if feature_level == 1 else 1.0))

    def test_steps_per_execution(self) -> None:
        model = build(lazy_adam())
        model.compile(model.optimizer, "mse", steps_per_execution=3)
        data = tf.data.Dataset.from_tensor_slices((IDS, LABELS))
        model.fit(data, shuffle=False, verbose=0)
        assert_same_weights(raw_weights_of(model), expected(6))


def exported_score(model: keras.Model, path: Path) -> Any:
    served = tf.saved_model.load(str(kr.export(model, path / "exported")))
    return served.signatures["serving_default"](ids=tf.constant(QUERY))["score"].numpy()


def saved_weights(model: keras.Model, path: Path) -> Any:
    model.save(path / "model.keras")
    return keras.models.load_model(path / "model.keras", compile=False).get_weights()


def saved_weights_alone(model: keras.Model, path: Path) -> Any:
    model.save_weights(path / "model.weights.h5")
    other = build(kind="rafm_model" if isinstance(model, kr.RaFMModel) else "model")
    other.load_weights(path / "model.weights.h5")
    return other.get_weights()


def flushed(model: keras.Model, path: Path) -> Any:
    del path
    getattr(model.optimizer, "flush", lambda: None)()
    return list(raw_weights_of(model).values())


#: Everything that shows weights directly or through scores.
VIEWS_OF_RAFM_MODEL: dict[str, Callable[[keras.Model, Path], Any]] = {
    "model.get_weights": lambda model, _: model.get_weights(),
    "layer.factors": lambda model, _: [layer_of(model).factors(level)[1] for level in LEVELS],
    "layer.linear": lambda model, _: layer_of(model).linear(),
    "layer.get_weights": lambda model, _: layer_of(model).get_weights(),
    "layer.level_scores": lambda model, _: layer_of(model).level_scores(QUERY).numpy(),
    "layer": lambda model, _: layer_of(model)(QUERY, training=False).numpy(),
    "model": lambda model, _: model(QUERY, training=False).numpy(),
    "model.predict": lambda model, _: model.predict(QUERY, verbose=0),
    "model.evaluate": lambda model, _: model.evaluate(QUERY, np.ones((4, 1)), verbose=0),
    "model.save": saved_weights,
    "model.save_weights": saved_weights_alone,
    "pickle": lambda model, _: pickle.loads(pickle.dumps(model)).get_layer("rafm").get_weights(),
    "kr.export": exported_score,
    "optimizer.flush": flushed,
    "a model around the layer": lambda model, _: keras.Model(model.input, layer_of(model).output)(QUERY).numpy(),
}


#: The same for a plain `keras.Model`, as far as the layer or the optimizer settles tables. Its `get_weights` does not.
VIEWS_OF_PLAIN_MODEL = (
    "layer.get_weights",
    "layer.level_scores",
    "model.predict",
    "model.save",
    "model.save_weights",
    "optimizer.flush",
)


class TestNobodySeesAStaleWeight:
    """During training, with idle rows: everything that can be seen is as if tables decayed in every step."""

    @pytest.mark.parametrize(
        ("kind", "view"),
        [
            *(("rafm_model", view) for view in VIEWS_OF_RAFM_MODEL),
            *(("model", view) for view in VIEWS_OF_PLAIN_MODEL),
        ],
    )
    def test_seen_during_training(self, tmp_path: Path, kind: str, view: str) -> None:
        model, settled = halfway(5, kind), build(keras.optimizers.SGD(0.0), kind)
        layer_of(settled).set_weights([*expected(5, kind).values()])
        # Decay is pending, so it would be missed if it were not applied.
        assert largest_difference(raw_weights_of(model), expected(5, kind)) > 0.1

        look = VIEWS_OF_RAFM_MODEL[view]
        seen, as_expected = (look(each, tmp_path) for each in (model, settled))

        for one, other in zip(keras.tree.flatten(seen), keras.tree.flatten(as_expected), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=5e-6)
        # Looking at the weights has not changed training.
        train(model, [5])
        assert_same_weights(weights_of(model), expected(6, kind))

    def test_models_trained_with_adagrad(self) -> None:
        model = build(kr.optimizers.SparseAdagrad(RATE, idle_decay=DECAY))
        before = {k: dict(zip(*layer_of(model).factors(k), strict=True)) for k in LEVELS}
        train(model, range(4))
        for level in LEVELS:
            for feature, vector in zip(*layer_of(model).factors(level), strict=True):
                if feature in NEVER_READ:
                    assert_close(vector, before[level][feature] * 0.8**4)


def other_weights() -> list[np.ndarray]:
    """Return other values for all weights. The slot map stays the same."""
    return [0.1 + value if value.dtype.kind == "f" else value for value in expected(2).values()]


class TestWritten:
    """Weights that are set during training have no pending decay. All other weights keep theirs."""

    WRITERS: tuple[tuple[str, Callable[[keras.Model], None]], ...] = (
        ("model.set_weights", lambda model: model.set_weights(other_weights())),
        ("layer.set_weights", lambda model: layer_of(model).set_weights(other_weights())),
        ("assign_factors 1", lambda model: layer_of(model).assign_factors(1, [9, 1, 10], normal(3, 3, 1))),
        ("assign_factors 2", lambda model: layer_of(model).assign_factors(2, [10, 5], normal(3, 2, 3))),
        ("assign_linear", lambda model: layer_of(model).assign_linear([9, 1], [3.0, 4.0])),
    )

    @pytest.mark.parametrize("write", [write for _, write in WRITERS], ids=[name for name, _ in WRITERS])
    def test_during_training(self, write: Callable[[keras.Model], None]) -> None:
        models = model, oracle = halfway(), reference(4)
        for each in models:
            write(each)
        assert_same_weights(weights_of(model), raw_weights_of(oracle))
        for each in models:
            train(each, (4, 5))
        assert_same_weights(weights_of(model), raw_weights_of(oracle))

    def test_assigned_rows_are_exactly_what_was_assigned(self) -> None:
        model, values = halfway(), normal(3, 3, 1).astype("float32")
        layer_of(model).assign_factors(1, [9, 1, 10], values)
        found = dict(zip(*layer_of(model).factors(1), strict=True))
        for feature, value in zip((9, 1, 10), values, strict=True):
            assert np.array_equal(found[feature], value)

    @every_kind
    def test_load_weights(self, tmp_path: Path, kind: str) -> None:
        """Keras also loads the state of the optimizer. Load after looking at the weights, and before more training."""
        model, other = halfway(3, kind), halfway(4, kind)
        other.save_weights(tmp_path / "other.weights.h5")
        for _ in range(2):
            model.load_weights(tmp_path / "other.weights.h5")
            assert_same_weights(weights_of(model), weights_of(other), 0)
            assert_same_weights(weights_of(model), expected(4, kind))
            model.load_weights(tmp_path / "other.weights.h5")
            train(model, (4, 5))
            assert_same_weights(weights_of(model), expected(6, kind))


def test_dense_gradients_of_an_empty_table() -> None:
    """A penalty over whole tables makes all gradients dense, including those of tables without rows."""
    ids = keras.Input((2,), dtype="int32")
    model = kr.RaFMModel(ids, kr.RaFMLayer(kr.RankPlan([1, 1, 3], ranks=(1, 2, 3)), factors_l2=0.1)(ids))
    model.compile(lazy_adam(), "mse")
    before = model.get_weights()
    model.fit(np.array([[0, 1], [2, 1]]), np.ones((2, 1)), verbose=0)
    changed = [np.any(one != other) for one, other in zip(before, model.get_weights(), strict=True)]
    assert changed == [weight.shape[0] > 0 if weight.ndim > 1 else weight.dtype != np.int32 for weight in before]


class TestTwoDevices:
    def test_a_plain_model_is_lazy(self) -> None:
        """Gradients are dense on several devices, and yet idle rows do not change."""
        with strategy_of(2).scope():
            model = build(kr.optimizers.LazyAdam(0.1, idle_decay=0.0), "model", run_eagerly=False)
        before = raw_weights_of(model)
        ids = np.array([[0, 1, 2], [3, 4, 1]])
        for batch in (ids, ids[:, [0, 1, 1]]):  # feature 2 has momentum when it becomes idle
            model.fit(tf.data.Dataset.from_tensors((batch, [[1.0], [0.0]])), shuffle=False, verbose=0)
        linear = {i: raw_weights_of(model)["linear"][slot] for i, slot in enumerate(before["slots"])}
        assert all((linear[i] == before["linear"][before["slots"][i]]) == (i > 4) for i in range(PLAN.num_features))

    def test_train_as_one(self) -> None:
        """Flush during training, outside and inside the scope of the strategy, and at the end of `fit`."""
        with strategy_of(2).scope():
            model = build(lazy_adam(), run_eagerly=False)
        models = model, build(EveryRowInEveryStep())
        data = tf.data.Dataset.from_tensor_slices((IDS, LABELS))
        is_unread = [all(PLAN.levels[i] != level for i in batch.flat if i >= 0) for batch in IDS for level in LEVELS]
        assert any(is_unread)
        seen: tuple[list[Any], list[Any]] = ([], [])

        def look(batch: int, which: int) -> None:
            before = raw_weights_of(models[which])
            if which == 0 and batch == 2:
                model.optimizer.flush()
            elif which == 0 and batch == 4:
                with strategy_of(2).scope():
                    model.optimizer.flush()
            if batch in (2, 4):
                seen[which].append(raw_weights_of(models[which]))
                assert which == 1 or largest_difference(before, seen[which][-1]) > 0.03

        for which, each in enumerate(models):
            callback = keras.callbacks.LambdaCallback(
                on_train_batch_end=lambda batch, logs, which=which: look(batch, which)
            )
            each.fit(data, shuffle=False, callbacks=[callback], verbose=0)
            seen[which].append(raw_weights_of(each))
        for one, other in zip(*seen, strict=True):
            assert_same_weights(one, other)
        for weight in layer_of(model).weights:
            one, two = strategy_of(2).experimental_local_results(weight.value)
            assert np.array_equal(one.numpy(), two.numpy()), weight.path
