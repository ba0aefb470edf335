"""Fields of the lines of the authors' text files, with errors that name the line."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from keras_rafm.data.known.sources import Source


def split_rows(source: Source, separator: str, columns: Sequence[str], encoding: str = "utf-8") -> Iterator[list[str]]:
    """Yield the fields of each line of a file without quotes and without a header. Blank lines are skipped.

    Args:
        source: The file.
        separator: The text between fields.
        columns: The names of the fields.
        encoding: The encoding of the file.

    Raises:
        ValueError: A line does not have one field per column.
    """
    with source.opened() as file, io.TextIOWrapper(file, encoding, newline="\n") as text:
        for number, line in enumerate(text, 1):
            fields = line.rstrip("\r\n").split(separator)
            if len(fields) == len(columns):
                yield fields
            elif line.strip():
                expected = f"{len(columns)} fields ({', '.join(columns)}) separated by {separator!r}"
                raise malformed(source, number, expected, line)


def csv_rows(source: Source, columns: Sequence[str]) -> Iterator[list[str]]:
    """Yield the fields of each row of a CSV file whose header consists of the given columns. Blank rows are skipped.

    Raises:
        ValueError: The header differs, or a row does not have one field per column.
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
    """Return an error that names file, line, what was expected and what was received."""
    return ValueError(f"{source.name}, line {line}: expected {expected}, received {received.rstrip()[:200]!r}")
