"""Categorical columns: one feature per value of a vocabulary, per bin of a hash, or per id."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_rafm.checks.arguments import one_of
from keras_rafm.checks.constants import PADDING_ID
from keras_rafm.data.columns.column import (
    MISSING_NAME,
    Column,
    Encoding,
    Learnt,
    Missing,
    Parts,
    as_positive_int,
    is_missing,
)
from keras_rafm.data.columns.row_lists import checked_list_weights, finite_weights, split_weights, without_missing_values
from keras_rafm.data.columns.value_counts import ValueCounts
from keras_rafm.data.raw.columns import RawColumn, RawDType

Combiner = Literal["sum", "mean", "sqrtn"]

#: The name of the feature of values that are not in the vocabulary.
UNSEEN_NAME = "[UNSEEN]"


@dataclass(frozen=True)
class _Categorical(Column):
    """The base class of categorical columns. `Schema.string_categorical` describes the options."""

    dtype: RawDType
    missing: Missing
    multivalued: bool
    separator: str | None
    weight_separator: str | None
    weights: str | None
    combiner: Combiner

    def __post_init__(self) -> None:
        one_of(self.missing, get_args(Missing), "missing")
        one_of(self.combiner, get_args(Combiner), "combiner")
        if self.separator is not None and (not isinstance(self.separator, str) or not self.separator):
            raise ValueError(f"`separator` must be a non-empty string. Received: separator={self.separator!r}")
        if self.separator is not None and self.dtype != "string":
            raise ValueError(
                "`separator` is for strings: declare a column with numbers in a string as a string column. "
                f"Received: separator={self.separator!r} for dtype {self.dtype}"
            )
        if self.weight_separator is not None:
            if self.separator is None:
                raise ValueError(f"`weight_separator` needs `separator`. Received: {self.weight_separator!r}")
            if not isinstance(self.weight_separator, str) or len(self.weight_separator) != 1:
                raise ValueError(f"`weight_separator` must be one character. Received: {self.weight_separator!r}")
            if self.weight_separator in "0123456789.+-eE":
                raise ValueError(f"`weight_separator` must not occur in numbers. Received: {self.weight_separator!r}")
            if self.weight_separator == self.separator:
                raise ValueError(f"`weight_separator` must differ from `separator`. Received: {self.separator!r} for both")
        if self.weights is not None and (not isinstance(self.weights, str) or not self.weights):
            raise TypeError(f"`weights` must be the name of a column. Received: weights={self.weights!r}")
        if self.weights is not None and (self.separator is not None or not self.multivalued):
            raise ValueError(
                "`weights` names a column of lists of numbers: it needs `multivalued=True` and no `separator`. "
                f"Received: weights={self.weights!r}"
            )
        if self.combiner != "sum" and not self.has_lists:
            raise ValueError(
                "`combiner` is for columns with several values in a row: it needs `multivalued=True` or `separator`. "
                f"Received: combiner={self.combiner!r}"
            )

    @property
    def has_lists(self) -> bool:
        """Whether a row may have several values."""
        return self.multivalued or self.separator is not None

    @property
    def has_values(self) -> bool:
        """Whether `x_i` may differ from 1."""
        return self.combiner != "sum" or self.weights is not None or self.weight_separator is not None

    def raw_columns(self, name: str) -> list[RawColumn]:
        """Return the column itself and, if it has weights in a column of their own, that column."""
        columns = [RawColumn(name, self.dtype, self.multivalued and self.separator is None)]
        return columns if self.weights is None else [*columns, RawColumn(self.weights, "float32", is_list=True)]

    def parts(self, raw: dict[str, Any], name: str) -> Parts:
        """Return the values of a batch without missing ones, but one missing value for a row without any value."""
        if not self.has_lists:
            return Parts(raw[name], None, None)
        lists = raw[name] if self.separator is None else tf.strings.split(raw[name], self.separator)
        values, weights = lists.flat_values, []
        if self.weights is not None:
            weights = [checked_list_weights(raw[self.weights], lists, name, self.weights)]
        elif self.weight_separator is not None:
            values, *weights = split_weights(values, self.weight_separator, name)
        is_present = ~is_missing(values)
        lengths = lists.row_lengths()
        # Moving the values takes three times as long as the rest, so a batch without missing values skips it.
        lengths, values, *weights = tf.cond(
            tf.reduce_all(is_present) & tf.reduce_all(lengths > 0),
            lambda: (lengths, values, *weights),
            lambda: without_missing_values(lists.with_flat_values(is_present), values, *weights),
        )
        return Parts(values, finite_weights(weights[0], name) if weights else None, lengths)

    def reserved_names(self) -> list[str]:
        """Return the name of the feature of missing values, if they have one."""
        return [MISSING_NAME] if self.missing == "category" else []

    def combined(self, parts: Parts) -> tf.Tensor | None:
        """Return `x_i` of each value after the combiner, float32 `[n]`; `None` if all are 1."""
        if self.combiner == "sum" or parts.row_lengths is None:
            return parts.weights
        weights = tf.ones(tf.shape(parts.values)) if parts.weights is None else parts.weights
        rows = tf.RaggedTensor.from_row_lengths(weights, parts.row_lengths, validate=False)
        if self.combiner == "mean":
            divisors = tf.reduce_sum(rows, axis=1)
        else:
            divisors = tf.sqrt(tf.reduce_sum(tf.square(rows), axis=1))
        return tf.math.divide_no_nan(weights, tf.repeat(divisors, parts.row_lengths))


@dataclass(frozen=True)
class Vocabulary(_Categorical):
    """One feature per value that occurs at least `min_count` times, one for all other values, one for missing values."""

    kind: ClassVar[str] = "vocabulary"

    min_count: int
    max_tokens: int | None
    num_oov_indices: int

    def __post_init__(self) -> None:
        super().__post_init__()
        as_positive_int(self, "min_count")
        if self.max_tokens is not None:
            as_positive_int(self, "max_tokens")
        if not isinstance(self.num_oov_indices, int) or self.num_oov_indices not in (0, 1):
            raise ValueError(f"`num_oov_indices` must be 0 or 1. Received: num_oov_indices={self.num_oov_indices!r}")

    def learn(self, counted: ValueCounts) -> Learnt:
        """Learn the vocabulary: the values in descending order of their counts."""
        is_kept = counted.counts >= self.min_count
        if self.dtype == "string":  # a vocabulary file has one value per line
            is_kept &= np.fromiter(
                (b"\n" not in value and b"\r" not in value for value in counted.values), np.bool_, counted.counts.size
            )
        positions = np.flatnonzero(is_kept)[: self.max_tokens]
        counts = counted.counts[positions]
        unseen = [counted.total - int(counts.sum())] * self.num_oov_indices
        missing = [counted.num_missing] if self.missing == "category" else []
        return Learnt(np.concatenate([unseen, missing, counts]).astype(np.int64), counted.values[positions])

    def encoding(self, name: str, learnt: Learnt, table: tf.lookup.StaticHashTable | None) -> Encoding:
        """Return the look-up in the vocabulary."""
        unseen_id = tf.constant(0 if self.num_oov_indices else PADDING_ID, tf.int64)
        missing_id = tf.constant(self.num_oov_indices if self.missing == "category" else PADDING_ID, tf.int64)
        first = self.num_oov_indices + (self.missing == "category")

        def encode(values: tf.Tensor) -> tuple[tf.Tensor, None]:
            others = tf.where(is_missing(values), missing_id, unseen_id)
            if table is None:  # no value has a feature of its own
                return others, None
            positions = table.lookup(values)
            return tf.where(positions >= 0, positions + first, others), None

        return encode

    def feature_names(self, learnt: Learnt) -> list[str]:
        """Return the names of the reserved features, then the values."""
        assert learnt.vocabulary is not None
        return self.reserved_names() + _as_text(learnt.vocabulary)

    def reserved_names(self) -> list[str]:
        """Return the names of the features of unseen and of missing values, if they have any."""
        return [UNSEEN_NAME] * self.num_oov_indices + super().reserved_names()


@dataclass(frozen=True)
class Hashed(_Categorical):
    """One feature per bin of a hash of the value: for columns with too many values for a vocabulary."""

    kind: ClassVar[str] = "hashed"

    num_bins: int

    def __post_init__(self) -> None:
        super().__post_init__()
        as_positive_int(self, "num_bins")

    def learn(self, counted: ValueCounts) -> Learnt:
        """Count the values of each bin."""
        bins = self._bins(tf.constant(counted.values)).numpy() if counted.counts.size else np.zeros(0, np.int64)
        counts = np.zeros(self.num_bins, np.int64)
        np.add.at(counts, bins, counted.counts)
        missing = [counted.num_missing] if self.missing == "category" else []
        return Learnt(np.concatenate([np.array(missing, np.int64), counts]))

    def encoding(self, name: str, learnt: Learnt, table: tf.lookup.StaticHashTable | None) -> Encoding:
        """Return the hash function; missing values have a feature of their own, or none."""
        missing_id = tf.constant(0 if self.missing == "category" else PADDING_ID, tf.int64)
        first = int(self.missing == "category")

        def encode(values: tf.Tensor) -> tuple[tf.Tensor, None]:
            return tf.where(is_missing(values), missing_id, first + self._bins(values)), None

        return encode

    def feature_names(self, learnt: Learnt) -> list[str]:
        """Return the names of the reserved features, followed by `"bin 0"`, `"bin 1"` and so on."""
        return self.reserved_names() + [f"bin {number}" for number in range(self.num_bins)]

    def _bins(self, values: tf.Tensor) -> tf.Tensor:
        """Hash by FarmHash's 64-bit fingerprint, as `keras.layers.Hashing` does; it is the same on every machine."""
        text = values if values.dtype == tf.string else tf.strings.as_string(values)
        return tf.strings.to_hash_bucket_fast(text, self.num_bins)


