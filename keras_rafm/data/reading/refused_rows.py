"""The row of a file that the encoding of raw columns refuses. Errors raised inside a graph can't name it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from keras_rafm.data.formats.base import FileFormat
from keras_rafm.data.raw.columns import RawColumn
from keras_rafm.data.raw.errors import OnError
from keras_rafm.data.reading.file_batches import eager_blocks, without_report

RawBatch = Mapping[str, Any]

#: Raises a `tf.errors.InvalidArgumentError` if a batch has a row that it refuses.
Check = Callable[[RawBatch], object]


def explain_files(
    files: Iterable[str], columns: Sequence[RawColumn], reader: FileFormat, check: Check, on_error: OnError | None
) -> None:
    """Raise the error of the first row of files that the reader or `check` refuses, if there is one.

    Args:
        files: Names of the files.
        columns: The raw columns to read.
        reader: The format of the files, fitted to them.
        check: Checks a batch of raw columns.
        on_error: If not `None`, rows that the reader refuses are skipped without calling it.

    Raises:
        ValueError: A row is refused, or a file is damaged; the message names file and row, from 1.
    """
    for file in files:
        _explain_file(file, eager_blocks(file, columns, reader, without_report(on_error)), check, on_error is not None)


def _explain_file(path: str, blocks: Iterable[RawBatch], check: Check, skips_rows: bool) -> None:
    num_rows_before = 0
    for block in blocks:
        num_rows = int(next(iter(block.values())).shape[0])
        if _refusal(check, block, 0, num_rows) is not None:
            # Bisection: the first `num_legal` rows pass the check, the first `num_checked` rows do not.
            num_legal, num_checked = 0, num_rows
            while num_checked - num_legal > 1:
                middle = (num_legal + num_checked) // 2
                if _refusal(check, block, 0, middle) is None:
                    num_legal = middle
                else:
                    num_checked = middle
            # Skipped rows are not in the blocks, so they can't be counted.
            which = ", not counting skipped rows" if skips_rows else ""
            row = num_rows_before + num_legal + 1
            raise ValueError(f"{path}, row {row}{which}: {_refusal(check, block, num_legal, num_checked)}")
        num_rows_before += num_rows


def _refusal(check: Check, block: RawBatch, start: int, stop: int) -> str | None:
    """Return the message with which `check` refuses some rows of a block, or `None` if it accepts them."""
    try:
        check({name: values[start:stop] for name, values in block.items()})
    except tf.errors.InvalidArgumentError as error:
        return str(error.message)
    return None
