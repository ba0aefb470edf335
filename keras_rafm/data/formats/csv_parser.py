r"""A fast parser of CSV and TSV: blocks of rows to columns, by NumPy over all bytes of a block at once.

The parser only finds which rows are malformed; `csv_grammar.CSVRowGrammar` then finds out why. If a block has a misplaced
quote or a row that is too long, the grammar also finds where its rows begin and end.

If many columns are numbers and pyarrow is installed, `ArrowReader` reads the blocks in which everything is legal and usual.
The parser reads the others.

Rows end with `\n` or `\r\n`; the last row of a file may lack its end. Lines without any byte are no rows, unless there is
only one column: then its value is missing. A UTF-8 byte order mark at the start of a file is skipped.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from keras_rafm.checks.arguments import integer
from keras_rafm.data.formats import csv_grammar
from keras_rafm.data.formats.csv_fields import (
    NEWLINE,
    RETURN,
    BrokenRowsError,
    Fields,
    fields_equal_to,
    fields_in,
    rows_in_utf8,
    trim_spaces,
    with_single_quotes,
)
from keras_rafm.data.formats.csv_grammar import CSVDialect, CSVRowGrammar, columns_by_place
from keras_rafm.data.raw.arrow_text import ArrowReader, arrow_reader
from keras_rafm.data.raw.blocks import Block, Strings, Values, illegal_rows
from keras_rafm.data.raw.columns import RawColumn
from keras_rafm.data.raw.errors import MalformedRowError, OnError, refuse_empty
from keras_rafm.data.raw.lines import blocks_of_lines
from keras_rafm.data.raw.number_arrays import Flags, Places, integers_at, numbers_at

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

_MAX_BLOCK_BYTES = 2**29  # With two rows of the largest length added, places in a block still fit int32.


def csv_blocks(
    path: str,
    dialect: CSVDialect,
    columns: Sequence[RawColumn],
    block_bytes: int,
    on_error: OnError | None = None,
) -> Iterator[tuple[int, Block]]:
    """Yield the rows of a file, plain or gzip, in blocks.

    A missing string is "", a missing integer `MISSING_INTEGER`, a missing number NaN; empty fields and `missing_values` are
    missing values. Spaces around integers and numbers are ignored. The whole file must be UTF-8, including the columns that
    are not read.

    If a row has illegal quotes or is longer than 16 MiB, its end is unknown. With `on_error`, only its first line is
    skipped, and the next line begins a row.

    Args:
        path: The name of the file.
        dialect: How rows are written.
        columns: The columns to yield. Other columns are not parsed.
        block_bytes: The approximate number of bytes to parse at once. It affects where blocks end, but not their rows.
        on_error: Receives the error of each malformed row in order, before the rows around it are yielded, and of an empty
            file; these are then skipped. With `None`, the first error is raised.

    Yields:
        The number of rows, at least one, and the value of each column in each of them.

    Raises:
        FileNotFoundError: The file does not exist.
        TypeError: `block_bytes` is not an integer.
        MalformedRowError: The header is malformed, or a row is and there is no `on_error`.
        EmptyFileError: The file has no rows, and there is no `on_error`.
        ValueError: A column has lists, is missing from the file or repeated; the file is damaged gzip; or `block_bytes` is
            less than 1 or more than 512 MiB. Wrong arguments raise an error before the file is opened.
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
    if dialect.column_names is not None:
        columns_by_place(path, dialect.column_names, columns, dialect)
    return _Parser(path, dialect, tuple(columns), on_error).blocks(block_bytes)


class _Cleaned(NamedTuple):
    """The rows of a text that are not broken.

    Attributes:
        text: These rows, end to end.
        places: Where runs of rows begin in this text that are neighbours in the file as well, ascending.
        lines: The number of the line in the file with which each run begins.
        errors: The errors of the broken rows, in order.
        stop: The byte of the original text after all of these rows.
    """

    text: bytes
    places: list[int]
    lines: list[int]
    errors: list[MalformedRowError]
    stop: int


