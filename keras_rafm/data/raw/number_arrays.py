"""Integers and numbers at many places of a text -> NumPy arrays, by operations on all of them at once.

What is legal is defined by `numbers.py`, which also parses the rare tokens that the fast path does not handle.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from keras_rafm.data.raw.columns import MISSING_INTEGER
from keras_rafm.data.raw.numbers import parsed_integer, parsed_number

Bytes = npt.NDArray[np.uint8]
Places = npt.NDArray[np.int32]
Flags = npt.NDArray[np.bool_]

_PLUS, _MINUS, _POINT, _ZERO = b"+-.0"
_SAFE_DIGITS = 18  # Every integer of this many digits is below 2**63.
_EXACT_DIGITS = 15  # Every integer of this many digits is exact as float64, and so are powers of ten up to 10**22.
_POWERS_OF_TEN = 10.0 ** np.arange(_EXACT_DIGITS + 1)
_NUMBER_BYTES = b"0123456789+-.eE"


def integers_at(text: bytes, buffer: Bytes, starts: Places, lengths: Places) -> tuple[npt.NDArray[np.int64], Flags]:
    """Return the integers at places of a text.

    Args:
        text: The text.
        buffer: The same bytes as an array.
        starts: The byte at which each token begins, int32 `[n]`.
        lengths: The number of bytes of each token, int32 `[n]`; an empty token is a missing value.

    Returns:
        The integers, int64 `[n]` (`MISSING_INTEGER` for a missing value), and which tokens are legal.
    """
    is_missing = lengths == 0
    is_negative, first_digits, num_digits = _without_signs(buffer, starts, lengths)
    integers, is_legal = _decimals(buffer, first_digits, num_digits, None)
    np.negative(integers, out=integers, where=is_negative)
    for token in np.flatnonzero(num_digits > _SAFE_DIGITS).tolist():
        integer = parsed_integer(text[starts[token] : starts[token] + lengths[token]])
        is_legal[token] = integer is not None
        integers[token] = integer or 0
    integers[is_missing] = MISSING_INTEGER
    return integers, is_legal | is_missing


def numbers_at(text: bytes, buffer: Bytes, starts: Places, lengths: Places) -> tuple[npt.NDArray[np.float32], Flags]:
    """Return the numbers at places of a text.

    Args:
        text: As in `integers_at`.
        buffer: As in `integers_at`.
        starts: As in `integers_at`.
        lengths: As in `integers_at`.

    Returns:
        The numbers, float32 `[n]` (NaN for a missing value), and which tokens are legal.
    """
    is_missing = lengths == 0
    is_negative, first_digits, num_digits = _without_signs(buffer, starts, lengths)
    num_before: Places | None = None
    points = np.flatnonzero(buffer == _POINT).astype(np.int32)
    if points.size:
        first_point = points.take(np.searchsorted(points, first_digits), mode="clip") - first_digits
        has_point = (first_point >= 0) & (first_point < num_digits)
        if has_point.any():
            num_before = np.where(has_point, first_point, num_digits)
            num_digits -= has_point
    mantissas, is_plain = _decimals(buffer, first_digits, num_digits, num_before)
    is_plain &= num_digits <= _EXACT_DIGITS
    numbers = mantissas.astype(np.float64)
    if num_before is not None:
        # Mantissa and power of ten are exact, so their quotient is the float64 nearest to the decimal.
        numbers /= _POWERS_OF_TEN.take(num_digits - num_before, mode="clip")
    np.negative(numbers, out=numbers, where=is_negative)
    is_legal = is_plain | is_missing
    others = np.flatnonzero(~is_legal)
    if others.size:
        places = zip(starts[others].tolist(), lengths[others].tolist(), strict=True)
        numbers[others], is_legal[others] = _parsed_numbers([text[start : start + length] for start, length in places])
    numbers[is_missing] = np.nan
    return numbers.astype(np.float32), is_legal


def _without_signs(buffer: Bytes, starts: Places, lengths: Places) -> tuple[Flags, Places, Places]:
    """Return which tokens have a minus, where they begin after their signs, and their lengths without signs."""
    first = buffer.take(starts, mode="clip")
    is_filled = lengths > 0
    is_negative = (first == _MINUS) & is_filled
    is_signed = is_negative | ((first == _PLUS) & is_filled)
    return is_negative, starts + is_signed, lengths - is_signed


def _decimals(
    buffer: Bytes, starts: Places, num_digits: Places, num_before: Places | None
) -> tuple[npt.NDArray[np.int64], Flags]:
    """Return the integers that the first `_SAFE_DIGITS` digits spell, and which tokens have digits and nothing else.

    Args:
        buffer: The bytes of the text.
        starts: Where the digits begin.
        num_digits: The number of digits.
        num_before: The number of digits before a byte to ignore (the decimal point); `None` if no token has one.
    """
    decimals = np.zeros(starts.size, np.int64)
    is_legal = num_digits > 0
    shortest = int(num_digits.min(initial=_SAFE_DIGITS))
    longest = min(int(num_digits.max(initial=0)), _SAFE_DIGITS)
    for place in range(longest):
        if place < shortest:
            places = starts + place
            if num_before is not None:
                places += num_before <= place
            digits = buffer.take(places, mode="clip") - np.uint8(_ZERO)
            is_legal &= digits <= 9
            decimals *= 10
            decimals += digits
        else:
            inside = np.flatnonzero(num_digits > place)
            places = starts[inside] + place
            if num_before is not None:
                places += num_before[inside] <= place
            digits = buffer.take(places, mode="clip") - np.uint8(_ZERO)
            is_legal[inside] &= digits <= 9
            decimals[inside] = decimals[inside] * 10 + digits
    return decimals, is_legal


def _parsed_numbers(tokens: list[bytes]) -> tuple[npt.NDArray[np.float64], Flags]:
    """Return the numbers (0 for an illegal token), and which tokens are legal."""
    numbers = np.zeros(len(tokens))
    is_legal = np.ones(len(tokens), np.bool_)
    try:
        if b"".join(tokens).translate(None, _NUMBER_BYTES):
            raise ValueError
        numbers[:] = [float(token) for token in tokens]
        with np.errstate(over="ignore"):
            if not np.all(np.isfinite(numbers.astype(np.float32))):
                raise ValueError
    except ValueError:
        for place, token in enumerate(tokens):
            number = parsed_number(token)
            is_legal[place] = number is not None
            numbers[place] = 0.0 if number is None else number
    return numbers, is_legal
