"""Columns with one feature per value or group of values: vocabularies, hashes and ids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_rafm.checks.arguments import one_of
from keras_rafm.checks.constants import PADDING_ID
from keras_rafm.checks.tensors import require
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
from keras_rafm.data.columns.value_counts import ValueCounts
from keras_rafm.data.raw.columns import MISSING_INTEGER, RawColumn, RawDType

Combiner = Literal["sum", "mean", "sqrtn"]

UNSEEN_NAME = "[UNSEEN]"


@dataclass(frozen=True)
class _Categorical(Column):
    """What the kinds of columns share that have one feature per value or group of values."""

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
            raise ValueError(f"`separator` must be a string that is not empty. Received: separator={self.separator!r}")
        if self.separator is not None and self.dtype != "string":
            raise ValueError("`separator` is for strings: declare numbers in a string as a string column")
        if self.weight_separator is not None:
            if self.separator is None:
                raise ValueError("`weight_separator` needs `separator`")
            if not isinstance(self.weight_separator, str) or len(self.weight_separator) != 1:
                raise ValueError(f"`weight_separator` must be one character. Received: {self.weight_separator!r}")
            if self.weight_separator in "0123456789.+-eE":
                raise ValueError(f"`weight_separator` must not be part of a number. Received: {self.weight_separator!r}")
            if self.weight_separator == self.separator:
                raise ValueError(f"`weight_separator` must differ from `separator`. Received: {self.separator!r} for both")
        if self.weights is not None and (not isinstance(self.weights, str) or not self.weights):
            raise TypeError(f"`weights` must be the name of a column. Received: weights={self.weights!r}")
        if self.weights is not None and (self.separator is not None or not self.multivalued):
            raise ValueError("`weights` names a column of lists of numbers: it needs `multivalued=True` and no `separator`")
        if self.combiner != "sum" and not self.has_lists:
            raise ValueError(f"`combiner` is for columns with several values. Received: combiner={self.combiner!r}")

    @property
    def has_lists(self) -> bool:
        """Whether a row may have several values."""
        return self.multivalued or self.separator is not None

    @property
    def has_values(self) -> bool:
        """Whether `x_i` may be something else than 1."""
        return self.combiner != "sum" or self.weights is not None or self.weight_separator is not None

    def raw_columns(self, name: str) -> list[RawColumn]:
        """What a reader has to yield for it."""
        columns = [RawColumn(name, self.dtype, self.multivalued and self.separator is None)]
        return columns if self.weights is None else [*columns, RawColumn(self.weights, "float32", is_list=True)]

    def parts(self, raw: dict[str, Any], name: str) -> Parts:
        """The values of a batch of raw columns; a row without a value has one that is missing."""
        if not self.has_lists:
            return Parts(raw[name], None, None)
        lists = raw[name] if self.separator is None else tf.strings.split(raw[name], self.separator)
        values, weights = lists.flat_values, []
        if self.weights is not None:
            weights = [_weights_of(raw[self.weights], lists, name, self.weights)]
        elif self.weight_separator is not None:
            values, *weights = _split_weights(values, self.weight_separator, name)
        there = ~is_missing(values)
        lengths = lists.row_lengths()
        # To move values takes three times as long as all else, so it is done only where it has to be.
        lengths, values, *weights = tf.cond(
            tf.reduce_all(there) & tf.reduce_all(lengths > 0),
            lambda: (lengths, values, *weights),
            lambda: _one_at_least(lists.with_flat_values(there), values, *weights),
        )
        return Parts(values, _finite(weights[0], name) if weights else None, lengths)

    def reserved_names(self) -> list[str]:
        """Of missing values."""
        return [MISSING_NAME] if self.missing == "category" else []

    def combined(self, parts: Parts) -> tf.Tensor | None:
        """`x_i` of each value after the combiner, float32 `[n]`; `None` where all are 1."""
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
    """One feature per value that occurs at least `min_count` times; one for all others; one for missing values."""

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
        """The vocabulary: values in falling order of their counts."""
        kept = counted.counts >= self.min_count
        if self.dtype == "string":  # a vocabulary file has one value a line
            kept &= np.fromiter((b"\n" not in v and b"\r" not in v for v in counted.values), np.bool_, counted.counts.size)
        positions = np.flatnonzero(kept)[: self.max_tokens]
        own = counted.counts[positions]
        unseen = [counted.total - int(own.sum())] * self.num_oov_indices
        missing = [counted.num_missing] if self.missing == "category" else []
        return Learnt(np.concatenate([unseen, missing, own]).astype(np.int64), counted.values[positions])

    def encoding(self, name: str, learnt: Learnt, table: tf.lookup.StaticHashTable | None) -> Encoding:
        """A look-up."""
        unseen = tf.constant(0 if self.num_oov_indices else PADDING_ID, tf.int64)
        of_missing = tf.constant(self.num_oov_indices if self.missing == "category" else PADDING_ID, tf.int64)
        first = self.num_oov_indices + (self.missing == "category")

        def encode(values: tf.Tensor) -> tuple[tf.Tensor, None]:
            others = tf.where(is_missing(values), of_missing, unseen)
            if table is None:  # no value has a feature of its own
                return others, None
            positions = table.lookup(values)
            return tf.where(positions >= 0, positions + first, others), None

        return encode

    def feature_names(self, learnt: Learnt) -> list[str]:
        """The values, and names for the reserved features."""
        assert learnt.vocabulary is not None
        return self.reserved_names() + _as_text(learnt.vocabulary)

    def reserved_names(self) -> list[str]:
        """Of unseen and of missing values."""
        return [UNSEEN_NAME] * self.num_oov_indices + super().reserved_names()


@dataclass(frozen=True)
class Hashed(_Categorical):
    """One feature per bin of a hash of the value: for columns with more values than one wants to keep."""

    kind: ClassVar[str] = "hashed"

    num_bins: int

    def __post_init__(self) -> None:
        super().__post_init__()
        as_positive_int(self, "num_bins")

    def learn(self, counted: ValueCounts) -> Learnt:
        """Counts per bin."""
        bins = self._bins(tf.constant(counted.values)).numpy() if counted.counts.size else np.zeros(0, np.int64)
        counts = np.zeros(self.num_bins, np.int64)
        np.add.at(counts, bins, counted.counts)
        missing = [counted.num_missing] if self.missing == "category" else []
        return Learnt(np.concatenate([np.array(missing, np.int64), counts]))

    def encoding(self, name: str, learnt: Learnt, table: tf.lookup.StaticHashTable | None) -> Encoding:
        """A hash; missing values have a feature of their own, or none."""
        of_missing = tf.constant(0 if self.missing == "category" else PADDING_ID, tf.int64)
        first = int(self.missing == "category")

        def encode(values: tf.Tensor) -> tuple[tf.Tensor, None]:
            return tf.where(is_missing(values), of_missing, first + self._bins(values)), None

        return encode

    def feature_names(self, learnt: Learnt) -> list[str]:
        """Numbers of bins."""
        return self.reserved_names() + [f"bin {number}" for number in range(self.num_bins)]

    def _bins(self, values: tf.Tensor) -> tf.Tensor:
        """FarmHash's 64-bit fingerprint, which is the same everywhere, as in `keras.layers.Hashing`."""
        text = values if values.dtype == tf.string else tf.strings.as_string(values)
        return tf.strings.to_hash_bucket_fast(text, self.num_bins)


