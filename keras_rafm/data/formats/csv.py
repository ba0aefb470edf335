"""CSV and TSV files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from keras_rafm.data.formats.base import BLOCK_BYTES, PythonFormat
from keras_rafm.data.formats.csv_grammar import CSVDialect
from keras_rafm.data.formats.csv_parser import csv_blocks
from keras_rafm.data.raw.blocks import Block
from keras_rafm.data.raw.columns import RawColumn
from keras_rafm.data.raw.errors import OnError


@dataclass(frozen=True)
class CSVFormat(CSVDialect, PythonFormat):
    r"""Text with one row per line and a delimiter between fields, plain or compressed with gzip.

    Text is UTF-8. Lines end with `\n` or `\r\n`; blank lines are ignored. An empty field is a missing value. Other marks of
    missing values, such as the `NaN` of pandas or the `\N` of Hive and MySQL, must be listed in `missing_values`.

    Args:
        delimiter: The ASCII character between fields.
        quote: The ASCII character around fields that contain delimiters, line ends or the (doubled) quote itself (RFC
            4180). With `None`, quotes have no special meaning.
        column_names: The names of all columns in the order of the fields. With `None`, the first row of each file has them.
        missing_values: Fields that stand for a missing value in any column, quoted or not. An empty field always does.
        block_bytes: The number of bytes of (uncompressed) text to parse at once.

    Raises:
        TypeError: A character, a name or a missing value is not a string.
        ValueError: A character cannot have that role, a name is empty or repeated, or a missing value is empty.
    """

    shares_text: ClassVar[bool] = True

    block_bytes: int = BLOCK_BYTES

    def blocks(self, path: str, columns: Sequence[RawColumn], on_error: OnError | None) -> Iterator[tuple[int, Block]]:
        """See `PythonFormat.blocks`."""
        return csv_blocks(path, self, columns, self.block_bytes, on_error)
