"""Parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from keras_rafm.data.formats.base import PythonFormat
from keras_rafm.data.formats.parquet_blocks import parquet_blocks
from keras_rafm.data.raw.columns import Block, RawColumn
from keras_rafm.data.raw.errors import OnError


@dataclass(frozen=True)
class ParquetFormat(PythonFormat):
    """Parquet files. A null is a missing value. Needs pyarrow (the extra `data`).

    A column of strings may also be stored as integers, one of integers as booleans, floats or decimals that are whole, and
    one of numbers as any of these.
    """

    shares_text: ClassVar[bool] = False

    def blocks(self, path: str, columns: Sequence[RawColumn], on_error: OnError | None) -> Iterator[tuple[int, Block]]:
        """As in `PythonFormat`; a damaged file raises, with `on_error` too."""
        return parquet_blocks(path, columns, on_error)
