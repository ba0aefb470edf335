"""What all kinds of columns of a `Schema` have in common. The kinds are in `categorical.py` and `numeric.py`."""

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

MISSING_NAME = "[MISSING]"


@dataclass(frozen=True, eq=False)
class Learnt:
    """What was learnt from training data for one column.

    Args:
        counts: Occurrences of each of the column's features, int64 `[num_ids]`.
        vocabulary: The values that have a feature of their own, in the order of their ids: `bytes` objects or int64.
        boundaries: Lower ends of all bins but the first, ascending, float32.
        offset: Subtracted from a number.
        scale: What a number is divided by after that.
    """

    counts: npt.NDArray[np.int64]
    vocabulary: npt.NDArray[Any] | None = None
    boundaries: tuple[float, ...] | None = None
    offset: float = 0.0
    scale: float = 1.0

    @property
    def num_ids(self) -> int:
        """How many features the column has."""
        return self.counts.size


class Parts(NamedTuple):
    """Values of a batch as a column takes them apart.

    Attributes:
        values: Of all rows end to end `[n]`, missing ones among them.
        weights: `x_i` of each before the combiner, float32 `[n]`; `None` where all are 1.
        row_lengths: How many values each row has, int64 `[B]`; `None` where each has one.
    """

    values: tf.Tensor
    weights: tf.Tensor | None
    row_lengths: tf.Tensor | None


#: Flat values of a column -> the number of each one's feature within the column, int64, or -1 for none; and `x_i`, or
#: `None` where all are 1.
Encoding = Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor | None]]


class Column(abc.ABC):
    """A raw column of one kind. Make it by the functions of `Schema`, such as `Schema.string_categorical()`."""

    kind: ClassVar[str]
    dtype: RawDType

    def raw_columns(self, name: str) -> list[RawColumn]:
        """What a reader has to yield for it."""
        return [RawColumn(name, self.dtype)]

    @property
    def has_lists(self) -> bool:
        """Whether a row may have several values."""
        return False

    @property
    def has_values(self) -> bool:
        """Whether `x_i` may be something else than 1."""
        return False

    def parts(self, raw: dict[str, Any], name: str) -> Parts:
        """The values of a batch of raw columns."""
        return Parts(raw[name], None, None)

    def combined(self, parts: Parts) -> tf.Tensor | None:
        """`x_i` of each value of a row's list, float32 `[n]`; `None` where all are 1."""
        return parts.weights

    def is_missing(self, values: tf.Tensor) -> tf.Tensor:
        """Which values are none."""
        return is_missing(values)

    @abc.abstractmethod
    def learn(self, counted: ValueCounts) -> Learnt:
        """What training data with these values tell."""

    @abc.abstractmethod
    def encoding(self, name: str, learnt: Learnt, table: tf.lookup.StaticHashTable | None) -> Encoding:
        """What values become.

        Args:
            name: Of the column.
            learnt: Of it.
            table: Gives the position of a value in the vocabulary, −1 for others; `None` where that is empty or absent.
        """

    def reserved_names(self) -> list[str]:
        """What the first features of the column stand for that stand for no value."""
        return []

    @abc.abstractmethod
    def feature_names(self, learnt: Learnt) -> list[str]:
        """What each of the column's features stands for."""


def is_missing(values: tf.Tensor) -> tf.Tensor:
    """Which raw values stand for none: empty strings, `MISSING_INTEGER`, NaN."""
    if values.dtype.is_floating:
        return tf.math.is_nan(values)
    return tf.equal(values, "" if values.dtype == tf.string else tf.constant(MISSING_INTEGER, values.dtype))


def as_positive_int(column: Column, name: str) -> None:
    """Make an option of a column a plain `int`, which JSON can hold.

    Raises:
        TypeError: It is not an integer.
        ValueError: It is less than 1.
    """
    object.__setattr__(column, name, integer(getattr(column, name), name, at_least=1))
