"""The grammar of CSV and TSV: how rows must be written, and an error for every way to break the rules.

`CSVRowGrammar` reads row by row, which is too slow for whole files. `csv_parser` reads files fast, and asks the grammar
about rows that are malformed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from keras_rafm.data.raw.blocks import is_legal
from keras_rafm.data.raw.columns import EXPECTED, MISSING_INTEGER, RawColumn
from keras_rafm.data.raw.errors import MalformedRowError, shown_bytes, shown_name
from keras_rafm.data.raw.numbers import MAX_INTEGER, is_integer, is_number, parsed_integer, parsed_number

#: The largest length of a row in bytes, its line end included. Without a limit, a quote that is never closed would make the
#: rest of the file one row.
MAX_ROW_BYTES = 16 * 1024 * 1024

_MAX_NAMES_SHOWN = 50


@dataclass(frozen=True)
class CSVDialect:
    r"""The way rows are written in CSV and TSV files.

    Args:
        delimiter: The ASCII character between fields.
        quote: The ASCII character around fields that contain delimiters, line ends or the (doubled) quote itself (RFC
            4180). With `None`, quotes have no special meaning.
        column_names: The names of all columns in the order of the fields. With `None`, the first row of each file has them.
        missing_values: Fields that stand for a missing value in any column, quoted or not. An empty field always does.

    Raises:
        TypeError: A character, a name or a missing value is not a string, or names or missing values are a string or not a
            sequence.
        ValueError: A character cannot have that role; there are no names, or one is empty or repeated; or a missing value
            is empty, contains a line end or has spaces around it.
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
        object.__setattr__(self, "missing_values", _checked_missing_values(self.missing_values))


