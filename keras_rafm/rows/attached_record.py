"""The record that this package attaches to variables, graphs and datasets.

Variables, graphs and datasets belong to Keras and TensorFlow, which hand them to one part of this package long after
another part knew something about them. An optimizer gets a variable, but not the layer that reads it. `fit` gets a dataset,
but not the arrays that the dataset was made from. Neither library offers a place for such knowledge. A dictionary of our
own would have to follow the lifetimes of these objects. So the record is an attribute of the object, `_keras_rafm`, and
lives exactly as long as the object.

A new object that Keras or TensorFlow derives from another one starts without a record: what is known about a dataset is not
known about `dataset.map(...)`. The record is never saved. After loading, the layer and the optimizer write it again when
they are built.
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
    """What this package knows about a variable, a graph or a dataset. The default of a field means: nothing is known.

    Attributes:
        reading: On a variable: how training reads it. `RaFMLayer` writes it. The optimizers of this package and the lookups
            of the layer read it. See `rows.table_reading`.
        idle_decay: On a variable: the `IdleDecay` that applies its pending decay. The optimizers of this package write it.
            All code that reads or writes rows of tables reads it. See `rows.idle_decay`.
        distinct_row_ids: On a graph: the names of its tensors that hold row numbers without repetition. Code that looks up
            rows writes it. Code that merges sparse gradients reads it. See `rows.sparse_gradients`.
        batch_size: On a dataset: the number of samples in each batch except the last. The readers in `data` write it.
            `RaFMModel.fit` reads it. See `data.samples.array_batches`.
        endless: On a dataset: a function that returns an endless dataset, given the number of epochs that will be read. The
            readers in `data` write it. `RaFMModel.fit` reads it.
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
