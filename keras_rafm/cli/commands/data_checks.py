"""Checks before and after counting that save a long training: errors that are found at once, and warnings."""

from __future__ import annotations

import sys

import tensorflow as tf

from keras_rafm.cli.commands.fit import new_layer, new_optimizer
from keras_rafm.cli.commands.reading import Encoded, with_explained_errors
from keras_rafm.cli.commands.source import Source
from keras_rafm.cli.settings import Settings
from keras_rafm.data import Schema
from keras_rafm.data.columns.column import MISSING_NAME
from keras_rafm.data.raw.errors import MalformedRowError
from keras_rafm.rank_plan import RankPlan
from keras_rafm.serving.raw_inputs import illegal_input_names


def check_model(settings: Settings) -> None:
    """Raise a `ValueError` unless a plan, a layer and an optimizer can have these settings."""
    new_layer(RankPlan.from_counts([1], settings.ranks, settings.thresholds), settings)
    new_optimizer(settings)


def check_first_rows(source: Source, settings: Settings) -> None:
    """Read the first rows of each split.

    Raises:
        tf.errors.OpError: The first file lacks a column, or one of these rows is malformed.
        ValueError: See `FileFormat.explain`.
    """
    on_error = None if settings.on_error == "raise" else _ignore
    for files in source.files.values():
        blocks = source.schema.raw_dataset(files[0], file_format=source.file_format, on_error=on_error)
        next(with_explained_errors(blocks, source.schema, files[:1], source.file_format, on_error), None)


def _ignore(error: MalformedRowError) -> None:
    """Ignore a malformed row: it is reported when all rows are read."""
    del error


def warn_about_names(schema: Schema) -> None:
    """Warn about column names that an exported model can't have."""
    illegal = illegal_input_names(schema)
    if illegal:
        _warn(
            "the model can be trained but not exported. To export it, column names must consist of letters, digits and "
            f"underscores, begin with a letter, and be neither 'self' nor a keyword of Python. Received: {illegal}"
        )


def warn_about_columns(schema: Schema) -> None:
    """Warn about columns without any value."""
    for name, column in schema.columns.items():
        ids = schema.id_range(name)
        counts = schema.counts[ids.start : ids.stop]
        num_missing = sum(
            int(count)
            for reserved_name, count in zip(column.reserved_names(), counts, strict=False)
            if reserved_name == MISSING_NAME
        )
        if num_missing == counts.sum():
            _warn(f"column '{name}' has no value in any row of the training data: is its name right?")


def warn_about_labels(encoded: dict[str, Encoded]) -> None:
    """Warn about training labels that are all equal, and about splits whose sample weights are all 0.

    Args:
        encoded: Split -> rows. Rows that are not held in memory are not examined.
    """
    for split, rows in encoded.items():
        if rows.arrays is None:
            continue
        labels, *weights = rows.arrays[1:]
        lowest, highest = float(tf.reduce_min(labels)), float(tf.reduce_max(labels))
        if split == "train" and lowest == highest:
            _warn(f"all labels of the training data are {lowest:g}: there is nothing to learn")
        if weights and not float(tf.reduce_sum(weights[0])) > 0:
            _warn(f"the sample weights of the {split} data are all 0: its rows have no effect")


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)
