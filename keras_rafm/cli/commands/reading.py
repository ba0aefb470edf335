"""Read rows for training, evaluation and prediction, and report malformed rows."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_rafm.checks.constants import PADDING_ID
from keras_rafm.cli.commands.progress import counted
from keras_rafm.data import Schema, SkippedRows
from keras_rafm.data.formats.base import FileFormat
from keras_rafm.data.raw.errors import MalformedRowError, OnError
from keras_rafm.data.raw.files import is_gzip
from keras_rafm.data.samples.array_batches import (
    Orders,
    declare_batch_size,
    declare_endless,
    gathered_batches,
    on_cpu,
    read_ahead,
)

_ROWS_READ_AT_ONCE = 8192


@dataclass(frozen=True)
class Encoded:
    """The encoded rows of some files: held in memory if they fit, and otherwise read from the files in every epoch.

    Args:
        arrays: The inputs, labels and sample weights of all rows; `None` if the rows are read from the files.
        num_rows: The number of rows, if known.
        expected_rows: An estimate of the number of rows for progress bars, if there is one.
        mean_label: The mean label of the rows that have been read.
        schema: The schema that encodes the rows.
        files: The files.
        file_format: The format of the files.
        on_error: Called with each malformed row; `None` to raise an error.
    """

    arrays: Any
    num_rows: int | None
    expected_rows: int | None
    mean_label: float
    schema: Schema
    files: list[str]
    file_format: FileFormat
    on_error: OnError | None

    def shuffled(self, batch_size: int, seed: int, first_epoch: int) -> tf.data.Dataset:
        """Return batches in an order that depends only on the seed and the number of the epoch."""
        if self.arrays is None:
            return self.schema.dataset(
                self.files,
                batch_size,
                file_format=self.file_format,
                shuffle=True,
                seed=seed,
                first_epoch=first_epoch,
                on_error=self.on_error,
            )
        orders = Orders(seed, first_epoch)

        def batches(epochs: int | None) -> tf.data.Dataset:
            return read_ahead(gathered_batches(self.arrays, self.num_rows or 0, batch_size, False, orders, epochs))

        return declare_batch_size(declare_endless(batches(None), batches), batch_size)

    def in_order(self, batch_size: int) -> tf.data.Dataset:
        """Return batches in the order of the files."""
        if self.arrays is None:
            return self.schema.dataset(self.files, batch_size, file_format=self.file_format, on_error=self.on_error)
        return read_ahead(gathered_batches(self.arrays, self.num_rows or 0, batch_size, False, None))

    def explain(self) -> None:
        """Find the cause of an error in reading, and raise it with its location.

        Raises:
            ValueError: A file is damaged or has a malformed row.
        """
        if self.arrays is None:
            self.schema.explain(self.files, file_format=self.file_format, on_error=self.on_error)


def encode(
    schema: Schema,
    files: list[str],
    file_format: FileFormat,
    on_error: OnError | None,
    memory_limit: int,
    description: str,
    expected_rows: int | None = None,
) -> Encoded:
    """Read and encode files, and hold their rows in memory if they fit.

    Args:
        schema: The adapted schema.
        files: The files.
        file_format: The format of the files.
        on_error: Called with each malformed row; `None` to raise an error.
        memory_limit: The largest size of the encoded rows in memory, in bytes.
        description: The text before the progress bar.
        expected_rows: An estimate of the number of rows for the progress bar.

    Raises:
        ValueError: The files have no rows, or one of them is damaged or has a malformed row.
    """

    def encoded(arrays: Any, num_rows: int | None, expected: int | None, mean_label: float) -> Encoded:
        return Encoded(
            arrays=arrays,
            num_rows=num_rows,
            expected_rows=expected,
            mean_label=mean_label,
            schema=schema,
            files=files,
            file_format=file_format,
            on_error=on_error,
        )

    batches = schema.dataset(files, _ROWS_READ_AT_ONCE, file_format=file_format, on_error=on_error)
    parts: list[Any] = []
    size, label_sum, num_rows = 0, 0.0, 0
    checked_batches = with_explained_errors(batches, schema, files, file_format, on_error)
    for batch in counted(checked_batches, description, lambda batch: int(batch[1].shape[0]), expected_rows):
        parts.append(tf.nest.map_structure(lambda tensor: tensor.numpy(), batch))
        size += sum(array.nbytes for array in tf.nest.flatten(parts[-1]))
        label_sum += float(parts[-1][1].sum(dtype=np.float64))
        num_rows += parts[-1][1].shape[0]
        if size > memory_limit:
            return encoded(None, None, expected_rows, label_sum / num_rows)
    if not num_rows:
        raise ValueError(f"{files[0]}: expected at least one row, found none")
    arrays = keras.tree.map_structure(lambda *arrays: _concatenated(arrays), *parts)
    return encoded(on_cpu(arrays), num_rows, num_rows, label_sum / num_rows)


def with_explained_errors(
    batches: Iterable[Any],
    schema: Schema,
    files: Sequence[str],
    file_format: FileFormat,
    on_error: OnError | None,
    training: bool = True,
) -> Iterator[Any]:
    """Yield the given batches. If reading fails, or may have ended too early, raise an error that gives the location.

    Args:
        batches: Rows of the files.
        schema: The schema that reads the files.
        files: The files.
        file_format: The format of the files.
        on_error: Called with each malformed row; `None` to raise an error.
        training: Whether labels and sample weights are read too.

    Raises:
        ValueError: A file is damaged or has a malformed row.
    """
    columns = schema.raw_columns(training)
    try:
        yield from batches
    except tf.errors.OpError:
        if schema.is_adapted:
            schema.explain(files, training=training, file_format=file_format, on_error=on_error)
        else:  # a schema that is not adapted can read the files but not encode them
            for file in files:
                file_format.explain(file, columns, on_error)
        raise
    for file in files:
        if is_gzip(file):  # TensorFlow may take a truncated file for a complete one
            file_format.explain(file, columns, on_error)


@contextlib.contextmanager
def skipped_rows(on_error: str) -> Iterator[SkippedRows | None]:
    """Yield the `on_error` argument of reading functions, and print at the end which rows were skipped.

    Args:
        on_error: `"raise"` or `"skip"`.
    """
    if on_error == "raise":
        yield None
        return
    skipped = _DistinctSkippedRows()
    try:
        yield skipped
    finally:
        if len(skipped):
            print(skipped.summary(), file=sys.stderr)


class _DistinctSkippedRows(SkippedRows):
    """Counts each skipped row once, although rows are read in every epoch."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[tuple[str, int]] = set()

    def __call__(self, error: MalformedRowError) -> None:
        """Count a row unless it has been counted before."""
        if (error.path, error.line) not in self._seen:
            self._seen.add((error.path, error.line))
            super().__call__(error)


def _concatenated(arrays: tuple[Any, ...]) -> Any:
    """Return the rows of all arrays, padded to the width of the widest: ids (integers) with −1, values with 0."""
    width = max(array.shape[1] for array in arrays)
    padding = PADDING_ID if arrays[0].dtype.kind == "i" else 0
    return np.concatenate(
        [np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=padding) for array in arrays]
    )
