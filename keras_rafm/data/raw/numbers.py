"""The grammar of integers and numbers in text, which every reader of text shares."""

from __future__ import annotations

import math
import re
from typing import Final

import numpy as np

#: A regular expression for Python and for RE2 (TensorFlow, DuckDB), which must match the whole text of a number.
NUMBER_PATTERN: Final = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
#: The same for integers.
INTEGER_PATTERN: Final = r"[+-]?[0-9]+"

MAX_INTEGER: Final = 2**63 - 1

_NUMBER = re.compile(NUMBER_PATTERN.encode())
_INTEGER = re.compile(INTEGER_PATTERN.encode())


def is_integer(text: bytes) -> bool:
    """Return whether the text is an integer of any size."""
    return _INTEGER.fullmatch(text) is not None


def is_number(text: bytes) -> bool:
    """Return whether the text is a decimal number of any size."""
    return _NUMBER.fullmatch(text) is not None


def parsed_integer(text: bytes) -> int | None:
    """Return the integer, or `None` if the text is not an integer from -`MAX_INTEGER` to `MAX_INTEGER`."""
    if not is_integer(text):
        return None
    # Python refuses to convert thousands of digits, so long texts are recognised by their length.
    digits = text.lstrip(b"+-").lstrip(b"0") or b"0"
    if len(digits) > len(str(MAX_INTEGER)):
        return None
    number = int(digits)
    if number > MAX_INTEGER:
        return None
    return -number if text.startswith(b"-") else number


def parsed_number(text: bytes) -> float | None:
    """Return the number, or `None` if the text is not a number that is finite as float32."""
    if not is_number(text):
        return None
    number = float(text)
    with np.errstate(over="ignore"):
        return number if math.isfinite(np.float32(number)) else None
