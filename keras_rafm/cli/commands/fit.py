"""Fit a model such that training continues after an interruption exactly as it would have without one."""

from __future__ import annotations

import math
import time
from typing import Any

import keras
import tensorflow as tf

from keras_rafm import optimizers
from keras_rafm.callbacks import TensorBoard
from keras_rafm.cli.commands.progress import EpochBars
from keras_rafm.cli.commands.reading import Encoded
from keras_rafm.cli.commands.run import Run
from keras_rafm.cli.errors import DivergedError, UsageError
from keras_rafm.cli.run_directory import State
from keras_rafm.cli.settings import Settings
from keras_rafm.data import Schema
from keras_rafm.layer import RaFMLayer
from keras_rafm.model import RaFMModel
from keras_rafm.rank_plan import RankPlan

#: Task -> the metric that decides which epoch is the best.
_METRICS = {"classification": "log_loss", "regression": "rmse"}


def make_deterministic() -> None:
    """Make all kernels round in the same way in every run.

    Raises:
        UsageError: TensorFlow has already started its threads.
    """
    # Kernels such as AddN add in place to an operand that no other kernel holds. With several threads, that operand varies,
    # and so does the order of the sum.
    if tf.config.threading.get_inter_op_parallelism_threads() != 1:
        try:
            tf.config.threading.set_inter_op_parallelism_threads(1)
        except RuntimeError as error:
            raise UsageError(
                "--deterministic sets the number of TensorFlow's threads, and TensorFlow is already running in this "
                "process: start the command in a process of its own"
            ) from error
    tf.config.experimental.enable_op_determinism()


def new_model(schema: Schema, plan: RankPlan, settings: Settings, mean_label: float) -> RaFMModel:
    """Return a compiled model for rows that a schema encodes.

    Args:
        schema: The adapted schema.
        plan: The rank plan.
        settings: The settings.
        mean_label: The mean label of the training data, the initial bias of a regression model.
    """
    keras.utils.set_random_seed(settings.seed)
    layer = new_layer(plan, settings)
    inputs = schema.inputs()
    model = RaFMModel(inputs, layer(inputs))
    loss: keras.losses.Loss
    if schema.task == "classification":
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        metrics = [
            keras.metrics.BinaryCrossentropy(from_logits=True, name=_METRICS["classification"]),
            keras.metrics.AUC(from_logits=True, name="auc"),
        ]
    else:
        loss = keras.losses.MeanSquaredError()
        metrics = [keras.metrics.RootMeanSquaredError(name=_METRICS["regression"])]
        layer.assign_bias(mean_label)
    optimizer = new_optimizer(settings)
    model.compile(optimizer, loss, weighted_metrics=metrics, steps_per_execution=settings.steps_per_execution)
    return model


def new_layer(plan: RankPlan, settings: Settings) -> RaFMLayer:
    """Return the layer of a plan.

    Raises:
        ValueError: The layer can't have these settings.
    """
    weight: Any = "auto" if settings.dependent_loss_weight is None else settings.dependent_loss_weight
    return RaFMLayer(plan, factors_l2=settings.factors_l2, dependent_loss_weight=weight, seed=settings.seed, name="rafm")


def new_optimizer(settings: Settings) -> keras.optimizers.Optimizer:
    """Return the optimizer.

    Raises:
        ValueError: The optimizer can't have these settings.
    """
    options = {} if settings.idle_decay is None else {"idle_decay": settings.idle_decay}
    return getattr(optimizers, settings.optimizer)(settings.learning_rate, **options)


