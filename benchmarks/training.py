"""Train a model of this package on a data set until its validation loss no longer improves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import keras
import numpy as np

import keras_rafm as kr
from benchmarks.datasets import Split


@dataclass(frozen=True)
class Settings:
    """How a model is trained. The defaults of the layer and the optimizer hold for everything else.

    Attributes:
        task: `classification` has a log-loss, `regression` a squared loss.
        optimizer: The optimizer's class.
        learning_rate: The optimizer's learning rate.
        optimizer_options: Further arguments of the optimizer.
        batch_size: `B`.
        max_epochs: Training ends after this number of epochs at the latest.
        patience: Training ends after this number of epochs without a better validation loss.
        steps_per_execution: Training steps per call of TensorFlow.
        factors_l2: See `RaFMLayer`. Only for optimizers without decay of idle rows.
        dependent_loss_weight: See `RaFMLayer`.
        max_dense_rows: See `RaFMLayer`.
    """

    task: Literal["classification", "regression"] = "classification"
    optimizer: type[keras.optimizers.Optimizer] = kr.optimizers.LazyAdam
    learning_rate: float = 0.004
    optimizer_options: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 4096
    max_epochs: int = 100
    patience: int = 3
    steps_per_execution: int = 8
    factors_l2: float = 0.0
    dependent_loss_weight: float | Literal["auto"] = "auto"
    max_dense_rows: int | Literal["auto"] = "auto"


def train(plan: kr.RankPlan, split: Split, settings: Settings, seed: int) -> tuple[kr.RaFMModel, kr.RaFMLayer]:
    """Return a model with the weights of its best validation epoch, and its layer. All values must be 1."""
    keras.utils.set_random_seed(seed)
    layer = kr.RaFMLayer(
        plan,
        factors_l2=settings.factors_l2,
        dependent_loss_weight=settings.dependent_loss_weight,
        max_dense_rows=settings.max_dense_rows,
        seed=seed,
    )
    ids = keras.Input((split.train.num_fields,), dtype=split.train.ids.dtype.name, name="ids")
    model = kr.RaFMModel({"ids": ids}, layer(ids))
    if settings.task == "classification":
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        metric = keras.metrics.BinaryCrossentropy(from_logits=True, name="log_loss")
    else:
        loss = keras.losses.MeanSquaredError()
        metric = keras.metrics.RootMeanSquaredError(name="rmse")
        layer.assign_bias(split.train.labels.mean())
    optimizer = settings.optimizer(settings.learning_rate, **settings.optimizer_options)
    model.compile(optimizer, loss, metrics=[metric], steps_per_execution=settings.steps_per_execution)
    model.fit(
        split.train.dataset(settings.batch_size, shuffle=True, seed=seed, with_values=False),
        validation_data=split.validation.dataset(settings.batch_size, with_values=False),
        epochs=settings.max_epochs,
        shuffle=False,  # the dataset of the training samples shuffles them itself
        verbose=0,
        callbacks=[
            keras.callbacks.EarlyStopping(
                f"val_{metric.name}", mode="min", patience=settings.patience, restore_best_weights=True
            )
        ],
    )
    return model, layer


def level_scores(layer: kr.RaFMLayer, samples: kr.data.Samples) -> np.ndarray:
    """Return `ŷ_1 … ŷ_m` of every sample: `[N, m]`."""
    return np.concatenate([layer.level_scores(inputs).numpy() for inputs, _ in samples.dataset(8192)])
