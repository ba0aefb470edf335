"""Checks of arguments that several modules share."""

from __future__ import annotations

import operator
from typing import Literal, SupportsIndex, get_args

Task = Literal["classification", "regression"]


def check_task(task: str) -> None:
    """Raise a `ValueError` for what is no task."""
    if task not in get_args(Task):
        raise ValueError(f"`task` must be 'classification' or 'regression'. Received: task={task!r}")


def positive_int(name: str, value: SupportsIndex) -> int:
    """`value` as an int of at least 1.

    Raises:
        TypeError: `value` is not an integer.
        ValueError: `value` is less than 1.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"`{name}` must be an integer. Received: {value!r} of type {type(value).__name__}") from None
    if number < 1:
        raise ValueError(f"`{name}` must be at least 1. Received: {name}={number}")
    return number