def _check_character(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise TypeError(f"`{name}` must be a string. Received: {value!r} of type {type(value).__name__}")
    if len(value) != 1 or not value.isascii() or value in "\r\n":
        raise ValueError(f"`{name}` must be one ASCII character other than a line end. Received: {name}={value!r}")


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


def _checked_missing_values(values: object) -> tuple[str, ...]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(f"`missing_values` must be a sequence of strings. Received: {values!r}")
    for value in values:
        if not isinstance(value, str):
            raise TypeError(f"`missing_values` must be strings. Received: {value!r} of type {type(value).__name__}")
        if not value or "\n" in value or "\r" in value or value != value.strip(" "):
            raise ValueError(
                f"`missing_values` must not be empty, contain line ends or have spaces around them. Received: {value!r}"
            )
    return tuple(values)


class Row(NamedTuple):
    """A row whose quotes are legal.

    Attributes:
        fields: The fields, without the quotes around them.
        stop: The byte after the row's line end.
    """

    fields: list[bytes]
    stop: int


@dataclass(frozen=True)
class CSVRowGrammar:
    """Decides which rows of a file are legal.

    Args:
        path: The name of the file, for messages.
        dialect: How rows are written.
        names: The names of the file's columns; empty before its header is read.
        columns: The columns to read by their places in rows. Their values must be legal, too.
    """

    path: str
    dialect: CSVDialect
    names: tuple[str, ...]
    columns: Mapping[int, RawColumn]

    def row_at(self, text: bytes, start: int, line: int, at_end: bool) -> Row | None:
        """Return the row that begins at `start`, or `None` if the text ends inside it.

        Bytes beyond the length of the longest row do not matter, so errors do not depend on how a file is cut into texts.

        Args:
            text: Whole lines, each with its end.
            start: The byte at which the row begins.
            line: The number of that line in the file.
            at_end: Whether the file ends with the text.

        Raises:
            MalformedRowError: A quote is misplaced or never closed, or the row is too long.
        """
        stop = min(len(text), start + MAX_ROW_BYTES)
        delimiter = self.dialect.delimiter.encode()
        quote = None if self.dialect.quote is None else self.dialect.quote.encode()
        fields: list[bytes] = []
        position = start
        # The next ones from `position` on, or -1 while unknown. Without a next one, they are `stop` and `line_end`.
        line_end = next_quote = -1
        while position < stop:
            if line_end < position:
                line_end = _find(text, b"\n", position, stop)
            if quote is not None and next_quote < position:
                next_quote = _find(text, quote, position, line_end)
            if quote is None or next_quote != position or position == line_end:
                if line_end == stop:
                    break
                if quote is None or next_quote == line_end:
                    fields.extend(text[position:line_end].removesuffix(b"\r").split(delimiter))
                    return Row(fields, line_end + 1)
                end = _find(text, delimiter, position, line_end)
                if next_quote < end:
                    expected = f"a field that is enclosed in {self._quotes} or contains none"
                    raise self.error_of_field(line, len(fields), expected, text[position:end].removesuffix(b"\r"))
                # The line has a quote after this field, so this is not its last field.
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
                problem = f"expected the quote opened on line {opened} to be closed {where}, found no closing quote"
                raise self._error(line, len(fields), problem)
            after = closing + 1
            following = text[after : after + 2]
            end_bytes = 1 if following.startswith(b"\n") else 2 if following == b"\r\n" else 0
            if after + max(end_bytes, 1) > stop:
                break
            if not end_bytes and not following.startswith(delimiter):
                expected = f"{self.dialect.delimiter!r} or the line's end after a closing quote"
                received = text[after : _find(text, b"\n", after, stop)].removesuffix(b"\r")
                raise self.error_of_field(line, len(fields), expected, received)
            fields.append(text[position + 1 : closing].replace(quote * 2, quote))
            if end_bytes:
                return Row(fields, after + end_bytes)
            position = after + 1
        raise self._error(line, None, f"expected a row of at most {MAX_ROW_BYTES} bytes, received a longer one")

    def error_in(self, text: bytes, start: int, line: int) -> MalformedRowError:
        """Return the error of a malformed row that ends in the text and has legal quotes.

        Args:
            text: Whole lines, each with its end.
            start: The byte at which the row begins.
            line: The number of the line on which the row begins.
        """
        row = self.row_at(text, start, line, at_end=True)
        fields = [] if row is None else row.fields
        if len(fields) != len(self.names):
            source = _source_of_names(self.dialect)
            return self._error(line, None, f"expected {len(self.names)} fields, as in {source}, received {len(fields)}")
        for place, field in enumerate(fields):
            try:
                field.decode()
            except UnicodeDecodeError:
                return self.error_of_field(line, place, "UTF-8", field)
            if place in self.columns:
                expected = _expected_instead(self.value_in(field, self.columns[place]), self.columns[place])
                if expected is not None:
                    return self.error_of_field(line, place, expected, field)
        raise AssertionError(f"{self.path}, line {line}: nothing wrong, although parsing failed")

    def value_in(self, field: bytes, column: RawColumn) -> bytes:
        """Return the value in a field: without spaces around a number, and empty if it is a missing value."""
        value = field if column.dtype == "string" else field.strip(b" ")
        return b"" if value in [missing.encode() for missing in self.dialect.missing_values] else value

    def error_of_field(self, line: int, place: int | None, expected: str, received: bytes) -> MalformedRowError:
        """Return the error of a row with a field that is not as expected.

        Args:
            line: The number of the line on which the row begins.
            place: The place of the field in the row, from 0; `None` for the row as a whole.
            expected: What the field should have been.
            received: The field.
        """
        return self._error(line, place, f"expected {expected}, received {shown_bytes(received)}")

    @property
    def _quotes(self) -> str:
        return "quotes" if self.dialect.quote == '"' else f"quotes ({self.dialect.quote})"

    def _error(self, line: int, place: int | None, problem: str) -> MalformedRowError:
        column = self.names[place] if place is not None and place < len(self.names) else None
        return MalformedRowError(self.path, line, column, problem)


def columns_by_place(
    path: str, names: tuple[str, ...], columns: Sequence[RawColumn], dialect: CSVDialect
) -> dict[int, RawColumn]:
    """Return the columns by their places in rows.

    Args:
        path: The name of the file, for messages.
        names: The names of the file's columns.
        columns: The columns to find.
        dialect: How rows are written.

    Raises:
        ValueError: The name of a column is missing from `names` or repeated in it.
    """
    source = _source_of_names(dialect)
    places: dict[int, RawColumn] = {}
    for column in columns:
        count = names.count(column.name)
        if count == 0:
            some = ", ".join(map(shown_name, names[:_MAX_NAMES_SHOWN]))
            more = f" and {len(names) - _MAX_NAMES_SHOWN} more" if len(names) > _MAX_NAMES_SHOWN else ""
            raise ValueError(f"{path}: expected a column {shown_name(column.name)}, {source} has {some}{more}")
        if count > 1:
            raise ValueError(f"{path}: expected one column {shown_name(column.name)}, {source} has {count} of that name")
        places[names.index(column.name)] = column
    return places


def _source_of_names(dialect: CSVDialect) -> str:
    return "the first row" if dialect.column_names is None else "`column_names`"


def _find(text: bytes, byte: bytes, start: int, stop: int) -> int:
    """Return the first place of the byte, or `stop` if it does not occur before."""
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


def _expected_instead(value: bytes, column: RawColumn) -> str | None:
    """Return what was expected instead of this value, or `None` if it is legal."""
    if column.role != "feature" and not value:
        return EXPECTED[column.role]
    if column.dtype == "string" or not value:
        return None
    if column.dtype == "float32":
        number = parsed_number(value)
        if number is not None:
            legal = column.role == "feature" or is_legal(np.array([number], np.float32), column.role)[0]
            return None if legal else EXPECTED[column.role]
        if column.role != "feature":
            return EXPECTED[column.role] + (
                " (set `positive_label` for other labels)" if column.role == "binary_label" else ""
            )
        return "a number that is finite as float32" if is_number(value) else "a number"
    if parsed_integer(value) is not None:
        return None
    if is_integer(value):
        return f"an integer from {MISSING_INTEGER + 1} to {MAX_INTEGER}"
    return "an integer"
