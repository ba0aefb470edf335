"""Writing raw columns as TFRecord files of `tf.train.Example`."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_rafm.data.columns.column import is_missing
from keras_rafm.data.columns.raw_batches import as_raw_batch, is_frame
from keras_rafm.data.raw.columns import RawColumn
from keras_rafm.data.raw.files import is_gzip, is_remote
from keras_rafm.data.schema import Schema
from keras_rafm.files.atomic import new_file

_LISTS = {
    "string": ("BytesList", "bytes_list"),
    "int64": ("Int64List", "int64_list"),
    "float32": ("FloatList", "float_list"),
}


def write_tfrecord(path: str | os.PathLike[str], data: Any, schema: Schema, training: bool = True) -> int:
    """Write raw rows for `TFRecordFormat`, one `tf.train.Example` each. Missing values are left out of it.

    A local file takes its name when it is complete.

    Args:
        path: The file; compressed by gzip if its name ends with `.gz`.
        data: Raw columns as a mapping of arrays or a data frame, or batches of them, such as `schema.raw_dataset(…)`.
        schema: Says which columns there are.
        training: `False` leaves out labels and sample weights.

    Returns:
        How many rows were written.

    Raises:
        TypeError: A column has another dtype than declared.
        ValueError: A column is not there.
    """
    name = os.fspath(path)
    columns = schema.raw_columns(training)
    batches: Iterable[Any] = [data] if isinstance(data, Mapping) or is_frame(data) else data
    options = tf.io.TFRecordOptions(compression_type="GZIP" if is_gzip(name) else "")
    if is_remote(name):
        return _write(name, options, batches, columns)
    with new_file(Path(name)) as unfinished:
        return _write(str(unfinished), options, batches, columns)


def _write(path: str, options: tf.io.TFRecordOptions, batches: Iterable[Any], columns: list[RawColumn]) -> int:
    number = 0
    with tf.io.TFRecordWriter(path, options) as writer:
        for batch in batches:
            for example in serialized_examples(as_raw_batch(batch, columns), columns).numpy().tolist():
                writer.write(example)
                number += 1
    return number


def serialized_examples(raw: Mapping[str, Any], columns: list[RawColumn]) -> tf.Tensor:
    """Serialised `tf.train.Example`s, string `[n]`, put together from the innermost message outwards."""
    entries, there = [], []
    for column in columns:
        values = raw[column.name]
        if not column.is_list:
            known = ~is_missing(values)
            values = tf.RaggedTensor.from_row_lengths(tf.boolean_mask(values, known), tf.cast(known, tf.int64))
        message, field = _LISTS[column.dtype]
        lengths = values.row_lengths()
        features = _encoded("Feature", [field], [_encoded(message, ["value"], [values.to_tensor()], lengths)])
        entries.append(
            _encoded("Features.FeatureEntry", ["key", "value"], [tf.fill(tf.shape(features), column.name), features])
        )
        there.append(lengths > 0)
    known = tf.stack(there, axis=1)
    present = tf.RaggedTensor.from_row_lengths(
        tf.boolean_mask(tf.stack(entries, axis=1), known), tf.reduce_sum(tf.cast(known, tf.int64), axis=1)
    )
    features = _encoded("Features", ["feature"], [present.to_tensor()], present.row_lengths())
    return _encoded("Example", ["features"], [features])


def _encoded(message: str, fields: list[str], values: list[tf.Tensor], lengths: tf.Tensor | None = None) -> tf.Tensor:
    """Messages, string `[n]`.

    Args:
        message: The kind of message.
        fields: Names of its fields.
        values: Of each field: one value `[n]`, or repeated ones `[n, …]`.
        lengths: How many of the repeated ones count; `None` where there is one value.
    """
    if lengths is None:
        values = [own[:, tf.newaxis] for own in values]
        lengths = tf.ones(tf.shape(values[0])[:1], tf.int32)
    sizes = tf.repeat(tf.cast(lengths, tf.int32)[:, tf.newaxis], len(fields), axis=1)
    return tf.io.encode_proto(sizes, values, fields, f"tensorflow.{message}")
