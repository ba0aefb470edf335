"""Figures: how often features occur and which level that gives them; losses by frequency, the reason for levels.

They need matplotlib, `pip install 'keras_rafm[plots]'`, which is imported when a figure is drawn. Without `ax` a figure is
made that no display and no `pyplot` knows of: `ax.figure.savefig("figure.png")` writes it.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_rafm.frequency_buckets import FrequencyLoss, bucket_of_counts, checked_counts, loss_by_bucket, rarest_counts
from keras_rafm.rank_plan import RankPlan

# A curve of more points looks the same.
_MOST_POINTS = 2000


def plot_frequencies(plan_or_counts: Any, thresholds: Sequence[float] | None = None, ax: Any = None) -> Any:
    """Draw how often the first, second, third … most frequent feature occurs, and the levels, on logarithmic axes.

    Every level is a band, whose share of the features and of the occurrences the legend tells; thresholds are dashed lines.
    Features that never occur have no place on a logarithmic axis: the legend tells their number.

    Args:
        plan_or_counts: A `RankPlan` made from counts, or occurrences of each feature in the training data: non-negative
            numbers `[num_features]`.
        thresholds: Increasing, non-negative counts. A feature's level is 1 + the number of thresholds that its count
            exceeds. With a plan they are only drawn: it has levels already.
        ax: Matplotlib `Axes` to draw on; default: those of a new figure.

    Returns:
        The `Axes`: the first line is the curve, and there is a band (a patch with a label) for each level with features,
        from the highest to the lowest.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: Counts are not numbers.
        ValueError: The plan has no counts, no feature occurs, counts are negative or not finite, or thresholds are
            negative, NaN or not increasing.
    """
    limits = np.asarray(() if thresholds is None else thresholds, np.float64).reshape(-1)
    if not (np.all(limits >= 0) and np.all(limits[1:] > limits[:-1])):
        raise ValueError(f"`thresholds` must be non-negative and increasing. Received: {thresholds}")
    counts = checked_counts(plan_or_counts, name="plan_or_counts")
    if isinstance(plan_or_counts, RankPlan):
        levels = plan_or_counts.levels
        labels = [f"level {k}, rank {rank}" for k, rank in enumerate(plan_or_counts.ranks, start=1)]
    else:
        levels = 1 + np.searchsorted(limits, counts, side="left")
        labels = [f"level {k}" for k in range(1, limits.size + 2)] if limits.size else ["all features"]
    if not np.any(counts > 0):
        raise ValueError("`plan_or_counts` must have features that occur. Received: counts of 0 only")
    ax = _axes(ax)
    # Within each level by falling count: one falling curve if the levels follow the counts.
    falling = [np.sort(counts[levels == level])[::-1] for level in range(len(labels), 0, -1)]
    ordered = np.concatenate(falling)
    ranks = _some_places(ordered.size)
    seen = ordered[ranks - 1] > 0
    ax.plot(ranks[seen], ordered[ranks - 1][seen], color="black", label="_count", zorder=3)
    ax.set_xscale("log")
    ax.set_yscale("log")
    start, total = 0, float(ordered.sum(dtype=np.float64))
    for index, (label, of_level) in enumerate(zip(labels[::-1], falling, strict=True)):
        if of_level.size == 0:
            continue
        end = start + of_level.size
        features, occurrences = of_level.size / ordered.size, of_level.sum(dtype=np.float64) / total
        label += f": {_percent(features)} of features, {_percent(occurrences)} of occurrences"
        never = int((of_level == 0).sum())
        label += f" ({never:,} never occur)" if never else ""
        ax.axvspan(start + 0.5, end + 0.5, color=f"C{index}", alpha=0.2, linewidth=0, label=label)
        start = end
    for limit in limits[limits > 0]:
        ax.axhline(limit, color="gray", linestyle="--", linewidth=1)
        ax.annotate(
            f"threshold {limit:g}",
            (1, limit),
            xycoords=("axes fraction", "data"),
            ha="right",
            va="bottom",
            fontsize="small",
        )
    ax.set_xlim(0.5, ordered.size + 0.5)
    ax.legend(loc="lower left", fontsize="small", framealpha=0.9)  # below a falling curve
    ax.set_xlabel("features, the most frequent first")
    ax.set_ylabel("occurrences in the training data")
    return ax


def plot_loss_by_frequency(
    scores: Mapping[str, npt.ArrayLike],
    labels: npt.ArrayLike,
    ids: npt.ArrayLike,
    counts: Any,
    *,
    loss: FrequencyLoss = "log_loss",
    from_logits: bool = True,
    min_samples: int = 30,
    ax: Any = None,
) -> Any:
    """Draw the loss of several models by how often the rarest feature of a sample occurs in the training data.

    That shows why features have levels (Chen et al., ICML 2019, section 1): samples with rare features lose by a high rank,
    which overfits, the others by a low one. The buckets and losses are those of `keras_rafm.callbacks.TensorBoard`.

    Args:
        scores: Name of each model (or rank, or level) -> its scores, numbers `[N]` or `[N, 1]`.
        labels: Numbers `[N]` or `[N, 1]`.
        ids: Feature ids of the samples, ints `[N, F]`; −1 is padding.
        counts: Occurrences of each feature in the training data: non-negative numbers `[num_features]`; or the `RankPlan`
            that was made from them.
        loss: `"log_loss"`, or `"rmse"`: root of the mean squared error.
        from_logits: Whether the scores of a log-loss are logits, else probabilities.
        min_samples: Buckets of fewer samples are left out, since their losses are mostly chance; the axis says so.
        ax: Matplotlib `Axes` to draw on; default: those of a new figure.

    Returns:
        The `Axes`, with one line per model; at each bucket the axis tells how many samples it has.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: `scores` is not a mapping, ids are not integers, or counts are not numbers.
        ValueError: There are no scores, no bucket has `min_samples` samples, shapes do not fit, an id is out of range,
            `counts` is a plan without counts, or `loss` is neither of these.
    """
    if not isinstance(scores, Mapping):
        raise TypeError(f"`scores` must map names to scores. Received: {type(scores).__name__}")
    if not scores:
        raise ValueError("`scores` must have one model or more. Received: none")
    buckets = bucket_of_counts(rarest_counts(ids, counts))
    results, left_out = {}, 0
    for name, of_model in scores.items():
        try:
            found = loss_by_bucket(labels, of_model, buckets, loss, from_logits)
        except ValueError as error:
            raise ValueError(f"scores[{name!r}]: {error}") from error
        results[name] = [bucket for bucket in found if bucket.num_samples >= min_samples]
        left_out = len(found) - len(results[name])
    if not any(results.values()):
        raise ValueError(
            f"`ids` must have `min_samples`={min_samples} samples in one bucket or more. Received: {buckets.size} samples, "
            f"{np.bincount(buckets - buckets.min()).max() if buckets.size else 0} in the largest bucket"
        )
    ax = _axes(ax)
    for name, found in results.items():
        ax.plot(range(len(found)), [bucket.loss for bucket in found], marker="o", label=str(name))
    found = next(iter(results.values()))
    ax.set_xticks(
        range(len(found)), [f"{bucket.name.replace('_', ' ')}\n({_short(bucket.num_samples)})" for bucket in found]
    )
    ax.tick_params(axis="x", labelsize="small")
    note = f"\nbuckets of fewer than {min_samples} samples left out: {left_out}" if left_out else ""
    ax.set_xlabel(f"training count of the rarest feature of a sample (number of samples){note}")
    ax.set_ylabel("log-loss" if loss == "log_loss" else "root of the mean squared error")
    ax.grid(axis="y", alpha=0.3)
    ax.legend()
    return ax


def _axes(ax: Any) -> Any:
    if ax is not None:
        return ax
    try:
        figure = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise ImportError("Figures need matplotlib: pip install 'keras_rafm[plots]'") from error
    return figure.Figure(figsize=(9, 5.5), layout="constrained").subplots()


def _some_places(number: int) -> npt.NDArray[np.int64]:
    """Places from 1 to `number`, all of them if they are few, else even on a logarithmic axis."""
    if number <= _MOST_POINTS:
        return np.arange(1, number + 1)
    return np.unique(np.geomspace(1, number, _MOST_POINTS).round().astype(np.int64))


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def _short(number: int) -> str:
    return f"{number:,}" if number < 10_000 else f"{number / 1000:,.0f}k"
