"""Checks of what users hand over as Python values and NumPy arrays; each error names the argument and the value."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt

Task = Literal["classification", "regression"]
Option = TypeVar("Option", bound=str)


def one_of(value: Option, allowed: Sequence[str], name: str) -> Option:
    """Return `value` if it is one of the allowed strings.

    Raises:
        ValueError: It is not.
    """
    if value not in allowed:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, allowed))}. Received: {name}={value!r}")
    return value


def check_task(task: str) -> None:
    """Raise a `ValueError` if `task` is neither `"classification"` nor `"regression"`."""
    one_of(task, get_args(Task), "task")


def integer(value: Any, name: str, at_least: int | None = None, expected: str = "an integer") -> int:
    """Return `value` as a plain `int`.

    Args:
        value: Any object with `__index__`, except booleans.
        name: The argument to name in errors.
        at_least: The smallest allowed value, or `None`.
        expected: The kind of value to name in errors.

    Raises:
        TypeError: `value` is not an integer.
        ValueError: `value` is less than `at_least`.
    """
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        received = f"{name}={value!r} of type {type(value).__name__}"
        raise TypeError(f"`{name}` must be {expected}. Received: {received}") from None
    if at_least is not None and number < at_least:
        raise ValueError(f"`{name}` must be at least {at_least}. Received: {name}={number}")
    return number


def integer_or_none(value: Any, name: str, at_least: int | None = None) -> int | None:
    """Return `value` as a plain `int`, or `None`. Raises as `integer`."""
    return None if value is None else integer(value, name, at_least, expected="an integer or None")


def integer_or_auto(value: Any, name: str, at_least: int) -> int | Literal["auto"]:
    """Return `value` as a plain `int`, or `"auto"`. Raises as `integer`."""
    if isinstance(value, str) and value == "auto":
        return "auto"
    return integer(value, name, at_least, expected="an integer or 'auto'")


def increasing_ranks(ranks: Sequence[int]) -> tuple[int, ...]:
    """Return ranks as plain `int`s.

    Raises:
        TypeError: A rank is not an integer.
        ValueError: There is none, one is less than 1, or they are not increasing.
    """
    checked = tuple(integer(rank, "ranks") for rank in ranks)
    if not checked or checked[0] < 1 or any(high <= low for low, high in itertools.pairwise(checked)):
        raise ValueError(f"`ranks` must be positive and increasing, at least one. Received: ranks={tuple(ranks)}")
    return checked


def weights_per_level(given: Any, size: int, name: str) -> tuple[float, ...]:
    """`size` non-negative numbers, from one number for all or a sequence.

    Raises:
        ValueError: The sequence has another length, or a number is negative, NaN or infinite.
    """
    try:
        array = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.empty((0, 0))
    if array.shape not in ((), (size,)):
        raise ValueError(f"`{name}` must be a number or a sequence of {size} numbers. Received: {given!r}")
    numbers = (float(array),) * size if array.ndim == 0 else tuple(array.tolist())
    if not all(np.isfinite(x) and x >= 0 for x in numbers):
        raise ValueError(f"`{name}` must be non-negative and finite. Received: {given}")
    return numbers


def finite_array(given: npt.ArrayLike, shape: tuple[int, ...], name: str) -> npt.NDArray[Any]:
    """A float64 array of the shape.

    Raises:
        ValueError: The shape differs, or a number is NaN or infinite.
    """
    numbers = np.asarray(given, dtype=np.float64)
    if numbers.shape != shape:
        raise ValueError(f"`{name}` must be of shape {shape}. Received: shape {numbers.shape}")
    if not np.all(np.isfinite(numbers)):
        raise ValueError(f"`{name}` must be finite. Received: {numbers[~np.isfinite(numbers)][0]}")
    return numbers


def distinct_ids(feature_ids: npt.ArrayLike, num_features: int) -> npt.NDArray[np.int64]:
    """Feature ids, int64 `[n]`.

    Raises:
        TypeError: They are not integers.
        ValueError: They are not one-dimensional, one is outside `[0, num_features)`, or one is there twice.
    """
    ids = np.asarray(feature_ids)
    if ids.ndim != 1:
        raise ValueError(f"`feature_ids` must be one-dimensional. Received: shape {ids.shape}")
    if ids.size and not np.issubdtype(ids.dtype, np.integer):
        raise TypeError(f"`feature_ids` must be integers. Received: dtype {ids.dtype}")
    ids = ids.astype(np.int64)
    wrong = (ids < 0) | (ids >= num_features)
    if np.any(wrong):
        raise ValueError(f"`feature_ids` must be in [0, {num_features}). Received: {ids[np.argmax(wrong)]}")
    unique, times = np.unique(ids, return_counts=True)
    if unique.size != ids.size:
        raise ValueError(f"`feature_ids` must not repeat. Received feature {unique[np.argmax(times)]} more than once")
    return ids


def counts_of_features(
    given: Any, num_features: int | None = None, where: str = "", name: str = "counts"
) -> npt.NDArray[Any]:
    """Counts as an array `[num_features]`, which may be the given one.

    Raises:
        TypeError: They are not numbers.
        ValueError: The shape does not fit, or a count is negative or not finite.
    """
    array = np.asarray(given)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{where}`{name}` must be numbers. Received: dtype {array.dtype}")
    if array.ndim != 1 or array.size == 0 or (num_features is not None and array.size != num_features):
        expected = "num_features" if num_features is None else f"num_features={num_features}"
        raise ValueError(f"{where}`{name}` must be of shape [{expected}], at least one. Received: shape {array.shape}")
    if not (array.min() >= 0 and np.isfinite(array.max())):
        wrong = np.flatnonzero(~((array >= 0) & np.isfinite(array)))
        raise ValueError(
            f"{where}`{name}` must be non-negative and finite. "
            f"Received: {name}[{wrong[0]}]={array[wrong[0]]} ({wrong.size} such features)"
        )
    return array
