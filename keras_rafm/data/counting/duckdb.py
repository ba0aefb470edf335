"""Files of raw columns -> how often each value of each column occurs, counted by DuckDB.

It needs as much memory as it is allowed to, whatever the size of the files, and the disk beyond that. What it counts is
exactly what comes of reading the same files with this package's readers; where DuckDB would read something else, or cannot
read it at all, it raises a `DuckDBCountError`. The caller then reads the files with the package's own reader: that finds
the place of an error, or counts what is legal.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import re
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
from keras_rafm.data.formats.csv_grammar import DelimitedFormat, Grammar, places_of
from keras_rafm.data.raw.columns import MISSING_INTEGER, RawColumn, RawDType
from keras_rafm.data.raw.files import is_remote
from keras_rafm.data.raw.lines import blocks_of_lines

#: Called with how many steps are done, and how many there are.
StepsDone = Callable[[int, int], None]

_MAX_THREADS = 8  # Each needs memory of its own.
_ROWS_AT_ONCE = 100_000
_SCANNED_BYTES = 1 << 20
_MAX_LINE_BYTES = (
    2_000_000  # DuckDB's default. Its buffers are several times as long, so a longer row is left to the caller.
)
_BUFFER_BYTES = 8 * _MAX_LINE_BYTES
_STAGED = "FORMAT parquet, COMPRESSION snappy, ROW_GROUP_SIZE 30720"  # Each thread holds a group of rows.
_NEWLINE, _RETURN = b"\n\r"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "BOOLEAN")
#: DuckDB's types of Parquet columns that may hold a raw column. Decimals are left to the caller: they round differently.
_TYPES: Final[dict[RawDType, tuple[str, ...]]] = {
    "string": ("VARCHAR",),
    "int64": _INTEGERS,
    "float32": ("FLOAT", "DOUBLE", *_INTEGERS),
}
#: The least float64 that is infinite in float32: halfway between the greatest float32 and the next power of two.
_INFINITE = "3.4028235677973366e38::DOUBLE"
_NUMBER = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"


class DuckDBCountError(ValueError):
    """DuckDB could not count these files, or not as this package's readers would."""


def count_files_with_duckdb(
    columns: Mapping[str, Column],
    files: Sequence[str],
    file_format: Literal["parquet"] | DelimitedFormat,
    *,
    memory_limit: str = "300MB",
    threads: int | None = None,
    progress: StepsDone | None = None,
) -> dict[str, ValueCounts]:
    """As `Schema.count_values` counts these files, in bounded memory: one `GROUP BY` per column.

    Of text, the columns are first written to a Parquet file in a temporary directory, so that it is parsed only once.

    Args:
        columns: By name.
        files: Names of local files. Text may be plain or gzip, whatever the name.
        file_format: How rows are in all of them.
        memory_limit: How much memory DuckDB may take, such as `"2GB"`; the result comes on top. More goes to files
            in a temporary directory (in that which the environment variable TMPDIR names), which is removed at the end.
        threads: How many threads; `None`: as many as there are processors, at most 8.
        progress: Called after each step.

    Raises:
        ImportError: DuckDB or pyarrow is not installed.
        FileNotFoundError: There is no such file.
        DuckDBCountError: A file is damaged or malformed, the memory was too little, or DuckDB does not read these files as
            this package's readers do.
        TypeError: `threads` is not an integer.
        ValueError: No file is given, or a text file does not have the columns.
    """
    duckdb, pyarrow = imported("duckdb", "data"), imported("pyarrow", "data")
    _check_files(files)
    workers = min(os.cpu_count() or 1, _MAX_THREADS) if threads is None else integer(threads, "threads", at_least=1)
    raw_columns = [raw for name, column in columns.items() for raw in column.raw_columns(name)]
    is_text = isinstance(file_format, DelimitedFormat)
    total = len(columns) + is_text
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
            if isinstance(file_format, DelimitedFormat):
                source = _of_text(connection, folder, files, file_format, raw_columns, workers)
                step_done()
            else:
                source = _of_parquet(connection, files, raw_columns)
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
            raise FileNotFoundError(f"there is no file {file}")


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


# Where rows come from.


@dataclass(frozen=True)
class _Source:
    """Rows of some files.

    Args:
        files: They, for messages.
        parts: What to select from, and DuckDB's types of its columns by name: for files of different types.
        fields: What raw columns are called there: SQL by name.
        is_text: Whether all columns are text, of which numbers are still to be made.
    """

    files: str
    parts: list[tuple[str, dict[str, str]]]
    fields: dict[str, str]
    is_text: bool


