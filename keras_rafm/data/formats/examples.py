"""Serialised `tf.train.Example`s -> raw columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_rafm.checks.tensors import after_checks, require
from keras_rafm.data.raw.blocks import is_legal
from keras_rafm.data.raw.columns import EXPECTED, MISSING, RawColumn
from keras_rafm.data.raw.errors import MalformedRowError

_FINITE = "numbers that are finite"


class NumberKinds:
    """Finds out which number columns are stored as `int64_list`. For each column, the first example that has it decides.

    Args:
        columns: The columns to read.
    """

    def __init__(self, columns: Sequence[RawColumn]) -> None:
        self._unknown = {column.name for column in columns if column.dtype == "float32"}
        self.int64_numbers: frozenset[str] = frozenset()

    @property
    def are_known(self) -> bool:
        """Whether an example with each of the columns has been seen."""
        return not self._unknown

    def look_at(self, texts: Sequence[bytes]) -> None:
        """Look for columns whose storage is not yet known in serialised examples."""
        for text in texts:
            if self.are_known:
                return
            try:
                feature = tf.train.Example.FromString(text).features.feature
            except Exception:  # The type depends on the version of protobuf. Parsing will report the error.
                continue
            for name in [name for name in self._unknown if name in feature]:
                kind = feature[name].WhichOneof("kind")
                if kind in ("float_list", "int64_list") and getattr(feature[name], kind).value:
                    self._unknown.remove(name)
                    self.int64_numbers |= {name} if kind == "int64_list" else set()


def parse_examples(
    texts: tf.Tensor, columns: Sequence[RawColumn], path: Any, first: Any, int64_numbers: frozenset[str]
) -> dict[str, Any]:
    """Return the columns of serialised examples.

    Args:
        texts: The serialised examples, string `[n]`.
        columns: The columns to read.
        path: The name of the file, for messages: a string or a string scalar.
        first: The number of the first example in the file: an integer or an integer scalar.
        int64_numbers: The names of the number columns that are stored as `int64_list`.

    Raises:
        tf.errors.InvalidArgumentError: An example is malformed.
    """
    place = tf.strings.join([path, ", records from ", tf.strings.as_string(first)])
    dtypes = {column.name: "int64" if column.name in int64_numbers else column.dtype for column in columns}
    features = {name: tf.io.RaggedFeature(tf.as_dtype(dtype), row_splits_dtype=tf.int64) for name, dtype in dtypes.items()}
    lists = tf.io.parse_example(texts, features, example_names=tf.fill(tf.shape(texts), place))
    lists = {column.name: tf.cast(lists[column.name], column.dtype) for column in columns}
    checks = _check_examples(lists, columns, path, first)
    parsed = {}
    for column in columns:
        values = lists[column.name]
        values = values.with_flat_values(after_checks(checks, values.flat_values))
        parsed[column.name] = values if column.is_list else _single_values(values, column)
    return parsed


def _single_values(lists: tf.RaggedTensor, column: RawColumn) -> tf.Tensor:
    """Return the first value of each row, or the missing value of the column's dtype if a row has none."""
    missing = MISSING[column.dtype]
    return lists.to_tensor(tf.constant(missing, lists.dtype), shape=[None, 1])[:, 0]


