r"""A parser of CSV and TSV: blocks of rows to columns, with NumPy over all bytes of a block at once.

It only tells which rows are malformed; `csv_grammar.Grammar` then finds why. Of a block with a quote where none may
be, or with a row that is too long, the grammar also tells where rows begin and end.

Rows end with `\n` or `\r\n`, the last one of a file also without. Lines without any byte are no rows, unless there is only
one column: then the value is missing. A UTF-8 byte order mark at the start of a file is skipped.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from keras_rafm.checks.arguments import integer
from keras_rafm.data.formats import csv_grammar
from keras_rafm.data.formats.csv_grammar import DelimitedFormat, Grammar, parsed_integer, parsed_number, places_of
from keras_rafm.data.raw.columns import MISSING_INTEGER, Block, RawColumn, Strings, Values, illegal_rows
from keras_rafm.data.raw.errors import MalformedRowError, refuse_empty
from keras_rafm.data.raw.lines import blocks_of_lines

__all__ = ["DelimitedFormat", "MalformedRowError", "parse_delimited"]

_Bytes = npt.NDArray[np.uint8]
_Places = npt.NDArray[np.int32]
_Flags = npt.NDArray[np.bool_]

_NEWLINE, _RETURN, _SPACE, _PLUS, _MINUS, _POINT, _ZERO = b"\n\r +-.0"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MAX_BLOCK_BYTES = 2**29  # With rows of the longest kind at both ends, still within int32.
_SAFE_DIGITS = 18  # Every integer of so many digits is below 2**63.
_EXACT_DIGITS = 15  # Every integer of so many digits is a float64, and so are powers of ten up to 10**22.
_POWERS_OF_TEN = 10.0 ** np.arange(_EXACT_DIGITS + 1)
_NUMBER_BYTES = b"0123456789+-.eE"
_COMMON_PADDING = 8


def parse_delimited(
    path: str,
    file_format: DelimitedFormat,
    columns: Sequence[RawColumn],
    block_bytes: int,
    on_error: Callable[[MalformedRowError], None] | None = None,
) -> Iterator[tuple[int, Block]]:
    """The rows of one file, plain or gzip, in blocks.

    A missing string is "", a missing integer `MISSING_INTEGER`, a missing number NaN; empty fields and `missing_values` are
    missing. Spaces around integers and numbers are ignored. All of a file must be UTF-8, columns that are not asked for as
    well.

    Of a row with illegal quotes or of more than 16 MiB, it is only known where its first line ends: with `on_error`, just
    that line is left out, and the next one begins a row.

    Args:
        path: Name of the file.
        file_format: How rows are written.
        columns: Which columns to yield. Others are not parsed.
        block_bytes: About how many bytes are parsed at once. What is yielded does not depend on it, but for where
            blocks end.
        on_error: Called with the error of each malformed row in order, before the rows around it are yielded, and of an
            empty file; these are left out. With `None`, the first one is raised.

    Yields:
        The number of rows, at least one, and a value of each column for each of them.

    Raises:
        FileNotFoundError: There is no such file.
        TypeError: `block_bytes` is not an integer.
        MalformedRowError: A row is malformed and there is no `on_error`, or the header is.
        EmptyFileError: The file has no rows, and there is no `on_error`.
        ValueError: A column has lists, is not in the file or is there twice; the file is damaged gzip;
            or `block_bytes` is less than 1 or more than 512 MiB. What can be told without the file is raised at once.
    """
    block_bytes = integer(block_bytes, "block_bytes", at_least=1)
    if block_bytes > _MAX_BLOCK_BYTES:
        raise ValueError(f"`block_bytes` must be at most {_MAX_BLOCK_BYTES}. Received: block_bytes={block_bytes}")
    names = [column.name for column in columns]
    for column in columns:
        if column.is_list:
            raise ValueError(f"{path}: text has no lists. Received: column {column.name!r} with is_list=True")
        if names.count(column.name) > 1:
            raise ValueError(f"`columns` must be distinct. Received: {column.name!r} more than once")
    if file_format.column_names is not None:
        places_of(path, file_format.column_names, columns, file_format)
    return _Parser(path, file_format, tuple(columns), on_error).blocks(block_bytes)


class _BrokenRowsError(Exception):
    """Quotes are where none may be or a row is too long, so where rows end is not known."""


class _Fields(NamedTuple):
    """Where fields are in a text.

    Args:
        starts: Where they begin, their quotes left out, of rows with the right number of them: `[rows, fields]`.
        lengths: Of each.
        row_starts: Where these rows begin `[rows]`.
        miscounted: Where the rows begin that have another number of fields.
        doubled: Where the second quotes of doubled ones are.
        stop: Byte after the last row that ends in the text.
    """

    starts: _Places
    lengths: _Places
    row_starts: _Places
    miscounted: _Places
    doubled: _Places
    stop: int


class _Cleaned(NamedTuple):
    """The rows of a text that are not broken.

    Args:
        text: They, end to end.
        places: Where runs of them begin there that are also neighbours in the file, ascending.
        lines: Number of the line in the file with which each run begins.
        errors: Of broken rows, in order.
        stop: Byte of the original text after all of these rows.
    """

    text: bytes
    places: list[int]
    lines: list[int]
    errors: list[MalformedRowError]
    stop: int


class _Parser:
    """Of one file, from its start to its end.

    Args:
        path: Name of the file.
        file_format: How rows are written.
        columns: Which columns to yield.
        on_error: Called with errors of rows instead of raising them.
    """

    def __init__(
        self,
        path: str,
        file_format: DelimitedFormat,
        columns: tuple[RawColumn, ...],
        on_error: Callable[[MalformedRowError], None] | None,
    ) -> None:
        self._path = path
        self._format = file_format
        self._columns = columns
        self._on_error = on_error
        self._delimiter = ord(file_format.delimiter)
        self._quote = None if file_format.quote is None else file_format.quote.encode()
        self._missing = [value.encode() for value in file_format.missing_values]
        self._grammar = Grammar(path, file_format, (), {})
        if file_format.column_names is not None:
            self._know_names(file_format.column_names)
        self._line = 1
        self._empty = True

    def blocks(self, block_bytes: int) -> Iterator[tuple[int, Block]]:
        """See `parse_delimited`."""
        waiting: list[bytes] = []
        num_waiting = enough = 0
        may_close = True
        for lines in itertools.chain(self._blocks_of_lines(block_bytes), [None]):
            if lines is not None:
                waiting.append(lines)
                num_waiting += len(lines)
                may_close = may_close or (self._quote is not None and self._quote in lines)
                if num_waiting < csv_grammar.MAX_ROW_BYTES and (num_waiting < enough or not may_close):
                    continue
            text = b"".join(waiting)
            if not text:
                break
            num_rows, block, stop = self._parsed(text, at_end=lines is None)
            if num_rows:
                yield num_rows, block
            waiting = [text[stop:]]
            num_waiting = len(text) - stop
            # What is left is a row whose quote is open. It waits for another quote and until there is as much that is new:
            # parsing it anew with each of many blocks would take quadratic time.
            enough = 2 * num_waiting
            may_close = not num_waiting
        if self._empty:
            refuse_empty(self._path, self._on_error)

    def _blocks_of_lines(self, block_bytes: int) -> Iterator[bytes]:
        """Of the file, the byte order mark left out."""
        blocks = blocks_of_lines(self._path, block_bytes)
        for first in blocks:
            if first == _BYTE_ORDER_MARK + b"\n":
                # Most likely there is nothing else in the file, and this newline is not in it either.
                self._line += 1
            else:
                yield first.removeprefix(_BYTE_ORDER_MARK)
            break
        yield from blocks

    def _know_names(self, names: tuple[str, ...]) -> None:
        asked = places_of(self._path, names, self._columns, self._format)
        self._grammar = Grammar(self._path, self._format, names, asked)

    def _header_stop(self, text: bytes, at_end: bool) -> int:
        """Byte after the header and blank lines before it; of these lines alone if the header doesn't end in the text."""
        start = 0
        while start < len(text):
            row = self._grammar.row_at(text, start, self._line, at_end)
            if row is None:
                break
            if row.fields != [b""] or text[start] not in (_NEWLINE, _RETURN):
                try:
                    names = tuple(field.decode() for field in row.fields)
                except UnicodeDecodeError as error:
                    raise self._grammar.received(self._line, None, "UTF-8 in the header", error.object) from None
                self._know_names(names)
            self._line += text.count(b"\n", start, row.stop)
            start = row.stop
            if self._grammar.names:
                break
        return start

    def _parsed(self, text: bytes, at_end: bool) -> tuple[int, Block, int]:
        """Number and values of the text's good rows, and the byte after the last row that ends in it."""
        header_stop = 0
        if not self._grammar.names:
            header_stop = self._header_stop(text, at_end)
            text = text[header_stop:]
            if not text or not self._grammar.names:
                return 0, {}, header_stop
        try:
            fields = self._fields(text, at_end)
            cleaned = _Cleaned(text, [0], [self._line], [], fields.stop)
        except _BrokenRowsError:
            cleaned = self._cleaned(text, at_end)
            fields = self._fields(cleaned.text, at_end=True)

        is_good = self._are_utf8(cleaned.text[: fields.stop], fields)
        values = self._values(cleaned.text, fields, is_good)
        num_rows = int(np.count_nonzero(is_good))
        block: Block = {}
        for name, of_column in values.items():
            block[name] = of_column if num_rows == is_good.size else _selected(of_column, is_good)
        malformed = np.concatenate([fields.miscounted, fields.row_starts[~is_good]])
        self._empty &= not (num_rows or malformed.size or cleaned.errors)
        self._report(cleaned, np.sort(malformed))
        self._line += text.count(b"\n", 0, cleaned.stop)
        return num_rows, block, header_stop + cleaned.stop

    def _report(self, cleaned: _Cleaned, malformed: _Places) -> None:
        """Raise the first error or call `on_error` with all.

        Args:
            cleaned: The text and errors of rows that are broken.
            malformed: Where other malformed rows begin in it, ascending.
        """
        errors = cleaned.errors
        if malformed.size:
            if self._on_error is None:
                malformed = malformed[:1]
            newlines = np.flatnonzero(np.frombuffer(cleaned.text, np.uint8) == _NEWLINE)
            run = np.searchsorted(cleaned.places, malformed, "right") - 1
            lines = np.array(cleaned.lines)[run] + np.searchsorted(newlines, malformed)
            lines -= np.searchsorted(newlines, np.array(cleaned.places)[run])
            starts = zip(malformed.tolist(), lines.tolist(), strict=True)
            errors = errors + [self._grammar.error_in(cleaned.text, start, line) for start, line in starts]
            errors.sort(key=lambda error: error.line)
        for error in errors:
            if self._on_error is None:
                raise error
            self._on_error(error)

    def _cleaned(self, text: bytes, at_end: bool) -> _Cleaned:
        """The text without its broken rows: of each just its first line."""
        runs: list[bytes] = []
        places: list[int] = []
        lines: list[int] = []
        errors: list[MalformedRowError] = []
        size = run_start = start = 0
        run_line = line = self._line
        while start <= len(text):
            error = row = None
            if start < len(text):
                try:
                    row = self._grammar.row_at(text, start, line, at_end)
                except MalformedRowError as broken:
                    error = broken
            if row is not None:
                line += text.count(b"\n", start, row.stop)
                start = row.stop
                continue
            if run_start < start:
                runs.append(text[run_start:start])
                places.append(size)
                lines.append(run_line)
                size += start - run_start
            if error is None:
                break
            errors.append(error)
            run_start = start = text.index(b"\n", start) + 1
            run_line = line = line + 1
        return _Cleaned(b"".join(runs), places, lines, errors, start)

    def _fields(self, text: bytes, at_end: bool) -> _Fields:
        """Where the fields of rows are. Blank lines are no rows, unless there is one column.

        Raises:
            _BrokenRowsError: Quotes are where none may be, a row is too long, or the file ends inside a row.
        """
        if len(text) > 2 * _MAX_BLOCK_BYTES:
            raise _BrokenRowsError  # A block is as long only if a line is too long.
        buffer = np.frombuffer(text, np.uint8)
        marks = buffer == self._delimiter
        marks |= buffer == _NEWLINE
        doubled = np.zeros(0, np.int32)
        quote = ord(self._quote) if self._quote is not None and self._quote in text else None
        if quote is not None:
            marks |= buffer == quote
        places = np.flatnonzero(marks)
        kinds = buffer.take(places)
        if quote is not None:
            outside, doubled = _outside_quotes(buffer, places.astype(np.int32), kinds, quote)
            places, kinds = places[outside], kinds[outside]
        last_of_row = np.flatnonzero(kinds == _NEWLINE)
        num_ends = int(last_of_row[-1]) + 1 if last_of_row.size else 0
        ends = places[:num_ends].astype(np.int32)
        stop = int(ends[-1]) + 1 if num_ends else 0
        _demand_short_rows(ends[last_of_row], len(text), at_end)

        starts = np.empty_like(ends)
        starts[:1] = 0
        np.add(ends[:-1], 1, out=starts[1:])
        if b"\r" in text:
            row_ends = ends[last_of_row]
            has_return = buffer.take(row_ends - 1, mode="clip") == _RETURN
            ends[last_of_row] -= has_return & (row_ends > starts[last_of_row])
        lengths = ends
        lengths -= starts

        num_fields = len(self._grammar.names)
        counts = np.diff(last_of_row, prepend=-1)
        miscounted = np.zeros(0, np.int32)
        is_right = counts == num_fields
        if not is_right.all():
            first_of_row = last_of_row - counts + 1
            is_blank = (counts == 1) & (lengths[last_of_row] == 0)
            miscounted = starts[first_of_row[~is_right & ~is_blank]]
            is_inside = np.repeat(is_right, counts)
            starts, lengths = starts[is_inside], lengths[is_inside]
        row_starts = starts[::num_fields].copy()
        if quote is not None:
            is_quoted = buffer.take(starts, mode="clip") == quote
            is_quoted &= lengths > 0
            starts += is_quoted
            lengths -= is_quoted
            lengths -= is_quoted
        shape = -1, num_fields
        return _Fields(starts.reshape(shape), lengths.reshape(shape), row_starts, miscounted, doubled, stop)

    def _are_utf8(self, text: bytes, fields: _Fields) -> _Flags:
        """Which rows are."""
        are_utf8 = np.ones(fields.row_starts.size, np.bool_)
        if text.isascii():
            return are_utf8
        try:
            text.decode()
        except UnicodeDecodeError:
            not_ascii = np.flatnonzero(np.frombuffer(text, np.uint8) > 127)
            last = fields.starts[:, -1] + fields.lengths[:, -1]
            rows = np.unique(np.searchsorted(last, not_ascii, "right"))
            for row in rows[rows < last.size].tolist():
                try:
                    text[fields.row_starts[row] : last[row]].decode()
                except UnicodeDecodeError:
                    are_utf8[row] = False
        return are_utf8

    def _values(self, text: bytes, fields: _Fields, is_good: _Flags) -> dict[str, Values]:
        """Values of the columns; `is_good` becomes false where there is none."""
        asked = self._grammar.asked
        if fields.doubled.size:
            text = self._with_unescaped(text, fields)
        buffer = np.frombuffer(text, np.uint8)
        block: dict[str, Values] = {}
        for place, column in asked.items():
            starts, lengths = fields.starts[:, place].copy(), fields.lengths[:, place].copy()
            if column.dtype != "string" and b" " in text:
                _leave_out_spaces(text, buffer, starts, lengths)
            for missing in self._missing:
                lengths[_equal_to(missing, buffer, starts, lengths)] = 0
            if column.dtype == "string":
                block[column.name] = Strings(text, starts, lengths)
            else:
                numbers_in = _integers if column.dtype == "int64" else _numbers
                block[column.name], is_number = numbers_in(text, buffer, starts, lengths)
                is_good &= is_number
            is_good[illegal_rows(block[column.name], column.role)] = False
        return block

    def _with_unescaped(self, text: bytes, fields: _Fields) -> bytes:
        """The text and after it, the fields with doubled quotes without these; the places of these fields change."""
        quote = self._quote or b""
        starts, lengths = fields.starts.reshape(-1), fields.lengths.reshape(-1)
        escaped = np.searchsorted(starts, fields.doubled, "right") - 1
        inside = (escaped >= 0) & (fields.doubled < starts[escaped] + lengths[escaped]) if starts.size else escaped >= 0
        escaped = np.unique(escaped[inside])
        escaped = escaped[np.isin(escaped % len(self._grammar.names), list(self._grammar.asked))]
        if not escaped.size:
            return text
        places = zip(starts[escaped].tolist(), lengths[escaped].tolist(), strict=True)
        pieces = [text[start : start + length].replace(quote * 2, quote) for start, length in places]
        sizes = np.fromiter(map(len, pieces), np.int32, len(pieces))
        starts[escaped] = len(text) + np.cumsum(sizes) - sizes
        lengths[escaped] = sizes
        return b"".join((text, *pieces))