def _of_parquet(connection: Any, files: Sequence[str], raw_columns: Sequence[RawColumn]) -> _Source:
    pyarrow, parquet = imported("pyarrow", "data"), imported("pyarrow.parquet", "data")
    alike: dict[
        str, list[str]
    ] = {}  # What DuckDB reads at once must not differ: it would convert to the types of the first.
    for file in files:
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
        alike.setdefault(schema.remove_metadata().to_string(truncate_metadata=False), []).append(file)
    parts = []
    for group in alike.values():
        paths = ", ".join(_literal(glob.escape(file)) for file in group)
        source = f"read_parquet([{paths}], binary_as_string = true, hive_partitioning = false)"
        described = connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
        types = {row[0]: row[1] for row in described}
        for column in raw_columns:
            _check_type(group[0], types.get(column.name, "no column of that name"), column)
        parts.append((source, types))
    fields = {column.name: _identifier(column.name) for column in raw_columns}
    return _Source(_shown(files), parts, fields, is_text=False)


def _check_type(file: str, kind: str, column: RawColumn) -> None:
    item = kind.removesuffix("[]")
    if item not in _TYPES[column.dtype] or (item != kind) != column.is_list:
        expected = f"lists of {column.dtype}" if column.is_list else column.dtype
        raise DuckDBCountError(f"{file}, column '{column.name}': expected {expected}, DuckDB found {kind}")


def _of_text(
    connection: Any,
    folder: str,
    files: Sequence[str],
    file_format: DelimitedFormat,
    raw_columns: Sequence[RawColumn],
    threads: int,
) -> _Source:
    """The columns as text, in a Parquet file in the folder."""
    for column in raw_columns:
        if column.is_list:
            raise DuckDBCountError(f"{files[0]}: text has no lists. Received: column '{column.name}' of lists")
    for mark in file_format.missing_values:
        if re.fullmatch(_NUMBER, mark):
            raise DuckDBCountError(f"{_shown(files)}: DuckDB would take {mark!r} with spaces around it for a number")
    if file_format.delimiter == "\0" or file_format.quote in ("\0", " "):
        raise DuckDBCountError(f"{_shown(files)}: DuckDB does not read text of {file_format}")
    with ThreadPoolExecutor(threads) as pool:
        scanned = list(pool.map(lambda file: _scan(file, file_format), files))
    alike: dict[tuple[tuple[str, ...], bool, bool], list[str]] = {}
    for file, found in zip(files, scanned, strict=True):
        places_of(file, found.names, raw_columns, file_format)
        alike.setdefault((found.names, found.is_gzip, found.has_quoted_newlines), []).append(file)
    fields = {column.name: f"c{number}" for number, column in enumerate(raw_columns)}
    selects = []
    for (names, is_gzip, has_quoted_newlines), group in alike.items():
        places = {column.name: place for place, column in places_of(group[0], names, raw_columns, file_format).items()}
        own = ", ".join(f"f{places[name]} AS {field}" for name, field in fields.items())
        source = _read_csv(group, file_format, len(names), is_gzip, parallel=not has_quoted_newlines)
        selects.append(f"SELECT {own} FROM {source}")
    target = _literal(os.path.join(folder, "rows.parquet"))
    copied = connection.execute(f"COPY ({' UNION ALL '.join(selects)}) TO {target} ({_STAGED})")
    num_rows, expected = copied.fetchall()[0][0], sum(found.num_rows for found in scanned)
    if num_rows != expected:
        raise DuckDBCountError(f"{_shown(files)}: expected {expected} rows, DuckDB read {num_rows}")
    parts = [(f"read_parquet({target})", dict.fromkeys(fields, "VARCHAR"))]
    return _Source(_shown(files), parts, fields, is_text=True)


