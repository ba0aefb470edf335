"""Checks of arguments that are Python values or NumPy arrays. Each error names the argument and the received value."""

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
        ValueError: `value` is not one of them.
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
    """Return `value` as a plain `int`, or `None`. Raises the errors of `integer`."""
    return None if value is None else integer(value, name, at_least, expected="an integer or None")


def integer_or_auto(value: Any, name: str, at_least: int) -> int | Literal["auto"]:
    """Return `value` as a plain `int`, or `"auto"`. Raises the errors of `integer`."""
    if isinstance(value, str) and value == "auto":
        return "auto"
    return integer(value, name, at_least, expected="an integer or 'auto'")


def increasing_ranks(ranks: Sequence[int]) -> tuple[int, ...]:
    """Return the ranks as plain `int`s.

    Raises:
        TypeError: A rank is not an integer.
        ValueError: There are no ranks, a rank is less than 1, or the ranks are not increasing.
    """
    checked = tuple(integer(rank, "ranks", expected="integers") for rank in ranks)
    if not checked or checked[0] < 1 or any(high <= low for low, high in itertools.pairwise(checked)):
        raise ValueError(f"`ranks` must be one or more positive, increasing integers. Received: ranks={tuple(ranks)}")
    return checked


def weights_per_level(value: Any, size: int, name: str) -> tuple[float, ...]:
    """Return `size` non-negative numbers.

    Args:
        value: One number for all levels, or a sequence of `size` numbers.
        size: The number of levels.
        name: The argument to name in errors.

    Raises:
        ValueError: The sequence has another length, or a number is negative, NaN or infinite.
    """
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.empty((0, 0))
    if array.shape not in ((), (size,)):
        raise ValueError(f"`{name}` must be a number or a sequence of {size} numbers. Received: {value!r}")
    numbers = (float(array),) * size if array.ndim == 0 else tuple(array.tolist())
    if not all(np.isfinite(x) and x >= 0 for x in numbers):
        raise ValueError(f"`{name}` must be non-negative and finite. Received: {value}")
    return numbers


def finite_array(value: npt.ArrayLike, shape: tuple[int, ...], name: str) -> npt.NDArray[Any]:
    """Return numbers as a float64 array of the expected shape.

    Raises:
        ValueError: The shape is another one, or a number is NaN or infinite.
    """
    numbers = np.asarray(value, dtype=np.float64)
    if numbers.shape != shape:
        raise ValueError(f"`{name}` must be of shape {shape}. Received: shape {numbers.shape}")
    if not np.all(np.isfinite(numbers)):
        raise ValueError(f"`{name}` must be finite. Received: {numbers[~np.isfinite(numbers)][0]}")
    return numbers


def distinct_ids(feature_ids: npt.ArrayLike, num_features: int) -> npt.NDArray[np.int64]:
    """Return feature ids as an int64 array `[n]`.

    Raises:
        TypeError: The ids are not integers.
        ValueError: The ids are not one-dimensional, an id is outside `[0, num_features)`, or an id is repeated.
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
    unique, repetitions = np.unique(ids, return_counts=True)
    if unique.size != ids.size:
        raise ValueError(
            f"`feature_ids` must not repeat. Received: feature {unique[np.argmax(repetitions)]} more than once"
        )
    return ids


def counts_of_features(
    value: Any, num_features: int | None = None, where: str = "", name: str = "counts"
) -> npt.NDArray[Any]:
    """Return counts of features as an array `[num_features]`. An array is returned as it is, not copied.

    Args:
        value: Non-negative numbers, one per feature.
        num_features: The expected number of features, or `None` for any.
        where: What the message of an error starts with.
        name: The argument to name in errors.

    Raises:
        TypeError: The counts are not numbers.
        ValueError: The shape is not the expected one, or a count is negative or not finite.
    """
    array = np.asarray(value)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{where}`{name}` must be numbers. Received: dtype {array.dtype}")
    if array.ndim != 1 or array.size == 0 or (num_features is not None and array.size != num_features):
        expected = "num_features" if num_features is None else f"num_features={num_features}"
        raise ValueError(
            f"{where}`{name}` must be of shape [{expected}] with at least one feature. Received: shape {array.shape}"
        )
    if not (array.min() >= 0 and np.isfinite(array.max())):
        wrong = np.flatnonzero(~((array >= 0) & np.isfinite(array)))
        raise ValueError(
            f"{where}`{name}` must be non-negative and finite. "
            f"Received: {name}[{wrong[0]}]={array[wrong[0]]} ({wrong.size} such features)"
        )
    return array
