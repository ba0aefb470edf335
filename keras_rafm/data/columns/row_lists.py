"""Lists of values in a batch, and their weights: splitting, checking, and leaving out missing values."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from keras_rafm.checks.tensors import after_checks, require
from keras_rafm.data.raw.columns import MISSING_INTEGER
from keras_rafm.data.raw.numbers import NUMBER_PATTERN


def without_missing_values(is_present: tf.RaggedTensor, *flat: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Leave out missing values; a row without any other value keeps one missing value, of weight 1.

    Args:
        is_present: Which values are not missing, bool `[B, None]`.
        flat: The values of all rows end to end, `[n]`, and their weights if they have any.

    Returns:
        The number of values of each row, int64 `[B]`, then `flat` without the missing values.
    """
    lengths = tf.reduce_sum(tf.cast(is_present, tf.int64), axis=1)
    is_empty = tf.cast(tf.equal(lengths, 0), tf.int64)
    filled = []
    for tensor in flat:
        missing = {tf.string: "", tf.int64: MISSING_INTEGER, tf.float32: 1.0}[tensor.dtype]
        kept = tf.RaggedTensor.from_row_lengths(tf.boolean_mask(tensor, is_present.flat_values), lengths, validate=False)
        fill = tf.fill([tf.reduce_sum(is_empty)], tf.constant(missing, tensor.dtype))
        rows = tf.concat([kept, tf.RaggedTensor.from_row_lengths(fill, is_empty, validate=False)], axis=1)
        filled.append(rows.flat_values)
    return lengths + is_empty, *filled


def checked_list_weights(weights: Any, lists: Any, name: str, weights_name: str) -> tf.Tensor:
    """Return the weights of all rows end to end, after checking that each row has as many weights as values.

    Args:
        weights: The weights, a `tf.RaggedTensor` `[B, None]`.
        lists: The values, a `tf.RaggedTensor` `[B, None]`.
        name: The column of the values, for errors.
        weights_name: The column of the weights, for errors.

    Raises:
        tf.errors.InvalidArgumentError: A row has more or fewer weights than values.
    """
    is_equal = tf.cond(
        tf.equal(weights.nrows(), lists.nrows()),
        lambda: tf.reduce_all(tf.equal(weights.row_lengths(), lists.row_lengths())),
        lambda: tf.constant(False),
    )
    checks = require(
        is_equal,
        f"column '{weights_name}' must have as many weights in each row as column '{name}' has values. "
        "Received numbers of weights and of values",
        lambda: _first_difference(weights, lists),
    )
    return after_checks(checks, weights.flat_values)


def finite_weights(weights: tf.Tensor, name: str) -> tf.Tensor:
    """Return the weights of a column after checking that they are finite.

    Raises:
        tf.errors.InvalidArgumentError: A weight is NaN or infinite.
    """
    is_finite = tf.math.is_finite(weights)
    checks = require(
        tf.reduce_all(is_finite),
        f"column '{name}': weights must be finite. Received",
        lambda: tf.boolean_mask(weights, ~is_finite)[0],
    )
    return after_checks(checks, weights)


def split_weights(tokens: tf.Tensor, separator: str, name: str) -> tuple[tf.Tensor, tf.Tensor]:
    """Split tokens such as `jazz:0.7` into values and weights at the last separator.

    Args:
        tokens: Strings `[n]`.
        separator: One character.
        name: The column, for errors.

    Returns:
        Values, string `[n]`, and weights, float32 `[n]`: 1 for a token without a separator.

    Raises:
        tf.errors.InvalidArgumentError: A weight is not a number.
    """
    # RE2 rejects an escaped letter or gives it a special meaning, and escapes no characters beyond ASCII.
    escaped = "\\" + separator if separator.isascii() and not separator.isalnum() else separator
    pattern = f"(?s)^(.*){escaped}([^{escaped}]*)$"
    values = tf.strings.regex_replace(tokens, pattern, r"\1", replace_global=False)
    has_weight = tf.strings.regex_full_match(tokens, f"(?s).*{escaped}.*")
    texts = tf.where(has_weight, tf.strings.regex_replace(tokens, pattern, r"\2", replace_global=False), "1")
    is_number = tf.strings.regex_full_match(texts, NUMBER_PATTERN)
    checks = require(
        tf.reduce_all(is_number),
        f"column '{name}': weights must be numbers. Received",
        lambda: tf.boolean_mask(tokens, ~is_number)[0],
    )
    return values, tf.strings.to_number(after_checks(checks, texts))


def _first_difference(weights: Any, lists: Any) -> tf.Tensor:
    """Return the numbers of weights and of values in the first row where they differ, int64 `[2]`.

    If they differ in no row, return the numbers of rows with weights and of rows with values.
    """
    num_rows = tf.minimum(weights.nrows(), lists.nrows())
    lengths = tf.stack([weights.row_lengths()[:num_rows], lists.row_lengths()[:num_rows]], axis=1)
    differing = tf.where(lengths[:, 0] != lengths[:, 1])[:, 0]
    return tf.cond(
        tf.size(differing) > 0, lambda: lengths[differing[0]], lambda: tf.stack([weights.nrows(), lists.nrows()])
    )
