"""Files of raw columns -> batches for a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_rafm.data._batches import Orders, declare_batch_size, num_batches
from keras_rafm.data._checks import positive_int
from keras_rafm.data._files import PathLike, files_of
from keras_rafm.data._raw import RawColumn
from keras_rafm.data._streaming import streamed_batches
from keras_rafm.data.formats import FileFormat, OnError, format_of


def read_batches(
    paths: PathLike | Sequence[PathLike],
    columns: Sequence[RawColumn],
    encode: Callable[[Any], tuple[Any, ...]],
    batch_size: int,
    *,
    file_format: FileFormat | None,
    shuffle: bool,
    seed: int | None,
    first_epoch: int,
    shuffled_rows: int,
    drop_remainder: bool,
    num_shards: int,
    shard_index: int,
    num_rows: int | None,
    on_error: OnError | None,
) -> tf.data.Dataset:
    """As `Schema.dataset`, of the given columns, of which `encode` makes tuples of tensors."""
    size = positive_int("batch_size", batch_size)
    if not 0 <= shard_index < positive_int("num_shards", num_shards):
        raise ValueError(f"`shard_index` must be from 0 to {num_shards - 1}. Received: shard_index={shard_index}")
    files = files_of(paths)
    orders = Orders(seed, first_epoch) if shuffle else None
    held = positive_int("shuffled_rows", shuffled_rows)
    opener = one_format(files, file_format).opener(columns, on_error)
    batches = streamed_batches(files, opener, encode, size, drop_remainder, orders, held, (shard_index, num_shards))
    if len(batches.element_spec) == 1:
        batches = batches.map(lambda inputs: inputs)
    if num_rows is not None:
        number = num_batches(positive_int("num_rows", num_rows), size, drop_remainder)
        batches = batches.apply(tf.data.experimental.assert_cardinality(number))
    return declare_batch_size(batches.prefetch(tf.data.AUTOTUNE), size)


def raw_blocks(
    paths: PathLike | Sequence[PathLike],
    columns: Sequence[RawColumn],
    file_format: FileFormat | None,
    on_error: OnError | None,
) -> tf.data.Dataset:
    """Raw columns of files one after the other, in blocks of as many rows as the format reads at once."""
    files = files_of(paths)
    opener = one_format(files, file_format).opener(columns, on_error)
    return tf.data.Dataset.from_tensor_slices(files).flat_map(opener).prefetch(tf.data.AUTOTUNE)


def one_format(files: Sequence[str], file_format: FileFormat | None) -> FileFormat:
    """The format given, or the one that the names of all files tell.

    Raises:
        TypeError: What is given is no format.
        ValueError: The names tell none, or several.
    """
    if file_format is not None:
        if not isinstance(file_format, FileFormat):
            raise TypeError(f"`file_format` must be a file format such as CSVFormat(). Received: {file_format!r}")
        return file_format
    told = {file: format_of(file) for file in files}
    first = told[files[0]]
    for file, other in told.items():
        if other != first:
            raise ValueError(f"files must be of one format; {files[0]} and {file} differ")
    return first
