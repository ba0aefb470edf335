"""`RaFMModel` in training: its logs, ways to run its steps, callbacks, optimizers and frozen weights.

The losses have tests of their own in test_model_losses.py, and the part of the model downstream of the score in
test_downstream.py.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from rafm_models import (
    IDS,
    LABELS,
    LOGITS_LOSS,
    PLAN,
    SAMPLE_WEIGHT,
    assert_same_weights,
    changed,
    compiled,
    cross_entropy,
    layer_of,
    level_scores,
    log_loss_imitation,
    make_layer,
    make_model,
    weights_by_name,
)

import keras_rafm as kr


@pytest.fixture
def mixed_float16() -> Iterator[None]:
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy("float32")


class TestLogs:
    def test_fit_lowers_the_loss(self) -> None:
        model = compiled(optimizer=keras.optimizers.Adam(0.05), dependent_loss_weight=0.5, run_eagerly=False)
        losses = model.fit(IDS, LABELS, batch_size=8, epochs=15, verbose=0).history["loss"]
        assert losses[-1] < 0.5 * losses[0]

    def test_names(self) -> None:
        model = make_model()
        accuracy = keras.metrics.BinaryAccuracy(name="accuracy", threshold=0)
        model.compile("sgd", LOGITS_LOSS, metrics=[accuracy], run_eagerly=True)
        history = model.fit(IDS, LABELS, validation_data=(IDS, LABELS), verbose=0).history
        assert set(history) == {
            "loss",
            "dependent_loss_1",
            "dependent_loss_2",
            "accuracy",
            "val_loss",
            "val_accuracy",
        }
        assert set(model.evaluate(IDS, LABELS, verbose=0, return_dict=True)) == {"loss", "accuracy"}

    def test_names_stay_after_compiling_again(self) -> None:
        model = compiled()
        model.compile("sgd", LOGITS_LOSS, run_eagerly=True)
        assert set(model.fit(IDS, LABELS, verbose=0).history) == {"loss", "dependent_loss_1", "dependent_loss_2"}

    @pytest.mark.parametrize("scope", ["tables", "batch"])
    def test_loss_is_the_compiled_loss_plus_regularisation(self, scope: str) -> None:
        ids = np.array([[5, 2, 1, -1], [5, 5, 3, 0]], "int32")
        l2 = (0.1, 0.2, 0.3)
        model = compiled(factors_l2=l2, linear_l2=0.05, factors_l2_scope=scope, dependent_loss_weight=100.0)
        layer = layer_of(model)
        read = [0, 1, 2, 3, 5] if scope == "batch" else range(PLAN.num_features)
        expected = np.mean(cross_entropy(LABELS[:2, 0], level_scores(model, ids)[-1]))
        expected += 0.05 * np.sum(layer.linear()[list(read)] ** 2)
        for level, strength in enumerate(l2, start=1):
            features, factors = layer.factors(level)
            expected += strength * np.sum(factors[np.isin(features, read)] ** 2)
        evaluated = model.evaluate(ids, LABELS[:2], verbose=0)
        trained = model.train_on_batch(ids, LABELS[:2], return_dict=True)
        assert evaluated == pytest.approx(expected, rel=1e-5)
        assert trained["loss"] == pytest.approx(expected, rel=1e-5)

    def test_evaluate_returns_values_in_the_order_of_keras(self) -> None:
        model = make_model()
        model.compile("sgd", LOGITS_LOSS, metrics=[keras.metrics.MeanAbsoluteError(name="mae")], run_eagerly=True)
        score = level_scores(model)[-1]
        loss, mae = model.evaluate(IDS, LABELS, batch_size=10, verbose=0)
        assert loss == pytest.approx(np.mean(cross_entropy(LABELS[:, 0], score)), rel=1e-5)
        assert mae == pytest.approx(np.mean(np.abs(score - LABELS[:, 0])), rel=1e-5)

    def test_loss_of_an_epoch_is_a_mean_over_samples(self) -> None:
        model = compiled(optimizer=keras.optimizers.SGD(0.0))
        expected = np.mean(cross_entropy(LABELS[:, 0], level_scores(model)[-1]))
        history = model.fit(IDS, LABELS, batch_size=20, shuffle=False, verbose=0).history  # batches of 20 and 4
        assert history["loss"] == pytest.approx([expected], rel=1e-5)

    def test_one_level_has_no_dependent_loss(self) -> None:
        model = compiled(plan=kr.RankPlan([1] * PLAN.num_features, ranks=(4,)))
        plain = keras.Model(model.input, model.output)
        before = model.get_weights()
        history = model.fit(IDS, LABELS, batch_size=8, shuffle=False, verbose=0).history
        trained = model.get_weights()
        model.set_weights(before)
        plain.compile(keras.optimizers.SGD(0.1), LOGITS_LOSS, run_eagerly=True)
        plain.fit(IDS, LABELS, batch_size=8, shuffle=False, verbose=0)
        assert set(history) == {"loss"}
        for one, other in zip(trained, plain.get_weights(), strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)


class TestExecution:
    def test_how_steps_are_run_changes_neither_weights_nor_logs(self) -> None:
        ways: list[dict[str, Any]] = [{}, {"steps_per_execution": 4, "jit_compile": False}, {"run_eagerly": True}]
        models = [make_model() for _ in ways]
        histories = []
        for model, options in zip(models, ways, strict=True):
            model.compile(keras.optimizers.Adam(0.05), LOGITS_LOSS, **options)
            fitted = model.fit(IDS, LABELS, batch_size=5, epochs=2, shuffle=False, verbose=0)
            histories.append(fitted.history)
        for model, history in zip(models[1:], histories[1:], strict=True):
            assert_same_weights(model, models[0], atol=1e-5)
            assert set(history) == set(histories[0])
            for name, values in histories[0].items():
                assert history[name] == pytest.approx(values, rel=1e-4), name

    def test_jit_compile_is_ignored_with_a_warning(self) -> None:
        model = make_model()
        with pytest.warns(UserWarning, match="jit_compile"):
            model.compile("sgd", LOGITS_LOSS, jit_compile=True)
        assert not model.jit_compile

    def test_dataset_and_arrays_give_the_same(self) -> None:
        from_arrays, from_dataset = compiled(), compiled()
        from_arrays.fit(IDS, LABELS, sample_weight=SAMPLE_WEIGHT, batch_size=8, shuffle=False, verbose=0)
        from_dataset.fit(
            tf.data.Dataset.from_tensor_slices((IDS, LABELS, SAMPLE_WEIGHT)).batch(8), shuffle=False, verbose=0
        )
        assert_same_weights(from_arrays, from_dataset)

    def test_on_batch(self) -> None:
        model = compiled(optimizer=keras.optimizers.SGD(0.0))
        one, two, three = level_scores(model)
        loss = np.mean(cross_entropy(LABELS[:, 0], three))
        assert model.test_on_batch(IDS, LABELS, return_dict=True) == {"loss": pytest.approx(loss, rel=1e-5)}
        np.testing.assert_allclose(model.predict_on_batch(IDS)[:, 0], three, rtol=0, atol=1e-5)
        logs = model.train_on_batch(IDS, LABELS, return_dict=True)
        assert logs == {
            "loss": pytest.approx(loss, rel=1e-5),
            "dependent_loss_1": pytest.approx(np.mean(log_loss_imitation(two, one)), rel=1e-5),
            "dependent_loss_2": pytest.approx(np.mean(log_loss_imitation(three, two)), rel=1e-5),
        }

    @pytest.mark.usefixtures("mixed_float16")
    def test_mixed_float16(self) -> None:
        model = compiled(optimizer=keras.optimizers.Adam(0.05), dependent_loss_weight=0.5, run_eagerly=False)
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        assert model(IDS).dtype == "float16"
        losses = model.fit(IDS, LABELS, batch_size=8, epochs=15, verbose=0).history
        assert losses["loss"][-1] < 0.5 * losses["loss"][0]
        assert np.all(np.isfinite(losses["dependent_loss_1"]))
        assert {weight.dtype for weight in model.trainable_weights} == {"float32"}

    def test_loss_scale_optimizer_gives_the_same_weights(self) -> None:
        plain = compiled(optimizer=keras.optimizers.Adam(0.05))
        scaled = compiled(optimizer=keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.05), initial_scale=1024.0))
        for model in (plain, scaled):
            model.fit(IDS, LABELS, batch_size=8, epochs=2, shuffle=False, verbose=0)
        assert_same_weights(plain, scaled, atol=1e-5)


class TestCallbacks:
    def test_early_stopping_restores_the_best_weights(self) -> None:
        model = compiled(optimizer=keras.optimizers.SGD(0.5))
        stopping = keras.callbacks.EarlyStopping(monitor="val_loss", patience=1, restore_best_weights=True)
        wrong = 1 - LABELS  # training increases the loss on these labels
        history = model.fit(
            IDS, LABELS, validation_data=(IDS, wrong), epochs=8, shuffle=False, callbacks=[stopping], verbose=0
        ).history["val_loss"]
        assert len(history) == 2
        assert history[1] > history[0]
        assert model.evaluate(IDS, wrong, verbose=0) == pytest.approx(history[0], rel=1e-5)

    def test_monitoring_a_dependent_loss(self) -> None:
        model = compiled(optimizer=keras.optimizers.SGD(0.0))
        stopping = keras.callbacks.EarlyStopping(monitor="dependent_loss_1", mode="min", patience=0, min_delta=1e-3)
        assert len(model.fit(IDS, LABELS, epochs=5, callbacks=[stopping], verbose=0).epoch) == 2

    def test_model_checkpoint(self, tmp_path: Path) -> None:
        model = compiled()
        saving = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
        model.fit(IDS, LABELS, epochs=2, callbacks=[saving], verbose=0)
        last = keras.models.load_model(tmp_path / "2.keras")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["1.keras", "2.keras"]
        np.testing.assert_allclose(last(IDS).numpy(), model(IDS).numpy(), rtol=0, atol=1e-6)

    def test_learning_rate_scheduler(self) -> None:
        model = compiled()
        scheduler = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.0 if epoch else rate)
        weights = []
        keep = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: weights.append(weights_by_name(model)))
        model.fit(IDS, LABELS, epochs=2, callbacks=[scheduler, keep], verbose=0)
        assert weights[0].keys() == weights[1].keys()
        for path, value in weights[0].items():
            np.testing.assert_array_equal(value, weights[1][path], err_msg=path)


OPTIMIZERS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(0.1),
    "amsgrad": lambda: keras.optimizers.Adam(0.1, amsgrad=True),
    "adagrad": lambda: keras.optimizers.Adagrad(0.1),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.1, momentum=0.5, centered=True),
    "ftrl": lambda: keras.optimizers.Ftrl(0.1, l1_regularization_strength=0.01),
    "adamw": lambda: keras.optimizers.AdamW(0.1, weight_decay=0.1),
    "nadam": lambda: keras.optimizers.Nadam(0.1),
    "clipnorm": lambda: keras.optimizers.Adagrad(0.1, clipnorm=0.01),
    "global_clipnorm": lambda: keras.optimizers.Adagrad(0.1, global_clipnorm=0.01),
    "clipvalue": lambda: keras.optimizers.Adagrad(0.1, clipvalue=0.001),
    "average": lambda: keras.optimizers.Adam(0.1, use_ema=True),
}


class TestOptimizers:
    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_sparse_gradients_give_the_step_of_dense_ones(self, name: str) -> None:
        """Updates of Keras optimizers are wrong for repeated rows, so a gradient must hold each row once."""
        sparse, dense = make_model(max_dense_rows=0), make_model(max_dense_rows=0)
        seen: list[tuple[Any, keras.Variable]] = []
        for model in (sparse, dense):
            model.compile(OPTIMIZERS[name](), LOGITS_LOSS, run_eagerly=True)
        sparse_apply, dense_apply = sparse.optimizer.apply, dense.optimizer.apply

        def recording(grads: Any, variables: Any = None) -> None:
            seen.extend(zip(grads, variables, strict=True))
            sparse_apply(grads, variables)

        sparse.optimizer.apply = recording
        dense.optimizer.apply = lambda grads, variables: dense_apply([tf.convert_to_tensor(g) for g in grads], variables)
        for model in (sparse, dense):
            for start in (0, 8, 16):
                model.train_on_batch(IDS[start : start + 8], LABELS[start : start + 8])

        assert_same_weights(sparse, dense, atol=2e-5)
        assert any(np.unique(row[row >= 0]).size < np.sum(row >= 0) for row in IDS[:8])
        tables = [(gradient, variable) for gradient, variable in seen if variable.name != "bias"]
        assert len(tables) == 3 * 6
        for gradient, variable in tables:
            assert isinstance(gradient, tf.IndexedSlices), variable.path
            indices = gradient.indices.numpy()
            assert np.unique(indices).size == indices.size, variable.path

    def test_gradient_accumulation(self) -> None:
        accumulating = compiled(optimizer=keras.optimizers.SGD(0.1, gradient_accumulation_steps=2))
        at_once = compiled()
        for start in (0, 12):
            accumulating.train_on_batch(IDS[start : start + 12], LABELS[start : start + 12])
        at_once.train_on_batch(IDS, LABELS)
        assert_same_weights(accumulating, at_once)

    def test_optimizer_by_name(self) -> None:
        model = make_model()
        model.compile("adam", "mse", run_eagerly=True)
        before = weights_by_name(model)
        model.train_on_batch(IDS, LABELS)
        assert changed(before, model) == {"linear", "bias", "free_1", "free_2", "free_3", "dependent_1", "dependent_2"}


class TestFrozen:
    def test_layer(self) -> None:
        ids = keras.Input((4,), dtype="int32")
        model = kr.RaFMModel(ids, keras.layers.Dense(1, name="top")(make_layer()(ids)))
        layer_of(model).trainable = False
        model.compile("adam", "mse", run_eagerly=True)
        before = weights_by_name(model)
        logs = model.train_on_batch(IDS, LABELS, return_dict=True)
        assert changed(before, model) == {"kernel", "bias"}
        assert logs["dependent_loss_1"] > 0
        np.testing.assert_array_equal(layer_of(model).bias(), before["rafm/bias"])

        layer_of(model).trainable = True
        model.compile("adam", "mse", run_eagerly=True)
        model.train_on_batch(IDS, LABELS)
        assert changed(before, model) >= {"free_1", "dependent_1", "linear", "kernel"}

    def test_single_tables(self) -> None:
        model = make_model()
        layer = layer_of(model)
        layer.free_tables[1].trainable = False
        layer.linear_weights.trainable = False
        model.compile("adam", LOGITS_LOSS, run_eagerly=True)
        before = weights_by_name(model)
        model.fit(IDS, LABELS, verbose=0)
        assert changed(before, model) == {"bias", "free_1", "free_3", "dependent_1", "dependent_2"}

    def test_all_weights(self) -> None:
        model = make_model()
        model.trainable = False
        model.compile("adam", LOGITS_LOSS, run_eagerly=True)
        before = weights_by_name(model)
        with pytest.warns(UserWarning, match="no trainable weights"):
            logs = model.fit(IDS, LABELS, verbose=0).history
        assert changed(before, model) == set()
        assert logs["loss"] == pytest.approx([model.evaluate(IDS, LABELS, verbose=0)], rel=1e-5)


def test_a_plain_model_of_the_same_layers_adds_its_own_lower_loss() -> None:
    """A step of a RaFMModel leaves nothing behind: each call of the layer depends on the model that makes it."""
    model = compiled("mse", dependent_loss_weight=3.0)
    model.train_on_batch(IDS, LABELS)
    plain = keras.Model(model.input, model.output)
    plain.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
    one, two, three = level_scores(model)
    lower = np.mean((two - one) ** 2) + np.mean((three - two) ** 2)
    expected = np.mean((three - LABELS[:, 0]) ** 2)
    trained = plain.train_on_batch(IDS, LABELS)
    assert trained == pytest.approx(expected + 3.0 * lower, rel=1e-4)
    assert plain.test_on_batch(IDS, LABELS) == pytest.approx(expected, rel=1e-5)
    assert model.train_on_batch(IDS, LABELS, return_dict=True)["loss"] == pytest.approx(expected, rel=1e-5)
