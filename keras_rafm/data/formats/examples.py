"""Serialised `tf.train.Example`s -> raw columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_rafm.checks.tensors import require
from keras_rafm.data.raw.columns import EXPECTED, MISSING, RawColumn, is_legal
from keras_rafm.data.raw.errors import MalformedRowError

_FINITE = "numbers that are finite"


class NumberKinds:
    """Which columns of numbers examples have as `int64_list`: for each, the first example that has it tells."""

    def __init__(self, columns: Sequence[RawColumn]) -> None:
        self._unknown = {column.name for column in columns if column.dtype == "float32"}
        self.int64_numbers: frozenset[str] = frozenset()

    @property
    def are_known(self) -> bool:
        """Whether all columns have been seen."""
        return not self._unknown

    def look_at(self, texts: Sequence[bytes]) -> None:
        """Look for columns that are not known yet."""
        for text in texts:
            if self.are_known:
                return
            try:
                feature = tf.train.Example.FromString(text).features.feature
            except Exception:  # whatever the version of protobuf raises; told of by whoever parses it
                continue
            for name in [name for name in self._unknown if name in feature]:
                kind = feature[name].WhichOneof("kind")
                if kind in ("float_list", "int64_list") and getattr(feature[name], kind).value:
                    self._unknown.remove(name)
                    self.int64_numbers |= {name} if kind == "int64_list" else set()


def parse_examples(
    texts: tf.Tensor, columns: Sequence[RawColumn], path: Any, first: Any, int64_numbers: frozenset[str]
) -> dict[str, Any]:
    """The columns of serialised examples, of which the first has this number in its file."""
    place = tf.strings.join([path, ", records from ", tf.strings.as_string(first)])
    dtypes = {column.name: "int64" if column.name in int64_numbers else column.dtype for column in columns}
    features = {name: tf.io.RaggedFeature(tf.as_dtype(dtype), row_splits_dtype=tf.int64) for name, dtype in dtypes.items()}
    lists = tf.io.parse_example(texts, features, example_names=tf.fill(tf.shape(texts), place))
    lists = {column.name: tf.cast(lists[column.name], column.dtype) for column in columns}
    checked = _check_examples(lists, columns, path, first)
    with tf.control_dependencies(checked):
        return {column.name: _of_example(lists[column.name], column) for column in columns}


def _of_example(lists: tf.RaggedTensor, column: RawColumn) -> Any:
    """A column of lists as it is; of any other the one value of each row, or the missing one."""
    if column.is_list:
        return lists.with_flat_values(tf.identity(lists.flat_values))
    missing = MISSING[column.dtype]
    return lists.to_tensor(tf.constant(missing, lists.dtype), shape=[None, 1])[:, 0]


def _check_examples(
    lists: Mapping[str, tf.RaggedTensor], columns: Sequence[RawColumn], path: Any, first: Any
) -> list[tf.Tensor]:
    """What has to be waited for, as in `require`: each check is one of all columns, as a branch of a graph is costly."""

    def received(value: tf.Tensor, name: tf.Tensor, row: tf.Tensor) -> tf.Tensor:
        record = tf.strings.as_string(tf.cast(first, tf.int64) + row)
        return tf.strings.join([tf.strings.as_string(value), " of column ", name, " in record ", record, " of ", path])

    checked: list[tf.Tensor] = []
    names = [column.name for column in columns if not column.is_list]
    for column in columns:
        if column.role != "feature":
            values = _of_example(lists[column.name], column)
            legal = is_legal(values, column.role)

            def illegal(values: tf.Tensor = values, legal: tf.Tensor = legal, name: str = column.name) -> tf.Tensor:
                row = tf.where(~legal)[0, 0]
                return received(values[row], name, row)

            checked += require(tf.reduce_all(legal), f"expected {EXPECTED[column.role]}. Received", illegal)
    if names:
        lengths = tf.stack([lists[name].row_lengths() for name in names], axis=1)

        def several() -> tf.Tensor:
            row, column = tf.unstack(tf.where(lengths > 1)[0], num=2)
            return received(lengths[row, column], tf.gather(names, column), row)

        at_most_one = tf.reduce_all(lengths <= 1)
        checked += require(at_most_one, "expected at most one value in each tf.train.Example. Received", several)
    floats = [column.name for column in columns if column.dtype == "float32"]
    if floats:
        values = tf.concat([lists[name].flat_values for name in floats], axis=0)

        def infinite() -> tf.Tensor:
            place = tf.where(tf.math.is_inf(values))[0, 0]
            rows = tf.concat([lists[name].value_rowids() for name in floats], axis=0)
            column = tf.repeat(floats, [tf.size(lists[name].flat_values) for name in floats])
            return received(values[place], column[place], rows[place])

        checked += require(~tf.reduce_any(tf.math.is_inf(values)), f"expected {_FINITE}. Received", infinite)
    return checked


def explain_records(
    texts: Sequence[bytes], columns: Sequence[RawColumn], path: str, first: int, int64_numbers: frozenset[str]
) -> None:
    """Raise the `MalformedRowError` of the first of these records that has a malformed feature."""
    fields = {"string": "bytes_list", "int64": "int64_list", "float32": "float_list"}
    for number, text in enumerate(texts, start=first):
        try:
            feature = tf.train.Example.FromString(text).features.feature
        except Exception as error:  # its type differs between versions of protobuf
            problem = f"expected a tf.train.Example ({error})"
            raise MalformedRowError(path, number, None, problem, "record") from error
        for column in columns:
            field = fields["int64" if column.name in int64_numbers else column.dtype]
            kind = feature[column.name].WhichOneof("kind") if column.name in feature else None
            values = [] if kind is None else list(getattr(feature[column.name], kind).value)
            infinite = [value for value in values if kind == "float_list" and np.isinf(value)]
            wrong = None
            if kind not in (None, field):
                wrong = f"expected {field}, received {kind} {values[:3]}"
            elif len(values) > 1 and not column.is_list:
                wrong = f"expected at most one value, received {len(values)}"
            elif infinite:
                wrong = f"expected {_FINITE}, received {infinite[0]}"
            elif column.role != "feature" and not (values and _is_legal(values[0], column)):
                wrong = f"expected {EXPECTED[column.role]}, received {values[0] if values else 'none'}"
            if wrong is not None:
                raise MalformedRowError(path, number, column.name, wrong, "record")


def _is_legal(value: Any, column: RawColumn) -> bool:
    return value != b"" if column.dtype == "string" else bool(is_legal(np.float32(value), column.role))