def _read_csv(files: Sequence[str], file_format: DelimitedFormat, num_fields: int, is_gzip: bool, parallel: bool) -> str:
    fields = ", ".join(f"'f{place}': 'VARCHAR'" for place in range(num_fields))
    quote = _literal(file_format.quote or "")
    options = {
        "auto_detect": "false",
        "columns": f"{{{fields}}}",
        "header": "true" if file_format.column_names is None else "false",
        "delim": _literal(file_format.delimiter),
        "quote": quote,
        "escape": quote,
        "nullstr": f"[{', '.join(map(_literal, ('', *file_format.missing_values)))}]",
        "comment": "''",
        "compression": "'gzip'" if is_gzip else "'none'",
        "strict_mode": "true",
        "null_padding": "false",
        "ignore_errors": "false",
        "hive_partitioning": "false",
        "max_line_size": str(_MAX_LINE_BYTES),
        "buffer_size": str(_BUFFER_BYTES),
        # Threads begin somewhere in a file: then they can take a line end in quotes for that of a row.
        "parallel": "true" if parallel else "false",
    }
    paths = ", ".join(_literal(glob.escape(file)) for file in files)
    return f"read_csv([{paths}], {', '.join(f'{name} = {value}' for name, value in options.items())})"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


# What DuckDB does not check in text.


@dataclass(frozen=True)
class _Scanned:
    """What is known of a text file that was read once.

    Args:
        names: Of its columns.
        num_rows: Without the header.
        has_quoted_newlines: Whether a row has several lines.
        is_gzip: Whether it is compressed.
    """

    names: tuple[str, ...]
    num_rows: int
    has_quoted_newlines: bool
    is_gzip: bool


def _scan(path: str, file_format: DelimitedFormat) -> _Scanned:
    """Check what DuckDB does not: checksums of gzip, UTF-8, and that quotes are where they may be.

    Raises:
        ValueError: Something is wrong. `DuckDBCountError` where the caller has to find out what.
    """
    with open(path, "rb") as file:
        is_gzip = file.read(2) == b"\x1f\x8b"
    names, lines = file_format.column_names or (), None
    try:
        for block in blocks_of_lines(path, _SCANNED_BYTES):
            if lines is None:
                block = block.removeprefix(_BYTE_ORDER_MARK)
                names = names or _names(path, file_format, block)
                lines = _Lines(path, file_format)
            lines.add(block)
    except UnicodeDecodeError as error:
        raise DuckDBCountError(f"{path}: expected UTF-8 ({error})") from error
    except DuckDBCountError:
        raise
    except ValueError as error:
        raise DuckDBCountError(str(error)) from error
    if lines is None:
        raise DuckDBCountError(f"{path}: expected at least one row, found none")
    num_rows = lines.num_rows(len(names)) - (file_format.column_names is None)
    return _Scanned(names, num_rows, lines.has_quoted_newlines, is_gzip)


