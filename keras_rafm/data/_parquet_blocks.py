"""Parquet files as blocks of raw columns, read by pyarrow.

`tfio.IODataset.from_parquet` reads the same files at 95,000 rows/s of ten string columns where this reads 1,300,000, and it
knows neither nulls nor lists.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from keras_rafm.data._files import opened
from keras_rafm.data._raw import MISSING_INTEGER, Block, ListValues, RawColumn, Strings, Values
from keras_rafm.extras import imported

if TYPE_CHECKING:
    import pyarrow

_ROWS_AT_ONCE = 16384
_EXPECTED = {
    "string": "UTF-8",
    "int64": f"an integer from {MISSING_INTEGER} to {2**63 - 1}",
    "float32": "a number that is finite as float32",
}


def parquet_blocks(path: str, columns: Sequence[RawColumn]) -> Iterator[tuple[int, Block]]:
    """The rows of a file, block by block.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: The file is damaged or no Parquet, has no rows, or a column is not there or of another type.
    """
    pa = imported("pyarrow", "data")
    parquet = imported("pyarrow.parquet", "data")
    try:
        with opened(path) as source, parquet.ParquetFile(source) as file:
            there = file.schema_arrow
            for column in columns:
                _check_type(path, there, column, pa)
            if not file.metadata.num_rows:
                raise ValueError(f"{path}: expected at least one row, found none")
            first_row = 1
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=[column.name for column in columns]):
                yield (
                    batch.num_rows,
                    {c.name: _values(_Place(path, first_row, c), batch.column(c.name)) for c in columns},
                )
                first_row += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path}: not a readable Parquet file ({error})") from error


def _check_type(path: str, schema: pyarrow.Schema, column: RawColumn, pa: Any) -> None:
    found = schema.get_all_field_indices(column.name)
    if len(found) != 1:
        raise ValueError(f"{path}: expected one column '{column.name}', found {len(found)} among {schema.names}")
    kind = schema.field(found[0]).type
    types = pa.types
    if types.is_null(kind):  # no row has a value, so nobody knows of which type it would be
        return
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    item = kind.value_type if is_list else kind
    if types.is_dictionary(item):
        item = item.value_type
    fits = {
        "string": types.is_string(item)
        or types.is_large_string(item)
        or types.is_binary(item)
        or types.is_large_binary(item)
        or types.is_fixed_size_binary(item)
        or (hasattr(types, "is_string_view") and (types.is_string_view(item) or types.is_binary_view(item))),
        "int64": types.is_integer(item) or types.is_boolean(item),
        "float32": types.is_integer(item) or types.is_floating(item) or types.is_boolean(item) or types.is_decimal(item),
    }[column.dtype]
    if not ((fits or types.is_null(item)) and is_list == column.is_list):
        expected = f"lists of {column.dtype}" if column.is_list else column.dtype
        raise ValueError(f"{path}, column '{column.name}': expected {expected}, found the type {kind}")


class _Place(NamedTuple):
    """Where values come from.

    Attributes:
        path: Name of the file.
        first_row: Number of the first of their rows, from 1.
        column: What they should be.
    """

    path: str
    first_row: int
    column: RawColumn

    def error(self, row: int | None, problem: str) -> ValueError:
        """Of one of the rows, from 0, or `None` if it isn't known of which."""
        rows = f"from row {self.first_row} on" if row is None else f"row {self.first_row + row}"
        return ValueError(f"{self.path}, {rows}, column '{self.column.name}': {problem}")


def _values(place: _Place, array: Any) -> Values | ListValues:
    if not place.column.is_list:
        return _flat_values(place, array, None)
    pa = imported("pyarrow", "data")
    compute = imported("pyarrow.compute", "data")
    if pa.types.is_null(array.type):
        return ListValues(_flat_values(place, array[:0], None), np.zeros(len(array), np.int64))
    lengths = compute.fill_null(compute.list_value_length(array), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    items = compute.list_flatten(array)  # skips the items of rows that are null
    return ListValues(_flat_values(place, items, lengths), lengths)


def _flat_values(place: _Place, array: Any, row_lengths: npt.NDArray[np.int64] | None) -> Values:
    """Values end to end; of lists if there are `row_lengths`."""
    pa = imported("pyarrow", "data")
    compute = imported("pyarrow.compute", "data")

    def error(number: int | None, problem: str) -> ValueError:
        if number is not None and row_lengths is not None:
            number = int(np.searchsorted(np.cumsum(row_lengths), number, "right"))
        return place.error(number, problem)

    dtype = place.column.dtype
    wide = {"string": pa.string(), "int64": pa.int64(), "float32": pa.float64()}[dtype]
    try:
        values = array.cast(wide, safe=dtype != "float32")
        if dtype == "string":
            values.validate(full=True)
    except pa.ArrowException as refused:
        number, received = _first_refused(array, wide, pa)
        raise error(number, f"expected {_EXPECTED[dtype]}, received {received or refused}") from refused
    missing: Any = {"string": "", "int64": MISSING_INTEGER, "float32": float("nan")}[dtype]
    values = compute.fill_null(values, missing) if values.null_count else values
    if dtype == "string":
        return _strings(values)
    numbers = values.to_numpy(zero_copy_only=False)
    if dtype == "int64":
        return np.ascontiguousarray(numbers, np.int64)
    with np.errstate(over="ignore"):
        narrow: npt.NDArray[np.float32] = numbers.astype(np.float32)
    wrong = np.flatnonzero(np.isinf(narrow))
    if wrong.size:
        raise error(int(wrong[0]), f"expected {_EXPECTED[dtype]}, received {numbers[wrong[0]]}")
    return narrow


def _first_refused(array: Any, kind: Any, pa: Any) -> tuple[int | None, str]:
    """The number of the first value that can't be cast and how it looks; none if each of them can."""
    for number in range(len(array)):
        try:
            array[number : number + 1].cast(kind).validate(full=True)
        except pa.ArrowException:
            value = array[number]
            shown = value if kind == pa.int64() else value.cast(pa.binary())
            return number, f"{shown.as_py()!r:.60}"
    return None, ""


def _strings(array: pyarrow.StringArray) -> Strings:
    _, offsets, data = array.buffers()
    if not len(array):
        return Strings(b"", np.zeros(0, np.int32), np.zeros(0, np.int32))
    ends = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1]
    text = b"" if data is None else memoryview(data)[ends[0] : ends[-1]].tobytes()
    return Strings(text, ends[:-1] - ends[0], np.diff(ends))
