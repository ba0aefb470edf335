"""Training that goes on exactly where it was killed."""

from __future__ import annotations

import math
import time
from typing import Any

import keras
import tensorflow as tf

from keras_rafm import optimizers
from keras_rafm.callbacks import TensorBoard
from keras_rafm.cli.encoded import Encoded
from keras_rafm.cli.progress import EpochBars
from keras_rafm.cli.run_directory import RunDirectory, State
from keras_rafm.cli.settings import DivergedError, Settings, UsageError
from keras_rafm.data import Schema
from keras_rafm.layer import RaFMLayer
from keras_rafm.model import RaFMModel
from keras_rafm.rank_plan import RankPlan

_METRICS = {"classification": "log_loss", "regression": "rmse"}


def make_deterministic() -> None:
    """Have all kernels round alike in every run.

    Raises:
        UsageError: TensorFlow has done something already.
    """
    # Kernels such as AddN work in place on whichever operand nobody else holds by then: with several threads that varies,
    # and with it the order of the sum.
    if tf.config.threading.get_inter_op_parallelism_threads() != 1:
        try:
            tf.config.threading.set_inter_op_parallelism_threads(1)
        except RuntimeError as error:
            raise UsageError(
                "--deterministic sets how many threads TensorFlow has, and in this process TensorFlow runs already: "
                "start the command in a process of its own"
            ) from error
    tf.config.experimental.enable_op_determinism()


def new_model(schema: Schema, plan: RankPlan, settings: Settings, mean_label: float) -> RaFMModel:
    """A compiled model for rows that the schema encodes."""
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
    """The layer of a plan.

    Raises:
        ValueError: It can't have these settings.
    """
    weight: Any = "auto" if settings.dependent_loss_weight is None else settings.dependent_loss_weight
    return RaFMLayer(plan, factors_l2=settings.factors_l2, dependent_loss_weight=weight, seed=settings.seed, name="rafm")


def new_optimizer(settings: Settings) -> keras.optimizers.Optimizer:
    """The optimizer.

    Raises:
        ValueError: It can't have these settings.
    """
    options = {} if settings.idle_decay is None else {"idle_decay": settings.idle_decay}
    return getattr(optimizers, settings.optimizer)(settings.learning_rate, **options)


def train(
    run: RunDirectory,
    model: RaFMModel,
    state: State,
    settings: Settings,
    schema: Schema,
    training: Encoded,
    validation: Encoded | None,
) -> None:
    """Train from a state to the end, with a checkpoint after every epoch and as often as the settings say.

    Raises:
        DivergedError: The loss or a weight is not finite. The checkpoint before is kept.
    """
    keeper = _Keeper(run, state, settings, _METRICS[schema.task], validation is not None)
    callbacks: list[keras.callbacks.Callback] = [keeper]
    if settings.tensorboard:
        callbacks.append(
            TensorBoard(
                str(run.path / "logs"),
                analysis_data=None
                if validation is None
                else validation.in_order(settings.batch_size).map(_without_weights),
                counts=schema.counts,
                feature_names=schema.feature_names(),
            )
        )
    validation_data = None if validation is None else validation.in_order(settings.batch_size)

    expected_rows = training.expected_rows if training.num_rows is None else training.num_rows

    def fit(batches: tf.data.Dataset, first: int, end: int, num_rows: int | None) -> None:
        bars = EpochBars(settings.batch_size, num_rows, settings.epochs)
        try:
            model.fit(
                batches,
                validation_data=validation_data,
                initial_epoch=first,
                epochs=end,
                shuffle=False,  # the batches are shuffled already
                verbose=0,
                callbacks=[*callbacks, bars],
            )
        except tf.errors.OpError:
            for own in (training, validation):
                if own is not None:
                    own.explain()
            raise
        finally:
            bars.close()

    if state.step and not state.ended:  # first what is left of an epoch
        batches = training.shuffled(settings.batch_size, settings.seed, state.epoch).skip(state.step)
        left = None if expected_rows is None else max(1, expected_rows - state.step * settings.batch_size)
        fit(batches, state.epoch, state.epoch + 1, left)
    if state.epoch < settings.epochs and not state.ended:
        fit(
            training.shuffled(settings.batch_size, settings.seed, state.epoch),
            state.epoch,
            settings.epochs,
            expected_rows,
        )
    if not state.ended:
        state.ended = True
        run.save_checkpoint(model, state)


def _without_weights(inputs: Any, labels: Any, *weights: Any) -> Any:
    del weights
    return inputs, labels


class _Keeper(keras.callbacks.Callback):
    """Keeps checkpoints and the best model, and stops when validation loss no longer falls."""

    def __init__(self, run: RunDirectory, state: State, settings: Settings, metric: str, validates: bool) -> None:
        super().__init__()
        self._run, self._state, self._settings = run, state, settings
        self._monitor = f"val_{metric}" if validates else None
        self._first_step = state.step
        self._kept_at = state.step
        self._began = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Count steps from where the epoch begins here."""
        self._began = time.perf_counter()
        self._first_step = self._kept_at = self._state.step

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Keep a checkpoint within the epoch, if it is time."""
        self._check_loss("loss", (logs or {}).get("loss", 0.0))
        every = self._settings.checkpoint_steps
        step = self._first_step + batch + 1
        if every is not None and step // every > self._kept_at // every:
            self._check_weights()
            self._state.step = self._kept_at = step
            self._run.save_checkpoint(self.model, self._state)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Compare the epoch with the best one, and keep a checkpoint."""
        state, values = self._state, {name: float(value) for name, value in (logs or {}).items()}
        for name in ("loss", self._monitor):
            if name is not None:
                self._check_loss(name, values[name])
        self._check_weights()
        state.history.append({"epoch": epoch + 1, **values, "seconds": time.perf_counter() - self._began})
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
            self._run.forget_other_bests(state.best_epoch)
        self.model.stop_training = state.ended

    def _check_loss(self, name: str, loss: Any) -> None:
        if not math.isfinite(loss):
            self._diverged(f"`{name}` is {float(loss)}")

    def _check_weights(self) -> None:
        """A step whose loss was finite may have made weights that are not."""
        for weight in self.model.trainable_weights:
            if not bool(tf.reduce_all(tf.math.is_finite(weight.value))):
                self._diverged(f"weights of {weight.path} are not finite")

    def _diverged(self, how: str) -> None:
        state = self._state
        if state.epoch or state.step:
            steps = f" and {state.step} steps" if state.step else ""
            kept = f"the last checkpoint before it, of {state.epoch} epochs{steps}, is kept in {self._run.path}"
        else:
            kept = f"there was no checkpoint of a trained model before it in {self._run.path}"
        raise DivergedError(
            f"training diverged in epoch {state.epoch + 1}: {how}; {kept}. Train anew, into another directory, with a "
            f"learning rate below {self._settings.learning_rate:g} (--learning-rate)"
        )