def _outside_quotes(buffer: _Bytes, places: _Places, kinds: _Bytes, quote: int) -> tuple[_Flags, _Places]:
    """Which marks are neither quotes nor inside of some, and where second quotes of doubled ones are.

    Args:
        buffer: The text, which ends with a newline.
        places: All delimiters, newlines and quotes.
        kinds: Which of them is what.
        quote: The quote.

    Raises:
        _BrokenRowsError: A field has a quote inside of it, or text after a closing one.
    """
    is_quote = kinds == quote
    is_inside = (np.cumsum(is_quote, dtype=np.uint8) & 1).view(np.bool_)  # It wraps around, but its parity is right.
    is_opening = is_quote & is_inside
    is_closing = is_quote & ~is_inside
    is_next = np.diff(places) == 1  # Whether a mark is followed by one without anything between.
    if (is_opening[0] and places[0] != 0) or np.any(is_opening[1:] & ~is_next):
        raise _BrokenRowsError
    # The last mark is a newline. A closing quote may come before another one, the two being a doubled one.
    others = np.flatnonzero(is_closing[:-1] & ~is_next)
    if others.size:
        before_newline = (kinds.take(others + 1) == _NEWLINE) & (places.take(others + 1) == places.take(others) + 2)
        if not np.all(before_newline & (buffer.take(places.take(others) + 1) == _RETURN)):
            raise _BrokenRowsError
    doubled = places[1:][is_opening[1:] & is_quote[:-1]]
    return ~(is_quote | is_inside), doubled


