"""Figures of feature frequencies with the levels, and of losses by frequency.

They need matplotlib (`pip install 'keras_rafm[plots]'`), which is imported when a figure is drawn. Without `ax`, the figure
is new and not registered with `pyplot`; `ax.figure.savefig("figure.png")` writes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_rafm.checks.optional_packages import imported
from keras_rafm.frequency_buckets import FrequencyLoss, bucket_of_counts, checked_counts, loss_by_bucket, rarest_counts
from keras_rafm.rank_plan import RankPlan

# A curve with more points looks the same.
_MOST_POINTS = 2000


def plot_frequencies(plan_or_counts: Any, thresholds: Sequence[float] | None = None, ax: Any = None) -> Any:
    """Draw the frequencies of features in descending order, with the levels, on logarithmic axes.

    Every level is a band. The legend shows its share of the features and of the occurrences, and the number of its
    features that never occur, which have no place on a logarithmic axis. Thresholds are dashed lines.

    Args:
        plan_or_counts: A `RankPlan` made from counts, or occurrences of each feature in the training data: non-negative
            numbers `[num_features]`.
        thresholds: Increasing, non-negative counts. A feature's level is 1 + the number of thresholds that its count
            exceeds. With a plan, which has levels already, the thresholds are only drawn.
        ax: Matplotlib `Axes` to draw on. Default: the axes of a new figure.

    Returns:
        The `Axes`. The first line is the curve. Each level with features has a band (a patch with a label), from the
        highest level to the lowest.

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
        raise ValueError("`plan_or_counts` must have at least one feature that occurs. Received: only counts of 0")
    ax = _axes(ax)
    # Within each level in descending order: the whole curve descends if levels follow the counts.
    counts_by_level = [np.sort(counts[levels == level])[::-1] for level in range(len(labels), 0, -1)]
    ordered = np.concatenate(counts_by_level)
    positions = _positions_to_draw(ordered.size)
    occurs = ordered[positions - 1] > 0
    ax.plot(positions[occurs], ordered[positions - 1][occurs], color="black", label="_count", zorder=3)
    ax.set_xscale("log")
    ax.set_yscale("log")
    start, total = 0, float(ordered.sum(dtype=np.float64))
    for index, (label, level_counts) in enumerate(zip(labels[::-1], counts_by_level, strict=True)):
        if level_counts.size == 0:
            continue
        end = start + level_counts.size
        features, occurrences = level_counts.size / ordered.size, level_counts.sum(dtype=np.float64) / total
        label += f": {_percent(features)} of features, {_percent(occurrences)} of occurrences"
        never = int((level_counts == 0).sum())
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
    ax.legend(loc="lower left", fontsize="small", framealpha=0.9)  # a descending curve leaves this corner free
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
    """Draw the loss of several models by the training count of a sample's rarest feature.

    The figure shows why features have levels (Chen et al., ICML 2019, section 1): a high rank overfits on samples with rare
    features, and a low rank underfits on the others. Buckets and losses are those of `keras_rafm.callbacks.TensorBoard`.

    Args:
        scores: A mapping from the name of each model (or rank, or level) to its scores: numbers `[N]` or `[N, 1]`.
        labels: The labels: numbers `[N]` or `[N, 1]`.
        ids: Feature ids of the samples, ints `[N, F]`; −1 is padding.
        counts: Occurrences of each feature in the training data: non-negative numbers `[num_features]`; or the `RankPlan`
            that was made from them.
        loss: `"log_loss"`, or `"rmse"`: root of the mean squared error.
        from_logits: Whether the scores of a log-loss are logits; otherwise they are probabilities.
        min_samples: Buckets with fewer samples are left out, since their losses are mostly chance. The label of the axis
            shows the number of such buckets.
        ax: Matplotlib `Axes` to draw on. Default: the axes of a new figure.

    Returns:
        The `Axes`, with one line per model. The axis shows the number of samples in each bucket.

    Raises:
        ImportError: matplotlib is not installed.
        TypeError: `scores` is not a mapping, ids are not integers, or counts are not numbers.
        ValueError: There are no scores, no bucket has `min_samples` samples, shapes do not fit, an id is out of range,
            `counts` is a plan without counts, or `loss` is unknown.
    """
    if not isinstance(scores, Mapping):
        raise TypeError(f"`scores` must map names to scores. Received: {type(scores).__name__}")
    if not scores:
        raise ValueError("`scores` must have at least one model. Received: none")
    buckets = bucket_of_counts(rarest_counts(ids, counts))
    losses_by_model, num_left_out = {}, 0
    for name, model_scores in scores.items():
        try:
            losses = loss_by_bucket(labels, model_scores, buckets, loss, from_logits)
        except ValueError as error:
            raise ValueError(f"scores[{name!r}]: {error}") from error
        losses_by_model[name] = [bucket for bucket in losses if bucket.num_samples >= min_samples]
        num_left_out = len(losses) - len(losses_by_model[name])
    if not any(losses_by_model.values()):
        raise ValueError(
            f"at least one bucket must have `min_samples`={min_samples} samples. "
            f"Received: `ids` of {buckets.size} samples, "
            f"{np.bincount(buckets - buckets.min()).max() if buckets.size else 0} in the largest bucket"
        )
    ax = _axes(ax)
    for name, losses in losses_by_model.items():
        ax.plot(range(len(losses)), [bucket.loss for bucket in losses], marker="o", label=str(name))
    shown = next(iter(losses_by_model.values()))  # the buckets are the same for all models
    ax.set_xticks(
        range(len(shown)), [f"{bucket.name.replace('_', ' ')}\n({_short(bucket.num_samples)})" for bucket in shown]
    )
    ax.tick_params(axis="x", labelsize="small")
    note = f"\nbuckets of fewer than {min_samples} samples left out: {num_left_out}" if num_left_out else ""
    ax.set_xlabel(f"training count of the rarest feature of a sample (number of samples){note}")
    ax.set_ylabel("log-loss" if loss == "log_loss" else "root of the mean squared error")
    ax.grid(axis="y", alpha=0.3)
    ax.legend()
    return ax


def _axes(ax: Any) -> Any:
    """Return the given axes, or those of a new figure."""
    if ax is not None:
        return ax
    return imported("matplotlib.figure", "plots").Figure(figsize=(9, 5.5), layout="constrained").subplots()


def _positions_to_draw(number: int) -> npt.NDArray[np.int64]:
    """Return the positions from 1 to `number`, or if they are many, some at even distances on a logarithmic axis."""
    if number <= _MOST_POINTS:
        return np.arange(1, number + 1)
    return np.unique(np.geomspace(1, number, _MOST_POINTS).round().astype(np.int64))


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"


def _short(number: int) -> str:
    return f"{number:,}" if number < 10_000 else f"{number / 1000:,.0f}k"
