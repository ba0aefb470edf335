"""Idle decay when training is interrupted: by callbacks, by saving and loading, and by another `compile`."""

import functools
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
    NEVER_READ,
    PLAN,
    RATE,
    EveryRowInEveryStep,
    assert_close,
    assert_same_weights,
    build,
    every_kind,
    expected,
    halfway,
    largest_difference,
    layer_of,
    lazy_adam,
    raw_weights_of,
    train,
    weights_of,
)

import keras_rafm as kr


@functools.cache
def expected_after_epochs() -> list[dict[str, np.ndarray]]:
    model, result = build(EveryRowInEveryStep()), []
    for _ in range(2):
        for start in (0, 2, 4):
            model.train_on_batch(IDS[start : start + 2].reshape(4, 3), LABELS[start : start + 2].reshape(4, 1))
        result.append(raw_weights_of(model))
    return result


class TestCallbacks:
    def fit(self, model: keras.Model, callbacks: Any, epochs: int = 2) -> None:
        options = {"batch_size": 4, "epochs": epochs, "shuffle": False, "verbose": 0}
        model.fit(IDS.reshape(12, 3), LABELS.reshape(12, 1), callbacks=callbacks, **options)

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda callback, model: [callback],
            lambda callback, model: callback,
            lambda callback, model: keras.callbacks.CallbackList([callback], add_history=True, model=model),
        ],
        ids=["list", "alone", "callback_list"],
    )
    def test_see_settled_weights(self, wrap: Callable[[Any, Any], Any]) -> None:
        model, seen = build(lazy_adam()), []
        look = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: seen.append(raw_weights_of(model)),
            on_train_end=lambda logs: seen.append(raw_weights_of(model)),
        )
        self.fit(model, wrap(look, model))
        for one, other in zip(seen, [*expected_after_epochs(), expected_after_epochs()[-1]], strict=True):
            assert_same_weights(one, other)

    def test_passed_by_position(self) -> None:
        """Pass callbacks as in `fit(x, y, batch_size, epochs, verbose, callbacks)`."""
        model, seen = build(lazy_adam()), []
        look = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(raw_weights_of(model)))
        model.fit(IDS.reshape(12, 3), LABELS.reshape(12, 1), 4, 2, 0, [look], shuffle=False)
        for one, other in zip(seen, expected_after_epochs(), strict=True):
            assert_same_weights(one, other)

    def test_without_callbacks(self) -> None:
        model = build(lazy_adam())
        self.fit(model, None)
        assert_same_weights(raw_weights_of(model), expected_after_epochs()[-1])

    @every_kind
    def test_early_stopping_restores_the_best_weights(self, kind: str) -> None:
        scores, seen = [3.0, 1.0, 2.0, 4.0, 5.0], []
        model = build(lazy_adam(), kind)
        stop = keras.callbacks.EarlyStopping("score", mode="min", patience=2, restore_best_weights=True)
        callbacks = [
            keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(score=scores[epoch])),
            stop,
            keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(weights_of(model))),
        ]
        # A model other than `RaFMModel` needs the callback.
        flush = [] if kind == "rafm_model" else [kr.optimizers.FlushIdleDecay()]
        self.fit(model, [*flush, *callbacks], epochs=5)
        assert stop.stopped_epoch == 3
        assert largest_difference(seen[1], seen[3]) > 0.01
        for found in (raw_weights_of(model), weights_of(model)):
            assert_same_weights(found, seen[1], 0)
        # No decay from before is pending on the restored weights.
        train(model, [1])
        for name in ("free_1", "free_2"):
            slots = layer_of(model).plan.slots[list(NEVER_READ)] - (PLAN.level_sizes[1] if name == "free_1" else 0)
            rows = [
                slot for slot, level in zip(slots, PLAN.levels[list(NEVER_READ)], strict=True) if name == f"free_{level}"
            ]
            assert_close(weights_of(model)[name][rows], 0.8 * seen[1][name][rows])

    def test_model_checkpoint_in_the_middle_of_an_epoch(self, tmp_path: Path) -> None:
        model, other = build(lazy_adam()), build()
        save = keras.callbacks.ModelCheckpoint(str(tmp_path / "{batch}.weights.h5"), save_weights_only=True, save_freq=3)
        data = tf.data.Dataset.from_tensor_slices((IDS, LABELS))
        model.fit(data, shuffle=False, callbacks=[save], verbose=0)
        other.load_weights(tmp_path / "3.weights.h5")
        assert_same_weights(weights_of(other), expected(3))


