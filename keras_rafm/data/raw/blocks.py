"""Blocks: some rows of raw columns as NumPy arrays, and the values that a column may have."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_rafm.data.raw.columns import Role


class Strings(NamedTuple):
    """Strings as slices of one buffer.

    A graph cuts them out (`tf.strings.substr`), so that Python does not make an object of each.

    Attributes:
        text: The buffer, of less than 2 GiB.
        starts: The byte at which each string begins, int32 `[n]`.
        lengths: The number of bytes of each string, int32 `[n]`.
    """

    text: bytes
    starts: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int32]


#: The values of a column in some rows: `Strings`, int64 `[n]` or float32 `[n]`.
Values = Strings | npt.NDArray[np.int64] | npt.NDArray[np.float32]


class ListValues(NamedTuple):
    """The values of a list column in some rows.

    Attributes:
        values: The values of all rows, end to end.
        row_lengths: The number of values in each row, int64 `[rows]`.
    """

    values: Values
    row_lengths: npt.NDArray[np.int64]


#: Some rows: the values of each column, by its name.
Block = dict[str, Values | ListValues]


def is_legal(values: Any, role: Role) -> Any:
    """Return which values a column of this role may have.

    Args:
        values: An array or a tensor `[n]`.
        role: Any role but `"feature"`, for which every value is legal.

    Returns:
        Booleans `[n]`: an array for an array, a tensor for a tensor.
    """
    if role == "binary_label":
        return (values == 0) | (abs(values) == 1)
    if role == "sample_weight":
        return (values >= 0) & (values < float("inf"))
    if tf.is_tensor(values) and values.dtype == tf.string:
        return values != ""
    return abs(values) < float("inf")  # False for NaN too.


def illegal_rows(values: Values | ListValues, role: Role) -> npt.NDArray[np.intp]:
    """Return the numbers of the rows whose value a column of this role may not have, ascending."""
    if role == "feature" or isinstance(values, ListValues):
        return np.zeros(0, np.intp)
    return np.flatnonzero(values.lengths == 0 if isinstance(values, Strings) else ~is_legal(values, role))
