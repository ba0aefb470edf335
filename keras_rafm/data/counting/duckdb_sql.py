"""SQL for DuckDB: reading files, and the values that are counted."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from typing import Final

from keras_rafm.data.columns.column import Column
from keras_rafm.data.formats.csv_grammar import CSVDialect
from keras_rafm.data.raw.columns import MISSING_INTEGER
from keras_rafm.data.raw.numbers import INTEGER_PATTERN, NUMBER_PATTERN

#: The least float64 that is infinite in float32: halfway between the greatest float32 and the next power of two.
INFINITE: Final = "3.4028235677973366e38::DOUBLE"

_MAX_LINE_BYTES = 2_000_000  # DuckDB's default. Its buffers are several times as large, so a longer row is an error.
_BUFFER_BYTES = 8 * _MAX_LINE_BYTES


def literal(text: str) -> str:
    """Return a string literal."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """Return a quoted identifier."""
    return '"' + name.replace('"', '""') + '"'


def read_parquet(files: Sequence[str]) -> str:
    """Return the table of all rows of Parquet files."""
    return f"read_parquet([{_paths(files)}], binary_as_string = true, hive_partitioning = false)"


def read_csv(files: Sequence[str], dialect: CSVDialect, num_fields: int, is_gzip: bool, parallel: bool) -> str:
    """Return the table of all rows of text files. Its columns `f0`, `f1`, … are the fields as text.

    Args:
        files: The names of the files.
        dialect: How rows are written.
        num_fields: The number of fields in each row.
        is_gzip: Whether the files are compressed.
        parallel: Whether several threads may read a file. A thread that begins inside a file can mistake a line end in
            quotes for the end of a row.
    """
    fields = ", ".join(f"'f{place}': 'VARCHAR'" for place in range(num_fields))
    quote = literal(dialect.quote or "")
    options = {
        "auto_detect": "false",
        "columns": f"{{{fields}}}",
        "header": "true" if dialect.column_names is None else "false",
        "delim": literal(dialect.delimiter),
        "quote": quote,
        "escape": quote,
        "nullstr": f"[{', '.join(map(literal, ('', *dialect.missing_values)))}]",
        "comment": "''",
        "compression": "'gzip'" if is_gzip else "'none'",
        "strict_mode": "true",
        "null_padding": "false",
        "ignore_errors": "false",
        "hive_partitioning": "false",
        "max_line_size": str(_MAX_LINE_BYTES),
        "buffer_size": str(_BUFFER_BYTES),
        "parallel": "true" if parallel else "false",
    }
    return f"read_csv([{_paths(files)}], {', '.join(f'{name} = {value}' for name, value in options.items())})"


def _paths(files: Sequence[str]) -> str:
    return ", ".join(literal(glob.escape(file)) for file in files)


def value_of(field: str, kind: str, column: Column, is_text: bool) -> str:
    """Return the SQL expression for the value to count in a row, or for each value of a list.

    Args:
        field: The name of the column in the table.
        kind: DuckDB's type of the column.
        column: The column of the schema.
        is_text: Whether numbers are text, to be converted after counting.
    """
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
        items = f"[{value} FOR x IN string_split({field}, {literal(separator)}) IF {value} <> '']"
    return f"unnest(CASE WHEN coalesce(len({items}), 0) = 0 THEN [NULL] ELSE {items} END)"


def illegal_weights(values: str, weights: str) -> str:
    """Return the condition that a row has not as many weights as values, or a weight that is not finite."""
    differ = f"coalesce(len({values}), 0) <> coalesce(len({weights}), 0)"
    is_infinite = f"w IS NULL OR isnan(w::DOUBLE) OR abs(w::DOUBLE) >= {INFINITE}"
    return f"{differ} OR len([w FOR w IN {weights} IF {is_infinite}]) > 0"


def number_of_text(name: str, dtype: str) -> str:
    """Return the number in the text `v`, NULL for a missing value, or an error.

    Args:
        name: The name of the column, for errors.
        dtype: `"int64"` or `"float32"`.
    """
    text = "trim(v, ' ')"
    if dtype == "int64":
        problem = literal(f"column '{name}': expected an integer, received ")
        error = f"error({problem} || v)::BIGINT"
        return (
            f"CASE WHEN v IS NULL OR {text} = '' THEN NULL "
            f"WHEN NOT regexp_full_match({text}, '{INTEGER_PATTERN}') THEN {error} "
            f"WHEN {text}::BIGINT = {MISSING_INTEGER} THEN {error} "
            f"ELSE {text}::BIGINT END"
        )
    problem = literal(f"column '{name}': expected a number, received ")
    error = f"error({problem} || v)::FLOAT"
    return (
        f"CASE WHEN v IS NULL OR {text} = '' THEN NULL "
        f"WHEN NOT regexp_full_match({text}, '{NUMBER_PATTERN}') THEN {error} "
        f"ELSE {_as_float(f'{text}::DOUBLE')} END"
    )


def _without_weight(token: str, separator: str | None) -> str:
    """Return the value of `value:weight`, or an error if the weight is not a number."""
    if separator is None:
        return token
    # RE2 has no escapes of letters and digits that stand for themselves, nor of characters beyond ASCII.
    escaped = "\\" + separator if separator.isascii() and not separator.isalnum() else separator
    pattern = literal(f"(?s)^(.*){escaped}([^{escaped}]*)$")
    weight = f"regexp_extract({token}, {pattern}, 2)"
    is_legal = f"regexp_full_match({weight}, '{NUMBER_PATTERN}') AND abs(TRY_CAST({weight} AS DOUBLE)) < 3.4e38"
    return (
        f"CASE WHEN NOT contains({token}, {literal(separator)}) THEN {token} "
        f"WHEN {is_legal} THEN regexp_replace({token}, {pattern}, '\\1') "
        f"ELSE error('weights must be finite numbers. Received: ' || {token}) END"
    )


def _as_float(number: str) -> str:
    """Return a float64 as float32, rounded as NumPy does it."""
    return f"CASE WHEN abs({number}) >= {INFINITE} AND NOT isnan({number}) THEN 'inf'::FLOAT ELSE ({number})::FLOAT END"
