"""The loss of samples, by the count of their rarest feature in the training data.

RaFM is meant to improve exactly this (Chen et al., ICML 2019, section 1): rare features overfit at a high rank, and
frequent features underfit at a low rank. Samples are put into buckets by that count. The limits of the buckets are powers
of 4: there are few buckets, the bucket of a count is easy to see, and the names "0", "1-3", "4-15", "16-63", … are the same
for all models and data sets.

This module needs NumPy only. `keras_rafm.callbacks` and `keras_rafm.plots` both use it, so that they show the same buckets.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from keras_rafm.checks.arguments import counts_of_features, one_of
from keras_rafm.rank_plan import RankPlan

FrequencyLoss = Literal["log_loss", "rmse"]

#: The bucket of samples without features.
NO_FEATURES = -1

# The lower ends of buckets 1, 2, … up to the largest int64.
_LOWER_ENDS = 4.0 ** np.arange(32)
# Keras keeps probabilities this far away from 0 and 1.
_EPSILON = 1e-7


class BucketLoss(NamedTuple):
    """The loss of the samples of one bucket.

    Attributes:
        bucket: The number of the bucket. See `bucket_of_counts`.
        name: The name of the bucket. See `bucket_name`.
        loss: The mean log-loss, or the root of the mean squared error.
        num_samples: The number of samples in the bucket, at least 1.
    """

    bucket: int
    name: str
    loss: float
    num_samples: int


def rarest_counts(ids: npt.ArrayLike, counts: Any) -> npt.NDArray[Any]:
    """Return the count of the rarest feature of each sample.

    Args:
        ids: Feature ids: integers `[N, F]`, where −1 is padding.
        counts: The counts of the features. See `checked_counts`.

    Returns:
        Numbers `[N]`, −1 for a sample without features. The dtype is that of `counts`, or int64 if `counts` are unsigned.

    Raises:
        TypeError: Ids are not integers, or counts are not numbers.
        ValueError: `ids` or `counts` has a wrong shape, an id is neither −1 nor in `[0, num_features)`, a count is negative
            or not finite, or a plan has no counts.
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
    is_feature = ids >= 0
    # Padding gets the highest count of all, which changes the minimum only of samples that have no features.
    counts_of_ids = np.where(is_feature, counts[np.where(is_feature, ids, 0)], counts.max())
    return np.where(is_feature.any(axis=1), counts_of_ids.min(axis=1).astype(_signed(counts.dtype)), -1)


def checked_counts(counts: Any, num_features: int | None = None, where: str = "", name: str = "counts") -> npt.NDArray[Any]:
    """Return counts of features as an array `[num_features]`.

    Args:
        counts: The number of occurrences of each feature in the training data: non-negative numbers `[num_features]`, or
            a `RankPlan` that was made from them.
        num_features: The expected number of features, or `None` for any.
        where: What the message of an error starts with.
        name: The argument to name in errors.

    Raises:
        TypeError: The counts are not numbers.
        ValueError: The shape is not the expected one, a count is negative or not finite, or a plan has no counts.
    """
    if isinstance(counts, RankPlan):
        if counts.counts is None:
            raise ValueError(f"{where}`{name}` must be counts or a RankPlan made from counts. Received: {counts!r}")
        counts = counts.counts
    return counts_of_features(counts, num_features, where, name)


def bucket_of_counts(counts: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return the bucket of each count.

    The bucket is `NO_FEATURES` for a negative count, 0 for a count less than 1, and `j` for a count that is at least
    `4^(j−1)` and less than `4^j`.

    Args:
        counts: Numbers `[N]`, such as the result of `rarest_counts`.

    Returns:
        The buckets, int64 `[N]`.
    """
    array = np.asarray(counts)
    buckets = np.searchsorted(_LOWER_ENDS, array, side="right")
    return np.where(array < 0, NO_FEATURES, buckets).astype(np.int64)


def bucket_name(bucket: int) -> str:
    """Return the name of a bucket: `"no_features"`, `"0"`, `"1-3"`, `"4-15"` and so on."""
    if bucket == NO_FEATURES:
        return "no_features"
    return "0" if bucket == 0 else f"{4 ** (bucket - 1)}-{4**bucket - 1}"


def log_losses(labels: npt.ArrayLike, scores: npt.ArrayLike, from_logits: bool = True) -> npt.NDArray[np.float64]:
    """Return the binary log-loss of each sample.

    Args:
        labels: Numbers from 0 to 1, of any shape.
        scores: Logits or probabilities, of the same shape.
        from_logits: Whether the scores are logits.

    Returns:
        The losses: float64 of the same shape. As in Keras, probabilities are kept 1e-7 away from 0 and 1.
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
    """Return the loss of every bucket that has samples, in the order of the buckets.

    Args:
        labels: Numbers `[N]` or `[N, …]`.
        scores: Numbers `[N]` or `[N, …]`, as many as labels. The scores of one sample have equal weight.
        buckets: The bucket of each sample, `[N]`: the result of `bucket_of_counts`.
        loss: `"log_loss"`, or `"rmse"` for the root of the mean squared error.
        from_logits: Whether the scores are logits. It has no effect on `"rmse"`.

    Raises:
        ValueError: The shapes of labels, scores and buckets do not match, or `loss` is unknown.
    """
    one_of(loss, get_args(FrequencyLoss), "loss")
    s = np.asarray(scores, np.float64)
    y = np.asarray(labels, np.float64)
    if s.ndim == 0 or s.shape[0] != buckets.shape[0] or y.size != s.size:
        raise ValueError(
            f"`labels` and `scores` must have one row per sample and equal sizes. Received: {buckets.shape[0]} samples, "
            f"labels of shape {y.shape}, scores of shape {s.shape}"
        )
    y = y.reshape(s.shape)
    values = log_losses(y, s, from_logits) if loss == "log_loss" else np.square(y - s)
    values = values.reshape(values.shape[0], -1).mean(axis=1) if values.size else values.reshape(values.shape[0])
    losses = []
    for bucket in np.unique(buckets).tolist():
        is_inside = buckets == bucket
        mean = float(values[is_inside].mean())
        bucket_loss = mean if loss == "log_loss" else float(np.sqrt(mean))
        losses.append(BucketLoss(bucket, bucket_name(bucket), bucket_loss, num_samples=int(is_inside.sum())))
    return losses


def _signed(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return a dtype that can also hold −1."""
    return np.dtype(np.int64) if dtype.kind == "u" else dtype
