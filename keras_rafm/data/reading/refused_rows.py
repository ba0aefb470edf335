"""Which row of a file it is that the encoding of raw columns refuses: inside a graph nobody knows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import tensorflow as tf

RawBatch = Mapping[str, Any]


def explain_rows(
    path: str, blocks: Iterable[RawBatch], check: Callable[[RawBatch], object], some_are_left_out: bool
) -> None:
    """Raise the error of the first row that is refused, if one is.

    Args:
        path: Name of the file.
        blocks: Its rows, as eager tensors by the names of columns.
        check: Raises a `tf.errors.InvalidArgumentError` of rows among which there is one.
        some_are_left_out: Whether the file may have more rows: they are not numbered.

    Raises:
        ValueError: A row is refused; the message names file and row, from 1.
    """
    first = 1
    for block in blocks:
        number = int(next(iter(block.values())).shape[0])
        if _refusal(check, block, 0, number) is not None:
            legal, refused = 0, number  # so many first rows are legal, among so many is one that is not
            while refused - legal > 1:
                middle = (legal + refused) // 2
                if _refusal(check, block, 0, middle) is None:
                    legal = middle
                else:
                    refused = middle
            which = " of those that are not left out" if some_are_left_out else ""
            raise ValueError(f"{path}, row {first + legal}{which}: {_refusal(check, block, legal, refused)}")
        first += number


def _refusal(check: Callable[[RawBatch], object], block: RawBatch, start: int, stop: int) -> str | None:
    try:
        check({name: values[start:stop] for name, values in block.items()})
    except tf.errors.InvalidArgumentError as error:
        return str(error.message)
    return None
