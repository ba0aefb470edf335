"""Loss and metrics of scores, in float64 over all rows. scikit-learn computes the same values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_rafm.checks.arguments import Task
from keras_rafm.layer import RaFMLayer

_Numbers = npt.NDArray[np.float64]


def measure(model: keras.Model, task: Task, batches: Iterable[Any]) -> dict[str, dict[str, float]]:
    """Return the loss and metrics of the lowest and of the highest level.

    Args:
        model: A model with one `RaFMLayer`, whose score is the output of the model.
        task: The task, which determines the metrics.
        batches: `(inputs, labels)` or `(inputs, labels, sample_weights)`.

    Returns:
        Name of the level -> metric -> value.

    Raises:
        ValueError: There are no rows.
    """
    layer = next(layer for layer in model.layers if isinstance(layer, RaFMLayer))
    levels = {f"RaFM-low (rank {layer.ranks[0]})": 0} if layer.num_levels > 1 else {}
    levels["RaFM" if levels else f"FM (rank {layer.ranks[0]})"] = layer.num_levels - 1
    level_scores = tf.function(layer.level_scores, reduce_retracing=True)
    parts: list[tuple[Any, Any, Any]] = []
    for inputs, labels, *weights in batches:
        scores = tf.gather(level_scores(inputs), list(levels.values()), axis=1).numpy()
        parts.append((scores, labels.numpy()[:, 0], weights[0].numpy()[:, 0] if weights else np.ones(len(scores))))
    if not parts:
        raise ValueError("there are no rows to measure")
    scores, labels, weights = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return {
        name: {"rows": len(labels), **metrics_of(task, labels, scores[:, column], weights)}
        for column, name in enumerate(levels)
    }


def metrics_of(task: Task, labels: Any, scores: Any, weights: Any) -> dict[str, float]:
    """Return RMSE (regression), or log-loss and, if it is defined, AUC (classification).

    Args:
        task: The task.
        labels: `[n]`
        scores: `[n]`, logits for classification.
        weights: Sample weights `[n]`. If their sum is not positive, there are no metrics.
    """
    y, s, w = (array.astype(np.float64) for array in (labels, scores, weights))
    total = w.sum()
    if not total > 0:
        return {}
    if task == "regression":
        return {"rmse": float(np.sqrt((w * (y - s) ** 2).sum() / total))}
    with np.errstate(invalid="ignore"):  # for scores that are not finite
        log_loss = float((w * (np.logaddexp(0, s) - y * s)).sum() / total)
    area = auc(y, s, w)
    return {"log_loss": log_loss} if area is None else {"log_loss": log_loss, "auc": area}


def auc(labels: _Numbers, scores: _Numbers, weights: _Numbers) -> float | None:
    """Return the area under the ROC curve, where pairs of equal scores count as half.

    Args:
        labels: 0 or 1, `[n]`.
        scores: `[n]`
        weights: Sample weights `[n]`.

    Returns:
        The area; `None` if there is only one class or a score is not finite.
    """
    if not np.isfinite(scores).all():
        return None
    order = np.argsort(scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # the last row of each score
    positive = np.diff(np.cumsum((weights * labels)[order])[ends], prepend=0)
    negative_so_far = np.cumsum((weights * (1 - labels))[order])[ends]
    negative_below = negative_so_far - np.diff(negative_so_far, prepend=0) / 2
    num_pairs = positive.sum() * negative_so_far[-1]
    return float((positive * negative_below).sum() / num_pairs) if num_pairs > 0 else None


def print_metrics(split: str, metrics_by_level: Mapping[str, Mapping[str, float | None]]) -> None:
    """Print the result of `measure`, one level per line."""
    for name, metrics in metrics_by_level.items():
        values = ", ".join(f"{metric} {_formatted(value)}" for metric, value in metrics.items() if metric != "rows")
        print(f"{split}: {name}: {values} ({metrics['rows']:,.0f} rows)")


def _formatted(value: float | None) -> str:
    return "not finite" if value is None or not math.isfinite(value) else f"{value:.5f}"