class _Parser:
    """Parses one file from its start to its end.

    Args:
        path: The name of the file.
        dialect: How rows are written.
        columns: The columns to yield.
        on_error: Receives the errors of rows, or `None` to raise the first one.
    """

    def __init__(self, path: str, dialect: CSVDialect, columns: tuple[RawColumn, ...], on_error: OnError | None) -> None:
        self._path = path
        self._dialect = dialect
        self._columns = columns
        self._on_error = on_error
        self._delimiter = ord(dialect.delimiter)
        self._quote = None if dialect.quote is None else dialect.quote.encode()
        self._missing_values = [value.encode() for value in dialect.missing_values]
        self._grammar = CSVRowGrammar(path, dialect, (), {})
        self._arrow_reader: ArrowReader | None = None
        if dialect.column_names is not None:
            self._set_names(dialect.column_names)
        self._line = 1
        self._is_empty = True

    def blocks(self, block_bytes: int) -> Iterator[tuple[int, Block]]:
        """See `csv_blocks`."""
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
            # What remains is a row with an open quote. It waits until there is another quote and the text has doubled:
            # parsing it again with each of many blocks would take quadratic time.
            enough = 2 * num_waiting
            may_close = not num_waiting
        if self._is_empty:
            refuse_empty(self._path, self._on_error)

    def _blocks_of_lines(self, block_bytes: int) -> Iterator[bytes]:
        """Yield the file's blocks of lines without its byte order mark."""
        blocks = blocks_of_lines(self._path, block_bytes)
        for first in blocks:
            if first == BYTE_ORDER_MARK + b"\n":
                # The file may end after the mark; then this newline is not in the file, and there is no blank line.
                self._line += 1
            else:
                yield first.removeprefix(BYTE_ORDER_MARK)
            break
        yield from blocks

    def _set_names(self, names: tuple[str, ...]) -> None:
        columns = columns_by_place(self._path, names, self._columns, self._dialect)
        self._grammar = CSVRowGrammar(self._path, self._dialect, names, columns)
        self._arrow_reader = arrow_reader(
            delimiter=self._dialect.delimiter,
            quote=self._dialect.quote,
            missing_values=self._dialect.missing_values,
            num_fields=len(names),
            columns=columns,
        )

    def _read_header(self, text: bytes, at_end: bool) -> int:
        """Read the names of columns, and return the byte after the header and the blank lines before it.

        If the header does not end in the text, the names stay unknown, and the byte is the one after the blank lines.
        """
        start = 0
        while start < len(text):
            row = self._grammar.row_at(text, start, self._line, at_end)
            if row is None:
                break
            if row.fields != [b""] or text[start] not in (NEWLINE, RETURN):
                try:
                    names = tuple(field.decode() for field in row.fields)
                except UnicodeDecodeError as error:
                    raise self._grammar.error_of_field(self._line, None, "UTF-8 in the header", error.object) from None
                self._set_names(names)
            self._line += text.count(b"\n", start, row.stop)
            start = row.stop
            if self._grammar.names:
                break
        return start

    def _parsed(self, text: bytes, at_end: bool) -> tuple[int, Block, int]:
        """Return the number of good rows in the text, their values, and the byte after the last row that ends in it."""
        header_stop = 0
        if not self._grammar.names:
            header_stop = self._read_header(text, at_end)
            text = text[header_stop:]
            if not text or not self._grammar.names:
                return 0, {}, header_stop
        if self._arrow_reader is not None and len(text) <= csv_grammar.MAX_ROW_BYTES:
            read = self._arrow_reader.block(text)
            if read is not None:
                self._is_empty = False
                self._line += text.count(b"\n")
                return *read, header_stop + len(text)
        try:
            fields = self._fields(text, at_end)
            cleaned = _Cleaned(text, places=[0], lines=[self._line], errors=[], stop=fields.stop)
        except BrokenRowsError:
            cleaned = self._cleaned(text, at_end)
            fields = self._fields(cleaned.text, at_end=True)

        is_good = rows_in_utf8(cleaned.text[: fields.stop], fields)
        values = self._values(cleaned.text, fields, is_good)
        num_rows = int(np.count_nonzero(is_good))
        block: Block = {}
        for name, column_values in values.items():
            block[name] = column_values if num_rows == is_good.size else _selected(column_values, is_good)
        malformed = np.concatenate([fields.miscounted, fields.row_starts[~is_good]])
        self._is_empty &= not (num_rows or malformed.size or cleaned.errors)
        self._report(cleaned, np.sort(malformed))
        self._line += text.count(b"\n", 0, cleaned.stop)
        return num_rows, block, header_stop + cleaned.stop

    def _fields(self, text: bytes, at_end: bool) -> Fields:
        quote = None if self._quote is None else ord(self._quote)
        return fields_in(text, self._delimiter, quote, num_fields=len(self._grammar.names), at_end=at_end)

    def _report(self, cleaned: _Cleaned, malformed: Places) -> None:
        """Raise the first error, or report all errors to `on_error`.

        Args:
            cleaned: The text and the errors of its broken rows.
            malformed: Where other malformed rows begin in it, ascending.
        """
        errors = cleaned.errors
        if malformed.size:
            if self._on_error is None:
                malformed = malformed[:1]
            newlines = np.flatnonzero(np.frombuffer(cleaned.text, np.uint8) == NEWLINE)
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
        """Return the text without the first lines of its broken rows."""
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
        return _Cleaned(b"".join(runs), places, lines, errors, stop=start)

    def _values(self, text: bytes, fields: Fields, is_good: Flags) -> dict[str, Values]:
        """Return the values of the columns, and set `is_good` to false for rows with an illegal value."""
        columns = self._grammar.columns
        if fields.doubled.size:
            text = with_single_quotes(text, fields, self._quote or b"", list(columns))
        buffer = np.frombuffer(text, np.uint8)
        block: dict[str, Values] = {}
        for place, column in columns.items():
            starts, lengths = fields.starts[:, place].copy(), fields.lengths[:, place].copy()
            if column.dtype != "string" and b" " in text:
                trim_spaces(text, buffer, starts, lengths)
            for missing_value in self._missing_values:
                lengths[fields_equal_to(missing_value, buffer, starts, lengths)] = 0
            if column.dtype == "string":
                block[column.name] = Strings(text, starts, lengths)
            else:
                parse = integers_at if column.dtype == "int64" else numbers_at
                block[column.name], is_number = parse(text, buffer, starts, lengths)
                is_good &= is_number
            is_good[illegal_rows(block[column.name], column.role)] = False
        return block


def _selected(values: Values, is_good: Flags) -> Values:
    if isinstance(values, Strings):
        return Strings(values.text, values.starts[is_good], values.lengths[is_good])
    return values[is_good]
