"""Raw columns: what every reader yields and `Schema` turns into ids and values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

RawDType = Literal["string", "int64", "float32"]

#: What a column is for. Those of features may have missing values and any others; of the rest, `EXPECTED` says which.
Role = Literal["feature", "label", "binary_label", "numeric_label", "sample_weight"]

EXPECTED: Final[dict[Role, str]] = {
    "label": "a label, which must not be missing",
    "binary_label": "one of the labels 0 and 1, or -1 and 1",
    "numeric_label": "a label that is a finite number",
    "sample_weight": "a finite sample weight of at least 0",
}

#: What a raw integer column has where there is no value. A string has "" there, a float NaN, a list no entry.
MISSING_INTEGER: Final = -(2**63)

#: What a raw column of each dtype has where there is no value.
MISSING: Final[dict[RawDType, Any]] = {"string": "", "int64": MISSING_INTEGER, "float32": float("nan")}


@dataclass(frozen=True)
class RawColumn:
    """A column as a reader has to yield it.

    Args:
        name: Its name in the files and in raw batches.
        dtype: Strings are UTF-8.
        is_list: Whether a row has a list of values: a `tf.RaggedTensor` `[B, None]`; otherwise `[B]`.
        role: What it is for.
    """

    name: str
    dtype: RawDType
    is_list: bool = False
    role: Role = "feature"

    @property
    def spec(self) -> tf.TensorSpec | tf.RaggedTensorSpec:
        """Of a batch of it."""
        dtype = tf.as_dtype(self.dtype)
        if self.is_list:
            return tf.RaggedTensorSpec([None, None], dtype, ragged_rank=1, row_splits_dtype=tf.int64)
        return tf.TensorSpec([None], dtype)


class Strings(NamedTuple):
    """Strings as parts of one buffer, from which a graph cuts them (`tf.strings.substr`).

    Python never holds them one by one.

    Attributes:
        text: The buffer, of less than 2 GiB.
        starts: Byte where each string begins, int32 `[n]`.
        lengths: Its bytes, int32 `[n]`.
    """

    text: bytes
    starts: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int32]


#: Values of a column in some rows: `Strings`, int64 `[n]` or float32 `[n]`.
Values = Strings | npt.NDArray[np.int64] | npt.NDArray[np.float32]


class ListValues(NamedTuple):
    """Values of a list column.

    Attributes:
        values: Of all rows end to end.
        row_lengths: How many each row has, int64 `[rows]`.
    """

    values: Values
    row_lengths: npt.NDArray[np.int64]


#: Some rows: values by the names of columns.
Block = dict[str, Values | ListValues]


def is_legal(values: Any, role: Role) -> Any:
    """Which values a column of this role may have.

    Args:
        values: An array or a tensor `[n]`.
        role: Not that of a feature, which may have all.

    Returns:
        Booleans `[n]` of the same kind.
    """
    if role == "binary_label":
        return (values == 0) | (abs(values) == 1)
    if role == "sample_weight":
        return (values >= 0) & (values < float("inf"))
    if tf.is_tensor(values) and values.dtype == tf.string:
        return values != ""
    return abs(values) < float("inf")  # which NaN is not


def illegal_rows(values: Values | ListValues, role: Role) -> npt.NDArray[np.intp]:
    """The numbers of the rows with a value that a column of this role may not have, ascending."""
    if role == "feature" or isinstance(values, ListValues):
        return np.zeros(0, np.intp)
    return np.flatnonzero(values.lengths == 0 if isinstance(values, Strings) else ~is_legal(values, role))
