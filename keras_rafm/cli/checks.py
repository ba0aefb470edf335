"""What is looked at before hours are spent on counting and training: errors that cost nothing, and warnings."""

from __future__ import annotations

import sys

import tensorflow as tf

from keras_rafm.cli.encoded import Encoded, explained
from keras_rafm.cli.settings import Settings
from keras_rafm.cli.source import Source
from keras_rafm.cli.training import new_layer, new_optimizer
from keras_rafm.data import Schema
from keras_rafm.data.columns.column import MISSING_NAME
from keras_rafm.data.raw.errors import MalformedRowError
from keras_rafm.rank_plan import RankPlan
from keras_rafm.serving.raw_inputs import illegal_input_names


def check_model(settings: Settings) -> None:
    """Make what a model needs of the settings alone.

    Raises:
        ValueError: A plan, a layer or an optimizer can't have them.
    """
    new_layer(RankPlan.from_counts([1], settings.ranks, settings.thresholds), settings)
    new_optimizer(settings)


def check_columns(source: Source, settings: Settings) -> None:
    """Read the first rows of each split.

    Raises:
        tf.errors.OpError: The first file has not all columns, or these rows are malformed.
        ValueError: As of `FileFormat.explain`.
    """
    on_error = None if settings.on_error == "raise" else _ignore
    for files in source.files.values():
        blocks = source.schema.raw_dataset(files[0], file_format=source.file_format, on_error=on_error)
        next(explained(blocks, source.schema, files[:1], source.file_format, on_error), None)


def _ignore(error: MalformedRowError) -> None:
    """It is told again by who reads all rows."""
    del error


def warn_of_names(schema: Schema) -> None:
    """Of columns that an exported model can't have."""
    illegal = illegal_input_names(schema)
    if illegal:
        _warn(
            "the model can be trained but not exported: for that, names of columns must have letters, digits and "
            f"underscores only, a letter first, and be neither 'self' nor a keyword of Python. Received: {illegal}"
        )


def warn_of_columns(schema: Schema) -> None:
    """Of columns that tell nothing."""
    for name, column in schema.columns.items():
        ids = schema.id_range(name)
        counts = schema.counts[ids.start : ids.stop]
        missing = sum(int(n) for own, n in zip(column.reserved_names(), counts, strict=False) if own == MISSING_NAME)
        if missing == counts.sum():
            _warn(f"column '{name}' has no value in any row of the training data: is its name right?")


def warn_of_labels(encoded: dict[str, Encoded]) -> None:
    """Of training labels that are all equal, and of splits whose rows have no weight. Looks at what is held in memory."""
    for split, own in encoded.items():
        if own.arrays is None:
            continue
        labels, *weights = own.arrays[1:]
        first, last = float(tf.reduce_min(labels)), float(tf.reduce_max(labels))
        if split == "train" and first == last:
            _warn(f"all labels of the training data are {first:g}: there is nothing to tell apart")
        if weights and not float(tf.reduce_sum(weights[0])) > 0:
            _warn(f"the sample weights of the {split} data are all 0: its rows count for nothing")


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)
