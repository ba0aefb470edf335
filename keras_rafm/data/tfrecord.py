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
    """Write each raw row as a `tf.train.Example`, for `TFRecordFormat`. Missing values are left out of the example.

    A local file is written atomically.

    Args:
        path: The file. It is compressed with gzip if its name ends with `.gz`.
        data: Raw columns as a mapping of arrays or a data frame, or batches of them, such as `schema.raw_dataset(…)`.
        schema: Declares the columns.
        training: `False` leaves out labels and sample weights.

    Returns:
        The number of rows written.

    Raises:
        TypeError: A column has another dtype than declared.
        ValueError: A column is missing.
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
    num_rows = 0
    with tf.io.TFRecordWriter(path, options) as writer:
        for batch in batches:
            for example in serialized_examples(as_raw_batch(batch, columns), columns).numpy().tolist():
                writer.write(example)
                num_rows += 1
    return num_rows


def serialized_examples(raw: Mapping[str, Any], columns: list[RawColumn]) -> tf.Tensor:
    """Return the rows of a raw batch as serialized `tf.train.Example`s, string `[n]`.

    The protocol buffers are built by TensorFlow operations, from the innermost message outwards.

    Args:
        raw: Raw columns by name, as `as_raw_batch` returns them.
        columns: The columns to write.
    """
    entries, have_values = [], []
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
        have_values.append(lengths > 0)
    has_value = tf.stack(have_values, axis=1)
    kept = tf.RaggedTensor.from_row_lengths(
        tf.boolean_mask(tf.stack(entries, axis=1), has_value), tf.reduce_sum(tf.cast(has_value, tf.int64), axis=1)
    )
    features = _encoded("Features", ["feature"], [kept.to_tensor()], kept.row_lengths())
    return _encoded("Example", ["features"], [features])


def _encoded(message: str, fields: list[str], values: list[tf.Tensor], lengths: tf.Tensor | None = None) -> tf.Tensor:
    """Return serialized messages, string `[n]`.

    Args:
        message: The type of the messages.
        fields: Names of their fields.
        values: For each field one value per message `[n]`, or several values `[n, …]`.
        lengths: The number of values per message `[n]`; `None` if there is one.
    """
    if lengths is None:
        values = [field_values[:, tf.newaxis] for field_values in values]
        lengths = tf.ones(tf.shape(values[0])[:1], tf.int32)
    sizes = tf.repeat(tf.cast(lengths, tf.int32)[:, tf.newaxis], len(fields), axis=1)
    return tf.io.encode_proto(sizes, values, fields, f"tensorflow.{message}")
