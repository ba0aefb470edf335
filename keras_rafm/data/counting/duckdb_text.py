"""Checks of text files that DuckDB does not make: checksums of gzip, UTF-8, quotes, and the number of fields."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from keras_rafm.data.counting.errors import DuckDBCountError
from keras_rafm.data.formats.csv_fields import NEWLINE, RETURN, BrokenRowsError, marks_in, scan_quotes
from keras_rafm.data.formats.csv_grammar import CSVDialect, CSVRowGrammar
from keras_rafm.data.formats.csv_parser import BYTE_ORDER_MARK
from keras_rafm.data.raw.lines import blocks_of_lines, starts_gzip

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class TextSummary:
    """What is known about a text file after reading it once.

    Args:
        names: The names of its columns.
        num_rows: The number of rows, not counting the header.
        has_quoted_newlines: Whether a row spans several lines.
        is_gzip: Whether the file is compressed.
    """

    names: tuple[str, ...]
    num_rows: int
    has_quoted_newlines: bool
    is_gzip: bool


def check_text(path: str, dialect: CSVDialect) -> TextSummary:
    """Check a file for everything that DuckDB does not check.

    Args:
        path: The name of the file.
        dialect: How rows are written.

    Raises:
        DuckDBCountError: The file is malformed or damaged, or DuckDB would read it differently.
    """
    with open(path, "rb") as file:
        is_gzip = starts_gzip(file.read(2))
    names, lines = dialect.column_names or (), None
    try:
        for block in blocks_of_lines(path, _BLOCK_BYTES):
            if lines is None:
                block = block.removeprefix(BYTE_ORDER_MARK)
                names = names or _header(path, dialect, block)
                lines = _LineCounter(path, dialect)
            lines.add(block)
    except UnicodeDecodeError as error:
        raise DuckDBCountError(f"{path}: expected UTF-8 ({error})") from error
    except DuckDBCountError:
        raise
    except ValueError as error:
        raise DuckDBCountError(str(error)) from error
    if lines is None:
        raise DuckDBCountError(f"{path}: expected at least one row, found none")
    num_rows = lines.num_rows(len(names)) - (dialect.column_names is None)
    return TextSummary(names, num_rows, has_quoted_newlines=lines.has_quoted_newlines, is_gzip=is_gzip)


def _header(path: str, dialect: CSVDialect, text: bytes) -> tuple[str, ...]:
    row = CSVRowGrammar(path, dialect, (), {}).row_at(text, 0, 1, at_end=len(text) < _BLOCK_BYTES // 2)
    if row is None or row.fields == [b""] or b"\n" in text[: row.stop - 1]:
        raise DuckDBCountError(f"{path}: DuckDB does not read a header that spans several lines or follows a blank line")
    return tuple(field.decode() for field in row.fields)


class _LineCounter:
    """Checks the blocks of a text file, and counts its rows.

    Args:
        path: The name of the file.
        dialect: How rows are written.
    """

    def __init__(self, path: str, dialect: CSVDialect) -> None:
        self._path = path
        self._delimiter = dialect.delimiter.encode()
        self._quote = None if dialect.quote is None else dialect.quote.encode()
        self._has_header = dialect.column_names is None
        self._num_lines = self._num_blank = self._num_delimiters = 0
        self._is_inside = False
        self.has_quoted_newlines = False

    def num_rows(self, num_fields: int) -> int:
        """Return the number of all rows, including the header.

        DuckDB detects rows with too few fields, but ignores an extra delimiter at the end of a row. So the number of all
        delimiters is checked here.

        Raises:
            DuckDBCountError: A quote is not closed, a row has an extra delimiter, or there are no rows.
        """
        if self._is_inside:
            raise DuckDBCountError(f"{self._path}: expected every quote to be closed")
        num_rows = self._num_lines - (self._num_blank if num_fields > 1 else 0)
        if num_rows <= self._has_header:
            raise DuckDBCountError(f"{self._path}: expected at least one row, found none")
        if self._num_delimiters != num_rows * (num_fields - 1):
            raise DuckDBCountError(f"{self._path}: expected {num_fields} fields in each row")
        return num_rows

    def add(self, block: bytes) -> None:
        r"""Check whole lines, each with its `\n`.

        Raises:
            ValueError: The lines are malformed, or DuckDB would read them differently.
        """
        if not block.isascii():
            block.decode()
        if b"\r" in block and block.count(b"\r") != block.count(b"\r\n"):
            raise DuckDBCountError(f"{self._path}: DuckDB takes a carriage return for the end of a row")
        if self._is_inside or (self._quote is not None and self._quote in block):
            self._add_quoted(block)
            return
        self._num_lines += block.count(b"\n")
        self._num_delimiters += block.count(self._delimiter)
        if block.startswith((b"\n", b"\r\n")) or b"\n\n" in block or b"\n\r\n" in block:
            buffer = np.frombuffer(block, np.uint8)
            self._num_blank += _num_blank(buffer, np.flatnonzero(buffer == NEWLINE))

    def _add_quoted(self, block: bytes) -> None:
        assert self._quote is not None
        buffer = np.frombuffer(block, np.uint8)
        quote = ord(self._quote)
        places, kinds = marks_in(buffer, ord(self._delimiter), quote)
        try:
            scan = scan_quotes(buffer, places.astype(np.int32), kinds, quote, starts_inside=self._is_inside)
        except BrokenRowsError:
            raise DuckDBCountError(f"{self._path}: expected fields that are enclosed in quotes or contain none") from None
        is_newline = kinds == NEWLINE
        is_row_end = is_newline & scan.is_outside
        num_row_ends = int(np.count_nonzero(is_row_end))
        self._num_lines += num_row_ends
        self._num_delimiters += int(np.count_nonzero(scan.is_outside)) - num_row_ends
        self.has_quoted_newlines |= num_row_ends < int(np.count_nonzero(is_newline))
        self._num_blank += _num_blank(buffer, places[is_row_end])
        self._is_inside = scan.ends_inside


def _num_blank(buffer: npt.NDArray[np.uint8], ends: npt.NDArray[np.intp]) -> int:
    """Return the number of rows without any byte but their ends.

    Args:
        buffer: Some rows; the first one may have begun earlier.
        ends: The places of the newlines at their ends.
    """
    starts = np.concatenate([np.zeros(1, ends.dtype), ends[:-1] + 1])[: ends.size]
    lengths = ends - starts
    return int(np.count_nonzero((lengths == 0) | ((lengths == 1) & (buffer[starts] == RETURN))))
