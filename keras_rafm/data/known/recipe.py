"""What has to be known of a dataset to make it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from keras_rafm.data.formats.base import FileFormat
from keras_rafm.data.known.sources import Layout, Source
from keras_rafm.data.known.splits import SplitWriter
from keras_rafm.data.schema import Schema


@dataclass(frozen=True)
class Download:
    """The archive that the authors publish.

    Attributes:
        url: Its address.
        md5: Its checksum, as published beside it.
    """

    url: str
    md5: str


@dataclass(frozen=True)
class Recipe:
    """How a dataset becomes files of raw columns.

    Attributes:
        layout: What the authors distribute.
        description: What a row is, in a line.
        citation: What the authors ask to cite.
        licence: What they allow.
        page: Where a person gets it.
        source: `Download`, or why it can't be downloaded by a program.
        file_format: Of the files made.
        suffix: What their names end with.
        write: Makes them from the sources by the authors' names; the last argument is the seed of the split.
        schema: Given `min_count`.
        min_count: The default; `None`: the ids are the authors', no value is left out.
        draws_split: Whether the split is drawn.
        header: The first line of each file.
        version: Is raised when other files are made from the same sources.
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
        """What a person has to do, in words."""
        return (
            f"Get it at {self.page}, put {self.layout.expected} in a folder, and call "
            f"known_dataset({self.name!r}, path='that folder'). Licence: {self.licence}"
        )
