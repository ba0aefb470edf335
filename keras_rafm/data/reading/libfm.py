"""Reading and writing of files in the text format of libFM and LIBSVM: `label id:value id:value …`, one sample per line."""

from __future__ import annotations

import gzip
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_rafm.checks.arguments import Task, integer
from keras_rafm.checks.constants import PADDING_ID
from keras_rafm.data.formats.libfm_grammar import LibFMGrammar
from keras_rafm.data.formats.libfm_parser import parse_file
from keras_rafm.data.samples.array_batches import declare_batch_size, num_batches, read_ahead
from keras_rafm.data.samples.rows import Rows
from keras_rafm.data.samples.samples import Samples

PathLike = str | os.PathLike[str]

_BLOCK_BYTES = 1 << 19  # so that the arrays parsed from a block stay in the processor's cache
_ROWS_WRITTEN_AT_ONCE = 8192


def read_libfm(
    path_or_paths: PathLike | Sequence[PathLike],
    *,
    task: Task = "classification",
    zero_based: bool = True,
    num_fields: int | None = None,
    num_features: int | None = None,
) -> Samples:
    """Read libFM or LIBSVM text into memory.

    Files may be compressed with gzip, regardless of their names. Blank lines and comments (`#` to the end of a line) are
    skipped. A line with only a label is a sample without features. An id may occur several times in a sample.

    Args:
        path_or_paths: A file, or several files that are read one after the other.
        task: With `"classification"` a file must use either the labels -1 and 1 or 0 and 1; -1 is read as 0. With
            `"regression"` they are any finite numbers.
        zero_based: Whether ids start at 0 in the files. Otherwise they start at 1, and 1 is subtracted.
        num_fields: `F`, the largest number of occurrences that a sample may have. By default it is that of the longest
            sample, at least 1.
        num_features: The ids (after the subtraction) must be below it. By default they must be below 2**63.

    Returns:
        Samples with `ids` `[N, F]`: int32, or int64 if there is an id of 2**31 or more.

    Raises:
        FileNotFoundError: A file is not found.
        TypeError: `num_fields` or `num_features` is not an integer.
        ValueError: A line is malformed (the message names file, line, token and what was expected), -1 and 0 are
            both labels of one file, gzip data is damaged or truncated, a file has no samples, or an argument is out of
            range.
    """
    paths = _as_paths(path_or_paths)
    file_format = LibFMGrammar(task, zero_based=zero_based, num_fields=num_fields, num_features=num_features)
    rows = Rows.joined(list(_rows_of_files(paths, file_format, _BLOCK_BYTES)))
    ids, values = rows.padded(num_fields)
    return Samples(ids, values, rows.labels)


