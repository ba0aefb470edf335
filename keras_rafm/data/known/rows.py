"""Lines of the authors' text files as fields, and what is wrong in them by line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from keras_rafm.data.known.sources import Source


def split_rows(source: Source, separator: str, columns: Sequence[str], encoding: str = "utf-8") -> Iterator[list[str]]:
    """Fields between separators, of lines without quoting and without a header.

    Raises:
        ValueError: A line has another number of fields than there are columns.
    """
    with source.opened() as file, io.TextIOWrapper(file, encoding, newline="\n") as text:
        for number, line in enumerate(text, 1):
            fields = line.rstrip("\r\n").split(separator)
            if len(fields) == len(columns):
                yield fields
            elif line.strip():
                raise malformed(
                    source, number, f"{len(columns)} fields ({', '.join(columns)}) with {separator!r} between", line
                )


def csv_rows(source: Source, columns: Sequence[str]) -> Iterator[list[str]]:
    """Fields of CSV with a header, which has to name the columns.

    Raises:
        ValueError: The header is another one, or a row has another number of fields than there are columns.
    """
    with source.opened() as file, io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
        reader = csv.reader(text)
        header = next(reader, [])
        if header != list(columns):
            raise malformed(source, 1, f"the header {','.join(columns)}", ",".join(header))
        for fields in reader:
            if len(fields) == len(columns):
                yield fields
            elif fields:
                raise malformed(source, reader.line_num, f"{len(columns)} fields ({', '.join(columns)})", ",".join(fields))


def malformed(source: Source, line: int, expected: str, received: str) -> ValueError:
    """An error that names file, line, what was expected and what is there."""
    return ValueError(f"{source.name}, line {line}: expected {expected}. Received: {received.rstrip()[:200]!r}")