def _names(path: str, file_format: DelimitedFormat, text: bytes) -> tuple[str, ...]:
    row = Grammar(path, file_format, (), {}).row_at(text, 0, 1, at_end=len(text) < _SCANNED_BYTES // 2)
    if row is None or row.fields == [b""] or b"\n" in text[: row.stop - 1]:
        raise DuckDBCountError(f"{path}: DuckDB reads no header of several lines or behind a blank line")
    return tuple(field.decode() for field in row.fields)


class _Lines:
    """Counts rows and checks text, block by block.

    Args:
        path: Name of the file.
        file_format: How rows are written.
    """

    def __init__(self, path: str, file_format: DelimitedFormat) -> None:
        self._path = path
        self._delimiter = file_format.delimiter.encode()
        self._has_header = file_format.column_names is None
        self._quote = None if file_format.quote is None else file_format.quote.encode()
        self._around = np.frombuffer(f"{file_format.delimiter}{file_format.quote or ''}\r\n".encode(), np.uint8)
        self._num_lines = self._num_blank = self._num_delimiters = 0
        self._is_inside = False
        self.has_quoted_newlines = False

    def num_rows(self, num_fields: int) -> int:
        """All rows, the header among them.

        DuckDB finds too few fields in a row, but ignores a delimiter too many at its end: so all are counted here.

        Raises:
            DuckDBCountError: A quote was not closed, there is a delimiter too many, or there are no rows.
        """
        if self._is_inside:
            raise DuckDBCountError(f"{self._path}: expected that each quote is closed")
        num_rows = self._num_lines - (self._num_blank if num_fields > 1 else 0)
        if num_rows <= self._has_header:
            raise DuckDBCountError(f"{self._path}: expected at least one row, found none")
        if self._num_delimiters != num_rows * (num_fields - 1):
            raise DuckDBCountError(f"{self._path}: expected {num_fields} fields in each row")
        return num_rows

    def add(self, block: bytes) -> None:
        r"""Check whole lines, each with its `\n`.

        Raises:
            ValueError: They are not legal, or DuckDB reads them differently.
        """
        if not block.isascii():
            block.decode()
        if b"\r" in block and block.count(b"\r") != block.count(b"\r\n"):
            raise DuckDBCountError(f"{self._path}: DuckDB takes a carriage return for the end of a row")
        if self._is_inside or (self._quote is not None and self._quote in block):
            self._add_quoted(block)
            return
        self._num_lines += block.count(b"\n")
        self._num_delimiters += block.count(self._delimiter)
        if block.startswith((b"\n", b"\r\n")) or b"\n\n" in block or b"\n\r\n" in block:
            buffer = np.frombuffer(block, np.uint8)
            self._num_blank += int(np.count_nonzero(_is_blank(buffer, np.flatnonzero(buffer == _NEWLINE))))

    def _add_quoted(self, block: bytes) -> None:
        assert self._quote is not None
        buffer = np.frombuffer(block, np.uint8)
        ends, quotes = np.flatnonzero(buffer == _NEWLINE), np.flatnonzero(buffer == ord(self._quote))
        # Quotes open and close in turn; a doubled one closes and opens again at once.
        opening, closing = quotes[int(self._is_inside) :: 2], quotes[1 - int(self._is_inside) :: 2]
        before = buffer[opening[opening > 0] - 1]
        if not (np.isin(before, self._around).all() and np.isin(buffer[closing + 1], self._around).all()):
            raise DuckDBCountError(f"{self._path}: expected fields with quotes around all of them or nowhere in them")
        delimiters = np.flatnonzero(buffer == ord(self._delimiter))
        self._num_delimiters += int(np.count_nonzero(~self._are_inside(delimiters, quotes)))
        inside = self._are_inside(ends, quotes)
        self.has_quoted_newlines |= bool(inside.any())
        self._num_lines += int(np.count_nonzero(~inside))
        self._num_blank += int(np.count_nonzero(_is_blank(buffer, ends) & ~inside))
        self._is_inside ^= bool(quotes.size % 2)

    def _are_inside(self, places: npt.NDArray[np.intp], quotes: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
        return (np.searchsorted(quotes, places) + self._is_inside) % 2 == 1


def _is_blank(buffer: npt.NDArray[np.uint8], ends: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
    starts = np.concatenate([np.zeros(1, ends.dtype), ends[:-1] + 1])
    lengths = ends - starts
    return (lengths == 0) | ((lengths == 1) & (buffer[starts] == _RETURN))


# Counting.


def _check_weights(connection: Any, source: _Source, name: str, column: Column) -> None:
    """Raise if a row has not as many weights as values, or one that is not finite: then its batch would raise."""
    weights = getattr(column, "weights", None)
    if weights is None:
        return
    values, own = source.fields[name], source.fields[weights]
    illegal = f"len([w FOR w IN {own} IF w IS NULL OR isnan(w::DOUBLE) OR abs(w::DOUBLE) >= {_INFINITE}]) > 0"
    for part, _ in source.parts:
        differs = f"coalesce(len({values}), 0) <> coalesce(len({own}), 0)"
        [(wrong,)] = connection.execute(f"SELECT count(*) FROM {part} WHERE {differs} OR {illegal}").fetchall()
        if wrong:
            raise DuckDBCountError(
                f"{source.files}: column '{weights}' must have one finite weight for each value of column '{name}'. "
                f"Received: {wrong} rows where it does not"
            )


def _counted(connection: Any, source: _Source, name: str, column: Column, pyarrow: Any) -> ValueCounts:
    field = source.fields[name]
    selects = [
        f"SELECT {_value(field, types[name], column, source.is_text)} AS v FROM {part}" for part, types in source.parts
    ]
    counted = f"SELECT v, count(*) AS n FROM ({' UNION ALL '.join(selects)}) GROUP BY v"
    if source.is_text and column.dtype != "string":  # Only distinct texts become numbers.
        parsed = _integer_of_text(name) if column.dtype == "int64" else _number_of_text(name)
        counted = f"SELECT {parsed} AS v, sum(n)::BIGINT AS n FROM ({counted}) GROUP BY 1"
    result = connection.sql(f"SELECT v, n FROM ({counted}) ORDER BY n DESC, v")
    reader = getattr(result, "to_arrow_reader", None) or result.fetch_arrow_reader  # The second is DuckDB's older name.
    try:
        values, counts, num_missing = _of_batches(reader(_ROWS_AT_ONCE), column.dtype, pyarrow)
    except (pyarrow.ArrowException, OSError) as error:  # What DuckDB fails by while its result is fetched.
        raise DuckDBCountError(f"{source.files}, column '{name}': {str(error).splitlines()[0]}") from error
    if column.dtype == "float32" and np.isinf(values).any():
        raise DuckDBCountError(f"{source.files}, column '{name}': expected numbers that are finite in float32")
    return ValueCounts(values, counts, num_missing)


def _of_batches(
    batches: Iterable[Any], dtype: RawDType, pyarrow: Any
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64], int]:
    """The values and counts, in order, and the count of what stands for no value."""
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
    joined = np.concatenate(all_values)
    all_values.clear()  # Before the counts are joined: there may be tens of millions.
    return joined, np.concatenate(all_counts), num_missing


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
            values = values.fill_null(float("nan")).to_numpy(zero_copy_only=False) + np.float32(0)  # Of -0.0, 0.0.
        yield values, counts


def _value(field: str, kind: str, column: Column, is_text: bool) -> str:
    """SQL: what is counted of a row, or of each value of its list."""
    if column.dtype == "float32":
        return field if is_text or kind == "FLOAT" else _as_float(f"{field}::DOUBLE")
    if not column.has_lists:
        return field if is_text or column.dtype == "string" else f"{field}::BIGINT"
    separator = getattr(column, "separator", None)
    if separator is None:
        items = f"[x FOR x IN {field} IF x IS NOT NULL AND x <> '']"
        if column.dtype == "int64":
            items = f"[x::BIGINT FOR x IN {field} IF x IS NOT NULL AND x::BIGINT <> {MISSING_INTEGER}]"
    else:
        value = _without_weight("x", getattr(column, "weight_separator", None))
        items = f"[{value} FOR x IN string_split({field}, {_literal(separator)}) IF {value} <> '']"
    return f"unnest(CASE WHEN coalesce(len({items}), 0) = 0 THEN [NULL] ELSE {items} END)"


def _without_weight(token: str, separator: str | None) -> str:
    """SQL: the value of `value:weight`. A weight that is no number is an error."""
    if separator is None:
        return token
    # RE2 knows no escapes of other characters, or means something else by them.
    escaped = "\\" + separator if separator.isascii() and not separator.isalnum() else separator
    pattern = _literal(f"(?s)^(.*){escaped}([^{escaped}]*)$")
    weight = f"regexp_extract({token}, {pattern}, 2)"
    is_legal = f"regexp_full_match({weight}, '{_NUMBER}') AND abs(TRY_CAST({weight} AS DOUBLE)) < 3.4e38"
    return (
        f"CASE WHEN NOT contains({token}, {_literal(separator)}) THEN {token} "
        f"WHEN {is_legal} THEN regexp_replace({token}, {pattern}, '\\1') "
        f"ELSE error('weights must be finite numbers. Received: ' || {token}) END"
    )


def _as_float(number: str) -> str:
    """SQL: float32 of a float64, as NumPy rounds it."""
    return f"CASE WHEN abs({number}) >= {_INFINITE} AND NOT isnan({number}) THEN 'inf'::FLOAT ELSE ({number})::FLOAT END"


def _integer_of_text(name: str) -> str:
    text = "trim(v, ' ')"
    wrong = _literal(f"column '{name}': expected an integer, received ")
    return (
        f"CASE WHEN v IS NULL OR {text} = '' THEN NULL "
        f"WHEN NOT regexp_full_match({text}, '[+-]?[0-9]+') THEN error({wrong} || v)::BIGINT "
        f"WHEN {text}::BIGINT = {MISSING_INTEGER} THEN error({wrong} || v)::BIGINT "
        f"ELSE {text}::BIGINT END"
    )


def _number_of_text(name: str) -> str:
    text = "trim(v, ' ')"
    wrong = _literal(f"column '{name}': expected a number, received ")
    return (
        f"CASE WHEN v IS NULL OR {text} = '' THEN NULL "
        f"WHEN NOT regexp_full_match({text}, '{_NUMBER}') THEN error({wrong} || v)::FLOAT "
        f"ELSE {_as_float(f'{text}::DOUBLE')} END"
    )
