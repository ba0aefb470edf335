"""Avro object container files, read by fastavro.

tensorflow-io is no alternative. `IODataset.from_avro` refuses unions, without which Avro has no missing values, and ends
the process on a file of 200,000 rows without any; `parse_avro` takes single records, which a container does not keep apart;
and `make_avro_record_dataset`, which would split it, ends the process too. fastavro decodes 155,000 rows/s of ten columns,
or 77,000 where all of them may be null.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Final

from keras_rafm.checks.optional_packages import imported
from keras_rafm.data.formats.base import PythonFormat
from keras_rafm.data.raw.columns import Block, RawColumn, RawDType
from keras_rafm.data.raw.errors import MalformedRowError, OnError, refuse_empty
from keras_rafm.data.raw.files import opened
from keras_rafm.data.raw.python_values import RefusedValuesError, column_values

_ROWS_AT_ONCE: Final = 8192
_KINDS: dict[RawDType, frozenset[str]] = {
    "string": frozenset({"string", "bytes", "enum", "fixed", "uuid"}),
    "int64": frozenset({"int", "long", "boolean"}),
    "float32": frozenset({"int", "long", "float", "double", "boolean", "decimal"}),
}


@dataclass(frozen=True)
class AvroFormat(PythonFormat):
    """Avro object container files of records. Needs fastavro (the extra `data`).

    A null is a missing value, as is a null in a list; a null in place of a list is an empty list. Strings may be `string`,
    `bytes` that are UTF-8, `enum`, `fixed` or `uuid`; integers `int`, `long` or `boolean`; numbers these, `float`, `double`
    or `decimal`; lists `array`; each of them also in a union. The codecs snappy, zstandard and lz4 need packages that
    fastavro names.

    That a file was cut off between two of its blocks can't be told: nothing in it says how many there are.
    """

    shares_text: ClassVar[bool] = False

    def blocks(self, path: str, columns: Sequence[RawColumn], on_error: OnError | None) -> Iterator[tuple[int, Block]]:
        """As in `PythonFormat`; a damaged file raises, with `on_error` too."""
        return avro_blocks(path, columns, on_error)


def avro_blocks(path: str, columns: Sequence[RawColumn], on_error: OnError | None) -> Iterator[tuple[int, Block]]:
    """The rows of a file, block by block.

    Args:
        path: Name of the file.
        columns: Those to read.
        on_error: Told of each row with a value that its column can't have, and of an empty file; these are left out.
            `None`: the first one raises.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: fastavro is not installed.
        MalformedRowError: A row has a value that its column can't have, or there is none, and there is no `on_error`.
        ValueError: The file is damaged or no Avro, or a column is not there or of another type.
    """
    fastavro = imported("fastavro", "data")
    logical = frozenset(imported("fastavro.read", "data").LOGICAL_READERS)
    with opened(path) as source:
        try:
            # What is no UTF-8 is kept, so that it can be told where it is.
            records = fastavro.reader(source, handle_unicode_errors="surrogateescape")
            schema = imported("fastavro.schema", "data").expand_schema(records.writer_schema)
        except Exception as error:  # fastavro has no type of its own for it
            raise ValueError(f"{path}: not a readable Avro file ({_text(error)})") from error
        _check_types(path, schema, columns, logical)
        first = 1
        while rows := _next_rows(path, records, first):
            number = len(rows)
            block = _block(path, first, rows, columns, on_error)
            if rows:
                yield len(rows), block
            first += number
    if first == 1:
        refuse_empty(path, on_error)


def _next_rows(path: str, records: Iterator[dict[str, Any]], first: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    try:
        rows.extend(islice(records, _ROWS_AT_ONCE))
    except Exception as error:  # whatever the decoder meets in what is no record
        raise ValueError(f"{path}, record {first + len(rows)}: not a readable Avro file ({_text(error)})") from error
    return rows


def _text(error: Exception) -> str:
    return str(error) or type(error).__name__


def _block(
    path: str, first: int, rows: list[dict[str, Any]], columns: Sequence[RawColumn], on_error: OnError | None
) -> Block:
    """The columns of some rows, of which those that are malformed are taken out."""
    block: Block = {}
    problems: dict[int, tuple[str, str]] = {}
    for column in columns:
        try:
            block[column.name] = column_values([row[column.name] for row in rows], column)
        except RefusedValuesError as refused:
            problems = {**{row: (column.name, problem) for row, problem in refused.problems.items()}, **problems}
    if not problems:
        return block
    for row, (name, problem) in sorted(problems.items()):
        error = MalformedRowError(path, first + row, name, problem, "record")
        if on_error is None:
            raise error
        on_error(error)
    rows[:] = [row for number, row in enumerate(rows) if number not in problems]
    return {column.name: column_values([row[column.name] for row in rows], column) for column in columns}


def _check_types(path: str, schema: Any, columns: Sequence[RawColumn], logical: frozenset[str]) -> None:
    if not isinstance(schema, dict) or schema.get("type") != "record":
        raise ValueError(f"{path}: expected records, found the type {_shown(schema)}")
    fields = {field["name"]: field["type"] for field in schema["fields"]}
    for column in columns:
        if column.name not in fields:
            raise ValueError(f"{path}: expected a column '{column.name}', found {sorted(fields)}")
        kinds = _without_null(fields[column.name])
        is_fit = all(_name(kind, logical) in _KINDS[column.dtype] for kind in kinds)
        if column.is_list:
            items = [item for kind in kinds if _name(kind, logical) == "array" for item in _without_null(kind["items"])]
            is_fit = all(_name(kind, logical) == "array" for kind in kinds) and all(
                _name(item, logical) in _KINDS[column.dtype] for item in items
            )
        if not is_fit:
            expected = f"lists of {column.dtype}" if column.is_list else column.dtype
            found = _shown(fields[column.name])
            raise ValueError(f"{path}, column '{column.name}': expected {expected}, found the type {found}")


def _without_null(kind: Any) -> list[Any]:
    """The types that a value may have, but for null: of a union its branches."""
    kind = _plain(kind)
    branches = [_plain(branch) for branch in kind] if isinstance(kind, list) else [kind]
    return [branch for branch in branches if branch != "null"]


def _plain(kind: Any) -> Any:
    """Without what may be around a type: `{"type": "string"}` is `"string"`."""
    while isinstance(kind, dict) and (not isinstance(kind["type"], str) or set(kind) == {"type"}):
        kind = kind["type"]
    return kind


def _name(kind: Any, logical: frozenset[str]) -> str:
    """Of a type, as the values that fastavro makes of it have it."""
    if not isinstance(kind, dict):
        return str(kind)
    own, meaning = kind["type"], kind.get("logicalType")
    return str(meaning) if f"{own}-{meaning}" in logical else str(own)


def _shown(kind: Any) -> str:
    return f"{json.dumps(kind, default=str):.100}"
