"""Values as Python objects, row by row -> raw columns: what decoders of Avro and JSON end with."""

from __future__ import annotations

import contextlib
import decimal
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from keras_rafm.data.raw.columns import (
    EXPECTED,
    MISSING_INTEGER,
    ListValues,
    RawColumn,
    RawDType,
    Strings,
    Values,
    illegal_rows,
)

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


class RefusedValuesError(ValueError):
    """Values that a column can't have.

    Attributes:
        problems: What was expected and what was there, by rows, from 0.
    """

    def __init__(self, problems: dict[int, str]) -> None:
        super().__init__(problems)
        self.problems = problems


def column_values(rows: Sequence[Any], column: RawColumn) -> Values | ListValues:
    """The values of a column, of which each row has one, or a list if the column has lists. `None` is missing.

    Raises:
        RefusedValuesError: Rows have another kind of value, or one that a column of this role may not have.
    """
    problems: dict[int, str] = {}
    if column.is_list:
        for number, row in enumerate(rows):
            if not (row is None or isinstance(row, list)):
                problems[number] = f"expected a list, received {_shown(row)}"
        lists = [[] if row is None or number in problems else row for number, row in enumerate(rows)]
        lengths = np.fromiter(map(len, lists), np.int64, len(lists))
        flat, refused = _flat_values([value for row in lists for value in row], column.dtype)
        owners = np.searchsorted(np.cumsum(lengths), list(refused), "right").tolist()
        for number, problem in zip(owners, refused.values(), strict=True):
            problems.setdefault(number, problem)
        if problems:
            raise RefusedValuesError(problems)
        return ListValues(flat, lengths)
    values, problems = _flat_values(rows, column.dtype)
    left = [number for number in range(len(rows)) if number not in problems] if problems else range(len(rows))
    for place in illegal_rows(values, column.role).tolist():
        problems[left[place]] = f"expected {EXPECTED[column.role]}, received {_shown(rows[left[place]])}"
    if problems:
        raise RefusedValuesError(problems)
    return values


def _flat_values(values: Sequence[Any], dtype: RawDType) -> tuple[Values, dict[int, str]]:
    """The values that fit, and by their numbers what is wrong with the others."""
    try:
        if set(map(type, values)) <= _KINDS[dtype]:
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