def _demand_short_rows(newlines: _Places, size: int, at_end: bool) -> None:
    """Raise a `_BrokenRowsError` if a row is too long, or the last one lacks its newline at the end of the file."""
    limit = csv_grammar.MAX_ROW_BYTES
    unfinished = size - (int(newlines[-1]) + 1 if newlines.size else 0)
    if unfinished and (at_end or unfinished >= limit):
        raise _BrokenRowsError
    if size > limit and np.diff(newlines, prepend=-1).max(initial=0) > limit:
        raise _BrokenRowsError


def _selected(values: Values, is_good: _Flags) -> Values:
    if isinstance(values, Strings):
        return Strings(values.text, values.starts[is_good], values.lengths[is_good])
    return values[is_good]


def _leave_out_spaces(text: bytes, buffer: _Bytes, starts: _Places, lengths: _Places) -> None:
    """Move starts and lengths."""
    for is_leading in (True, False):
        padded = np.arange(starts.size)
        for _ in range(_COMMON_PADDING):
            edges = starts[padded] if is_leading else starts[padded] + lengths[padded] - 1
            padded = padded[(buffer.take(edges, mode="clip") == _SPACE) & (lengths[padded] > 0)]
            if not padded.size:
                break
            starts[padded] += is_leading
            lengths[padded] -= 1
        # There may be millions of spaces in a field.
        for field in padded.tolist():
            start, length = int(starts[field]), int(lengths[field])
            token = text[start : start + length]
            kept = len(token.lstrip(b" ") if is_leading else token.rstrip(b" "))
            starts[field] = start + length - kept if is_leading else start
            lengths[field] = kept


