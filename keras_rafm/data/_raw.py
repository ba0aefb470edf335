"""Raw columns: what every reader yields and `Schema` turns into ids and values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

RawDType = Literal["string", "int64", "float32"]

#: What a raw integer column has where there is no value. A string has "" there, a float NaN, a list no entry.
MISSING_INTEGER: Final = -(2**63)


@dataclass(frozen=True)
class RawColumn:
    """A column as a reader has to yield it.

    Args:
        name: Its name in the files and in raw batches.
        dtype: Strings are UTF-8.
        is_list: Whether a row has a list of values: a `tf.RaggedTensor` `[B, None]`; otherwise `[B]`.
    """

    name: str
    dtype: RawDType
    is_list: bool = False

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
