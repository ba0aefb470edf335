"""`Recipe`: how the files of a known dataset are written from those of its authors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from keras_rafm.data.formats.base import FileFormat
from keras_rafm.data.known.sources import Layout, Source
from keras_rafm.data.known.splits import SplitWriter
from keras_rafm.data.schema import Schema


@dataclass(frozen=True)
class Download:
    """An archive that the authors publish for download.

    Attributes:
        url: The address of the archive.
        md5: The checksum that the authors publish.
    """

    url: str
    md5: str


@dataclass(frozen=True)
class Recipe:
    """How to write the files of a dataset, and the facts to show about it.

    Attributes:
        layout: The files that the authors distribute.
        description: The meaning and number of the rows, in one line.
        citation: The publication that the authors ask to cite.
        licence: The authors' terms of use.
        page: The web page where a person can get the files.
        source: The download, or the reason why a program can't download the files.
        file_format: The format of the written files.
        suffix: The end of their names.
        write: Writes the files from the authors' files (by their names). The last argument is the seed of the split.
        schema: Makes the schema for a `min_count`.
        min_count: The default `min_count`; `None` if it does not apply because the ids are the authors'.
        draws_split: Whether the split is random.
        header: The first line of each written file.
        version: A number to increase when different files are written from the same files of the authors.
    """

    layout: Layout
    description: str
    citation: str
    licence: str
    page: str
    source: Download | str
    file_format: FileFormat
    suffix: str
    write: Callable[[SplitWriter, Mapping[str, Source], int], None]
    schema: Callable[[int], Schema]
    min_count: int | None = 1
    draws_split: bool = True
    header: bytes = b""
    version: int = field(default=1, kw_only=True)

    @property
    def name(self) -> str:
        """The name of the dataset."""
        return self.layout.dataset

    @property
    def how_to_get(self) -> str:
        """Instructions for a person who needs the files, for messages."""
        return (
            f"Get it at {self.page}, put {self.layout.expected} in a folder, and call "
            f"known_dataset({self.name!r}, path='that folder'). Licence: {self.licence}"
        )
