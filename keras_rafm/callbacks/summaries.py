"""Summaries that TensorFlow has no function for: histograms of the norms in large tables, and the layout of charts."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as layout_metadata
from tensorboard.plugins.histogram import metadata as histogram_metadata

from keras_rafm.rows.access import read_rows

_BYTES_AT_ONCE = 2**24
_HISTOGRAM_BUCKETS = 30
_UPPER_AND_LOWER = "Upper loss (epoch_loss) and lower losses (levels/dependent_loss: a level imitates the next one)"
_LEVEL_LOSSES = "Loss of the model cut off at each level (levels/loss), on the analysis data"


def write_agreement(prefix: str, score: npt.NDArray[np.float64], next_score: npt.NDArray[np.float64]) -> None:
    """Write how well a level's scores (`[N]`) agree with those of the next level."""
    if min(score.std(), next_score.std()) > 0:  # the correlation of a constant is undefined
        tf.summary.scalar(
            f"{prefix}correlation_with_next_level",
            np.corrcoef(score, next_score)[0, 1],
            description="Pearson correlation of a level's scores on the analysis data with those of the next level",
        )
    tf.summary.scalar(
        f"{prefix}mean_absolute_difference_to_next_level",
        np.abs(score - next_score).mean(),
        description="Mean absolute difference between a level's scores on the analysis data and those of the next level",
    )


def write_histogram(tag: str, table: keras.Variable, description: str) -> None:
    """Write a histogram of the norms of the rows of a table, or of the numbers of a vector.

    TensorFlow's own summary takes about 300 bytes of memory per number. This one holds one block of rows at a time.
    """
    low, high, number = np.inf, -np.inf, 0
    for values in _blocks_of_norms(table):
        if tf.size(values):
            low, high = min(low, float(tf.reduce_min(values))), max(high, float(tf.reduce_max(values)))
            number += int(tf.size(values))
    if not number:
        return
    counts = np.zeros(_HISTOGRAM_BUCKETS)
    if low == high:
        counts[-1] = number  # as in TensorFlow's own histograms
    else:
        for values in _blocks_of_norms(table):
            bounds = tf.constant([low, high], values.dtype)
            counts += tf.histogram_fixed_width(values, bounds, _HISTOGRAM_BUCKETS).numpy()
    edges = np.linspace(low, high, _HISTOGRAM_BUCKETS + 1)
    metadata = histogram_metadata.create_summary_metadata(display_name=None, description=description)
    tensor = tf.constant(np.stack([edges[:-1], edges[1:], counts], axis=1), tf.float64)
    tf.summary.write(tag, tensor, metadata=metadata)


def _blocks_of_norms(table: keras.Variable) -> Iterator[tf.Tensor]:
    """Yield the finite norms of the rows of a table `[n, D]`, or the finite numbers of a vector `[n]`, in blocks."""
    values = table.value
    dtype = tf.float64 if values.dtype == tf.float64 else tf.float32
    width = max(1, values.shape[1:].num_elements())
    block = max(1, _BYTES_AT_ONCE // (width * values.dtype.size))
    for start in range(0, values.shape[0], block):
        rows = tf.cast(read_rows(values, tf.range(start, min(start + block, values.shape[0]))), dtype)
        norms = tf.norm(rows, axis=1) if rows.shape.rank > 1 else rows
        is_finite = tf.math.is_finite(norms)
        yield norms if tf.reduce_all(is_finite) else tf.boolean_mask(norms, is_finite)


def write_layout() -> None:
    """Write the charts of the page "Custom Scalars"."""
    charts = [
        layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=tags))
        for title, tags in (
            (_UPPER_AND_LOWER, [r"^epoch_loss$", r"^(.*/)?levels/dependent_loss$"]),
            (_LEVEL_LOSSES, [r"^(.*/)?levels/loss$"]),
        )
    ]
    layout = layout_pb2.Layout(category=[layout_pb2.Category(title="RaFM: losses of the levels", chart=charts)])
    metadata = layout_metadata.create_summary_metadata()
    tf.summary.write(layout_metadata.CONFIG_SUMMARY_TAG, tf.constant(layout.SerializeToString()), metadata=metadata)
