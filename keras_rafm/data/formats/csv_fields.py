r"""Where rows and fields are in a text of CSV, by NumPy over all bytes at once.

Delimiters, newlines and quotes are the *marks* of a text. Marks inside quotes separate nothing. DuckDB counting uses
`marks_in` and `scan_quotes`, too.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from keras_rafm.data.formats import csv_grammar
from keras_rafm.data.raw.number_arrays import Bytes, Flags, Places

NEWLINE, RETURN = b"\n\r"

_SPACE = ord(" ")
_MAX_TEXT_BYTES = 2**30  # Places beyond would not fit int32.
_COMMON_PADDING = 8


class BrokenRowsError(Exception):
    """The text has a misplaced quote or a row that is too long, so it is unknown where rows end."""


class QuoteScan(NamedTuple):
    """Which marks of a text are inside quotes.

    Attributes:
        is_outside: Which marks are neither quotes nor inside quotes.
        doubled: The places of the second quotes of doubled quotes.
        ends_inside: Whether the text ends inside quotes.
    """

    is_outside: Flags
    doubled: Places
    ends_inside: bool


class Fields(NamedTuple):
    """Where the fields of a text are.

    Attributes:
        starts: The byte at which each field begins, after its opening quote, `[rows, fields]`. Rows with a wrong number of
            fields are left out.
        lengths: The number of bytes of each field, without quotes around it, `[rows, fields]`.
        row_starts: The byte at which each of these rows begins, `[rows]`.
        miscounted: The bytes at which the rows with a wrong number of fields begin.
        doubled: The places of the second quotes of doubled quotes.
        stop: The byte after the last row that ends in the text.
    """

    starts: Places
    lengths: Places
    row_starts: Places
    miscounted: Places
    doubled: Places
    stop: int


def marks_in(buffer: Bytes, delimiter: int, quote: int | None) -> tuple[npt.NDArray[np.intp], Bytes]:
    """Return the places of all delimiters, newlines and quotes, and the byte at each of them."""
    is_mark = buffer == delimiter
    is_mark |= buffer == NEWLINE
    if quote is not None:
        is_mark |= buffer == quote
    places = np.flatnonzero(is_mark)
    return places, buffer.take(places)


def scan_quotes(buffer: Bytes, places: Places, kinds: Bytes, quote: int, starts_inside: bool = False) -> QuoteScan:
    """Return which marks are inside quotes.

    Args:
        buffer: The text: whole lines, each with its end.
        places: The places of all marks.
        kinds: The byte at each mark.
        quote: The quote.
        starts_inside: Whether the text begins inside quotes.

    Raises:
        BrokenRowsError: A field has a quote inside it, or text after a closing quote.
    """
    is_quote = kinds == quote
    is_inside = (np.cumsum(is_quote, dtype=np.uint8) & 1).view(np.bool_)  # The sum overflows, but its parity is right.
    if starts_inside:
        is_inside = ~is_inside
    is_opening = is_quote & is_inside
    is_closing = is_quote & ~is_inside
    is_next = np.diff(places) == 1  # Whether the next mark follows directly.
    if (is_opening[0] and places[0] != 0) or np.any(is_opening[1:] & ~is_next):
        raise BrokenRowsError
    # The last mark is a newline. A closing quote may be followed by an opening one: the two are a doubled quote.
    others = np.flatnonzero(is_closing[:-1] & ~is_next)
    if others.size:
        before_newline = (kinds.take(others + 1) == NEWLINE) & (places.take(others + 1) == places.take(others) + 2)
        if not np.all(before_newline & (buffer.take(places.take(others) + 1) == RETURN)):
            raise BrokenRowsError
    doubled = places[1:][is_opening[1:] & is_quote[:-1]]
    return QuoteScan(~(is_quote | is_inside), doubled, bool(is_inside[-1]))


def fields_in(text: bytes, delimiter: int, quote: int | None, num_fields: int, at_end: bool) -> Fields:
    """Return the positions of the fields in a text. Blank lines do not count as rows, unless there is only one column.

    Args:
        text: Whole lines, each with its end. The first one begins a row.
        delimiter: The character between fields.
        quote: The character around fields, or `None` if quotes have no special meaning.
        num_fields: The number of fields that each row should have.
        at_end: Whether the file ends with the text.

    Raises:
        BrokenRowsError: A quote is misplaced, a row is too long, or the file ends inside a row.
    """
    if len(text) > _MAX_TEXT_BYTES:
        raise BrokenRowsError  # Only a line that is too long makes a text this long.
    buffer = np.frombuffer(text, np.uint8)
    doubled = np.zeros(0, np.int32)
    if quote is not None and quote not in text:
        quote = None
    places, kinds = marks_in(buffer, delimiter, quote)
    if quote is not None:
        is_outside, doubled, _ = scan_quotes(buffer, places.astype(np.int32), kinds, quote)
        places, kinds = places[is_outside], kinds[is_outside]
    last_of_row = np.flatnonzero(kinds == NEWLINE)
    num_ends = int(last_of_row[-1]) + 1 if last_of_row.size else 0
    ends = places[:num_ends].astype(np.int32)
    stop = int(ends[-1]) + 1 if num_ends else 0
    _check_row_lengths(ends[last_of_row], len(text), at_end)

    starts = np.empty_like(ends)
    starts[:1] = 0
    np.add(ends[:-1], 1, out=starts[1:])
    if b"\r" in text:
        row_ends = ends[last_of_row]
        has_return = buffer.take(row_ends - 1, mode="clip") == RETURN
        ends[last_of_row] -= has_return & (row_ends > starts[last_of_row])
    lengths = ends
    lengths -= starts

    counts = np.diff(last_of_row, prepend=-1)
    miscounted = np.zeros(0, np.int32)
    is_right = counts == num_fields
    if not is_right.all():
        first_of_row = last_of_row - counts + 1
        is_blank = (counts == 1) & (lengths[last_of_row] == 0)
        miscounted = starts[first_of_row[~is_right & ~is_blank]]
        is_in_right_row = np.repeat(is_right, counts)
        starts, lengths = starts[is_in_right_row], lengths[is_in_right_row]
    row_starts = starts[::num_fields].copy()
    if quote is not None:
        is_quoted = buffer.take(starts, mode="clip") == quote
        is_quoted &= lengths > 0
        starts += is_quoted
        lengths -= is_quoted
        lengths -= is_quoted
    shape = -1, num_fields
    return Fields(
        starts=starts.reshape(shape),
        lengths=lengths.reshape(shape),
        row_starts=row_starts,
        miscounted=miscounted,
        doubled=doubled,
        stop=stop,
    )


def _check_row_lengths(newlines: Places, size: int, at_end: bool) -> None:
    """Raise a `BrokenRowsError` if a row is too long, or the last row of the file lacks its newline."""
    limit = csv_grammar.MAX_ROW_BYTES
    unfinished = size - (int(newlines[-1]) + 1 if newlines.size else 0)
    if unfinished and (at_end or unfinished >= limit):
        raise BrokenRowsError
    if size > limit and np.diff(newlines, prepend=-1).max(initial=0) > limit:
        raise BrokenRowsError


def rows_in_utf8(text: bytes, fields: Fields) -> Flags:
    """Return which rows are UTF-8.

    Args:
        text: The text up to the end of its last row.
        fields: Where its fields are.
    """
    are_utf8 = np.ones(fields.row_starts.size, np.bool_)
    if text.isascii():
        return are_utf8
    try:
        text.decode()
    except UnicodeDecodeError:
        not_ascii = np.flatnonzero(np.frombuffer(text, np.uint8) > 127)
        row_ends = fields.starts[:, -1] + fields.lengths[:, -1]
        rows = np.unique(np.searchsorted(row_ends, not_ascii, "right"))
        for row in rows[rows < row_ends.size].tolist():
            try:
                text[fields.row_starts[row] : row_ends[row]].decode()
            except UnicodeDecodeError:
                are_utf8[row] = False
    return are_utf8


def with_single_quotes(text: bytes, fields: Fields, quote: bytes, columns: list[int]) -> bytes:
    """Append to the text copies of the fields with doubled quotes, in which these are single quotes.

    Args:
        text: The text.
        fields: Where its fields are. The fields that are copied move to the end of the text.
        quote: The quote.
        columns: The places in rows of the columns to read. Other fields stay as they are.
    """
    starts, lengths = fields.starts.reshape(-1), fields.lengths.reshape(-1)
    escaped = np.searchsorted(starts, fields.doubled, "right") - 1
    is_inside = (escaped >= 0) & (fields.doubled < starts[escaped] + lengths[escaped]) if starts.size else escaped >= 0
    escaped = np.unique(escaped[is_inside])
    escaped = escaped[np.isin(escaped % fields.starts.shape[1], columns)]
    if not escaped.size:
        return text
    places = zip(starts[escaped].tolist(), lengths[escaped].tolist(), strict=True)
    copies = [text[start : start + length].replace(quote * 2, quote) for start, length in places]
    sizes = np.fromiter(map(len, copies), np.int32, len(copies))
    starts[escaped] = len(text) + np.cumsum(sizes) - sizes
    lengths[escaped] = sizes
    return b"".join((text, *copies))


def trim_spaces(text: bytes, buffer: Bytes, starts: Places, lengths: Places) -> None:
    """Change starts and lengths of fields so that spaces around their values are left out."""
    for is_leading in (True, False):
        padded = np.arange(starts.size)
        for _ in range(_COMMON_PADDING):
            edges = starts[padded] if is_leading else starts[padded] + lengths[padded] - 1
            padded = padded[(buffer.take(edges, mode="clip") == _SPACE) & (lengths[padded] > 0)]
            if not padded.size:
                break
            starts[padded] += is_leading
            lengths[padded] -= 1
        # A field may have millions of spaces, so the rest goes field by field.
        for field in padded.tolist():
            start, length = int(starts[field]), int(lengths[field])
            token = text[start : start + length]
            kept = len(token.lstrip(b" ") if is_leading else token.rstrip(b" "))
            starts[field] = start + length - kept if is_leading else start
            lengths[field] = kept


def fields_equal_to(value: bytes, buffer: Bytes, starts: Places, lengths: Places) -> npt.NDArray[np.intp]:
    """Return the numbers of the fields that are equal to the value."""
    fields = np.flatnonzero(lengths == len(value))
    for place, byte in enumerate(value):
        fields = fields[buffer.take(starts[fields] + place, mode="clip") == byte]
    return fields
