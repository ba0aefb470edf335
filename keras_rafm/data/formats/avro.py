"""Avro object container files, read by fastavro.

tensorflow-io is no alternative. `IODataset.from_avro` refuses unions, without which Avro has no missing values, and crashes
the process on a file of 200,000 rows without unions. `parse_avro` takes single records, which a container does not
separate; `make_avro_record_dataset`, which would separate them, crashes the process, too. fastavro decodes 155,000 rows/s
of ten columns, or 77,000 if each of them may be null.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Final

from keras_rafm.checks.optional_packages import imported
from keras_rafm.data.formats.base import PythonFormat
from keras_rafm.data.raw.blocks import Block
from keras_rafm.data.raw.columns import RawColumn, RawDType
from keras_rafm.data.raw.errors import OnError, RefusedValuesError, refuse_empty, refuse_rows
from keras_rafm.data.raw.files import opened
from keras_rafm.data.raw.python_values import column_values

_ROWS_AT_ONCE: Final = 8192
#: The names of the Avro types that fit a column of each dtype.
_TYPES: dict[RawDType, frozenset[str]] = {
    "string": frozenset({"string", "bytes", "enum", "fixed", "uuid"}),
    "int64": frozenset({"int", "long", "boolean"}),
    "float32": frozenset({"int", "long", "float", "double", "boolean", "decimal"}),
}


@dataclass(frozen=True)
class AvroFormat(PythonFormat):
    """Avro object container files of records. Needs fastavro (the extra `data`).

    A null is a missing value, also inside a list; a null in place of a list is an empty list. The types of strings are
    `string`, `bytes` (UTF-8), `enum`, `fixed` and `uuid`; those of integers `int`, `long` and `boolean`; those of numbers
    are the types of integers, `float`, `double` and `decimal`; the type of lists is `array`. Each may be in a union. The
    codecs snappy, zstandard and lz4 need packages that fastavro names in its errors.

    A file that was cut off between two of its blocks can't be recognised, since Avro does not store the number of blocks.
    """

    shares_text: ClassVar[bool] = False

    def blocks(self, path: str, columns: Sequence[RawColumn], on_error: OnError | None) -> Iterator[tuple[int, Block]]:
        """See `PythonFormat.blocks`. A damaged file raises an error even with `on_error`."""
        return avro_blocks(path, columns, on_error)


def avro_blocks(path: str, columns: Sequence[RawColumn], on_error: OnError | None) -> Iterator[tuple[int, Block]]:
    """Yield the rows of a file, block by block. See `PythonFormat.blocks`.

    Raises:
        FileNotFoundError: The file does not exist.
        ImportError: fastavro is not installed.
        MalformedRowError: A row has a value that its column may not have, or the file is empty, and there is no `on_error`.
        ValueError: The file is damaged or not Avro, or a column is missing or of another type.
    """
    fastavro = imported("fastavro", "data")
    logical_types = frozenset(imported("fastavro.read", "data").LOGICAL_READERS)
    with opened(path) as source:
        try:
            # Bytes that are not UTF-8 are kept, so that the error can name their row.
            records = fastavro.reader(source, handle_unicode_errors="surrogateescape")
            schema = imported("fastavro.schema", "data").expand_schema(records.writer_schema)
        except Exception as error:  # fastavro has no error type for unreadable files.
            raise ValueError(f"{path}: not a readable Avro file ({_message(error)})") from error
        _check_types(path, schema, columns, logical_types)
        first_row = 1
        while rows := _next_rows(path, records, first_row):
            num_rows, block = _good_rows(path, first_row, rows, columns, on_error)
            if num_rows:
                yield num_rows, block
            first_row += len(rows)
    if first_row == 1:
        refuse_empty(path, on_error)


def _next_rows(path: str, records: Iterator[dict[str, Any]], first_row: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    try:
        rows.extend(islice(records, _ROWS_AT_ONCE))
    except Exception as error:  # Damaged data can make the decoder fail with any error.
        raise ValueError(f"{path}, record {first_row + len(rows)}: not a readable Avro file ({_message(error)})") from error
    return rows


def _message(error: Exception) -> str:
    return str(error) or type(error).__name__


def _good_rows(
    path: str, first_row: int, rows: list[dict[str, Any]], columns: Sequence[RawColumn], on_error: OnError | None
) -> tuple[int, Block]:
    """Return the number of rows that are not malformed, and their columns."""
    block: Block = {}
    problems: dict[int, tuple[str, str]] = {}
    for column in columns:
        try:
            block[column.name] = column_values([row[column.name] for row in rows], column)
        except RefusedValuesError as refused:
            for row_number, problem in refused.problems.items():
                problems.setdefault(row_number, (column.name, problem))
    if not problems:
        return len(rows), block
    refuse_rows(path, first_row, problems, unit="record", on_error=on_error)
    good = [row for number, row in enumerate(rows) if number not in problems]
    return len(good), {column.name: column_values([row[column.name] for row in good], column) for column in columns}


def _check_types(path: str, schema: Any, columns: Sequence[RawColumn], logical_types: frozenset[str]) -> None:
    if not isinstance(schema, dict) or schema.get("type") != "record":
        raise ValueError(f"{path}: expected records, found the type {_shown(schema)}")
    fields = {field["name"]: field["type"] for field in schema["fields"]}
    for column in columns:
        if column.name not in fields:
            raise ValueError(f"{path}: expected a column '{column.name}', found {sorted(fields)}")
        kinds = _without_null(fields[column.name])
        fits = all(_type_name(kind, logical_types) in _TYPES[column.dtype] for kind in kinds)
        if column.is_list:
            arrays = [kind for kind in kinds if _type_name(kind, logical_types) == "array"]
            items = [item for array in arrays for item in _without_null(array["items"])]
            fits = len(arrays) == len(kinds) and all(
                _type_name(item, logical_types) in _TYPES[column.dtype] for item in items
            )
        if not fits:
            expected = f"lists of {column.dtype}" if column.is_list else column.dtype
            kind = _shown(fields[column.name])
            raise ValueError(f"{path}, column '{column.name}': expected {expected}, found the type {kind}")


def _without_null(kind: Any) -> list[Any]:
    """Return the types that a value may have, except null: the branches of a union, or the type itself."""
    kind = _unwrapped(kind)
    branches = [_unwrapped(branch) for branch in kind] if isinstance(kind, list) else [kind]
    return [branch for branch in branches if branch != "null"]


def _unwrapped(kind: Any) -> Any:
    """Return the type inside nested definitions: `"string"` for `{"type": "string"}`."""
    while isinstance(kind, dict) and (not isinstance(kind["type"], str) or set(kind) == {"type"}):
        kind = kind["type"]
    return kind


def _type_name(kind: Any, logical_types: frozenset[str]) -> str:
    """Return the name of a type; for the logical types that fastavro decodes, that of the logical type."""
    if not isinstance(kind, dict):
        return str(kind)
    name, logical_name = kind["type"], kind.get("logicalType")
    return str(logical_name) if f"{name}-{logical_name}" in logical_types else str(name)


def _shown(kind: Any) -> str:
    return f"{json.dumps(kind, default=str):.100}"
