"""Text files of libFM and LIBSVM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from keras_rafm.checks.arguments import Task
from keras_rafm.data.formats.base import BLOCK_BYTES, PythonFormat
from keras_rafm.data.formats.libfm_grammar import LibfmFormat
from keras_rafm.data.formats.libfm_parser import parse_file
from keras_rafm.data.raw.columns import Block, ListValues, RawColumn
from keras_rafm.data.raw.errors import OnError


@dataclass(frozen=True)
class LibFMFormat(PythonFormat):
    """Text of libFM and LIBSVM, `label id:value id:value …`, plain or gzip whatever the name, as three raw columns.

    They are `ids` (lists of integers), `values` (lists of numbers, as many) and `label` (a number).

    Labels of a `Schema` for classification are -1 and 1 or 0 and 1 throughout a file, and become 0 and 1.

    Args:
        zero_based: As in `read_libfm`.
        block_bytes: How much (uncompressed) text is parsed at a time.
    """

    shares_text: ClassVar[bool] = False

    zero_based: bool = True
    block_bytes: int = BLOCK_BYTES

    def blocks(self, path: str, columns: Sequence[RawColumn], on_error: OnError | None) -> Iterator[tuple[int, Block]]:
        """As in `PythonFormat`."""
        there = {"ids": ("int64", True), "values": ("float32", True), "label": ("float32", False)}
        task: Task = "regression"  # any numbers
        for column in columns:
            if column.role == "binary_label":
                task = "classification"
            if there.get(column.name) != (column.dtype, column.is_list):
                raise ValueError(
                    f"{path}: libFM text has the columns 'ids' (lists of int64), 'values' (lists of float32) and 'label' "
                    f"(float32). Received: {column}"
                )
        for rows in parse_file(path, LibfmFormat(task, self.zero_based), self.block_bytes, on_error):
            yield (
                len(rows),
                {
                    "ids": ListValues(rows.ids.astype(np.int64), rows.lengths),
                    "values": ListValues(rows.values, rows.lengths),
                    "label": rows.labels,
                },
            )
