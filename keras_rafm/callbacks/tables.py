"""Markdown tables for TensorBoard's page "Text"."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_rafm.callbacks.shown_layer import ShownLayer
from keras_rafm.frequency_buckets import bucket_name


def table_of_levels(shown: ShownLayer) -> str:
    """Return the table of levels that `RankPlan.summary` prints."""
    layer, sizes = shown.layer, shown.sizes
    bytes_per_factor = tf.as_dtype(layer.variable_dtype).size

    def costs(free: int, dependent: int) -> tuple[str, str, str]:
        return f"{free:,}", f"{dependent:,}", f"{bytes_per_factor * (free + dependent) / 1e6:,.2f}"

    shares = _shares_of_occurrences(shown)
    rows = [("level", "rank", "features", "occurrences", "free factors", "dependent factors", "MB")]
    for level, (rank, size, above) in enumerate(sizes.levels_with_next(), start=1):
        share = f"{shares[level - 1]:.1%}" if shares else "?"
        rows.append((f"{level}", f"{rank}", f"{size - above:,}", share, *costs(rank * (size - above), rank * above)))
    everything = "100.0%" if shares else ""
    all_costs = costs(sizes.num_free_factors, sizes.num_dependent_factors)
    rows.append(("**RaFM**", "", f"{layer.num_features:,}", everything, *all_costs))
    for rank in dict.fromkeys((layer.ranks[-1], layer.ranks[0])):
        plain_costs = costs(rank * layer.num_features, 0)
        rows.append((f"plain FM of rank {rank}", f"{rank}", f"{layer.num_features:,}", "", *plain_costs))
    about = (
        f"Levels of `{layer.name}`: features, their share of the occurrences in the training data, and their size. "
        "Free factors are the highest-level embeddings of the level's features. Dependent factors are the embeddings of "
        "features of higher levels at this level."
    )
    return f"{about}\n\n{_markdown(rows)}"


def table_of_buckets(buckets: npt.NDArray[np.int64]) -> str:
    """Return a table of the number of rows in each frequency bucket.

    Args:
        buckets: The bucket of every row: int64 `[N]`.
    """
    rows = [("training count of the rarest feature", "rows", "share")]
    for bucket, number in zip(*np.unique(buckets, return_counts=True), strict=True):
        rows.append((bucket_name(int(bucket)), f"{number:,}", f"{number / buckets.size:.1%}"))
    about = "The number of rows of the analysis data in each frequency bucket. A loss over few rows is mostly chance."
    return f"{about}\n\n{_markdown(rows)}"


def _shares_of_occurrences(shown: ShownLayer) -> list[float]:
    """Return the share of each level; an empty list without counts, or if no feature occurs."""
    total = 0.0 if shown.counts is None else float(shown.counts.sum(dtype=np.float64))
    if shown.counts is None or not total:
        return []
    # Sums over the sets F_k are cheap: few features are of level 2 or above.
    slots = shown.layer.slots.numpy()
    sums = [shown.counts[slots < size].sum(dtype=np.float64) for size in shown.layer.level_sizes[1:]]
    return [(upper - lower) / total for upper, lower in itertools.pairwise((total, *sums, 0.0))]


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + " ---: |" * len(rows[0]))
    return "\n".join(lines)
