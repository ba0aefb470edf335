"""Encoded rows for training and evaluation: in memory where they fit, else read anew from the files in every epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_rafm.cli.progress import counted
from keras_rafm.data import Schema
from keras_rafm.data._batches import Orders, declare_batch_size, declare_endless, gathered_batches, on_cpu
from keras_rafm.data.formats import FileFormat, OnError
from keras_rafm.occurrences import PADDING_ID

_ROWS_READ_AT_ONCE = 8192


@dataclass(frozen=True)
class Encoded:
    """Rows of some files as a model takes them.

    Args:
        arrays: All of them, or `None` where they are read from the files.
        num_rows: How many there are, if known.
        mean_label: Of the rows that were looked at.
        schema: Reads the files.
        files: Their names.
        file_format: Of the files.
        on_error: Told of malformed rows.
    """

    arrays: Any
    num_rows: int | None
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
            gathered = gathered_batches(self.arrays, self.num_rows or 0, batch_size, False, orders, epochs)
            return gathered.prefetch(tf.data.AUTOTUNE)

        return declare_batch_size(declare_endless(batches(None), batches), batch_size)

    def in_order(self, batch_size: int) -> tf.data.Dataset:
        """Batches in the order of the files."""
        if self.arrays is None:
            return self.schema.dataset(self.files, batch_size, file_format=self.file_format, on_error=self.on_error)
        return gathered_batches(self.arrays, self.num_rows or 0, batch_size, False, None).prefetch(tf.data.AUTOTUNE)


def encode(
    schema: Schema,
    files: list[str],
    file_format: FileFormat,
    on_error: OnError | None,
    memory_limit: int,
    description: str,
) -> Encoded:
    """Read and encode files, as far as they fit into `memory_limit` bytes."""
    batches = schema.dataset(files, _ROWS_READ_AT_ONCE, file_format=file_format, on_error=on_error)
    parts: list[Any] = []
    size, label_sum, num_rows = 0, 0.0, 0
    for batch in counted(batches, description, lambda batch: int(batch[1].shape[0])):
        parts.append(tf.nest.map_structure(lambda tensor: tensor.numpy(), batch))
        size += sum(array.nbytes for array in tf.nest.flatten(parts[-1]))
        label_sum += float(parts[-1][1].sum(dtype=np.float64))
        num_rows += parts[-1][1].shape[0]
        if size > memory_limit:
            return Encoded(None, None, label_sum / num_rows, schema, files, file_format, on_error)
    if not num_rows:
        raise ValueError(f"{files[0]}: expected at least one row, found none")
    arrays = keras.tree.map_structure(lambda *arrays: _joined(arrays), *parts)
    return Encoded(on_cpu(arrays), num_rows, label_sum / num_rows, schema, files, file_format, on_error)


def _joined(arrays: tuple[Any, ...]) -> Any:
    """Rows of all parts, as wide as the widest: ids (integers) are padded with −1, values with 0."""
    width = max(array.shape[1] for array in arrays)
    padding = PADDING_ID if arrays[0].dtype.kind == "i" else 0
    return np.concatenate(
        [np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=padding) for array in arrays]
    )
