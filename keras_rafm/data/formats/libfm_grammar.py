"""The grammar of libFM text: what a line must look like, and an error for every way to break the rules.

The grammar reads line by line, which is too slow for whole files. `libfm_parser` reads files fast, and asks the grammar
about blocks that have a malformed line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from keras_rafm.checks.arguments import Task, check_task, integer
from keras_rafm.data.raw.errors import MalformedRowError, shown_bytes
from keras_rafm.data.raw.numbers import parsed_number

MAX_ID: Final = 2**63 - 1
COMMENT: Final = re.compile(rb"#[^\n]*")

_TOKEN = re.compile(rb"[^ \t\r]+")


@dataclass(frozen=True)
class LibFMGrammar:
    """Which lines of libFM text are legal.

    Args:
        task: Which labels are legal: with `"classification"`, 1 and either 0 or -1; with `"regression"`, finite numbers.
        zero_based: Whether ids in the file start at 0 or at 1.
        num_fields: The largest number of occurrences in a line, or `None` for no limit.
        num_features: The number of features, or `None` for no limit.

    Raises:
        TypeError: A number is not an integer.
        ValueError: `task` is unknown, or a number is less than 1.
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
        """The lowest legal id in the file."""
        return 0 if self.zero_based else 1

    @property
    def last_id(self) -> int:
        """The highest legal id in the file."""
        return MAX_ID if self.num_features is None else min(MAX_ID, self.num_features - 1 + self.first_id)


class _MalformedLineError(ValueError):
    """A line that is not legal."""


def first_error(
    path: str, first_line: int, text: bytes, grammar: LibFMGrammar, negative_label: float | None
) -> MalformedRowError:
    """Return the error of the first malformed line of a block that has one.

    Args:
        path: The name of the file, for the message.
        first_line: The number of the block's first line in the file, from 1.
        text: The block.
        grammar: Which lines are legal.
        negative_label: -1 or 0 if an earlier block of the file has this label, else `None`.
    """
    for number, line in enumerate(COMMENT.sub(b"", text).split(b"\n"), start=first_line):
        tokens = _TOKEN.findall(line)
        try:
            if tokens and grammar.task == "classification":
                negative_label = _checked_class(tokens[0], negative_label)
            elif tokens and parsed_number(tokens[0]) is None:
                raise _malformed("a finite number as label", tokens[0])
            for field, token in enumerate(tokens[1:]):
                _check_occurrence(token, field, grammar)
        except _MalformedLineError as error:
            return MalformedRowError(path, number, None, str(error))
    raise AssertionError(f"{path}: no malformed line from line {first_line} on, although parsing failed")


def parsed_id(token: bytes) -> int | None:
    """Return the id, or `None` if the token has other characters than digits or is above `MAX_ID`."""
    if not token.isdigit() or len(token.lstrip(b"0")) > len(str(MAX_ID)):
        return None
    number = int(token.lstrip(b"0") or b"0")
    return number if number <= MAX_ID else None


def _checked_class(token: bytes, negative_label: float | None) -> float | None:
    """Return the file's label of the negative class, if it is known after this label."""
    label = parsed_number(token)
    if label not in (-1, 0, 1):
        raise _malformed("one of the labels -1, 0 and 1", token)
    if label == 1:
        return negative_label
    if negative_label not in (None, label):
        raise _malformed(f"the label {negative_label:.0f} or 1, as on earlier lines (-1 and 0 are ambiguous)", token)
    return label


def _check_occurrence(token: bytes, field: int, grammar: LibFMGrammar) -> None:
    if grammar.num_fields is not None and field >= grammar.num_fields:
        raise _malformed(f"at most {grammar.num_fields} `id:value` pairs (num_fields)", token)
    id_, colon, value = token.partition(b":")
    if not colon:
        raise _malformed("`id:value`", token)
    number = parsed_id(id_)
    if number is None or not grammar.first_id <= number <= grammar.last_id:
        raise _malformed(f"an integer id from {grammar.first_id} to {grammar.last_id}", token)
    if parsed_number(value) is None:
        raise _malformed("a finite float32 value after the colon", token)


def _malformed(expected: str, token: bytes) -> _MalformedLineError:
    return _MalformedLineError(f"expected {expected}, received {shown_bytes(token)}")