def fit(
    run: Run,
    model: RaFMModel,
    state: State,
    settings: Settings,
    schema: Schema,
    training: Encoded,
    validation: Encoded | None,
) -> None:
    """Train a model from a state to the end, and save checkpoints after every epoch and as often as the settings say.

    Args:
        run: Where to save checkpoints and the best model.
        model: The compiled model of the state.
        state: The state, which is updated.
        settings: The settings.
        schema: The schema of the rows.
        training: The rows to train on.
        validation: The rows for early stopping, if any.

    Raises:
        DivergedError: The loss or a weight is not finite. The checkpoint before is kept.
    """
    validation_data = None if validation is None else validation.in_order(settings.batch_size)
    keeper = _CheckpointKeeper(run, state, settings, _METRICS[schema.task], validates=validation is not None)
    callbacks: list[keras.callbacks.Callback] = [keeper]
    if settings.tensorboard:
        callbacks.append(
            TensorBoard(
                str(run.path / "logs"),
                analysis_data=None if validation_data is None else validation_data.map(_without_weights),
                counts=schema.counts,
                feature_names=schema.feature_names(),
            )
        )

    expected_rows = training.expected_rows if training.num_rows is None else training.num_rows

    def fit_epochs(batches: tf.data.Dataset, first: int, end: int, num_rows: int | None) -> None:
        bars = EpochBars(settings.batch_size, num_rows, settings.epochs)
        try:
            model.fit(
                batches,
                validation_data=validation_data,
                initial_epoch=first,
                epochs=end,
                shuffle=False,  # the batches are already shuffled
                verbose=0,
                callbacks=[*callbacks, bars],
            )
        except tf.errors.OpError:
            for rows in (training, validation):
                if rows is not None:
                    rows.explain()
            raise
        finally:
            bars.close()

    if state.step and not state.ended:  # first the rest of an interrupted epoch
        batches = training.shuffled(settings.batch_size, settings.seed, state.epoch).skip(state.step)
        num_left = None if expected_rows is None else max(1, expected_rows - state.step * settings.batch_size)
        fit_epochs(batches, state.epoch, state.epoch + 1, num_left)
    if state.epoch < settings.epochs and not state.ended:
        batches = training.shuffled(settings.batch_size, settings.seed, state.epoch)
        fit_epochs(batches, state.epoch, settings.epochs, expected_rows)
    if not state.ended:
        state.ended = True
        run.save_checkpoint(model, state)


def _without_weights(inputs: Any, labels: Any, *weights: Any) -> Any:
    del weights
    return inputs, labels


class _CheckpointKeeper(keras.callbacks.Callback):
    """Saves checkpoints and the best model, and stops training when the validation loss no longer falls."""

    def __init__(self, run: Run, state: State, settings: Settings, metric: str, validates: bool) -> None:
        super().__init__()
        self._run, self._state, self._settings = run, state, settings
        self._monitor = f"val_{metric}" if validates else None
        self._first_step = state.step
        self._saved_step = state.step
        self._start_time = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Count steps from where the epoch begins or continues."""
        self._start_time = time.perf_counter()
        self._first_step = self._saved_step = self._state.step

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Save a checkpoint within the epoch, if one is due."""
        self._check_loss("loss", (logs or {}).get("loss", 0.0))
        interval = self._settings.checkpoint_steps
        step = self._first_step + batch + 1
        if interval is not None and step // interval > self._saved_step // interval:
            self._check_weights()
            self._state.step = self._saved_step = step
            self._run.save_checkpoint(self.model, self._state)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Compare the epoch with the best one, and save a checkpoint."""
        state, values = self._state, {name: float(value) for name, value in (logs or {}).items()}
        for name in ("loss", self._monitor):
            if name is not None:
                self._check_loss(name, values[name])
        self._check_weights()
        state.history.append({"epoch": epoch + 1, **values, "seconds": time.perf_counter() - self._start_time})
        state.epoch, state.step = epoch + 1, 0
        if self._monitor is not None:
            if values[self._monitor] < state.best_loss:
                state.best_loss, state.best_epoch, state.waited = values[self._monitor], epoch + 1, 0
                self._run.save_best(self.model, epoch + 1)
            else:
                state.waited += 1
                state.ended = state.waited >= self._settings.patience
        state.ended = state.ended or state.epoch >= self._settings.epochs
        self._run.save_checkpoint(self.model, state)
        if state.best_epoch is not None:
            self._run.remove_other_bests(state.best_epoch)
        self.model.stop_training = state.ended

    def _check_loss(self, name: str, loss: Any) -> None:
        if not math.isfinite(loss):
            self._raise_diverged(f"`{name}` is {float(loss)}")

    def _check_weights(self) -> None:
        """Check the weights too: a step with a finite loss may have made them infinite."""
        for weight in self.model.trainable_weights:
            if not bool(tf.reduce_all(tf.math.is_finite(weight.value))):
                self._raise_diverged(f"weights of {weight.path} are not finite")

    def _raise_diverged(self, reason: str) -> None:
        state = self._state
        if state.epoch or state.step:
            steps = f" and {state.step} steps" if state.step else ""
            kept = f"the last checkpoint before it, after {state.epoch} epochs{steps}, is kept in {self._run.path}"
        else:
            kept = f"{self._run.path} has no checkpoint of a trained model"
        raise DivergedError(
            f"training diverged in epoch {state.epoch + 1}: {reason}; {kept}. Train a new run, in another directory, with "
            f"a learning rate below {self._settings.learning_rate:g} (--learning-rate)"
        )