def _equal_to(value: bytes, buffer: _Bytes, starts: _Places, lengths: _Places) -> npt.NDArray[np.intp]:
    """The numbers of the fields that are the same."""
    fields = np.flatnonzero(lengths == len(value))
    for place, byte in enumerate(value):
        fields = fields[buffer.take(starts[fields] + place, mode="clip") == byte]
    return fields


def _integers(text: bytes, buffer: _Bytes, starts: _Places, lengths: _Places) -> tuple[npt.NDArray[np.int64], _Flags]:
    """The integers in these places, and which of them are legal."""
    is_missing = lengths == 0
    is_negative, first_digits, num_digits = _without_signs(buffer, starts, lengths)
    integers, is_legal = _decimals(buffer, first_digits, num_digits, None)
    np.negative(integers, out=integers, where=is_negative)
    for field in np.flatnonzero(num_digits > _SAFE_DIGITS).tolist():
        integer = parsed_integer(text[starts[field] : starts[field] + lengths[field]])
        is_legal[field] = integer is not None
        integers[field] = integer or 0
    integers[is_missing] = MISSING_INTEGER
    return integers, is_legal | is_missing


def _numbers(text: bytes, buffer: _Bytes, starts: _Places, lengths: _Places) -> tuple[npt.NDArray[np.float32], _Flags]:
    """The numbers in these places, and which of them are legal."""
    is_missing = lengths == 0
    is_negative, first_digits, num_digits = _without_signs(buffer, starts, lengths)
    num_before: _Places | None = None
    points = np.flatnonzero(buffer == _POINT).astype(np.int32)
    if points.size:
        first = points.take(np.searchsorted(points, first_digits), mode="clip") - first_digits
        has_point = (first >= 0) & (first < num_digits)
        if has_point.any():
            num_before = np.where(has_point, first, num_digits)
            num_digits -= has_point
    mantissas, is_plain = _decimals(buffer, first_digits, num_digits, num_before)
    is_plain &= num_digits <= _EXACT_DIGITS
    numbers = mantissas.astype(np.float64)
    if num_before is not None:
        # Both numbers are exact, so their quotient is the float64 that is nearest to the decimal.
        numbers /= _POWERS_OF_TEN.take(num_digits - num_before, mode="clip")
    np.negative(numbers, out=numbers, where=is_negative)
    is_legal = is_plain | is_missing
    others = np.flatnonzero(~is_legal)
    if others.size:
        places = zip(starts[others].tolist(), lengths[others].tolist(), strict=True)
        numbers[others], is_legal[others] = _parsed_numbers([text[start : start + length] for start, length in places])
    numbers[is_missing] = np.nan
    return numbers.astype(np.float32), is_legal


