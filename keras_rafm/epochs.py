"""What `RaFMModel.fit` reads: the batches of all epochs from one iterator.

Keras starts two iterators per epoch, the second for nothing. Each instantiates all functions of the dataset anew, which
takes tens of milliseconds: as long as ten training steps. Here one iterator goes over the repeated dataset for as long as
`fit` lasts, and what Keras starts once per epoch does no more than to count its batches. Every epoch reads what it would
have read: the dataset is started anew when the first batch of an epoch is asked for, never before.
"""

from __future__ import annotations

import math
import random
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_rafm.data._batches import gathered_batches

_DEFAULT_BATCH_SIZE = 32  # Keras'


def with_one_iterator(reads: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `keras.Model.fit` that read the same from one iterator.

    Args:
        reads: `x`, `y`, `sample_weight`, `batch_size`, `shuffle`, `class_weight`, `validation_split`, `validation_data` and
            `steps_per_epoch` as `keras.Model.fit` takes them.

    Returns:
        What to give to Keras instead. The same where Keras has to do it: for `steps_per_epoch`, datasets of unknown length,
        generators and `PyDataset`s, and arrays that are not NumPy's or dense tensors or do not fit each other.
    """
    if reads["steps_per_epoch"] or keras.config.max_steps_per_epoch():
        return reads
    x = reads["x"]
    if isinstance(x, tf.data.Dataset):
        cardinality = int(x.cardinality())
        if cardinality <= 0 or reads["y"] is not None or reads["sample_weight"] is not None:
            return reads
        return {**reads, "x": _one_iterator(x, cardinality), "steps_per_epoch": cardinality}
    return _of_arrays(reads)


def _of_arrays(reads: dict[str, Any]) -> dict[str, Any]:
    arrays = keras.tree.lists_to_tuples(tuple(reads[name] for name in ("x", "y", "sample_weight")))
    num_samples = _common_length(arrays)
    batch_size = reads["batch_size"] or _DEFAULT_BATCH_SIZE
    weighs_outputs = arrays[2] is not None and keras.tree.is_nested(arrays[1])
    if not num_samples or weighs_outputs or reads["class_weight"] or reads["shuffle"] not in (True, False):
        return reads
    validation = reads["validation_data"]
    if reads["validation_split"] and validation is None:
        num_training = math.floor(num_samples * (1 - reads["validation_split"]))
        if not 0 < num_training < num_samples:
            return reads
        validation = _packed(_rows(arrays, num_training, num_samples))
        arrays, num_samples = _rows(arrays, 0, num_training), num_training
    rng = np.random.default_rng(random.getrandbits(128)) if reads["shuffle"] else None
    batches = gathered_batches(_packed(_in_floatx(arrays)), num_samples, batch_size, drop_remainder=False, rng=rng)
    steps = int(batches.cardinality())
    changed = {"x": _one_iterator(batches, steps), "y": None, "sample_weight": None}
    return {
        **reads,
        **changed,
        "shuffle": False,
        "steps_per_epoch": steps,
        "validation_split": 0.0,
        "validation_data": validation,
    }


def _one_iterator(dataset: tf.data.Dataset, cardinality: int) -> tf.data.Dataset:
    """A dataset of as many batches, of which all iterators read on from one over the repeated dataset."""
    batches = iter(dataset.repeat())
    options = tf.data.Options()  # what takes time when an iterator is started, and there is nothing to win by it
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    return tf.data.Dataset.range(cardinality).map(lambda _: batches.get_next()).with_options(options)


def _common_length(arrays: Any) -> int | None:
    lengths = set()
    for array in keras.tree.flatten(arrays):
        if array is None:
            continue
        is_plain = isinstance(array, np.ndarray) and array.dtype.kind in "biuf"
        if not (is_plain or tf.is_tensor(array)) or isinstance(array, (tf.SparseTensor, tf.RaggedTensor)):
            return None
        if len(array.shape) == 0:
            return None
        lengths.add(array.shape[0])
    return lengths.pop() if len(lengths) == 1 else None


def _rows(arrays: Any, start: int, end: int) -> Any:
    return keras.tree.map_structure(lambda array: None if array is None else array[start:end], arrays)


def _in_floatx(arrays: Any) -> Any:
    """Keras casts floats of arrays."""

    def cast(array: Any) -> Any:
        if array is None or not tf.as_dtype(array.dtype).is_floating:
            return array
        return tf.cast(array, keras.config.floatx())

    return keras.tree.map_structure(cast, arrays)


def _packed(arrays: tuple[Any, Any, Any]) -> Any:
    return keras.utils.pack_x_y_sample_weight(*arrays)