@dataclass(frozen=True)
class Identity(_Categorical):
    """Integers that are ids already, in `[0, num_ids)`; others, and missing ones, have no feature."""

    kind: ClassVar[str] = "identity"

    num_ids: int

    def __post_init__(self) -> None:
        super().__post_init__()
        as_positive_int(self, "num_ids")

    def learn(self, counted: ValueCounts) -> Learnt:
        """Counts of the ids."""
        known = (counted.values >= 0) & (counted.values < self.num_ids)
        counts = np.zeros(self.num_ids, np.int64)
        counts[counted.values[known]] = counted.counts[known]
        return Learnt(counts)

    def encoding(self, name: str, learnt: Learnt, table: tf.lookup.StaticHashTable | None) -> Encoding:
        """Ids as they are."""

        def encode(values: tf.Tensor) -> tuple[tf.Tensor, None]:
            known = (values >= 0) & (values < self.num_ids)
            return tf.where(known, values, tf.constant(PADDING_ID, tf.int64)), None

        return encode

    def feature_names(self, learnt: Learnt) -> list[str]:
        """The ids."""
        return [str(number) for number in range(self.num_ids)]


def _one_at_least(there: tf.RaggedTensor, *flat: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Rows without what is not there; a row without anything gets a missing value, of weight 1.

    Args:
        there: Which values are, `[B, None]`.
        flat: Values of all rows end to end, and their weights if they have some.

    Returns:
        How many values each row has, int64 `[B]`, and `flat` of them.
    """
    lengths = tf.reduce_sum(tf.cast(there, tf.int64), axis=1)
    none = tf.cast(tf.equal(lengths, 0), tf.int64)
    filled = []
    for own in flat:
        missing = {tf.string: "", tf.int64: MISSING_INTEGER, tf.float32: 1.0}[own.dtype]
        kept = tf.RaggedTensor.from_row_lengths(tf.boolean_mask(own, there.flat_values), lengths, validate=False)
        fill = tf.fill([tf.reduce_sum(none)], tf.constant(missing, own.dtype))
        rows = tf.concat([kept, tf.RaggedTensor.from_row_lengths(fill, none, validate=False)], axis=1)
        filled.append(rows.flat_values)
    return lengths + none, *filled


def _as_text(values: npt.NDArray[Any]) -> list[str]:
    return [v.decode("utf-8", "backslashreplace") if isinstance(v, bytes) else str(v) for v in values.tolist()]


def _weights_of(weights: Any, lists: Any, name: str, weights_name: str) -> tf.Tensor:
    same = tf.cond(
        tf.equal(weights.nrows(), lists.nrows()),
        lambda: tf.reduce_all(tf.equal(weights.row_lengths(), lists.row_lengths())),
        lambda: tf.constant(False),
    )
    checked = require(
        same,
        f"column '{weights_name}' must have as many weights in each row as column '{name}' has values. "
        "Received numbers of weights and of values",
        lambda: _first_difference(weights, lists),
    )
    with tf.control_dependencies(checked):
        return tf.identity(weights.flat_values)


def _first_difference(weights: Any, lists: Any) -> tf.Tensor:
    """How many weights and values the first row has with more of the ones than of the others, int64 `[2]`."""
    number = tf.minimum(weights.nrows(), lists.nrows())
    lengths = tf.stack([weights.row_lengths()[:number], lists.row_lengths()[:number]], axis=1)
    differ = tf.where(lengths[:, 0] != lengths[:, 1])[:, 0]
    # Without such a row, there are more rows of the ones.
    return tf.cond(tf.size(differ) > 0, lambda: lengths[differ[0]], lambda: tf.stack([weights.nrows(), lists.nrows()]))


def _finite(weights: tf.Tensor, name: str) -> tf.Tensor:
    finite = tf.math.is_finite(weights)
    checked = require(
        tf.reduce_all(finite),
        f"column '{name}': weights must be finite. Received",
        lambda: tf.boolean_mask(weights, ~finite)[0],
    )
    with tf.control_dependencies(checked):
        return tf.identity(weights)


def _split_weights(tokens: tf.Tensor, separator: str, name: str) -> tuple[tf.Tensor, tf.Tensor]:
    """`value:weight` at the last separator; without one the weight is 1."""
    # RE2 knows no escapes of other characters, or means something else by them.
    escaped = "\\" + separator if separator.isascii() and not separator.isalnum() else separator
    pattern = f"(?s)^(.*){escaped}([^{escaped}]*)$"
    values = tf.strings.regex_replace(tokens, pattern, r"\1", replace_global=False)
    has_weight = tf.strings.regex_full_match(tokens, f"(?s).*{escaped}.*")
    texts = tf.where(has_weight, tf.strings.regex_replace(tokens, pattern, r"\2", replace_global=False), "1")
    legal = tf.strings.regex_full_match(texts, r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
    checked = require(
        tf.reduce_all(legal),
        f"column '{name}': weights must be numbers. Received",
        lambda: tf.boolean_mask(tokens, ~legal)[0],
    )
    with tf.control_dependencies(checked):
        return values, tf.strings.to_number(tf.identity(texts))
