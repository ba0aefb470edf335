r"""Delimited text to columns by pyarrow, where its result is certain to equal that of the package's own parser.

pyarrow parses decimals three to eight times as fast as that parser. It reads unquoted strings more slowly.

pyarrow also accepts what the grammar of CSV refuses, such as `x"y`, `"x"y`, `nan`, `1e39`, `0x10`, tabs around numbers or a
bare `\r`, and it does not report the line of an error. So each text is checked before pyarrow reads it, and the columns are
checked afterwards. A text with anything unusual is left to the package's parser, which decides what is legal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_rafm.checks.optional_packages import imported
from keras_rafm.data.raw.blocks import Block, Strings, illegal_rows
from keras_rafm.data.raw.columns import MISSING_INTEGER, RawColumn

_NEWLINE, _RETURN = b"\n\r"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LONGEST_PAUSE = 16


def arrow_reader(
    *, delimiter: str, quote: str | None, missing_values: Sequence[str], num_fields: int, columns: Mapping[int, RawColumn]
) -> ArrowReader | None:
    """Return a reader for the texts of one file, or `None` if pyarrow is not installed or would not be faster.

    Args:
        delimiter: The ASCII character between fields.
        quote: The ASCII character around fields, or `None` if quotes have no special meaning.
        missing_values: Fields that stand for a missing value. An empty field always does.
        num_fields: The number of fields in a row.
        columns: The columns to read, by their places in rows.
    """
    num_strings = sum(column.dtype == "string" for column in columns.values())
    if len(columns) - num_strings <= num_strings // 2:
        return None  # Copying that many strings would take longer than pyarrow saves.
    if "\0" in (delimiter, quote):
        return None  # pyarrow refuses this character.
    try:
        imported("pyarrow.csv", "data")
    except ImportError:
        return None
    return ArrowReader(delimiter, quote, missing_values, num_fields, columns)


class ArrowReader:
    """Reads texts of whole rows by pyarrow. `arrow_reader` documents the arguments."""

    def __init__(
        self,
        delimiter: str,
        quote: str | None,
        missing_values: Sequence[str],
        num_fields: int,
        columns: Mapping[int, RawColumn],
    ) -> None:
        self._arrow, self._csv = imported("pyarrow", "data"), imported("pyarrow.csv", "data")
        self._delimiter = ord(delimiter)
        self._quote = None if quote is None else ord(quote)
        self._columns = list(columns.values())
        self._has_integers = any(column.dtype == "int64" for column in self._columns)
        self._has_missing_numbers = any(map(str.isdigit, "".join(missing_values)))
        self._pause = self._texts_to_skip = 0
        # pyarrow reads by names, and those in the file may be repeated.
        self._names = list(map(str, range(num_fields)))
        names = [self._names[place] for place in columns]
        self._parse_options = self._csv.ParseOptions(
            delimiter=delimiter,
            quote_char=False if quote is None else quote,
            double_quote=quote is not None,
            escape_char=False,
            newlines_in_values=True,
            ignore_empty_lines=num_fields > 1,  # A blank line is a missing value if there is only one column.
        )
        # The package's parser rounds numbers to float64 first, too.
        types = {"string": self._arrow.binary(), "int64": self._arrow.int64(), "float32": self._arrow.float64()}
        self._convert_options = self._csv.ConvertOptions(
            check_utf8=False,  # `_is_usual` checks the whole text.
            include_columns=names,
            column_types={name: types[column.dtype] for name, column in zip(names, self._columns, strict=True)},
            null_values=["", *missing_values],
            strings_can_be_null=bool(missing_values),
            quoted_strings_can_be_null=True,
        )

    def block(self, text: bytes) -> tuple[int, Block] | None:
        """Return the number of rows in a text and their values, or `None` if the package's parser must read the text.

        A file with one malformed row tends to have more of them. To read few texts in vain, the reader lets ever more texts
        pass after each one that pyarrow could not read.

        Args:
            text: Whole lines, each with its end. The first line begins a row, and no row is too long.
        """
        if self._texts_to_skip:
            self._texts_to_skip -= 1
            return None
        if not self._is_usual(text):
            return None
        read = self._read(text)
        self._pause = 0 if read else min(max(2 * self._pause, 1), _LONGEST_PAUSE)
        self._texts_to_skip = self._pause
        return read

    def _is_usual(self, text: bytes) -> bool:
        """Return whether pyarrow is certain to divide this text into the same fields, and to read no other integers."""
        if text.startswith(_BYTE_ORDER_MARK):
            return False  # The file's own mark is removed already. This one belongs to a field, but pyarrow would skip it.
        if b"\r" in text and text.count(b"\r") != text.count(b"\r\n"):
            return False  # pyarrow ends a row there.
        if b"\t" in text and self._delimiter != ord("\t"):
            return False  # pyarrow ignores tabs around numbers.
        if b" " in text and self._has_missing_numbers:
            return False  # pyarrow ignores spaces around numbers, but not around missing values.
        if self._has_integers and (b"x" in text or b"X" in text) and (b"0x" in text or b"0X" in text):
            return False  # pyarrow reads hexadecimal integers.
        if not text.isascii():
            try:
                text.decode()
            except UnicodeDecodeError:
                return False
        return self._quote is None or self._quote not in text or self._has_legal_quotes(text, self._quote)

    def _has_legal_quotes(self, text: bytes, quote: int) -> bool:
        """Return whether all quotes enclose whole fields or are doubled inside of them."""
        buffer = np.frombuffer(text, np.uint8)
        quotes = np.flatnonzero(buffer == quote)
        if quotes.size % 2:
            return False
        # If all is legal, quotes open and close fields in turn. Doubled quotes close a field and open it again.
        opening, closing = quotes[::2], quotes[1::2]
        before = buffer.take(opening - 1, mode="wrap")  # Before the first byte this is the last byte, a newline.
        after = buffer.take(closing + 1)
        may_open = (before == self._delimiter) | (before == _NEWLINE)
        may_close = (after == self._delimiter) | (after == _NEWLINE) | (after == _RETURN)
        if may_open.all() and may_close.all():
            return True
        are_doubled = opening[1:] == closing[:-1] + 1
        may_open[1:] |= are_doubled
        may_close[:-1] |= are_doubled
        return bool(may_open.all() and may_close.all())

    def _read(self, text: bytes) -> tuple[int, Block] | None:
        options = self._csv.ReadOptions(use_threads=False, block_size=len(text) + 1, column_names=self._names)
        try:
            table = self._csv.read_csv(self._arrow.BufferReader(text), options, self._parse_options, self._convert_options)
        except self._arrow.ArrowException:
            return None
        batches = table.to_batches()
        if len(batches) != 1 or not batches[0].num_rows:
            return None
        arrays = batches[0].columns
        strings = iter(
            _strings([array for column, array in zip(self._columns, arrays, strict=True) if column.dtype == "string"])
        )
        block: Block = {}
        for column, array in zip(self._columns, arrays, strict=True):
            values: Strings | npt.NDArray[np.int64] | npt.NDArray[np.float32] | None
            if column.dtype == "string":
                values = next(strings)
            else:
                values = _integers(array) if column.dtype == "int64" else _numbers(array)
            if values is None or illegal_rows(values, column.role).size:
                return None
            block[column.name] = values
        return batches[0].num_rows, block


def _integers(array: Any) -> npt.NDArray[np.int64] | None:
    """Return the integers of an array, or `None` if one of them is the mark of missing integers itself."""
    filled = array.fill_null(MISSING_INTEGER) if array.null_count else array
    integers: npt.NDArray[np.int64] = filled.to_numpy().copy()  # Arrays of pyarrow are read-only.
    return integers if np.count_nonzero(integers == MISSING_INTEGER) == array.null_count else None


def _numbers(array: Any) -> npt.NDArray[np.float32] | None:
    """Return the numbers of an array, or `None` if one of them is not finite as float32."""
    with np.errstate(over="ignore"):
        numbers: npt.NDArray[np.float32] = array.to_numpy(zero_copy_only=False).astype(np.float32)  # Nulls become NaN.
    return numbers if np.count_nonzero(~np.isfinite(numbers)) == array.null_count else None


def _strings(arrays: Sequence[Any]) -> list[Strings]:
    """Return the strings of binary arrays as slices of one buffer."""
    pieces: list[memoryview] = []
    places: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]] = []
    size = 0
    for array in arrays:
        _, offsets, data = array.buffers()
        ends = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1]
        first, last = int(ends[0]), int(ends[-1])
        places.append((ends[:-1] + np.int32(size - first), np.diff(ends)))
        if data is not None:
            pieces.append(memoryview(data)[first:last])
            size += last - first
    text = b"".join(pieces)
    return [Strings(text, starts, lengths) for starts, lengths in places]