class TestSavedDuringTraining:
    """Training continues as if the model had not been saved and loaded."""

    OPTIMIZERS: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("lazy_adam", lazy_adam),
        ("schedule", lambda: lazy_adam(keras.optimizers.schedules.ExponentialDecay(0.2, 2, 0.5))),
        ("adagrad", lambda: kr.optimizers.SparseAdagrad(RATE, idle_decay=DECAY)),
        ("loss_scaling", lambda: keras.optimizers.LossScaleOptimizer(lazy_adam())),
    )
    cases = functools.partial(pytest.mark.parametrize, ("optimizer", "kind"))
    ALL = cases(
        [*((make, "rafm_model") for _, make in OPTIMIZERS), (lazy_adam, "model")],
        ids=[*(name for name, _ in OPTIMIZERS), "plain model"],
    )
    MOST = cases(
        [(lazy_adam, "rafm_model"), (OPTIMIZERS[-1][1], "rafm_model"), (lazy_adam, "model")],
        ids=["lazy_adam", "loss_scaling", "plain model"],
    )

    @ALL
    def test_keras_file(self, tmp_path: Path, optimizer: Callable[[], Any], kind: str) -> None:
        models = [build(optimizer(), kind), build(optimizer(), kind)]
        train(models[0], range(3))
        train(models[1], range(3))
        models[0].save(tmp_path / "model.keras")
        models.append(keras.models.load_model(tmp_path / "model.keras"))
        assert type(models[2].optimizer) is type(models[0].optimizer)
        for each in models:
            train(each, (3, 4))
        # Compare the saved model, the model that was never saved, and the loaded model.
        assert_same_weights(weights_of(models[0]), weights_of(models[1]))
        assert_same_weights(weights_of(models[2]), weights_of(models[1]))

    def test_pickle(self) -> None:
        loaded = pickle.loads(pickle.dumps(halfway()))
        train(loaded, (4, 5))
        assert_same_weights(weights_of(loaded), expected(6))

    @MOST
    def test_checkpoint(self, tmp_path: Path, optimizer: Callable[[], Any], kind: str) -> None:
        model, fresh = build(optimizer(), kind), build(optimizer(), kind)
        train(model, range(3))
        path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(tmp_path / "checkpoint")
        train(fresh, [2])
        status = tf.train.Checkpoint(model=fresh, optimizer=fresh.optimizer).restore(path)
        status.assert_existing_objects_matched()
        for one, other in zip(model.optimizer.variables, fresh.optimizer.variables, strict=True):
            assert np.array_equal(one.numpy(), other.numpy()), other.path
        for each in (model, fresh):
            train(each, (3, 4))
        assert_same_weights(weights_of(fresh), weights_of(model))

    @every_kind
    @pytest.mark.parametrize("looked_at", [False, True], ids=["trained further", "looked at"])
    def test_checkpoint_of_the_same_model(self, tmp_path: Path, kind: str, looked_at: bool) -> None:
        """The checkpoint holds the pending decay. Looking at the weights applies it, and restoring brings it back."""
        model = halfway(4, kind)
        checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
        path = checkpoint.save(tmp_path / "checkpoint")
        if looked_at:
            weights_of(model)
        else:
            train(model, [5])
        checkpoint.restore(path)
        assert_same_weights(weights_of(model), expected(4, kind))
        train(model, [4, 5])
        assert_same_weights(weights_of(model), expected(6, kind))

    def test_set_weights_of_the_optimizer(self) -> None:
        """Set the tables and the optimizer state that belongs to them."""
        model, other = halfway(), halfway(3)
        tables, state = raw_weights_of(model), [variable.numpy() for variable in model.optimizer.variables]
        layer_of(other).set_weights([*tables.values()])
        other.optimizer.set_weights(state)
        assert_same_weights(weights_of(other), expected(4))
        train(other, [4, 5])
        assert_same_weights(weights_of(other), expected(6))


