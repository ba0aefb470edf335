"""What a libFM line must look like, and what is wrong with one that does not.

This is the grammar, line by line, with an error for every way to break it. It is too slow to read files with.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

import numpy as np

from keras_rafm.checks.arguments import Task, check_task, integer
from keras_rafm.data.raw.errors import MalformedRowError

MAX_ID: Final = 2**63 - 1
COMMENT: Final = re.compile(rb"#[^\n]*")

_TOKEN = re.compile(rb"[^ \t\r]+")
_NUMBER = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_MAX_SHOWN = 60


@dataclass(frozen=True)
class LibfmFormat:
    """Which libFM lines are legal beyond the grammar.

    Args:
        task: `"classification"` or `"regression"`: which labels.
        zero_based: Whether ids in the file start at 0 or at 1.
        num_fields: The most occurrences a line may have, or `None` for no limit.
        num_features: Number of features, or `None` for no limit.

    Raises:
        TypeError: A number is not an integer.
        ValueError: `task` is unknown or a number is less than 1.
    """

    task: Task = "classification"
    zero_based: bool = True
    num_fields: int | None = None
    num_features: int | None = None

    def __post_init__(self) -> None:
        check_task(self.task)
        if self.num_fields is not None:
            integer(self.num_fields, "num_fields", at_least=1)
        if self.num_features is not None:
            integer(self.num_features, "num_features", at_least=1)

    @property
    def first_id(self) -> int:
        """The lowest id that the file may hold."""
        return 0 if self.zero_based else 1

    @property
    def last_id(self) -> int:
        """The highest id that the file may hold."""
        return MAX_ID if self.num_features is None else min(MAX_ID, self.num_features - 1 + self.first_id)


class MalformedLineError(ValueError):
    """A line that is not legal."""


def first_error(
    path: str, first_line: int, text: bytes, file_format: LibfmFormat, negative_label: float | None
) -> MalformedRowError:
    """The error of the first malformed line of a block that has one.

    Args:
        path: Name of the file, for the message.
        first_line: Number of the block's first line in the file, from 1.
        text: The block.
        file_format: What is legal.
        negative_label: -1 or 0 where an earlier block of the file had such a label, else `None`.
    """
    for number, line in enumerate(COMMENT.sub(b"", text).split(b"\n"), start=first_line):
        tokens = _TOKEN.findall(line)
        try:
            if tokens and file_format.task == "classification":
                negative_label = _checked_class(tokens[0], negative_label)
            elif tokens and _number(tokens[0]) is None:
                raise _malformed("a finite number as label", tokens[0])
            for field, token in enumerate(tokens[1:]):
                _check_occurrence(token, field, file_format)
        except MalformedLineError as error:
            return MalformedRowError(path, number, None, str(error))
    raise AssertionError(f"{path}: no malformed line from line {first_line} on, although parsing failed")


def parsed_id(token: bytes) -> int | None:
    """The id, or `None` for what is not made of digits or is above `MAX_ID`."""
    if not token.isdigit() or len(token.lstrip(b"0")) > len(str(MAX_ID)):
        return None
    number = int(token.lstrip(b"0") or b"0")
    return number if number <= MAX_ID else None


def _checked_class(token: bytes, negative_label: float | None) -> float | None:
    """The file's label of the negative class as far as known after this one."""
    label = _number(token)
    if label not in (-1, 0, 1):
        raise _malformed("one of the labels -1, 0 and 1", token)
    if label == 1:
        return negative_label
    if negative_label not in (None, label):
        raise _malformed(f"the label {negative_label:.0f} or 1, as on earlier lines (-1 and 0 are ambiguous)", token)
    return label


def _check_occurrence(token: bytes, field: int, file_format: LibfmFormat) -> None:
    if file_format.num_fields is not None and field >= file_format.num_fields:
        raise _malformed(f"at most {file_format.num_fields} `id:value` pairs (num_fields)", token)
    id_, colon, value = token.partition(b":")
    if not colon:
        raise _malformed("`id:value`", token)
    number = parsed_id(id_)
    if number is None or not file_format.first_id <= number <= file_format.last_id:
        raise _malformed(f"an integer id from {file_format.first_id} to {file_format.last_id}", token)
    if _number(value) is None:
        raise _malformed("a finite float32 value after the colon", token)


def _number(token: bytes) -> float | None:
    """The number, or `None` for what is no number or not finite as float32."""
    if not _NUMBER.fullmatch(token):
        return None
    number = float(token)
    with np.errstate(over="ignore"):
        return number if math.isfinite(np.float32(number)) else None


def _malformed(expected: str, token: bytes) -> MalformedLineError:
    shown = token.decode("utf-8", "backslashreplace")
    if len(shown) > _MAX_SHOWN:
        shown = shown[:_MAX_SHOWN] + "…"
    printable = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)
    return MalformedLineError(f"expected {expected}, received '{printable}'")