def libfm_dataset(
    path_or_paths: PathLike | Sequence[PathLike],
    batch_size: int,
    *,
    task: Task = "classification",
    zero_based: bool = True,
    num_fields: int | None = None,
    num_features: int | None = None,
    num_samples: int | None = None,
    drop_remainder: bool = False,
    block_bytes: int = _BLOCK_BYTES,
) -> tf.data.Dataset:
    """Stream libFM or LIBSVM text in batches. No file is ever held in memory whole.

    It accepts the same files as `read_libfm` and raises the same errors. Errors in the content of a file are raised when
    the iteration reaches them, as a `tf.errors.OpError` with the same message.

    Args:
        path_or_paths: A file, or several files that are read one after the other. A batch may span files.
        batch_size: `B`, samples per batch.
        task: See `read_libfm`.
        zero_based: See `read_libfm`.
        num_fields: `F`, the largest number of occurrences that a sample may have. By default `F` differs from batch to
            batch: it is the number of occurrences of the batch's longest sample, at least 1.
        num_features: See `read_libfm`.
        num_samples: The number of samples in all files together, if known. It sets the cardinality of the dataset. If that
            is unknown, Keras warns at the end of an epoch that the input ran out of data. If `num_samples` implies a wrong
            number of batches, the iteration ends with a `tf.errors.FailedPreconditionError`.
        drop_remainder: Leave out a last batch of fewer than `batch_size` samples.
        block_bytes: The number of bytes of (uncompressed) text to parse at once.

    Returns:
        A `tf.data.Dataset` of `({"ids": [B, F], "values": float32 [B, F]}, labels float32 [B, 1])`. The `ids` are
        int32 if `num_features` is given and at most 2**31, else int64.

    Raises:
        FileNotFoundError: A file is not found.
        TypeError: A number is not an integer.
        ValueError: An argument is out of range, or there are no files.
    """
    paths = _as_paths(path_or_paths)
    file_format = LibFMGrammar(task, zero_based=zero_based, num_fields=num_fields, num_features=num_features)
    size = integer(batch_size, "batch_size", at_least=1)
    block_bytes = integer(block_bytes, "block_bytes", at_least=1)
    id_dtype = np.int32 if num_features is not None and num_features <= 2**31 else np.int64

    def batches() -> Iterator[tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.float32]]]:
        for rows in _rebatched(_rows_of_files(paths, file_format, block_bytes), size, drop_remainder):
            ids, values = rows.padded(num_fields)
            yield {"ids": ids.astype(id_dtype, copy=False), "values": values}, rows.labels[:, np.newaxis]

    batch = size if drop_remainder else None
    signature = (
        {
            "ids": tf.TensorSpec([batch, num_fields], id_dtype),
            "values": tf.TensorSpec([batch, num_fields], tf.float32),
        },
        tf.TensorSpec([batch, 1], tf.float32),
    )
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    if num_samples is not None:
        cardinality = num_batches(integer(num_samples, "num_samples", at_least=1), size, drop_remainder)
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(cardinality))
    return declare_batch_size(read_ahead(dataset), size)


def write_libfm(path: PathLike, samples: Samples) -> None:
    """Write samples as libFM text with ids from 0, compressed with gzip if the name ends with `.gz`.

    `read_libfm` reads the same float32 labels and values back. Classes are written as 0 and 1. Padding is left out.
    """
    open_file = gzip.open if Path(path).suffix == ".gz" else open
    with open_file(path, "wt", encoding="ascii", newline="\n") as file:
        for start in range(0, len(samples), _ROWS_WRITTEN_AT_ONCE):
            part = samples[start : start + _ROWS_WRITTEN_AT_ONCE]
            rows = zip(part.labels.tolist(), part.ids.tolist(), part.values.tolist(), strict=True)
            file.writelines(_line(label, ids, values) for label, ids, values in rows)


def _line(label: float, ids: list[int], values: list[float]) -> str:
    # Nine significant digits distinguish all float32 numbers, even when a reader parses them as float64 first.
    occurrences = (f" {id_}:{value:.9g}" for id_, value in zip(ids, values, strict=True) if id_ != PADDING_ID)
    return f"{label:.9g}{''.join(occurrences)}\n"


def _as_paths(path_or_paths: PathLike | Sequence[PathLike]) -> list[str]:
    if isinstance(path_or_paths, str | os.PathLike):
        path_or_paths = [path_or_paths]
    paths = [os.fspath(path) for path in path_or_paths]
    if not paths:
        raise ValueError("`path_or_paths` must name at least one file. Received: an empty sequence")
    for path in paths:
        os.stat(path)  # so that a missing file is reported now, and not after hours of training on the others
    return paths


def _rows_of_files(paths: list[str], file_format: LibFMGrammar, block_bytes: int) -> Iterator[Rows]:
    return itertools.chain.from_iterable(parse_file(path, file_format, block_bytes) for path in paths)


def _rebatched(blocks: Iterator[Rows], size: int, drop_remainder: bool) -> Iterator[Rows]:
    """Yield the samples of blocks in parts of `size` samples."""
    pending: list[Rows] = []
    for block in blocks:
        pending.append(block)
        if sum(map(len, pending)) < size:
            continue
        parts = list(Rows.joined(pending).split(size))
        pending = [parts.pop()] if len(parts[-1]) < size else []
        yield from parts
    if pending and not drop_remainder:
        yield Rows.joined(pending)
