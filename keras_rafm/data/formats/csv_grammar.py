"""What the rows of a CSV or TSV file must look like, and what is wrong with one that does not.

This is the grammar, row by row, with an error for every way to break it. It is too slow to read files with.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from keras_rafm.data.raw.columns import EXPECTED, MISSING_INTEGER, RawColumn, is_legal
from keras_rafm.data.raw.errors import MalformedRowError, shown_name

#: The most bytes a row may have, its line end included. Without a limit, a quote that is never closed would make the
#: rest of the file one row.
MAX_ROW_BYTES = 16 * 1024 * 1024

MAX_INTEGER: Final = 2**63 - 1

_NUMBER = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_INTEGER = re.compile(rb"[+-]?[0-9]+")
_MAX_SHOWN = 60
_MAX_NAMES_SHOWN = 50


@dataclass(frozen=True)
class DelimitedFormat:
    r"""How rows are written in a CSV or TSV file.

    Args:
        delimiter: The ASCII character between fields.
        quote: The ASCII character around fields that hold delimiters, line ends or, doubled, itself (RFC 4180). With
            `None`, quotes are characters like others.
        column_names: Names of all columns. With `None`, the first row of each file has them.
        missing_values: Fields that stand for no value, as an empty one does.

    Raises:
        TypeError: A character, a name or a missing value is not a string, or those are a string or no sequence.
        ValueError: A character cannot have that role, a name is there twice or empty, or there is none, or a missing value
            is empty or has a line end.
    """

    delimiter: str = ","
    quote: str | None = '"'
    column_names: tuple[str, ...] | None = None
    missing_values: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check_character("delimiter", self.delimiter)
        if self.quote is not None:
            _check_character("quote", self.quote)
        if self.delimiter in ('"', self.quote):
            raise ValueError(f"`delimiter` must not be a quote. Received: delimiter={self.delimiter!r}")
        if self.column_names is not None:
            object.__setattr__(self, "column_names", _checked_names(self.column_names))
        object.__setattr__(self, "missing_values", _checked_missing(self.missing_values))


def _check_character(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"`{name}` must be a string. Received: {value!r} of type {type(value).__name__}")
    if len(value) != 1 or not value.isascii() or value in "\r\n":
        raise ValueError(f"`{name}` must be one ASCII character that ends no line. Received: {name}={value!r}")


def _checked_names(names: object) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise TypeError(f"`column_names` must be a sequence of strings. Received: {names!r} of type {type(names).__name__}")
    if not names:
        raise ValueError("`column_names` must have at least one name. Received: none")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"`column_names` must be strings. Received: {name!r} of type {type(name).__name__}")
        if not name:
            raise ValueError(f"`column_names` must not be empty. Received: '' as name {list(names).index(name) + 1}")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"`column_names` must be distinct. Received: {name!r} more than once")
        seen.add(name)
    return tuple(names)


def _checked_missing(values: object) -> tuple[str, ...]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(f"`missing_values` must be a sequence of strings. Received: {values!r}")
    for value in values:
        if not isinstance(value, str):
            raise TypeError(f"`missing_values` must be strings. Received: {value!r} of type {type(value).__name__}")
        if not value or "\n" in value or "\r" in value or value != value.strip(" "):
            raise ValueError(
                f"`missing_values` must not be empty, nor have line ends or spaces around them. Received: {value!r}"
            )
    return tuple(values)


class Row(NamedTuple):
    """A row whose quotes are legal.

    Attributes:
        fields: Without the quotes around them.
        stop: Byte after its line end.
    """

    fields: list[bytes]
    stop: int


@dataclass(frozen=True)
class Grammar:
    """Which rows of a file are legal.

    Args:
        path: Name of the file, for messages.
        file_format: How rows are written.
        names: Of the file's columns; empty while it is not known.
        asked: Columns whose values have to be legal too, by their places in rows.
    """

    path: str
    file_format: DelimitedFormat
    names: tuple[str, ...]
    asked: Mapping[int, RawColumn]

    def row_at(self, text: bytes, start: int, line: int, at_end: bool) -> Row | None:
        """The row that begins at `start`, or `None` if the text ends inside of it.

        No byte beyond the longest row is looked at: so what is told does not depend on how much of a file is in `text`.

        Args:
            text: Whole lines, each with its end.
            start: Where the row begins.
            line: The number of that line in the file.
            at_end: Whether the file ends with the text.

        Raises:
            MalformedRowError: Quotes are where none may be, one is not closed, or the row is too long.
        """
        stop = min(len(text), start + MAX_ROW_BYTES)
        delimiter = self.file_format.delimiter.encode()
        quote = None if self.file_format.quote is None else self.file_format.quote.encode()
        fields: list[bytes] = []
        position = start
        line_end = next_quote = -1  # From `position` on, once known; `stop` and `line_end` where there is none before.
        while position < stop:
            if line_end < position:
                line_end = _found(text, b"\n", position, stop)
            if quote is not None and next_quote < position:
                next_quote = _found(text, quote, position, line_end)
            if quote is None or next_quote != position or position == line_end:
                if line_end == stop:
                    break
                if quote is None or next_quote == line_end:
                    fields.extend(text[position:line_end].removesuffix(b"\r").split(delimiter))
                    return Row(fields, line_end + 1)
                end = _found(text, delimiter, position, line_end)
                if next_quote < end:
                    expected = f"a field with {self._quotes} around all of it or nowhere in it"
                    raise self.received(line, len(fields), expected, text[position:end].removesuffix(b"\r"))
                # A quote is in this line, but not in this field: so it is not the last one.
                fields.append(text[position:end])
                position = end + 1
                continue

            closing = _closing_quote(text, position, stop, quote)
            if closing is None:
                too_long = len(text) - start >= MAX_ROW_BYTES
                if not too_long and not at_end:
                    return None
                opened = line + text.count(b"\n", start, position)
                where = f"within the {MAX_ROW_BYTES} bytes a row may have" if too_long else "before the file's end"
                problem = f"expected the quote opened on line {opened} to be closed {where}, found none that closes it"
                raise self._error(line, len(fields), problem)
            after = closing + 1
            following = text[after : after + 2]
            end_bytes = 1 if following.startswith(b"\n") else 2 if following == b"\r\n" else 0
            if after + max(end_bytes, 1) > stop:
                break
            if not end_bytes and not following.startswith(delimiter):
                expected = f"{self.file_format.delimiter!r} or the line's end after a closing quote"
                received = text[after : _found(text, b"\n", after, stop)].removesuffix(b"\r")
                raise self.received(line, len(fields), expected, received)
            fields.append(text[position + 1 : closing].replace(quote * 2, quote))
            if end_bytes:
                return Row(fields, after + end_bytes)
            position = after + 1
        raise self._error(line, None, f"expected a row of at most {MAX_ROW_BYTES} bytes, received a longer one")

    def error_in(self, text: bytes, start: int, line: int) -> MalformedRowError:
        """What is wrong with a row that ends in the text and has legal quotes.

        Args:
            text: Whole lines, each with its end.
            start: Where the row begins.
            line: Number of the line on which it begins.
        """
        row = self.row_at(text, start, line, at_end=True)
        fields = [] if row is None else row.fields
        if len(fields) != len(self.names):
            known_from = "the first row" if self.file_format.column_names is None else "`column_names`"
            problem = f"expected {len(self.names)} fields, as in {known_from}, received {len(fields)}"
            return self._error(line, None, problem)
        for place, field in enumerate(fields):
            try:
                field.decode()
            except UnicodeDecodeError:
                return self.received(line, place, "UTF-8", field)
            if place in self.asked:
                expected = _expectation(self.value_in(field, self.asked[place]), self.asked[place])
                if expected is not None:
                    return self.received(line, place, expected, field)
        raise AssertionError(f"{self.path}, line {line}: nothing wrong, although parsing failed")

    def value_in(self, field: bytes, column: RawColumn) -> bytes:
        """What a field has: without spaces around a number, and empty where it stands for no value."""
        value = field if column.dtype == "string" else field.strip(b" ")
        return b"" if value in [missing.encode() for missing in self.file_format.missing_values] else value

    def received(self, line: int, place: int | None, expected: str, received: bytes) -> MalformedRowError:
        """The error of a field that is not as expected."""
        # Cut before it is decoded too: a field may have millions of bytes. No character has more than four in UTF-8.
        shown = received[: 4 * (_MAX_SHOWN + 1)].decode("utf-8", "backslashreplace")
        if len(shown) > _MAX_SHOWN:
            shown = shown[:_MAX_SHOWN] + "…"
        printable = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)
        return self._error(line, place, f"expected {expected}, received '{printable}'")

    @property
    def _quotes(self) -> str:
        return "quotes" if self.file_format.quote == '"' else f"quotes ({self.file_format.quote})"

    def _error(self, line: int, place: int | None, problem: str) -> MalformedRowError:
        column = self.names[place] if place is not None and place < len(self.names) else None
        return MalformedRowError(self.path, line, column, problem)


def places_of(
    path: str, names: tuple[str, ...], columns: Sequence[RawColumn], file_format: DelimitedFormat
) -> dict[int, RawColumn]:
    """The columns by their places in rows.

    Raises:
        ValueError: One is not among `names`, or is there more than once.
    """
    known_from = "the first row" if file_format.column_names is None else "`column_names`"
    places: dict[int, RawColumn] = {}
    for column in columns:
        count = names.count(column.name)
        if count == 0:
            some = ", ".join(map(shown_name, names[:_MAX_NAMES_SHOWN]))
            more = f" and {len(names) - _MAX_NAMES_SHOWN} more" if len(names) > _MAX_NAMES_SHOWN else ""
            raise ValueError(f"{path}: expected a column {shown_name(column.name)}, {known_from} has {some}{more}")
        if count > 1:
            raise ValueError(
                f"{path}: expected one column {shown_name(column.name)}, {known_from} has {count} of that name"
            )
        places[names.index(column.name)] = column
    return places


def parsed_integer(token: bytes) -> int | None:
    """The integer, or `None` for what is none or not of the range of int64 without `MISSING_INTEGER`."""
    if not _INTEGER.fullmatch(token):
        return None
    # Python refuses to convert thousands of digits.
    digits = token.lstrip(b"+-").lstrip(b"0") or b"0"
    if len(digits) > len(str(MAX_INTEGER)):
        return None
    number = int(digits)
    if number > MAX_INTEGER:
        return None
    return -number if token.startswith(b"-") else number


def parsed_number(token: bytes) -> float | None:
    """The number, or `None` for what is none or not finite as float32."""
    if not _NUMBER.fullmatch(token):
        return None
    number = float(token)
    with np.errstate(over="ignore"):
        return number if math.isfinite(np.float32(number)) else None


def _found(text: bytes, byte: bytes, start: int, stop: int) -> int:
    """Where the byte is first, or `stop` if nowhere before it."""
    place = text.find(byte, start, stop)
    return place if place >= 0 else stop


def _closing_quote(text: bytes, opening: int, stop: int, quote: bytes) -> int | None:
    closing = opening
    while True:
        closing = text.find(quote, closing + 1, stop)
        if closing < 0:
            return None
        if closing + 1 == stop or text[closing + 1 : closing + 2] != quote:
            return closing
        closing += 1


def _expectation(field: bytes, column: RawColumn) -> str | None:
    """What a field should have been, or `None` if it is that."""
    if column.role != "feature" and not field:
        return EXPECTED[column.role]
    if column.dtype == "string" or not field:
        return None
    if column.dtype == "float32":
        number = parsed_number(field)
        if number is not None:
            legal = column.role == "feature" or is_legal(np.array([number], np.float32), column.role)[0]
            return None if legal else EXPECTED[column.role]
        if column.role != "feature":
            return EXPECTED[column.role] + (" (name another by `positive_label`)" if column.role == "binary_label" else "")
        return "a number that is finite as float32" if _NUMBER.fullmatch(field) else "a number"
    if parsed_integer(field) is not None:
        return None
    if _INTEGER.fullmatch(field):
        return f"an integer from {MISSING_INTEGER + 1} to {MAX_INTEGER}"
    return "an integer"