@dataclass(frozen=True)
class Identity(_Categorical):
    """Integers in `[0, num_ids)` that are ids already; other integers and missing ones have no feature."""

    kind: ClassVar[str] = "identity"

    num_ids: int

    def __post_init__(self) -> None:
        super().__post_init__()
        as_positive_int(self, "num_ids")

    def learn(self, counted: ValueCounts) -> Learnt:
        """Count the ids."""
        is_id = (counted.values >= 0) & (counted.values < self.num_ids)
        counts = np.zeros(self.num_ids, np.int64)
        counts[counted.values[is_id]] = counted.counts[is_id]
        return Learnt(counts)

    def encoding(self, name: str, learnt: Learnt, table: tf.lookup.StaticHashTable | None) -> Encoding:
        """Return a function that leaves ids unchanged and gives other integers no feature."""

        def encode(values: tf.Tensor) -> tuple[tf.Tensor, None]:
            is_id = (values >= 0) & (values < self.num_ids)
            return tf.where(is_id, values, tf.constant(PADDING_ID, tf.int64)), None

        return encode

    def feature_names(self, learnt: Learnt) -> list[str]:
        """Return the ids as text."""
        return [str(number) for number in range(self.num_ids)]


def _as_text(values: npt.NDArray[Any]) -> list[str]:
    return [
        value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value) for value in values.tolist()
    ]