class TestCompiledAgain:
    """No pending decay is lost or applied twice."""

    NEXT: tuple[tuple[str, Callable[[], Any], Callable[[], Any]], ...] = (
        ("lazy_adam", lambda: lazy_adam(0.05, 3.0), lambda: EveryRowInEveryStep(0.05, 3.0)),
        ("without decay", lambda: lazy_adam(0.05, 0.0), lambda: EveryRowInEveryStep(0.05, 0.0)),
        ("sgd", lambda: keras.optimizers.SGD(0.2), lambda: keras.optimizers.SGD(0.2)),
        ("adagrad", lambda: kr.optimizers.SparseAdagrad(0.2), lambda: keras.optimizers.Adagrad(0.2)),
    )

    def check(self, model: keras.Model, kind: str, then: Any, expected_then: Any) -> None:
        other = build(expected_then, kind)
        layer_of(other).set_weights([*expected(4, kind).values()])
        model.compile(then, "mse", run_eagerly=True)
        assert_same_weights(weights_of(model), weights_of(other))
        for each in (model, other):
            train(each, (4, 5, 4))
        assert_same_weights(weights_of(model), weights_of(other))

    @pytest.mark.parametrize(("then", "expected_then"), [both for _, *both in NEXT], ids=[name for name, *_ in NEXT])
    def test_with_another_optimizer(self, then: Callable[[], Any], expected_then: Callable[[], Any]) -> None:
        self.check(halfway(), "rafm_model", then(), expected_then())

    def test_in_a_plain_model_after_fit(self) -> None:
        """`fit` applies pending decay at its end. Optimizers of Keras know nothing of pending decay."""
        model = build(lazy_adam(), "model")
        model.fit(tf.data.Dataset.from_tensor_slices((IDS[:4], LABELS[:4])), shuffle=False, verbose=0)
        self.check(model, "model", keras.optimizers.SGD(0.2), keras.optimizers.SGD(0.2))

    def test_in_a_plain_model_during_training(self) -> None:
        self.check(halfway(4, "model"), "model", lazy_adam(0.05, 3.0), EveryRowInEveryStep(0.05, 3.0))

    @every_kind
    def test_with_the_same_optimizer(self, kind: str) -> None:
        model = halfway(4, kind)
        for batch in (4, 5):
            model.compile(model.optimizer, "mse", run_eagerly=True)
            train(model, [batch])
        assert_same_weights(weights_of(model), expected(6, kind))

    @every_kind
    def test_with_a_previous_optimizer(self, kind: str) -> None:
        """Let two optimizers with separate states take turns."""
        models = []
        for optimizers in ((lazy_adam(), lazy_adam(0.05, 3.0)), (EveryRowInEveryStep(), EveryRowInEveryStep(0.05, 3.0))):
            model = build(optimizers[0], kind)
            models.append(model)
            for turn, batches in enumerate(((0,), (1,), (2, 3), (4,))):
                model.compile(optimizers[turn % 2], "mse", run_eagerly=True)
                if kind == "model" and turn > 1 and model is models[0]:  # only `RaFMModel.compile` does this itself
                    model.optimizer.attach()
                train(model, batches)
        assert_same_weights(*(weights_of(model) for model in models))