def _without_signs(buffer: _Bytes, starts: _Places, lengths: _Places) -> tuple[_Flags, _Places, _Places]:
    """Which fields have a minus, where they begin after their signs, and how long they are from there."""
    first = buffer.take(starts, mode="clip")
    is_filled = lengths > 0
    is_negative = (first == _MINUS) & is_filled
    is_signed = is_negative | ((first == _PLUS) & is_filled)
    return is_negative, starts + is_signed, lengths - is_signed


def _decimals(
    buffer: _Bytes, starts: _Places, num_digits: _Places, num_before: _Places | None
) -> tuple[npt.NDArray[np.int64], _Flags]:
    """The integers that the digits make, of no more than `_SAFE_DIGITS`, and which are made of digits and have some.

    Args:
        buffer: Of the text.
        starts: Where the digits begin.
        num_digits: How many there are.
        num_before: How many of them are before a byte that is left out, if there is one.
    """
    decimals = np.zeros(starts.size, np.int64)
    is_legal = num_digits > 0
    shortest = int(num_digits.min(initial=_SAFE_DIGITS))
    longest = min(int(num_digits.max(initial=0)), _SAFE_DIGITS)
    for place in range(longest):
        if place < shortest:
            places = starts + place
            if num_before is not None:
                places += num_before <= place
            digits = buffer.take(places, mode="clip") - np.uint8(_ZERO)
            is_legal &= digits <= 9
            decimals *= 10
            decimals += digits
        else:
            inside = np.flatnonzero(num_digits > place)
            places = starts[inside] + place
            if num_before is not None:
                places += num_before[inside] <= place
            digits = buffer.take(places, mode="clip") - np.uint8(_ZERO)
            is_legal[inside] &= digits <= 9
            decimals[inside] = decimals[inside] * 10 + digits
    return decimals, is_legal


def _parsed_numbers(tokens: list[bytes]) -> tuple[npt.NDArray[np.float64], _Flags]:
    """The numbers that are legal, and which are."""
    numbers = np.zeros(len(tokens))
    is_legal = np.ones(len(tokens), np.bool_)
    try:
        if b"".join(tokens).translate(None, _NUMBER_BYTES):
            raise ValueError
        numbers[:] = [float(token) for token in tokens]
        with np.errstate(over="ignore"):
            if not np.all(np.isfinite(numbers.astype(np.float32))):
                raise ValueError
    except ValueError:
        for place, token in enumerate(tokens):
            number = parsed_number(token)
            is_legal[place] = number is not None
            numbers[place] = 0.0 if number is None else number
    return numbers, is_legal
