"""The one record that this package attaches to objects of Keras and TensorFlow.

Three kinds of objects carry it, in the attribute `_keras_rafm`: variables, graphs and datasets. Each of them is handed to
code of this package by Keras or TensorFlow, long after other code of this package knew something about it: an optimizer
gets a variable, not the layer that reads it; `fit` gets a dataset, not the arrays that it was made from. Neither library
has a place for notes of others, and a dictionary elsewhere would have to follow the lifetime of these objects. An attribute
lives exactly as long as the object, and a new object that Keras or TensorFlow derives from it starts without one: what
was known of a dataset is not known of `dataset.map(...)`.

The record is never saved. Whoever writes it writes it again after loading: a `RaFMLayer` when it is built, an optimizer
when it is built.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from keras_rafm.rows.table_reading import TableReading

if TYPE_CHECKING:
    import tensorflow as tf

_ATTRIBUTE: Final = "_keras_rafm"


@dataclasses.dataclass(frozen=True)
class AttachedRecord:
    """What this package knows about an object of Keras or TensorFlow. Every field has a default: "nothing is known".

    Attributes:
        reading: On a variable: how training reads it. Written by `RaFMLayer`; read by the optimizers of this package and by
            the layer's own lookups. See `rows.table_reading`.
        idle_decay: On a variable: the `IdleDecay` that applies pending decay to its rows. Written by the optimizers of this
            package; read by all code that reads or writes rows of tables. See `rows.idle_decay`.
        distinct_row_ids: On a graph: the names of its tensors that hold row numbers without repetition. Written where rows
            are looked up; read where sparse gradients are merged. See `rows.sparse_gradients`.
        batch_size: On a dataset: the number of samples in its batches, the last one excepted. Written by the readers in
            `data`; read by `RaFMModel.fit`. See `data.reading.array_batches`.
        endless: On a dataset: a function from a number of epochs to a dataset of these epochs that does not end. Written by
            the readers in `data`; read by `RaFMModel.fit`.
    """

    reading: TableReading = TableReading.UNKNOWN
    idle_decay: Any = None
    distinct_row_ids: frozenset[str] = frozenset()
    batch_size: int | None = None
    endless: Callable[[int], tf.data.Dataset] | None = None


_NOTHING_KNOWN: Final = AttachedRecord()


def record_of(carrier: Any) -> AttachedRecord:
    """Return the record of a variable, a graph or a dataset."""
    return getattr(carrier, _ATTRIBUTE, _NOTHING_KNOWN)


def update_record(carrier: Any, **fields: Any) -> None:
    """Set some fields of the record of a variable, a graph or a dataset; the others keep their values."""
    setattr(carrier, _ATTRIBUTE, dataclasses.replace(record_of(carrier), **fields))
