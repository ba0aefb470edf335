"""Text files of libFM and LIBSVM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from keras_rafm.checks.arguments import Task
from keras_rafm.data.formats.base import BLOCK_BYTES, PythonFormat
from keras_rafm.data.formats.libfm_grammar import LibFMGrammar
from keras_rafm.data.formats.libfm_parser import parse_file
from keras_rafm.data.raw.blocks import Block, ListValues
from keras_rafm.data.raw.columns import RawColumn
from keras_rafm.data.raw.errors import OnError

#: The dtypes of the columns of every file, and whether they have lists.
_COLUMNS = {"ids": ("int64", True), "values": ("float32", True), "label": ("float32", False)}


@dataclass(frozen=True)
class LibFMFormat(PythonFormat):
    """Text of libFM and LIBSVM, `label id:value id:value …`.

    The text may be plain or compressed with gzip, regardless of the file name. It has three raw columns: `ids` (lists of
    integers), `values` (lists of numbers, one per id) and `label` (a number).

    If the `Schema` declares a classification task, each file must use either the labels -1 and 1 or the labels 0 and 1. The
    label -1 is read as 0.

    Args:
        zero_based: Whether ids start at 0 in the files. If false, they start at 1 and are reduced by 1.
        block_bytes: The number of bytes of (uncompressed) text to parse at once.
    """

    shares_text: ClassVar[bool] = False

    zero_based: bool = True
    block_bytes: int = BLOCK_BYTES

    def blocks(self, path: str, columns: Sequence[RawColumn], on_error: OnError | None) -> Iterator[tuple[int, Block]]:
        """See `PythonFormat.blocks`."""
        task: Task = "regression"  # which allows any numbers
        for column in columns:
            if column.role == "binary_label":
                task = "classification"
            if _COLUMNS.get(column.name) != (column.dtype, column.is_list):
                raise ValueError(
                    f"{path}: libFM text has the columns 'ids' (lists of int64), 'values' (lists of float32) and 'label' "
                    f"(float32). Received: {column}"
                )
        for rows in parse_file(path, LibFMGrammar(task, self.zero_based), self.block_bytes, on_error):
            block: Block = {
                "ids": ListValues(rows.ids.astype(np.int64), rows.lengths),
                "values": ListValues(rows.values, rows.lengths),
                "label": rows.labels,
            }
            yield len(rows), block