def _check_examples(
    lists: Mapping[str, tf.RaggedTensor], columns: Sequence[RawColumn], path: Any, first: Any
) -> list[tf.Tensor]:
    """Return checks for `after_checks`. One check covers several columns, since each branch of a graph is costly."""

    def received(value: tf.Tensor, name: tf.Tensor, row: tf.Tensor) -> tf.Tensor:
        record = tf.strings.as_string(tf.cast(first, tf.int64) + row)
        return tf.strings.join([tf.strings.as_string(value), " of column ", name, " in record ", record, " of ", path])

    checks: list[tf.Tensor] = []
    single_value_names = [column.name for column in columns if not column.is_list]
    for column in columns:
        if column.role != "feature":
            values = _single_values(lists[column.name], column)
            legal = is_legal(values, column.role)

            def illegal(values: tf.Tensor = values, legal: tf.Tensor = legal, name: str = column.name) -> tf.Tensor:
                row = tf.where(~legal)[0, 0]
                return received(values[row], name, row)

            checks += require(tf.reduce_all(legal), f"expected {EXPECTED[column.role]}. Received", illegal)
    if single_value_names:
        lengths = tf.stack([lists[name].row_lengths() for name in single_value_names], axis=1)

        def several() -> tf.Tensor:
            row, column = tf.unstack(tf.where(lengths > 1)[0], num=2)
            return received(lengths[row, column], tf.gather(single_value_names, column), row)

        at_most_one = tf.reduce_all(lengths <= 1)
        checks += require(at_most_one, "expected at most one value in each tf.train.Example. Received", several)
    number_names = [column.name for column in columns if column.dtype == "float32"]
    if number_names:
        values = tf.concat([lists[name].flat_values for name in number_names], axis=0)

        def infinite() -> tf.Tensor:
            place = tf.where(tf.math.is_inf(values))[0, 0]
            rows = tf.concat([lists[name].value_rowids() for name in number_names], axis=0)
            names = tf.repeat(number_names, [tf.size(lists[name].flat_values) for name in number_names])
            return received(values[place], names[place], rows[place])

        checks += require(~tf.reduce_any(tf.math.is_inf(values)), f"expected {_FINITE}. Received", infinite)
    return checks


def explain_records(
    texts: Sequence[bytes], columns: Sequence[RawColumn], path: str, first: int, int64_numbers: frozenset[str]
) -> None:
    """Raise the error of the first malformed example, if there is one.

    Args:
        texts: The serialised examples.
        columns: See `parse_examples`.
        path: See `parse_examples`.
        first: See `parse_examples`.
        int64_numbers: See `parse_examples`.

    Raises:
        MalformedRowError: An example is malformed.
    """
    for number, text in enumerate(texts, start=first):
        try:
            feature = tf.train.Example.FromString(text).features.feature
        except Exception as error:  # The type depends on the version of protobuf.
            problem = f"expected a tf.train.Example ({error})"
            raise MalformedRowError(path, number, None, problem, unit="record") from error
        for column in columns:
            column_problem = _problem(feature, column, column.name in int64_numbers)
            if column_problem is not None:
                raise MalformedRowError(path, number, column.name, column_problem, unit="record")


def _problem(feature: Mapping[str, Any], column: RawColumn, is_int64_number: bool) -> str | None:
    """Return what was expected of a column and what was received instead, or `None` if it is legal.

    Args:
        feature: The features of an example by their names.
        column: The column.
        is_int64_number: Whether it has numbers that are stored as `int64_list`.
    """
    kinds = {"string": "bytes_list", "int64": "int64_list", "float32": "float_list"}
    expected_kind = kinds["int64" if is_int64_number else column.dtype]
    kind = feature[column.name].WhichOneof("kind") if column.name in feature else None
    values = [] if kind is None else list(getattr(feature[column.name], kind).value)
    if kind not in (None, expected_kind):
        return f"expected {expected_kind}, received {kind} {values[:3]}"
    if len(values) > 1 and not column.is_list:
        return f"expected at most one value, received {len(values)}"
    infinite = [value for value in values if kind == "float_list" and np.isinf(value)]
    if infinite:
        return f"expected {_FINITE}, received {infinite[0]}"
    if column.role != "feature" and not (values and _is_legal(values[0], column)):
        return f"expected {EXPECTED[column.role]}, received {values[0] if values else 'none'}"
    return None


def _is_legal(value: Any, column: RawColumn) -> bool:
    return value != b"" if column.dtype == "string" else bool(is_legal(np.float32(value), column.role))
