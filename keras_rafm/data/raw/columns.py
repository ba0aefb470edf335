"""Raw columns: what every reader yields and `Schema` turns into feature ids and values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

import tensorflow as tf

RawDType = Literal["string", "int64", "float32"]

#: What a column is used for. A feature may have any value or none; `EXPECTED` describes the values of the other roles.
Role = Literal["feature", "label", "binary_label", "numeric_label", "sample_weight"]

EXPECTED: Final[dict[Role, str]] = {
    "label": "a label, which must not be missing",
    "binary_label": "one of the labels 0 and 1, or -1 and 1",
    "numeric_label": "a label that is a finite number",
    "sample_weight": "a finite sample weight of at least 0",
}

#: Stands for a missing value in an integer column. A missing string is "", a missing float NaN, a missing list is empty.
MISSING_INTEGER: Final = -(2**63)

#: Stands for a missing value in a column of each dtype.
MISSING: Final[dict[RawDType, Any]] = {"string": "", "int64": MISSING_INTEGER, "float32": float("nan")}


@dataclass(frozen=True)
class RawColumn:
    """A column that a reader has to yield.

    Args:
        name: The column's name in files and in raw batches.
        dtype: The dtype of the values. Strings are UTF-8.
        is_list: Whether each row has a list of values. The column is then a `tf.RaggedTensor` `[B, None]`, otherwise a
            tensor `[B]`.
        role: What the column is used for.
    """

    name: str
    dtype: RawDType
    is_list: bool = False
    role: Role = "feature"

    @property
    def spec(self) -> tf.TensorSpec | tf.RaggedTensorSpec:
        """The type specification of a batch of the column."""
        dtype = tf.as_dtype(self.dtype)
        if self.is_list:
            return tf.RaggedTensorSpec([None, None], dtype, ragged_rank=1, row_splits_dtype=tf.int64)
        return tf.TensorSpec([None], dtype)
