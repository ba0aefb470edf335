"""Encoded rows for training and evaluation: in memory where they fit, else read anew from the files in every epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_rafm.checks.constants import PADDING_ID
from keras_rafm.cli.progress import counted
from keras_rafm.data import Schema
from keras_rafm.data.formats.base import FileFormat
from keras_rafm.data.raw.errors import OnError
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
    """Rows of some files as a model takes them.

    Args:
        arrays: All of them, or `None` where they are read from the files.
        num_rows: How many there are, if known.
        expected_rows: How many there should be, if anything tells; for bars alone.
        mean_label: Of the rows that were looked at.
        schema: Reads the files.
        files: Their names.
        file_format: Of the files.
        on_error: Told of malformed rows.
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
        """Batches in an order that depends on the seed and the number of the epoch alone."""
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
        """Batches in the order of the files."""
        if self.arrays is None:
            return self.schema.dataset(self.files, batch_size, file_format=self.file_format, on_error=self.on_error)
        return read_ahead(gathered_batches(self.arrays, self.num_rows or 0, batch_size, False, None))

    def explain(self) -> None:
        """After reading ended in an error: say what is wrong where.

        Raises:
            ValueError: A file is damaged, or a row of it is refused.
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
    """Read and encode files, as far as they fit into `memory_limit` bytes."""
    batches = schema.dataset(files, _ROWS_READ_AT_ONCE, file_format=file_format, on_error=on_error)
    parts: list[Any] = []
    size, label_sum, num_rows = 0, 0.0, 0
    checked = explained(batches, schema, files, file_format, on_error)
    for batch in counted(checked, description, lambda batch: int(batch[1].shape[0]), expected_rows):
        parts.append(tf.nest.map_structure(lambda tensor: tensor.numpy(), batch))
        size += sum(array.nbytes for array in tf.nest.flatten(parts[-1]))
        label_sum += float(parts[-1][1].sum(dtype=np.float64))
        num_rows += parts[-1][1].shape[0]
        if size > memory_limit:
            return Encoded(None, None, expected_rows, label_sum / num_rows, schema, files, file_format, on_error)
    if not num_rows:
        raise ValueError(f"{files[0]}: expected at least one row, found none")
    arrays = keras.tree.map_structure(lambda *arrays: _joined(arrays), *parts)
    return Encoded(on_cpu(arrays), num_rows, num_rows, label_sum / num_rows, schema, files, file_format, on_error)


def explained(
    batches: Iterable[Any],
    schema: Schema,
    files: Sequence[str],
    file_format: FileFormat,
    on_error: OnError | None,
    training: bool = True,
) -> Iterator[Any]:
    """The same batches; where reading ends in an error, or may have ended too early, it is said what is wrong where.

    Raises:
        ValueError: A file is damaged, or a row of it is refused.
    """
    columns = schema.raw_columns(training)
    try:
        yield from batches
    except tf.errors.OpError:
        if schema.is_adapted:
            schema.explain(files, training=training, file_format=file_format, on_error=on_error)
        else:  # which reads the same files, but can't encode them yet
            for file in files:
                file_format.explain(file, columns, on_error)
        raise
    for file in files:
        if is_gzip(file):  # TensorFlow may take a file for ended that was cut off
            file_format.explain(file, columns, on_error)


def _joined(arrays: tuple[Any, ...]) -> Any:
    """Rows of all parts, as wide as the widest: ids (integers) are padded with −1, values with 0."""
    width = max(array.shape[1] for array in arrays)
    padding = PADDING_ID if arrays[0].dtype.kind == "i" else 0
    return np.concatenate(
        [np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=padding) for array in arrays]
    )
