"""Encoding of raw batches as ids and values: the part of a `Schema` that runs inside `tf.data` and in exported graphs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
import tensorflow as tf

from keras_rafm.checks.constants import PADDING_ID
from keras_rafm.data.columns.column import Column, Learnt, Parts
from keras_rafm.data.columns.raw_batches import as_raw_batch
from keras_rafm.data.columns.schema_files import vocabulary_file

#: Maps a vocabulary and the name of its column to the initializer of a look-up table from values to their positions.
TableFiller = Callable[[npt.NDArray[Any], str], tf.lookup.TextFileInitializer | tf.lookup.KeyValueTensorInitializer]


def tables_in_memory(vocabulary: npt.NDArray[Any], name: str) -> tf.lookup.KeyValueTensorInitializer:
    """Return the initializer of a table from constants: a `TableFiller` for tables in this process."""
    del name
    keys = tf.constant(vocabulary.tolist(), tf.string) if vocabulary.dtype == object else tf.constant(vocabulary)
    return tf.lookup.KeyValueTensorInitializer(keys, tf.range(vocabulary.size, dtype=tf.int64))


def tables_from_files(folder: Path, columns: Mapping[str, Column]) -> TableFiller:
    """Return a `TableFiller` for the vocabulary files of a saved schema, which a SavedModel stores beside its graph.

    Args:
        folder: The directory of the saved schema.
        columns: All columns of the schema by name, in their order.
    """
    files = {name: folder / vocabulary_file(number) for number, name in enumerate(columns)}

    def fill(vocabulary: npt.NDArray[Any], name: str) -> tf.lookup.TextFileInitializer:
        return _VocabularyFile(files[name], tf.string if vocabulary.dtype == object else tf.int64)

    return fill


class _VocabularyFile(tf.lookup.TextFileInitializer):
    """A vocabulary file whose path does not become part of the graph."""

    def __init__(self, path: Path, dtype: tf.DType) -> None:
        # TensorFlow shares one table among all tables of a name. Its default name contains the path, which must not
        # appear in a SavedModel, so the name contains a digest of the file instead.
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._name_of_table = f"vocabulary_{dtype.name}_{digest}"
        whole_line, line_number = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
        super().__init__(str(path), dtype, whole_line, tf.int64, line_number)

    @property
    def _shared_name(self) -> str:
        return self._name_of_table


class Encoder(tf.Module):
    """The look-ups, hashes and bins of all columns.

    Args:
        columns: The columns by name, in the order of their features.
        learnt: What each column learnt, by name.
        fill: Makes the initializers of the look-up tables.
    """

    def __init__(self, columns: Mapping[str, Column], learnt: Mapping[str, Learnt], fill: TableFiller) -> None:
        super().__init__(name="encoder")
        self._columns = dict(columns)
        self._raw_columns = [raw for name, column in columns.items() for raw in column.raw_columns(name)]
        self._tables: dict[str, tf.lookup.StaticHashTable] = {}
        self._encode, self._first = {}, {}
        first = 0
        for name, column in columns.items():
            vocabulary = learnt[name].vocabulary
            if vocabulary is not None and vocabulary.size:
                self._tables[name] = tf.lookup.StaticHashTable(fill(vocabulary, name), default_value=-1)
            self._encode[name] = column.encoding(name, learnt[name], self._tables.get(name))
            self._first[name] = first
            first += learnt[name].num_ids
        self._dtype = tf.int32 if first <= 2**31 else tf.int64
        self.has_values = any(column.has_values for column in columns.values())

    @tf.Module.with_name_scope
    def __call__(self, raw: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        """Encode a raw batch.

        Args:
            raw: Columns by name; see `Schema.__call__`.

        Returns:
            `{"ids": int32 or int64 [B, F]}`, with `"values"`: float32 `[B, F]` if `has_values`.
        """
        tensors = as_raw_batch(raw, self._raw_columns)
        ids, values = [], []
        for name, column in self._columns.items():
            parts = column.parts(tensors, name)
            local_ids, x = self._encode[name](parts.values)
            if column.has_lists:
                x = column.combined(parts)
            has_feature = local_ids >= 0
            column_ids = tf.where(has_feature, local_ids + self._first[name], tf.cast(PADDING_ID, tf.int64))
            ids.append(_as_matrix(tf.cast(column_ids, self._dtype), parts, PADDING_ID))
            if self.has_values:
                x = tf.ones(tf.shape(local_ids)) if x is None else x
                values.append(_as_matrix(tf.where(has_feature, x, 0.0), parts, 0.0))
        encoded = {"ids": tf.concat(ids, axis=1)}
        return {**encoded, "values": tf.concat(values, axis=1)} if self.has_values else encoded


def _as_matrix(flat: tf.Tensor, parts: Parts, padding: float) -> tf.Tensor:
    """Return flat values of all rows as a matrix `[B, width]`, padded at the end of each row."""
    if parts.row_lengths is None:
        return flat[:, tf.newaxis]
    return tf.RaggedTensor.from_row_lengths(flat, parts.row_lengths, validate=False).to_tensor(padding)
