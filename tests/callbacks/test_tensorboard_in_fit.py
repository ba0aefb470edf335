"""`keras_rafm.callbacks.TensorBoard` in `fit`: when it analyses, and that it leaves training unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from losses import log_losses
from tensorboard_runs import (
    COUNTS,
    IDS,
    LABELS,
    RUNS,
    Run,
    Subclassed,
    fit,
    level_scores,
    make_model,
    wide_and_deep,
)

import keras_rafm as kr
from keras_rafm import callbacks

pytestmark = pytest.mark.one_tensorflow


@pytest.fixture(scope="module")
def models() -> dict[int, kr.RaFMModel]:
    """Models by `steps_per_execution`, shared by tests that don't depend on weights, so that graphs are made once."""
    keras.utils.set_random_seed(0)
    return {steps: make_model(steps_per_execution=steps) for steps in (1, 2)}


@pytest.mark.parametrize(
    ("epochs", "analysis_freq", "steps_per_execution", "expected"),
    [(3, 1, 2, [0, 1, 2]), (6, 2, 1, [0, 2, 4, 5]), (5, 2, 1, [0, 2, 4]), (4, 9, 2, [0, 3])],
)
def test_when_the_analysis_is_done(
    models: dict[int, kr.RaFMModel],
    tmp_path: Path,
    epochs: int,
    analysis_freq: int,
    steps_per_execution: int,
    expected: list[int],
) -> None:
    model = models[steps_per_execution]
    fit(model, tmp_path, epochs=epochs, analysis_data=(IDS, LABELS), analysis_freq=analysis_freq)
    run = Run(tmp_path / RUNS[0])
    assert list(run.all("levels/loss")) == list(run.all("norms/free_factors")) == expected


class StopAfterSecondEpoch(keras.callbacks.Callback):
    """Changes the weights when training ends, as `EarlyStopping` may."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.stop_training = epoch == 1
        self.bias = self.model.layers[-1].bias()

    def on_train_end(self, logs: Any = None) -> None:
        self.model.layers[-1].assign_bias(100.0)


@pytest.mark.parametrize("first", [True, False])
def test_stopped_training(models: dict[int, kr.RaFMModel], tmp_path: Path, first: bool) -> None:
    model = models[1]
    stop = StopAfterSecondEpoch()
    board = callbacks.TensorBoard(tmp_path, analysis_data=(IDS, LABELS), analysis_freq=5)
    model.fit(IDS, LABELS, batch_size=20, epochs=9, verbose=0, callbacks=[stop, board] if first else [board, stop])
    model.layers[-1].assign_bias(stop.bias)
    losses = Run(tmp_path / RUNS[2]).all("levels/loss")
    assert list(losses) == [0, 1]
    assert losses[1] == pytest.approx(log_losses(LABELS, level_scores(model.layers[-1])[:, 2]).mean(), rel=1e-4)


@pytest.mark.parametrize("update_freq", ["batch", 2])  # an epoch has three batches
def test_what_keras_writes(models: dict[int, kr.RaFMModel], tmp_path: Path, update_freq: Any) -> None:
    model = models[1]
    board = callbacks.TensorBoard(
        tmp_path, update_freq=update_freq, histogram_freq=1, write_steps_per_second=True, analysis_data=(IDS, LABELS)
    )
    history = model.fit(IDS, LABELS, 20, 2, 0, [board], validation_data=(IDS, LABELS)).history
    train, validation = Run(tmp_path / "train"), Run(tmp_path / "validation")
    assert list(train.all("epoch_loss").values()) == pytest.approx(history["loss"])
    assert list(validation.all("epoch_loss").values()) == pytest.approx(history["val_loss"])
    assert list(Run(tmp_path / RUNS[2]).all("levels/loss").values()) == pytest.approx(history["val_loss"], rel=1e-5)
    assert {"batch_loss", "batch_steps_per_second", "epoch_steps_per_second", "epoch_learning_rate"} <= set(train.tags)
    assert [tag for tag in train.tags if tag.endswith("free_1/histogram")]


def test_under_a_distribution_strategy(tmp_path: Path) -> None:
    # No collectives: TensorFlow keeps their shapes by numbers, which every strategy in a process counts from 100.
    one_device = tf.distribute.ReductionToOneDevice()
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], cross_device_ops=one_device)
    with strategy.scope():
        model = make_model(keras.optimizers.SGD(0.02))
    board = callbacks.TensorBoard(tmp_path, analysis_data=(IDS, LABELS), counts=COUNTS)
    batches = tf.data.Dataset.from_tensor_slices((IDS, LABELS)).batch(20)
    model.fit(batches, epochs=2, verbose=0, shuffle=False, callbacks=[board])
    for level, name in enumerate(RUNS):
        losses = log_losses(LABELS, level_scores(model.layers[-1])[:, level])
        assert Run(tmp_path / name).last("levels/loss") == pytest.approx(losses.mean(), rel=1e-4)


@pytest.mark.parametrize("kind", [kr.RaFMModel, keras.Model])
def test_training_and_saving_are_unchanged(tmp_path: Path, kind: type[keras.Model]) -> None:
    wide = np.ones((60, 2), np.float32)
    x, y = {"ids": IDS, "wide": wide}, {"click": LABELS, "price": LABELS}
    results = []
    for options in ({}, {"analysis_data": (x, y), "counts": COUNTS}):
        keras.utils.set_random_seed(0)
        keras.backend.clear_session(free_memory=False)
        model, _ = wide_and_deep(kind)
        model.compile(
            # With Adam, gradients that differ from 0 only by rounding would make steps of full size.
            kr.optimizers.SparseAdagrad(0.05, idle_decay=0.1),
            {"click": "binary_crossentropy", "price": "mse"},
            run_eagerly=kind is keras.Model,
        )
        board = [callbacks.TensorBoard(tmp_path / "logs", **options)] if options else []
        model.fit(x, y, batch_size=20, epochs=2, verbose=0, shuffle=False, callbacks=board)
        model.save(tmp_path / "model.keras")
        results.append(keras.saving.load_model(tmp_path / "model.keras")(x))
        np.testing.assert_allclose(results[-1]["click"], model(x)["click"], rtol=1e-5)
    np.testing.assert_allclose(results[0]["click"], results[1]["click"], rtol=1e-4)


def test_a_subclassed_model_without_analysis_data(tmp_path: Path) -> None:
    model = Subclassed()
    model.compile(keras.optimizers.SGD(0.01), "mse", run_eagerly=True)
    fit(model, tmp_path, counts=COUNTS)
    assert "norms/free_factors" in Run(tmp_path / RUNS[0]).tags
