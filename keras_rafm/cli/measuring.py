"""Loss and metrics of scores, in float64 and of all rows at once: what scikit-learn computes of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_rafm.checks.arguments import Task
from keras_rafm.layer import RaFMLayer

_Numbers = npt.NDArray[np.float64]


def measured(model: keras.Model, task: Task, batches: Iterable[Any]) -> dict[str, dict[str, float]]:
    """Loss and metrics of the score of the lowest and of the highest level, by their names.

    Args:
        model: With one `RaFMLayer`, whose score is its output.
        task: Says which metrics.
        batches: `(inputs, labels)`, or `(inputs, labels, sample_weights)`.

    Raises:
        ValueError: There are no rows.
    """
    layer = next(own for own in model.layers if isinstance(own, RaFMLayer))
    levels = {f"RaFM-low (rank {layer.ranks[0]})": 0} if layer.num_levels > 1 else {}
    levels["RaFM" if levels else f"FM (rank {layer.ranks[0]})"] = layer.num_levels - 1
    scores_of = tf.function(layer.level_scores, reduce_retracing=True)
    parts: list[tuple[Any, Any, Any]] = []
    for inputs, labels, *weights in batches:
        scores = tf.gather(scores_of(inputs), list(levels.values()), axis=1).numpy()
        parts.append((scores, labels.numpy()[:, 0], weights[0].numpy()[:, 0] if weights else np.ones(len(scores))))
    if not parts:
        raise ValueError("there are no rows to measure")
    scores, labels, weights = (np.concatenate(own) for own in zip(*parts, strict=True))
    return {
        name: {"rows": len(labels), **_metrics(task, labels, scores[:, column], weights)}
        for column, name in enumerate(levels)
    }


def _metrics(task: Task, labels: Any, scores: Any, weights: Any) -> dict[str, float]:
    y, s, w = (own.astype(np.float64) for own in (labels, scores, weights))
    total = w.sum()
    if not total > 0:
        return {}
    if task == "regression":
        return {"rmse": float(np.sqrt((w * (y - s) ** 2).sum() / total))}
    with np.errstate(invalid="ignore"):  # of scores that are not finite
        loss = float((w * (np.logaddexp(0, s) - y * s)).sum() / total)
    area = _auc(y, s, w)
    return {"log_loss": loss} if area is None else {"log_loss": loss, "auc": area}


def _auc(y: _Numbers, s: _Numbers, w: _Numbers) -> float | None:
    """Area under the ROC curve; equal scores count as half. `None` where there is one class only, or no order."""
    if not np.isfinite(s).all():
        return None
    order = np.argsort(s, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(s[order])), len(s) - 1)  # the last row of each score
    positive = np.diff(np.cumsum((w * y)[order])[ends], prepend=0)
    up_to = np.cumsum((w * (1 - y))[order])[ends]
    below = up_to - np.diff(up_to, prepend=0) / 2
    pairs = positive.sum() * up_to[-1]
    return float((positive * below).sum() / pairs) if pairs > 0 else None
