"""Batches for a model, and blocks of raw columns, from files."""

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
from keras_rafm.data.reading.streaming import streamed_batches
from keras_rafm.data.samples.array_batches import Orders, declare_batch_size, num_batches, read_ahead, without_autotuning


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
    """Stream the raw `columns` of files in batches. See `Schema.dataset` for the other arguments and errors.

    `encode` maps a block of raw columns to a tuple of tensors. A batch is such a tuple, or its item if it has just one.
    """
    size = integer(batch_size, "batch_size", at_least=1)
    if not 0 <= shard_index < integer(num_shards, "num_shards", at_least=1):
        raise ValueError(f"`shard_index` must be from 0 to {num_shards - 1}. Received: shard_index={shard_index}")
    files = files_of(paths)
    orders = Orders(seed, first_epoch) if shuffle else None
    held_rows = integer(shuffled_rows, "shuffled_rows", at_least=1)
    batches = streamed_batches(
        files,
        fitted_format(files, file_format, columns).opener(columns, on_error),
        encode,
        batch_size=size,
        drop_remainder=drop_remainder,
        orders=orders,
        shuffled_rows=held_rows,
        num_shards=num_shards,
        shard_index=shard_index,
    )
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
    """Stream the raw columns of files, one file after the other, in blocks. See `Schema.raw_dataset`."""
    files = files_of(paths)
    opener = fitted_format(files, file_format, columns).opener(columns, on_error)
    return read_ahead(tf.data.Dataset.from_tensor_slices(files).flat_map(opener))


def eager_blocks(
    path: str, columns: Sequence[RawColumn], file_format: FileFormat, on_error: OnError | None
) -> Iterator[dict[str, Any]]:
    """Yield the raw columns of a file as eager tensors, in blocks. Errors are those of the reader, with file and row.

    Raises:
        FileNotFoundError: The file is not found.
        ValueError: The file is malformed.
    """
    if isinstance(file_format, PythonFormat):  # without tf.data, which would change the type of errors
        blocks = file_format.blocks(path, columns, on_error)
        for texts, arrays in blocks_as_arrays(blocks, columns, file_format.shares_text):
            yield as_raw_columns(texts, arrays, columns)
        return
    is_empty = True
    try:
        for block in without_autotuning(file_format.opener(columns, on_error)(tf.constant(path))):
            is_empty = False
            yield block
    except (tf.errors.OpError, UnicodeDecodeError):  # the latter if TensorFlow's message quotes bytes of the file
        file_format.explain(path, columns, on_error)
        raise
    if is_empty or is_gzip(path):  # TensorFlow may not notice that a compressed file is truncated
        file_format.explain(path, columns, on_error)


def without_report(on_error: OnError | None) -> OnError | None:
    """Return an `on_error` that skips the same rows without reporting them, for reading the same files again."""
    return None if on_error is None else lambda error: None


def one_format(files: Sequence[str], file_format: FileFormat | None) -> FileFormat:
    """Return `file_format`, or the format inferred from the file names if it is `None`.

    Raises:
        TypeError: `file_format` is not a file format.
        ValueError: The file names imply no format, or several.
    """
    if file_format is not None:
        if not isinstance(file_format, FileFormat):
            raise TypeError(f"`file_format` must be a file format such as CSVFormat(). Received: {file_format!r}")
        return file_format
    formats = {file: format_of(file) for file in files}
    first = formats[files[0]]
    for file, other in formats.items():
        if other != first:
            raise ValueError(f"files must be of one format; {files[0]} and {file} differ")
    return first


def fitted_format(files: Sequence[str], file_format: FileFormat | None, columns: Sequence[RawColumn]) -> FileFormat:
    """Return the format of files, ready to open them. See `one_format` and `FileFormat.fitted_to`."""
    return one_format(files, file_format).fitted_to(files, columns)
