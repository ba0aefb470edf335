"""A schema's columns split in two: those that describe items, and those that describe contexts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_rafm.data.columns.encoder import Encoder, tables_from_files
from keras_rafm.data.columns.raw_batches import is_frame
from keras_rafm.data.columns.schema_files import read_schema
from keras_rafm.data.schema import Schema


class ColumnSubset(tf.Module):
    """Some columns of a schema, with the feature ids that they have in the whole schema.

    Args:
        schema: The schema.
        names: The names of the columns.
        folder: The folder that the schema is saved in. The vocabularies there become assets of a SavedModel.
    """

    def __init__(self, schema: Schema, names: Sequence[str], folder: Path) -> None:
        super().__init__(name="columns")
        columns = schema.columns
        _, learnt_of = read_schema(folder)
        learnt = learnt_of(columns)
        self.raw_columns = [raw for name in names for raw in columns[name].raw_columns(name)]
        self._encoder = Encoder(
            {name: columns[name] for name in names},
            {name: learnt[name] for name in names},
            tables_from_files(folder, columns),
        )
        sizes = [learnt[name].num_ids for name in names]
        # The encoder numbers the features of these columns from 0.
        self._ends = np.cumsum(sizes)
        self._shifts = np.array([schema.id_range(name).start for name in names]) - (self._ends - sizes)

    def __call__(self, raw: Any) -> dict[str, tf.Tensor]:
        """Return ids and values of a batch: those that calling the schema returns, without the other columns."""
        encoded = self._encoder(raw)
        ids = encoded["ids"]
        positions = tf.searchsorted(tf.constant(self._ends, ids.dtype), tf.reshape(ids, [-1]), side="right")
        shifts = tf.reshape(tf.gather(tf.constant(self._shifts, ids.dtype), positions), tf.shape(ids))
        return {**encoded, "ids": tf.where(ids < 0, ids, ids + shifts)}


def are_raw(items: Any) -> bool:
    """Return whether items are given as raw columns, and not as ids."""
    return is_frame(items) or (isinstance(items, Mapping) and "ids" not in items)


def split_columns(schema: Schema, item_columns: Sequence[str] | None) -> tuple[list[str], list[str]]:
    """Return the names of the columns of items and those of contexts, in the order of the schema.

    Raises:
        TypeError: `item_columns` is not a sequence of names.
        ValueError: `item_columns` is empty, a name is unknown, or no column is left for contexts.
    """
    if isinstance(item_columns, str) or not isinstance(item_columns, Sequence):
        raise TypeError(
            f"`item_columns` must be the names of the schema's columns that describe items. Received: {item_columns!r}"
        )
    names = list(schema.columns)
    unknown = [name for name in item_columns if name not in names]
    items = [name for name in names if name in item_columns]
    contexts = [name for name in names if name not in item_columns]
    if unknown or not items or not contexts:
        raise ValueError(
            f"`item_columns` must be some, but not all, of the columns of the schema, {names}. "
            f"Received: {list(item_columns)}"
        )
    return items, contexts
