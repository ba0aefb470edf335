"""CSV and TSV files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from keras_rafm.data.formats.base import BLOCK_BYTES, PythonFormat
from keras_rafm.data.formats.csv_grammar import DelimitedFormat
from keras_rafm.data.formats.csv_parser import parse_delimited
from keras_rafm.data.raw.columns import Block, RawColumn
from keras_rafm.data.raw.errors import OnError


@dataclass(frozen=True)
class CSVFormat(PythonFormat):
    r"""Text with one row per line and a delimiter between fields, plain or gzip whatever the name.

    Rows are UTF-8, with lines that end with `\n` or `\r\n`; blank lines are skipped. An empty field is a missing value;
    other marks of it, such as the `NaN` of pandas or the `\N` of Hive and MySQL, are to be named.

    Args:
        delimiter: The ASCII character between fields.
        quote: The ASCII character around fields that hold delimiters, line ends or, doubled, itself (RFC 4180). With
            `None`, quotes are characters like others.
        column_names: Names of all columns in the order of the fields. With `None`, the first row of each file has them.
        missing_values: Fields that stand for no value, in all columns, quoted or not.
        block_bytes: How much (uncompressed) text is parsed at a time.

    Raises:
        TypeError: A character, a name or a missing value is not a string.
        ValueError: A character can't have that role, a name is there twice or empty, or a missing value is empty.
    """

    shares_text: ClassVar[bool] = True

    delimiter: str = ","
    quote: str | None = '"'
    column_names: tuple[str, ...] | None = None
    missing_values: tuple[str, ...] = ()
    block_bytes: int = BLOCK_BYTES

    def __post_init__(self) -> None:
        object.__setattr__(self, "column_names", self.grammar.column_names)
        object.__setattr__(self, "missing_values", self.grammar.missing_values)

    @property
    def grammar(self) -> DelimitedFormat:
        """How rows are written."""
        return DelimitedFormat(self.delimiter, self.quote, self.column_names, self.missing_values)

    def blocks(self, path: str, columns: Sequence[RawColumn], on_error: OnError | None) -> Iterator[tuple[int, Block]]:
        """As in `PythonFormat`."""
        return parse_delimited(path, self.grammar, columns, self.block_bytes, on_error)
