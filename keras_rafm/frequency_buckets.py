"""Losses by how often the rarest feature of a sample occurs in the training data.

That is what RaFM is about (Chen et al., ICML 2019, section 1): rare features overfit at a high rank, frequent ones underfit
at a low one. Buckets grow by powers of 4, so that there are few of them, a count tells its bucket at a glance, and each
has a name that stays the same from model to model and from data set to data set: "0", "1-3", "4-15", "16-63", …

Nothing here needs TensorFlow: `keras_rafm.callbacks` and `keras_rafm.plots` share it and so agree.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from keras_rafm.checks.arguments import counts_of_features
from keras_rafm.rank_plan import RankPlan

FrequencyLoss = Literal["log_loss", "rmse"]

#: The bucket of samples without any feature.
NO_FEATURES = -1

# Lower ends of the buckets from 1 on; counts are int64 at most.
_LOWER_ENDS = 4.0 ** np.arange(32)
# What Keras keeps probabilities away from 0 and 1 by.
_EPSILON = 1e-7


class BucketLoss(NamedTuple):
    """The loss of the samples of one bucket.

    Attributes:
        bucket: Its number, as `bucket_of_counts`.
        name: Its name, as `bucket_name`.
        loss: Mean log-loss, or root of the mean squared error.
        num_samples: How many samples it has, at least 1.
    """

    bucket: int
    name: str
    loss: float
    num_samples: int


def rarest_counts(ids: npt.ArrayLike, counts: Any) -> npt.NDArray[Any]:
    """The count of the rarest feature of each sample.

    Args:
        ids: Feature ids, ints `[N, F]`; −1 is padding.
        counts: As `checked_counts`.

    Returns:
        Numbers `[N]` of the dtype of `counts`; −1 for a sample without features.

    Raises:
        TypeError: Ids are not integers, or counts are not numbers.
        ValueError: Shapes do not fit, an id is neither −1 nor in `[0, num_features)`, a count is negative or not finite, or
            a plan has no counts.
    """
    ids = np.asarray(ids)
    if ids.ndim != 2:
        raise ValueError(f"`ids` must be of shape [N, F]. Received: shape {ids.shape}")
    if not np.issubdtype(ids.dtype, np.integer):
        raise TypeError(f"`ids` must be integers. Received: dtype {ids.dtype}")
    counts = checked_counts(counts)
    wrong = (ids < -1) | (ids >= counts.size)
    if np.any(wrong):
        raise ValueError(f"`ids` must be −1 (padding) or in [0, {counts.size}). Received: {ids[wrong][0]}")
    if ids.shape[1] == 0:
        return np.full(ids.shape[0], -1, _signed(counts.dtype))
    real = ids >= 0
    # The padding gets the highest count there is, which changes no minimum but that of samples of nothing else.
    found = np.where(real, counts[np.where(real, ids, 0)], counts.max())
    return np.where(real.any(axis=1), found.min(axis=1).astype(_signed(counts.dtype)), -1)


def checked_counts(counts: Any, num_features: int | None = None, where: str = "", name: str = "counts") -> npt.NDArray[Any]:
    """Counts of features as an array `[num_features]`.

    Args:
        counts: Occurrences of each feature in the training data: non-negative numbers `[num_features]`; or the `RankPlan`
            that was made from them.
        num_features: How many there must be, if that is known.
        where: Who asks, for error messages.
        name: Which argument it is, for error messages.

    Raises:
        TypeError: They are not numbers.
        ValueError: The shape does not fit, a count is negative or not finite, or a plan has no counts.
    """
    if isinstance(counts, RankPlan):
        if counts.counts is None:
            raise ValueError(f"{where}`{name}` must be counts or a RankPlan made from counts. Received: {counts!r}")
        counts = counts.counts
    return counts_of_features(counts, num_features, where, name)


def bucket_of_counts(counts: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """The bucket of each count: `NO_FEATURES` below 0, 0 below 1, `j` from `4^(j−1)` to below `4^j`.

    Args:
        counts: Numbers `[N]`, as from `rarest_counts`.

    Returns:
        int64 `[N]`.
    """
    array = np.asarray(counts)
    buckets = np.searchsorted(_LOWER_ENDS, array, side="right")
    return np.where(array < 0, NO_FEATURES, buckets).astype(np.int64)


def bucket_name(bucket: int) -> str:
    """`"no_features"`, `"0"`, `"1-3"`, `"4-15"` and so on."""
    if bucket == NO_FEATURES:
        return "no_features"
    return "0" if bucket == 0 else f"{4 ** (bucket - 1)}-{4**bucket - 1}"


def log_losses(labels: npt.ArrayLike, scores: npt.ArrayLike, from_logits: bool = True) -> npt.NDArray[np.float64]:
    """Binary log-loss of each sample.

    Args:
        labels: Numbers from 0 to 1, of any shape.
        scores: Logits, or probabilities, of the same shape.
        from_logits: Whether scores are logits.

    Returns:
        float64 of that shape. Probabilities are kept 1e-7 away from 0 and 1, as Keras does.
    """
    y, s = np.asarray(labels, np.float64), np.asarray(scores, np.float64)
    if from_logits:
        return np.logaddexp(0, s) - y * s
    p = np.clip(s, _EPSILON, 1 - _EPSILON)
    return -(y * np.log(p) + (1 - y) * np.log1p(-p))


def loss_by_bucket(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    buckets: npt.NDArray[np.int64],
    loss: FrequencyLoss = "log_loss",
    from_logits: bool = True,
) -> list[BucketLoss]:
    """The loss of every bucket that has samples, by rising bucket.

    Args:
        labels: Numbers `[N]` or `[N, …]`.
        scores: Numbers of as many elements; several of one sample count alike.
        buckets: From `bucket_of_counts`, `[N]`.
        loss: `"log_loss"`, or `"rmse"`: the root of the mean squared error.
        from_logits: Whether the scores of a log-loss are logits.

    Raises:
        ValueError: Shapes do not fit, or `loss` is neither of these.
    """
    if loss not in ("log_loss", "rmse"):
        raise ValueError(f"`loss` must be 'log_loss' or 'rmse'. Received: {loss!r}")
    s = np.asarray(scores, np.float64)
    y = np.asarray(labels, np.float64)
    if s.ndim == 0 or s.shape[0] != buckets.shape[0] or y.size != s.size:
        raise ValueError(
            f"`labels` and `scores` must have a row per sample and as many elements. Received: {buckets.shape[0]} samples, "
            f"labels of shape {y.shape}, scores of shape {s.shape}"
        )
    y = y.reshape(s.shape)
    values = log_losses(y, s, from_logits) if loss == "log_loss" else np.square(y - s)
    values = values.reshape(values.shape[0], -1).mean(axis=1) if values.size else values.reshape(values.shape[0])
    found = []
    for bucket in np.unique(buckets).tolist():
        inside = buckets == bucket
        mean = float(values[inside].mean())
        mean = mean if loss == "log_loss" else float(np.sqrt(mean))
        found.append(BucketLoss(bucket, bucket_name(bucket), mean, int(inside.sum())))
    return found


def _signed(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """A dtype that has −1 as well."""
    return np.dtype(np.int64) if dtype.kind == "u" else dtype
