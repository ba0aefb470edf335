"""Python values, one per row -> the values of a raw column. The readers of Avro, JSON and CSV messages share it."""

from __future__ import annotations

import contextlib
import decimal
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from keras_rafm.data.raw.blocks import ListValues, Strings, Values, illegal_rows
from keras_rafm.data.raw.columns import EXPECTED, MISSING_INTEGER, RawColumn, RawDType
from keras_rafm.data.raw.errors import RefusedValuesError

_NONE: Final = type(None)
#: The types of values that fit a column of each dtype.
_TYPES: dict[RawDType, frozenset[type]] = {
    "string": frozenset({str, bytes, uuid.UUID, _NONE}),
    "int64": frozenset({int, bool, _NONE}),
    "float32": frozenset({int, float, bool, decimal.Decimal, _NONE}),
}
_EXPECTED: dict[RawDType, str] = {
    "string": "a string that is UTF-8",
    "int64": f"an integer from {MISSING_INTEGER} to {2**63 - 1}",
    "float32": "a number that is finite as float32",
}
_MAX_TEXT_BYTES: Final = 2**31 - 1


def column_values(rows: Sequence[Any], column: RawColumn) -> Values | ListValues:
    """Return the values of a column.

    Args:
        rows: The value of each row, or its list of values if the column has lists. `None` is a missing value.
        column: The column.

    Raises:
        RefusedValuesError: Rows have values of another type, or values that a column of this role may not have.
    """
    return _list_values(rows, column) if column.is_list else _single_values(rows, column)


def _single_values(rows: Sequence[Any], column: RawColumn) -> Values:
    values, problems = _flat_values(rows, column.dtype)
    kept = [number for number in range(len(rows)) if number not in problems] if problems else range(len(rows))
    for place in illegal_rows(values, column.role).tolist():
        row = kept[place]
        problems[row] = f"expected {EXPECTED[column.role]}, received {_shown(rows[row])}"
    if problems:
        raise RefusedValuesError(problems)
    return values


def _list_values(rows: Sequence[Any], column: RawColumn) -> ListValues:
    problems = {
        number: f"expected a list, received {_shown(row)}"
        for number, row in enumerate(rows)
        if not (row is None or isinstance(row, list))
    }
    lists = [[] if row is None or number in problems else row for number, row in enumerate(rows)]
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    values, refused = _flat_values([value for row in lists for value in row], column.dtype)
    row_numbers = np.searchsorted(np.cumsum(lengths), list(refused), "right").tolist()
    for number, problem in zip(row_numbers, refused.values(), strict=True):
        problems.setdefault(number, problem)
    if problems:
        raise RefusedValuesError(problems)
    return ListValues(values, lengths)


def _flat_values(values: Sequence[Any], dtype: RawDType) -> tuple[Values, dict[int, str]]:
    """Return the values that fit the dtype, and the problems of the others by their numbers."""
    try:
        if set(map(type, values)) <= _TYPES[dtype]:
            return _converter(dtype)(values), {}
    except (OverflowError, UnicodeError):
        pass
    problems = {
        number: f"expected {_EXPECTED[dtype]}, received {_shown(value)}"
        for number, value in enumerate(values)
        if not _fits(value, dtype)
    }
    if not problems:
        raise ValueError(f"expected at most {_MAX_TEXT_BYTES} bytes of strings at once, received more")
    return _converter(dtype)([value for number, value in enumerate(values) if number not in problems]), problems


def _converter(dtype: RawDType) -> Callable[[Sequence[Any]], Values]:
    converters: dict[RawDType, Callable[[Sequence[Any]], Values]]
    converters = {"string": _strings, "int64": _integers, "float32": _numbers}
    return converters[dtype]


def _fits(value: Any, dtype: RawDType) -> bool:
    if type(value) not in _TYPES[dtype]:
        return False
    try:
        _converter(dtype)([value])
    except (OverflowError, UnicodeError):
        return False
    return True


def _strings(values: Sequence[Any]) -> Strings:
    parts = [value.encode() if type(value) is str else _as_bytes(value) for value in values]
    lengths = np.fromiter(map(len, parts), np.int64, len(parts))
    ends = np.cumsum(lengths)
    if ends.size and ends[-1] > _MAX_TEXT_BYTES:
        raise OverflowError
    return Strings(b"".join(parts), (ends - lengths).astype(np.int32), lengths.astype(np.int32))


def _as_bytes(value: bytes | uuid.UUID | None) -> bytes:
    if value is None:
        return b""
    if isinstance(value, bytes):
        value.decode()  # raises an error if the bytes are not UTF-8
        return value
    return str(value).encode()


def _integers(values: Sequence[Any]) -> npt.NDArray[np.int64]:
    return np.array([MISSING_INTEGER if value is None else value for value in values], np.int64)


def _numbers(values: Sequence[Any]) -> npt.NDArray[np.float32]:
    wide = np.array(values, np.float64)  # `None` becomes NaN
    with np.errstate(over="ignore"):
        narrow: npt.NDArray[np.float32] = wide.astype(np.float32)
    if np.isinf(narrow).any():
        raise OverflowError
    return narrow


def _shown(value: Any) -> str:
    try:
        if isinstance(value, str) and not value.isascii():
            value.encode()
    except UnicodeError:
        # A decoder has kept bytes that are not UTF-8 as surrogates: show the bytes.
        with contextlib.suppress(UnicodeError):
            value = value.encode("utf-8", "surrogateescape")
    return f"{value!r:.60}"
