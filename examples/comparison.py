"""Train RaFM and plain FMs on the same samples with the same settings, and compare them on test data.

`quickstart.py` and `train_libfm.py` share this module. To use one of them elsewhere, copy it together with this file.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn.metrics import log_loss, roc_auc_score
from tqdm import tqdm

import keras_rafm as kr


@dataclass(frozen=True)
class Settings:
    """How every model of a comparison is trained, by `LazyAdam` with a log-loss."""

    learning_rate: float = 0.004
    #: Further arguments of `LazyAdam`.
    optimizer_options: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 4096
    max_epochs: int = 100
    #: Training stops after this number of epochs without a better validation log-loss, and restores the weights of the
    #: best epoch.
    patience: int = 3
    #: Training steps per call of TensorFlow, which saves Keras' work between steps.
    steps_per_execution: int = 8
    #: L2 over whole tables. Use it with `idle_decay=0`.
    factors_l2: float = 0.0
    dependent_loss_weight: float | str = "auto"


@dataclass(frozen=True)
class Row:
    """A line of the report: one model and one seed, measured on the test samples."""

    model: str
    seed: int
    test_log_loss: float
    test_auc: float
    parameters: int
    seconds_per_epoch: float


@dataclass(frozen=True)
class Split:
    """Samples for training, for early stopping and for the report."""

    train: kr.data.Samples
    validation: kr.data.Samples
    test: kr.data.Samples

    @property
    def ids_alone(self) -> bool:
        """Whether every value is 1, so that the model needs no input for values."""
        return self.train.one_hot and self.validation.one_hot and self.test.one_hot


def compare(
    split: Split, plan: kr.RankPlan, settings: Settings, seeds: Iterable[int], with_plain_fms: bool
) -> tuple[list[Row], kr.RaFMModel]:
    """Train RaFM for every seed and, if requested, plain FMs of its lowest and highest rank.

    Returns:
        The report, and the RaFM model of the first seed.
    """
    rows: list[Row] = []
    first_model = None
    plain_fms = [
        (f"fm-{rank}", kr.RankPlan(np.ones(plan.num_features, int), [rank], plan.counts))
        for rank in dict.fromkeys((plan.ranks[0], plan.ranks[-1]))
    ]
    for seed in seeds:
        for name, plan_of_model in [*(plain_fms if with_plain_fms else []), ("rafm", plan)]:
            model, layer, seconds = train(plan_of_model, split, settings, seed, f"{name} seed {seed}")
            scores = level_scores(layer, split.test)
            rows.append(_row(name, seed, split.test, scores[:, -1], _num_parameters(plan_of_model), seconds))
            if name == "rafm":
                first_model = first_model or model
                plan_of_low = plain_fms[0][1]
                rows.append(_row("rafm-low", seed, split.test, scores[:, 0], _num_parameters(plan_of_low), seconds))
    return rows, first_model


def train(
    plan: kr.RankPlan, split: Split, settings: Settings, seed: int, label: str
) -> tuple[kr.RaFMModel, kr.RaFMLayer, float]:
    """Return a model with the weights of its best validation epoch, its layer, and the median seconds per epoch."""
    keras.utils.set_random_seed(seed)
    layer = kr.RaFMLayer(
        plan, factors_l2=settings.factors_l2, dependent_loss_weight=settings.dependent_loss_weight, seed=seed
    )
    ids = keras.Input((split.train.num_fields,), dtype=split.train.ids.dtype.name, name="ids")
    inputs = {"ids": ids}
    if not split.ids_alone:
        inputs["values"] = keras.Input((split.train.num_fields,), name="values")
    model = kr.RaFMModel(inputs, layer(inputs) if len(inputs) > 1 else layer(ids))
    model.compile(
        kr.optimizers.LazyAdam(settings.learning_rate, **settings.optimizer_options),
        keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.BinaryCrossentropy(from_logits=True, name="log_loss")],
        steps_per_execution=settings.steps_per_execution,
    )
    monitor = "val_log_loss"
    progress = _Progress(label, settings.max_epochs, monitor)
    model.fit(
        _batches(split.train, settings.batch_size, seed, split.ids_alone),
        validation_data=_batches(split.validation, settings.batch_size, None, split.ids_alone),
        epochs=settings.max_epochs,
        shuffle=False,  # the dataset of the training samples shuffles them itself
        verbose=0,
        callbacks=[
            keras.callbacks.EarlyStopping(monitor, mode="min", patience=settings.patience, restore_best_weights=True),
            progress,
        ],
    )
    return model, layer, progress.seconds_per_epoch()


def level_scores(layer: kr.RaFMLayer, samples: kr.data.Samples) -> np.ndarray:
    """Return `ŷ_1 … ŷ_m` of every sample: `[N, m]`."""
    return np.concatenate([layer.level_scores(inputs).numpy() for inputs, _ in samples.dataset(8192)])


def print_table(rows: list[Row]) -> None:
    """Print the mean of every model and, for several seeds, the standard deviation."""
    print(f"{'model':<10} {'test log-loss':>20} {'test AUC':>20} {'parameters':>12} {'s/epoch':>8}")
    for name in dict.fromkeys(row.model for row in rows):
        rows_of_model = [row for row in rows if row.model == name]
        losses, aucs = ([getattr(row, field) for row in rows_of_model] for field in ("test_log_loss", "test_auc"))
        seconds = np.mean([row.seconds_per_epoch for row in rows_of_model])
        print(f"{name:<10} {_mean(losses):>20} {_mean(aucs):>20} {rows_of_model[0].parameters:>12,} {seconds:>8.2f}")


def as_json(rows: list[Row]) -> list[dict[str, Any]]:
    """Return the report as JSON values."""
    return [asdict(row) for row in rows]


class _Progress(keras.callbacks.Callback):
    """Show a progress bar over the epochs of a training, and time the epochs without validation."""

    def __init__(self, label: str, max_epochs: int, monitor: str) -> None:
        super().__init__()
        self._monitor = monitor
        self._bar = tqdm(total=max_epochs, desc=label, unit="epoch")
        self._seconds: list[float] = []
        self._started = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._started = time.perf_counter()

    def on_test_begin(self, logs: Any = None) -> None:
        self._seconds.append(time.perf_counter() - self._started)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._bar.set_postfix_str(f"{self._monitor} {logs[self._monitor]:.4f}")
        self._bar.update()

    def on_train_end(self, logs: Any = None) -> None:
        self._bar.total = self._bar.n
        self._bar.close()

    def seconds_per_epoch(self) -> float:
        return float(np.median(self._seconds[1:] or self._seconds))  # the first epoch builds the graph


def _batches(samples: kr.data.Samples, batch_size: int, seed: int | None, ids_alone: bool) -> tf.data.Dataset:
    return samples.dataset(batch_size, shuffle=seed is not None, seed=seed, with_values=not ids_alone)


def _row(name: str, seed: int, samples: kr.data.Samples, scores: np.ndarray, parameters: int, seconds: float) -> Row:
    probabilities = 1 / (1 + np.exp(-scores.astype(np.float64)))
    return Row(
        name,
        seed,
        float(log_loss(samples.labels, probabilities, labels=[0, 1])),
        float(roc_auc_score(samples.labels, scores)),
        parameters,
        seconds,
    )


def _num_parameters(plan: kr.RankPlan) -> int:
    return plan.num_active_factors + plan.num_features + 1


def _mean(values: list[float]) -> str:
    return f"{np.mean(values):.4f}" + (f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else "")
