"""The base class of all kinds of columns of a `Schema`. The kinds are in `categorical.py` and `numeric.py`."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_rafm.checks.arguments import integer
from keras_rafm.data.columns.value_counts import ValueCounts
from keras_rafm.data.raw.columns import MISSING_INTEGER, RawColumn, RawDType

Missing = Literal["category", "ignore"]

#: The name of the feature of missing values.
MISSING_NAME = "[MISSING]"


@dataclass(frozen=True, eq=False)
class Learnt:
    """What one column learnt from training data.

    Args:
        counts: Occurrences of each of the column's features, int64 `[num_ids]`.
        vocabulary: The values with a feature of their own, in the order of their ids: `bytes` objects or int64.
        boundaries: Lower ends of all bins but the first, increasing, float32.
        offset: The number that scaling subtracts.
        scale: The number that scaling divides by, after the subtraction.
    """

    counts: npt.NDArray[np.int64]
    vocabulary: npt.NDArray[Any] | None = None
    boundaries: tuple[float, ...] | None = None
    offset: float = 0.0
    scale: float = 1.0

    @property
    def num_ids(self) -> int:
        """The number of features of the column."""
        return self.counts.size


class Parts(NamedTuple):
    """The values of a column in one batch.

    Attributes:
        values: The values of all rows end to end, `[n]`, including missing ones.
        weights: `x_i` of each value before the combiner, float32 `[n]`; `None` if all are 1.
        row_lengths: The number of values of each row, int64 `[B]`; `None` if each row has one.
    """

    values: tf.Tensor
    weights: tf.Tensor | None
    row_lengths: tf.Tensor | None


#: Maps flat values of a column to two tensors: the number of each value's feature within the column (int64, -1 for no
#: feature), and `x_i` (`None` if all are 1).
Encoding = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor | None]]


class Column(abc.ABC):
    """A raw column of one kind. The functions of `Schema` make it, such as `Schema.string_categorical()`.

    Attributes:
        kind: The name of the kind in saved schemas.
        dtype: The dtype of the raw values.
    """

    kind: ClassVar[str]
    dtype: RawDType

    def raw_columns(self, name: str) -> list[RawColumn]:
        """Return the raw columns that a reader must supply for the column of this name."""
        return [RawColumn(name, self.dtype)]

    @property
    def has_lists(self) -> bool:
        """Whether a row may have several values."""
        return False

    @property
    def has_values(self) -> bool:
        """Whether `x_i` may differ from 1."""
        return False

    def parts(self, raw: dict[str, Any], name: str) -> Parts:
        """Return the values of the column of this name in a batch of raw columns."""
        return Parts(raw[name], None, None)

    def combined(self, parts: Parts) -> tf.Tensor | None:
        """Return `x_i` of each value after the combiner, float32 `[n]`; `None` if all are 1."""
        return parts.weights

    def is_missing(self, values: tf.Tensor) -> tf.Tensor:
        """Return which values are missing, bool `[n]`."""
        return is_missing(values)

    @abc.abstractmethod
    def learn(self, counted: ValueCounts) -> Learnt:
        """Learn from the counts of the column's values in training data."""

    @abc.abstractmethod
    def encoding(self, name: str, learnt: Learnt, table: tf.lookup.StaticHashTable | None) -> Encoding:
        """Return the function that maps values to features.

        Args:
            name: The name of the column.
            learnt: What the column learnt.
            table: Maps a value to its position in the vocabulary, other values to -1; `None` if the vocabulary is empty
                or the column has none.
        """

    def reserved_names(self) -> list[str]:
        """Return the names of the column's first features that stand for no single value, such as `[MISSING]`."""
        return []

    @abc.abstractmethod
    def feature_names(self, learnt: Learnt) -> list[str]:
        """Return the name of each of the column's features, in the order of their ids."""


def is_missing(values: tf.Tensor) -> tf.Tensor:
    """Return which raw values are missing: empty strings, `MISSING_INTEGER` and NaN."""
    if values.dtype.is_floating:
        return tf.math.is_nan(values)
    return tf.equal(values, "" if values.dtype == tf.string else tf.constant(MISSING_INTEGER, values.dtype))


def as_positive_int(column: Column, name: str) -> None:
    """Replace an option of a column by a plain `int`, which JSON can hold.

    Raises:
        TypeError: The option is not an integer.
        ValueError: The option is less than 1.
    """
    object.__setattr__(column, name, integer(getattr(column, name), name, at_least=1))
