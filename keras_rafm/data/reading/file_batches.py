"""Files of raw columns -> batches for a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from keras_rafm.checks.arguments import integer
from keras_rafm.data.formats.base import FileFormat, PythonFormat
from keras_rafm.data.formats.by_name import format_of
from keras_rafm.data.raw.arrays import as_raw_columns, blocks_as_arrays
from keras_rafm.data.raw.columns import RawColumn
from keras_rafm.data.raw.errors import OnError
from keras_rafm.data.raw.files import PathLike, files_of, is_gzip
from keras_rafm.data.reading.array_batches import Orders, declare_batch_size, num_batches, read_ahead, without_autotuning
from keras_rafm.data.reading.streaming import streamed_batches


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
    size = integer(batch_size, "batch_size", at_least=1)
    if not 0 <= shard_index < integer(num_shards, "num_shards", at_least=1):
        raise ValueError(f"`shard_index` must be from 0 to {num_shards - 1}. Received: shard_index={shard_index}")
    files = files_of(paths)
    orders = Orders(seed, first_epoch) if shuffle else None
    held = integer(shuffled_rows, "shuffled_rows", at_least=1)
    opener = one_format(files, file_format).fitted_to(files, columns).opener(columns, on_error)
    batches = streamed_batches(files, opener, encode, size, drop_remainder, orders, held, (shard_index, num_shards))
    if len(batches.element_spec) == 1:
        batches = batches.map(lambda inputs: inputs)
    if num_rows is not None:
        number = num_batches(integer(num_rows, "num_rows", at_least=1), size, drop_remainder)
        batches = batches.apply(tf.data.experimental.assert_cardinality(number))
    return declare_batch_size(read_ahead(batches), size)


def raw_blocks(
    paths: PathLike | Sequence[PathLike],
    columns: Sequence[RawColumn],
    file_format: FileFormat | None,
    on_error: OnError | None,
) -> tf.data.Dataset:
    """Raw columns of files one after the other, in blocks of as many rows as the format reads at once."""
    files = files_of(paths)
    opener = one_format(files, file_format).fitted_to(files, columns).opener(columns, on_error)
    return read_ahead(tf.data.Dataset.from_tensor_slices(files).flat_map(opener))


def eager_blocks(
    path: str, columns: Sequence[RawColumn], file_format: FileFormat, on_error: OnError | None
) -> Iterator[dict[str, Any]]:
    """Raw columns of a file as eager tensors, in blocks; errors are those of the reader, with file and row.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is malformed.
    """
    if isinstance(file_format, PythonFormat):  # not by way of tf.data, where an error would lose its type
        blocks = file_format.blocks(path, columns, on_error)
        for texts, arrays in blocks_as_arrays(blocks, columns, file_format.shares_text):
            yield as_raw_columns(texts, arrays, columns)
        return
    is_empty = True
    try:
        for block in without_autotuning(file_format.opener(columns, on_error)(tf.constant(path))):
            is_empty = False
            yield block
    except (tf.errors.OpError, UnicodeDecodeError):  # the latter where TensorFlow's message has bytes of the file
        file_format.explain(path, columns, on_error)
        raise
    if is_empty or is_gzip(path):  # TensorFlow may take a file for ended that was cut off
        file_format.explain(path, columns, on_error)


def untold(on_error: OnError | None) -> OnError | None:
    """What leaves out the same rows without a word: for those that are read again."""
    return None if on_error is None else lambda error: None


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
