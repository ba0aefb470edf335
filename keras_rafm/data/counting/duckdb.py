"""Files of raw columns -> how often each value of each column occurs, counted by DuckDB.

DuckDB stays within its memory limit for files of any size; beyond that it uses the disk. The counts
are exactly those of reading the same files with this package's readers. Where DuckDB would read something else, or cannot
read the files at all, counting raises a `DuckDBCountError`. The caller then reads the files with the package's own reader,
which finds the place of an error, or counts what is legal.

`duckdb_sql` has the SQL, `duckdb_text` the checks of text that DuckDB does not make.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from keras_rafm.checks.arguments import integer
from keras_rafm.checks.optional_packages import imported
from keras_rafm.data.columns.column import Column
from keras_rafm.data.columns.value_counts import ValueCounts
from keras_rafm.data.counting.duckdb_sql import (
    identifier,
    illegal_weights,
    literal,
    number_of_text,
    read_csv,
    read_parquet,
    value_of,
)
from keras_rafm.data.counting.duckdb_text import check_text
from keras_rafm.data.counting.errors import DuckDBCountError
from keras_rafm.data.formats.csv_grammar import CSVDialect, columns_by_place
from keras_rafm.data.raw.columns import MISSING_INTEGER, RawColumn, RawDType
from keras_rafm.data.raw.files import is_remote
from keras_rafm.data.raw.numbers import is_number

__all__ = ["DuckDBCountError", "StepsDone", "count_files_with_duckdb"]

#: Called with the number of steps that are done, and the number of all steps.
StepsDone = Callable[[int, int], None]

_MAX_THREADS = 8  # Each thread needs memory of its own.
_ROWS_AT_ONCE = 100_000
_PARQUET_OPTIONS = "FORMAT parquet, COMPRESSION snappy, ROW_GROUP_SIZE 30720"  # Each thread holds a row group in memory.

_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "BOOLEAN")
#: DuckDB's types of Parquet columns that fit a raw column. Decimals do not: DuckDB rounds them differently.
_TYPES: Final[dict[RawDType, tuple[str, ...]]] = {
    "string": ("VARCHAR",),
    "int64": _INTEGERS,
    "float32": ("FLOAT", "DOUBLE", *_INTEGERS),
}


def count_files_with_duckdb(
    columns: Mapping[str, Column],
    files: Sequence[str],
    file_format: Literal["parquet"] | CSVDialect,
    *,
    memory_limit: str = "300MB",
    threads: int | None = None,
    progress: StepsDone | None = None,
) -> dict[str, ValueCounts]:
    """Return the counts of `Schema.count_values` for these files, in bounded memory: one `GROUP BY` per column.

    The columns of text files are first written to a Parquet file in a temporary directory, so that text is parsed only
    once.

    Args:
        columns: The columns of the schema by their names.
        files: The names of local files. Text may be plain or compressed with gzip, regardless of the file names.
        file_format: `"parquet"`, or how rows of text are written.
        memory_limit: The most memory that DuckDB may use, such as `"2GB"`, not counting the result. Beyond that it uses
            files in a temporary directory (inside the one that the environment variable TMPDIR names), which is removed at
            the end.
        threads: The number of threads; by default the number of processors, at most 8.
        progress: Called after each step.

    Raises:
        ImportError: DuckDB or pyarrow is not installed.
        FileNotFoundError: A file does not exist.
        DuckDBCountError: A file is damaged or malformed, the memory is too small, or DuckDB does not read these files in
            the same way as this package's readers.
        TypeError: `threads` is not an integer.
        ValueError: No file is given, or a text file does not have the columns.
    """
    duckdb, pyarrow = imported("duckdb", "data"), imported("pyarrow", "data")
    _check_files(files)
    workers = min(os.cpu_count() or 1, _MAX_THREADS) if threads is None else integer(threads, "threads", at_least=1)
    raw_columns = [raw for name, column in columns.items() for raw in column.raw_columns(name)]
    total = len(columns) + isinstance(file_format, CSVDialect)
    steps = itertools.count(1)

    def step_done() -> None:
        if progress is not None:
            progress(next(steps), total)

    counts: dict[str, ValueCounts] = {}
    try:
        with (
            tempfile.TemporaryDirectory(prefix="keras_rafm_counts_") as folder,
            contextlib.closing(_connection(duckdb, folder, memory_limit, workers)) as connection,
        ):
            if isinstance(file_format, CSVDialect):
                source = _source_of_text(
                    connection, folder, files, dialect=file_format, raw_columns=raw_columns, threads=workers
                )
                step_done()
            else:
                source = _source_of_parquet(connection, files, raw_columns)
            for name, column in columns.items():
                _check_weights(connection, source, name, column)
                counts[name] = _counted(connection, source, name, column, pyarrow)
                step_done()
    except duckdb.Error as error:
        message = (str(error).splitlines() or [type(error).__name__])[0]
        raise DuckDBCountError(f"DuckDB could not count {_shown(files)}: {message}") from error
    return counts


def _check_files(files: Sequence[str]) -> None:
    if isinstance(files, str) or not files:
        raise ValueError(f"`files` must be a sequence of at least one file. Received: {files!r}")
    for file in files:
        if is_remote(file):
            raise DuckDBCountError(f"{file}: DuckDB counts local files only")
        if not os.path.isfile(file):
            raise FileNotFoundError(f"file not found: {file}")


def _shown(files: Sequence[str]) -> str:
    return files[0] if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"


def _connection(duckdb: Any, folder: str, memory_limit: str, threads: int) -> Any:
    return duckdb.connect(
        ":memory:",
        config={
            "memory_limit": memory_limit,
            "threads": threads,
            "temp_directory": os.path.join(folder, "spilled"),
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        },
    )


@dataclass(frozen=True)
class _Source:
    """The rows of some files, as tables in DuckDB.

    Args:
        files: The names of the files, for messages.
        tables: Tables that together have all rows, each with DuckDB's types of its columns by their names. Files whose
            types differ are in different tables.
        fields: The SQL names of raw columns in the tables.
        is_text: Whether all columns are text, so that numbers must be converted.
    """

    files: str
    tables: list[tuple[str, dict[str, str]]]
    fields: dict[str, str]
    is_text: bool


def _source_of_parquet(connection: Any, files: Sequence[str], raw_columns: Sequence[RawColumn]) -> _Source:
    # Files in one table must have the same types: DuckDB would convert values to the types of the first file.
    files_by_types: dict[str, list[str]] = {}
    for file in files:
        files_by_types.setdefault(_parquet_types(file, raw_columns), []).append(file)
    tables = []
    for group in files_by_types.values():
        table = read_parquet(group)
        described = connection.execute(f"DESCRIBE SELECT * FROM {table}").fetchall()
        types = {row[0]: row[1] for row in described}
        for column in raw_columns:
            _check_type(group[0], types.get(column.name, "no column of that name"), column)
        tables.append((table, types))
    fields = {column.name: identifier(column.name) for column in raw_columns}
    return _Source(_shown(files), tables, fields, is_text=False)


def _parquet_types(file: str, raw_columns: Sequence[RawColumn]) -> str:
    """Return the names and types of a file's columns as text.

    Raises:
        DuckDBCountError: The file is damaged or empty, or DuckDB would not find one of the columns in it.
    """
    pyarrow, parquet = imported("pyarrow", "data"), imported("pyarrow.parquet", "data")
    try:
        with parquet.ParquetFile(file) as opened:
            schema, num_rows = opened.schema_arrow, opened.metadata.num_rows
    except (pyarrow.ArrowException, OSError) as error:
        raise DuckDBCountError(f"{file}: not a readable Parquet file ({error})") from error
    if not num_rows:
        raise DuckDBCountError(f"{file}: expected at least one row, found none")
    for column in raw_columns:
        if column.name not in schema.names:
            raise DuckDBCountError(f"{file}: expected a column '{column.name}' among {schema.names}")
        if sum(name.casefold() == column.name.casefold() for name in schema.names) > 1:
            raise DuckDBCountError(f"{file}: DuckDB cannot tell columns apart that differ in case, as '{column.name}'")
    types: str = schema.remove_metadata().to_string(truncate_metadata=False)
    return types


def _check_type(file: str, kind: str, column: RawColumn) -> None:
    item = kind.removesuffix("[]")
    if item not in _TYPES[column.dtype] or (item != kind) != column.is_list:
        expected = f"lists of {column.dtype}" if column.is_list else column.dtype
        raise DuckDBCountError(f"{file}, column '{column.name}': expected {expected}, DuckDB found {kind}")


def _source_of_text(
    connection: Any,
    folder: str,
    files: Sequence[str],
    dialect: CSVDialect,
    raw_columns: Sequence[RawColumn],
    threads: int,
) -> _Source:
    """Write the columns as text to a Parquet file in the folder, and return its rows."""
    _check_dialect(files, dialect, raw_columns)
    with ThreadPoolExecutor(threads) as pool:
        summaries = list(pool.map(lambda file: check_text(file, dialect), files))
    similar_files: dict[tuple[tuple[str, ...], bool, bool], list[str]] = {}
    for file, summary in zip(files, summaries, strict=True):
        columns_by_place(file, summary.names, raw_columns, dialect)  # raises an error if a column is missing or repeated
        similar_files.setdefault((summary.names, summary.is_gzip, summary.has_quoted_newlines), []).append(file)
    fields = {column.name: f"c{number}" for number, column in enumerate(raw_columns)}
    selects = []
    for (names, is_gzip, has_quoted_newlines), group in similar_files.items():
        table = read_csv(group, dialect, len(names), is_gzip=is_gzip, parallel=not has_quoted_newlines)
        selected = ", ".join(f"f{names.index(name)} AS {field}" for name, field in fields.items())
        selects.append(f"SELECT {selected} FROM {table}")
    target = literal(os.path.join(folder, "rows.parquet"))
    copied = connection.execute(f"COPY ({' UNION ALL '.join(selects)}) TO {target} ({_PARQUET_OPTIONS})")
    num_rows, expected = copied.fetchall()[0][0], sum(summary.num_rows for summary in summaries)
    if num_rows != expected:
        raise DuckDBCountError(f"{_shown(files)}: expected {expected} rows, DuckDB read {num_rows}")
    tables = [(f"read_parquet({target})", dict.fromkeys(fields, "VARCHAR"))]
    return _Source(_shown(files), tables, fields, is_text=True)


def _check_dialect(files: Sequence[str], dialect: CSVDialect, raw_columns: Sequence[RawColumn]) -> None:
    for column in raw_columns:
        if column.is_list:
            raise DuckDBCountError(f"{files[0]}: text has no lists. Received: column '{column.name}' of lists")
    for value in dialect.missing_values:
        if is_number(value.encode()):
            raise DuckDBCountError(f"{_shown(files)}: DuckDB would take {value!r} with spaces around it for a number")
    if dialect.delimiter == "\0" or dialect.quote in ("\0", " "):
        raise DuckDBCountError(
            f"{_shown(files)}: DuckDB does not read text with delimiter={dialect.delimiter!r} and quote={dialect.quote!r}"
        )


def _check_weights(connection: Any, source: _Source, name: str, column: Column) -> None:
    """Raise an error if a row has another number of weights than of values, or a weight that is not finite.

    A batch with such a row would raise an error, too.
    """
    weights_name = getattr(column, "weights", None)
    if weights_name is None:
        return
    is_illegal = illegal_weights(source.fields[name], source.fields[weights_name])
    for table, _ in source.tables:
        [(num_illegal,)] = connection.execute(f"SELECT count(*) FROM {table} WHERE {is_illegal}").fetchall()
        if num_illegal:
            raise DuckDBCountError(
                f"{source.files}: column '{weights_name}' must have one finite weight for each value of column '{name}'. "
                f"Received: {num_illegal} rows where it does not"
            )


def _counted(connection: Any, source: _Source, name: str, column: Column, pyarrow: Any) -> ValueCounts:
    field = source.fields[name]
    selects = [
        f"SELECT {value_of(field, types[name], column, source.is_text)} AS v FROM {table}" for table, types in source.tables
    ]
    counted = f"SELECT v, count(*) AS n FROM ({' UNION ALL '.join(selects)}) GROUP BY v"
    if source.is_text and column.dtype != "string":  # Text is converted to numbers once per distinct value.
        counted = f"SELECT {number_of_text(name, column.dtype)} AS v, sum(n)::BIGINT AS n FROM ({counted}) GROUP BY 1"
    result = connection.sql(f"SELECT v, n FROM ({counted}) ORDER BY n DESC, v")
    reader = getattr(result, "to_arrow_reader", None) or result.fetch_arrow_reader  # The second is DuckDB's older name.
    try:
        values, counts, num_missing = _joined(reader(_ROWS_AT_ONCE), column.dtype, pyarrow)
    except (pyarrow.ArrowException, OSError) as error:  # Errors of DuckDB while its result is fetched.
        raise DuckDBCountError(f"{source.files}, column '{name}': {str(error).splitlines()[0]}") from error
    if column.dtype == "float32" and np.isinf(values).any():
        raise DuckDBCountError(f"{source.files}, column '{name}': expected numbers that are finite in float32")
    return ValueCounts(values, counts, num_missing)


def _joined(batches: Iterable[Any], dtype: RawDType, pyarrow: Any) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64], int]:
    """Return all values and their counts, in order, and the count of missing values."""
    all_values: list[npt.NDArray[Any]] = [np.empty(0, object if dtype == "string" else dtype)]
    all_counts: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)]
    num_missing = 0
    for values, counts in _as_numpy(batches, dtype, pyarrow):
        missing = {"string": b"", "int64": MISSING_INTEGER, "float32": np.nan}[dtype]
        is_missing = np.isnan(values) if dtype == "float32" else values == missing
        if is_missing.any():
            num_missing += int(counts[is_missing].sum())
            values, counts = values[~is_missing], counts[~is_missing]
        all_values.append(values)
        all_counts.append(counts)
    joined_values = np.concatenate(all_values)
    all_values.clear()  # Frees memory before the counts are joined: there may be tens of millions of values.
    return joined_values, np.concatenate(all_counts), num_missing


def _as_numpy(
    batches: Iterable[Any], dtype: RawDType, pyarrow: Any
) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[np.int64]]]:
    for batch in batches:
        values, counts = batch.column(0), batch.column(1).to_numpy(zero_copy_only=False).astype(np.int64)
        if dtype == "string":
            values = values.cast(pyarrow.large_binary()).fill_null(b"").to_numpy(zero_copy_only=False)
        elif dtype == "int64":
            values = values.fill_null(MISSING_INTEGER).to_numpy(zero_copy_only=False)
        else:
            # Adding 0 turns -0.0 into 0.0.
            values = values.fill_null(float("nan")).to_numpy(zero_copy_only=False) + np.float32(0)
        yield values, counts
