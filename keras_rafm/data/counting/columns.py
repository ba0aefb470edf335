"""Counting of the values of each column in raw data of any kind."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
import tensorflow as tf

from keras_rafm.data.columns.column import Column, Parts
from keras_rafm.data.columns.raw_batches import as_raw_batch, is_frame
from keras_rafm.data.columns.value_counts import ValueCounter, ValueCounts
from keras_rafm.data.counting.duckdb import DuckDBCountError, count_files_with_duckdb
from keras_rafm.data.formats.base import FileFormat
from keras_rafm.data.formats.csv import CSVFormat
from keras_rafm.data.formats.parquet import ParquetFormat
from keras_rafm.data.raw.columns import RawColumn
from keras_rafm.data.raw.errors import OnError
from keras_rafm.data.raw.files import files_of, is_remote
from keras_rafm.data.reading.file_batches import eager_blocks, fitted_format
from keras_rafm.data.reading.refused_rows import explain_files

_MEMORY_LIMIT: Final = "500MB"

#: Called with the amount counted, the total amount (`None` if unknown), and their unit: `"rows"`, or `"steps"` of DuckDB.
Progress = Callable[[int, int | None, str], object]


def count_values(
    columns: Mapping[str, Column],
    data: Any,
    *,
    file_format: FileFormat | None,
    on_error: OnError | None,
    progress: Progress | None,
) -> dict[str, ValueCounts]:
    """Count the values of `columns` (by name) in raw data. See `Schema.adapt` for the other arguments and errors."""
    raw_columns = [raw for name, column in columns.items() for raw in column.raw_columns(name)]
    if _names_files(data):
        return _count_files(columns, raw_columns, data, file_format=file_format, on_error=on_error, progress=progress)
    if file_format is not None or on_error is not None:
        raise ValueError(f"`file_format` and `on_error` are for files. Received data of type {type(data).__name__}")
    if isinstance(data, tf.data.Dataset):
        if data.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError("`data` must be finite. Received: a tf.data.Dataset that repeats without end")
        return _count_batches(columns, raw_columns, data, progress)
    if isinstance(data, Mapping) or is_frame(data):
        return _count_batches(columns, raw_columns, [data], progress)
    raise TypeError(
        "`data` must be files, a mapping of columns, a data frame, a tf.data.Dataset of mappings, or counts of values. "
        f"Received: {type(data).__name__}"
    )


def is_counted(data: Any) -> bool:
    """Whether `data` are value counts by column, such as `count_values` returns, and no raw data."""
    return isinstance(data, Mapping) and bool(data) and all(isinstance(counts, ValueCounts) for counts in data.values())


def _names_files(data: Any) -> bool:
    """Whether `data` is a path or a sequence of paths."""
    if isinstance(data, str | os.PathLike):
        return True
    return isinstance(data, Sequence) and all(isinstance(item, str | os.PathLike) for item in data)


def _count_files(
    columns: Mapping[str, Column],
    raw_columns: list[RawColumn],
    paths: Any,
    *,
    file_format: FileFormat | None,
    on_error: OnError | None,
    progress: Progress | None,
) -> dict[str, ValueCounts]:
    files = files_of(paths)
    reader = fitted_format(files, file_format, raw_columns)
    if on_error is None:
        counts = _count_with_duckdb(columns, files, reader, progress)
        if counts is not None:
            return counts
    blocks = itertools.chain.from_iterable(eager_blocks(file, raw_columns, reader, on_error) for file in files)
    try:
        return _count_batches(columns, raw_columns, blocks, progress)
    except tf.errors.InvalidArgumentError:
        explain_files(files, raw_columns, reader, lambda raw: _parts(columns, raw), on_error)
        raise


def _count_with_duckdb(
    columns: Mapping[str, Column], files: Sequence[str], reader: FileFormat, progress: Progress | None
) -> dict[str, ValueCounts] | None:
    """Return the counts by DuckDB, or `None` if it is not installed or can't read the files.

    This package's readers then count the values, or name what is wrong with the files.
    """
    is_readable = isinstance(reader, CSVFormat | ParquetFormat) and not any(map(is_remote, files))
    if not is_readable or any(find_spec(module) is None for module in ("duckdb", "pyarrow")):
        return None
    file_format: Any = reader if isinstance(reader, CSVFormat) else "parquet"

    def steps(done: int, total: int) -> None:
        if progress is not None:
            progress(done, total, "steps")

    try:
        return count_files_with_duckdb(columns, files, file_format, memory_limit=_MEMORY_LIMIT, progress=steps)
    except DuckDBCountError:
        return None


def _parts(columns: Mapping[str, Column], raw: Mapping[str, Any]) -> list[Parts]:
    """Return the values of all columns, after the checks of lists and weights."""
    return [column.parts(dict(raw), name) for name, column in columns.items()]


def _count_batches(
    columns: Mapping[str, Column], raw_columns: list[RawColumn], batches: Iterable[Any], progress: Progress | None
) -> dict[str, ValueCounts]:
    counters = {name: ValueCounter(column.dtype) for name, column in columns.items()}
    num_rows = 0
    for batch in batches:
        raw = as_raw_batch(batch[0] if isinstance(batch, tuple) else batch, raw_columns)
        for name, column in columns.items():
            values = column.parts(raw, name).values
            missing = column.is_missing(values)
            known = tf.boolean_mask(values, ~missing)
            if known.dtype.is_floating:  # not by TensorFlow, to which all subnormal numbers are 0
                distinct, counts = np.unique(known.numpy() + 0.0, return_counts=True)
            else:
                distinct, _, counts = (tensor.numpy() for tensor in tf.unique_with_counts(known, out_idx=tf.int64))
            counters[name].add(distinct, counts, int(tf.math.count_nonzero(missing)))
        if progress is not None:
            num_rows += int(next(iter(raw.values())).shape[0])
            progress(num_rows, None, "rows")
    return {name: counter.result() for name, counter in counters.items()}
