"""Values as Python objects, row by row -> raw columns: what decoders of Avro and JSON end with."""

from __future__ import annotations

import contextlib
import decimal
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from keras_rafm.data._raw import EXPECTED, MISSING_INTEGER, ListValues, RawColumn, RawDType, Strings, Values, illegal_rows

_NONE: Final = type(None)
_KINDS: dict[RawDType, frozenset[type]] = {
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


class RefusedValueError(ValueError):
    """A value that a column can't have.

    Attributes:
        row: Its row, from 0.
        problem: What was expected, and what was there.
    """

    def __init__(self, row: int, problem: str) -> None:
        super().__init__(row, problem)
        self.row = row
        self.problem = problem


def column_values(rows: Sequence[Any], column: RawColumn) -> Values | ListValues:
    """The values of a column, of which each row has one, or a list if the column has lists. `None` is missing.

    Raises:
        RefusedValueError: A row has another kind of value, or one that a column of this role may not have.
    """
    if not column.is_list:
        values = _flat_values(rows, column.dtype)
        for number in illegal_rows(values, column.role)[:1].tolist():
            raise RefusedValueError(number, f"expected {EXPECTED[column.role]}, received {_shown(rows[number])}")
        return values
    for number, row in enumerate(rows):
        if not (row is None or isinstance(row, list)):
            raise RefusedValueError(number, f"expected a list, received {_shown(row)}")
    lengths = np.fromiter((0 if row is None else len(row) for row in rows), np.int64, len(rows))
    try:
        flat = _flat_values([value for row in rows if row is not None for value in row], column.dtype)
    except RefusedValueError as refused:
        raise RefusedValueError(int(np.searchsorted(np.cumsum(lengths), refused.row, "right")), refused.problem) from None
    return ListValues(flat, lengths)


def _flat_values(values: Sequence[Any], dtype: RawDType) -> Values:
    try:
        if set(map(type, values)) <= _KINDS[dtype]:
            return _converter(dtype)(values)
    except (OverflowError, UnicodeError):
        pass
    for number, value in enumerate(values):
        if not _fits(value, dtype):
            raise RefusedValueError(number, f"expected {_EXPECTED[dtype]}, received {_shown(value)}")
    raise ValueError(f"expected at most {_MAX_TEXT_BYTES} bytes of strings at once, received more")


def _converter(dtype: RawDType) -> Callable[[Sequence[Any]], Values]:
    converters: dict[RawDType, Callable[[Sequence[Any]], Values]]
    converters = {"string": _strings, "int64": _integers, "float32": _numbers}
    return converters[dtype]


def _fits(value: Any, dtype: RawDType) -> bool:
    if type(value) not in _KINDS[dtype]:
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
        value.decode()  # raises if it is no UTF-8
        return value
    return str(value).encode()


def _integers(values: Sequence[Any]) -> npt.NDArray[np.int64]:
    return np.array([MISSING_INTEGER if value is None else value for value in values], np.int64)


def _numbers(values: Sequence[Any]) -> npt.NDArray[np.float32]:
    wide = np.array(values, np.float64)  # of `None` it makes NaN
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
        with contextlib.suppress(UnicodeError):  # the bytes, where a decoder has left what is no UTF-8
            value = value.encode("utf-8", "surrogateescape")
    return f"{value!r:.60}"
