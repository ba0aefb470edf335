"""Raw data of any kind -> how often each value of each column occurs."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Final

import numpy as np
import tensorflow as tf

from keras_rafm.data.columns.column import Column, Parts
from keras_rafm.data.columns.encoder import as_raw_batch, is_frame
from keras_rafm.data.columns.value_counts import ValueCounter, ValueCounts
from keras_rafm.data.counting.duckdb import DuckDBCountError, count_files_with_duckdb
from keras_rafm.data.formats.base import FileFormat
from keras_rafm.data.formats.csv import CSVFormat
from keras_rafm.data.formats.parquet import ParquetFormat
from keras_rafm.data.raw.columns import RawColumn
from keras_rafm.data.raw.errors import OnError
from keras_rafm.data.raw.files import files_of, is_remote
from keras_rafm.data.reading.file_batches import eager_blocks, one_format, untold
from keras_rafm.data.reading.refused_rows import explain_rows

_MEMORY_LIMIT: Final = "500MB"

#: Called with how much is done, how much there is if that is known, and the unit: `"rows"`, or `"steps"` of DuckDB.
Progress = Callable[[int, int | None, str], object]


def count_values(
    columns: Mapping[str, Column],
    data: Any,
    file_format: FileFormat | None,
    on_error: OnError | None,
    progress: Progress | None,
) -> dict[str, ValueCounts]:
    """As `Schema.count_values`, of the given columns."""
    raw_columns = [raw for name, column in columns.items() for raw in column.raw_columns(name)]
    if _names_files(data):
        return _count_files(columns, raw_columns, data, file_format, on_error, progress)
    if file_format is not None or on_error is not None:
        raise ValueError(f"`file_format` and `on_error` are for files. Received data of type {type(data).__name__}")
    if isinstance(data, tf.data.Dataset):
        if data.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError("`data` must be finite. Received a tf.data.Dataset that repeats without end")
        return _count_batches(columns, raw_columns, data, progress)
    if isinstance(data, Mapping) or is_frame(data):
        return _count_batches(columns, raw_columns, [data], progress)
    raise TypeError(
        "`data` must be files, a mapping of columns, a data frame, a tf.data.Dataset of mappings, or counts of values. "
        f"Received: {type(data).__name__}"
    )


def _names_files(data: Any) -> bool:
    if isinstance(data, str | os.PathLike):
        return True
    return isinstance(data, Sequence) and all(isinstance(item, str | os.PathLike) for item in data)


def _count_files(
    columns: Mapping[str, Column],
    raw_columns: list[RawColumn],
    paths: Any,
    file_format: FileFormat | None,
    on_error: OnError | None,
    progress: Progress | None,
) -> dict[str, ValueCounts]:
    files = files_of(paths)
    reader = one_format(files, file_format).fitted_to(files, raw_columns)
    if on_error is None:
        counted = _count_out_of_core(columns, files, reader, progress)
        if counted is not None:
            return counted
    blocks = itertools.chain.from_iterable(eager_blocks(file, raw_columns, reader, on_error) for file in files)
    try:
        return _count_batches(columns, raw_columns, blocks, progress)
    except tf.errors.InvalidArgumentError:
        for file in files:
            own_blocks = eager_blocks(file, raw_columns, reader, untold(on_error))
            explain_rows(file, own_blocks, lambda raw: _parts(columns, raw), on_error is not None)
        raise


def _count_out_of_core(
    columns: Mapping[str, Column], files: Sequence[str], reader: FileFormat, progress: Progress | None
) -> dict[str, ValueCounts] | None:
    """Counts by DuckDB.

    `None` where it is not installed or can't read the files: this package's readers then count them, or say what is wrong.
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
            there = tf.boolean_mask(values, ~missing)
            if there.dtype.is_floating:  # TensorFlow takes subnormal numbers for 0
                distinct, number = np.unique(there.numpy() + 0.0, return_counts=True)
            else:
                distinct, _, number = (own.numpy() for own in tf.unique_with_counts(there, out_idx=tf.int64))
            counters[name].add(distinct, number, int(tf.math.count_nonzero(missing)))
        if progress is not None:
            num_rows += int(next(iter(raw.values())).shape[0])
            progress(num_rows, None, "rows")
    return {name: counter.result() for name, counter in counters.items()}
