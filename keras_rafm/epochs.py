"""What `RaFMModel.fit` reads: the batches of all epochs from one iterator.

Keras starts two iterators per epoch, the second for nothing. Each instantiates all functions of the dataset anew, which
takes tens of milliseconds: as long as ten training steps. Here one iterator goes over the repeated dataset for as long as
`fit` lasts. Every epoch reads what it would have read: a dataset is started anew when the first batch of an epoch is
asked for, never before. Batches of arrays, which depend on nothing else, are got ready ahead of their epoch.
"""

from __future__ import annotations

import math
import random
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_rafm.data._batches import gathered_batches
from keras_rafm.data._checks import positive_int

_DEFAULT_BATCH_SIZE = 32  # Keras'


def with_one_iterator(reads: dict[str, Any], steps_per_execution: int) -> dict[str, Any]:
    """Arguments of `keras.Model.fit` that read the same from one iterator.

    Args:
        reads: `x`, `y`, `sample_weight`, `batch_size`, `shuffle`, `class_weight`, `validation_split`, `validation_data` and
            `steps_per_epoch` as `keras.Model.fit` takes them.
        steps_per_execution: Of the model.

    Returns:
        What to give to Keras instead. The same where Keras has to do it: for `steps_per_epoch`, datasets of unknown length,
        generators and `PyDataset`s, `class_weight` of arrays, and arrays that are not NumPy's or dense tensors or do not
        fit each other.

    Raises:
        TypeError: `batch_size` of arrays is not an integer.
        ValueError: It is negative.
    """
    if reads["steps_per_epoch"] or keras.config.max_steps_per_epoch():
        return reads
    x = reads["x"]
    if isinstance(x, tf.data.Dataset):
        cardinality = int(x.cardinality())
        if cardinality <= 0 or reads["y"] is not None or reads["sample_weight"] is not None:
            return reads
        options = tf.data.Options()
        options.experimental_optimization.inject_prefetch = False  # behind `repeat` it would read ahead of the epoch
        endless = x.prefetch(tf.data.AUTOTUNE).repeat().with_options(options)
        return {**reads, **_one_iterator(endless, cardinality, steps_per_execution)}
    return _of_arrays(reads, steps_per_execution)


def _of_arrays(reads: dict[str, Any], steps_per_execution: int) -> dict[str, Any]:
    arrays = keras.tree.lists_to_tuples(tuple(reads[name] for name in ("x", "y", "sample_weight")))
    num_samples = _common_length(arrays)
    weighs_outputs = arrays[2] is not None and keras.tree.is_nested(arrays[1])
    weighs_classes = reads["class_weight"] is not None
    if not num_samples or weighs_outputs or weighs_classes or reads["shuffle"] not in (True, False):
        return reads
    batch_size = positive_int("batch_size", reads["batch_size"] or _DEFAULT_BATCH_SIZE)
    validation = reads["validation_data"]
    if reads["validation_split"] and validation is None:
        num_training = math.floor(num_samples * (1 - reads["validation_split"]))
        if not 0 < num_training < num_samples:
            return reads
        validation = keras.utils.pack_x_y_sample_weight(*_rows(arrays, num_training, num_samples))
        arrays, num_samples = _rows(arrays, 0, num_training), num_training
    rng = np.random.default_rng(random.getrandbits(128)) if reads["shuffle"] else None
    packed = keras.utils.pack_x_y_sample_weight(*_in_floatx(arrays))
    batches = gathered_batches(packed, num_samples, batch_size, drop_remainder=False, rng=rng)
    return {
        **reads,
        **_one_iterator(batches.repeat().prefetch(tf.data.AUTOTUNE), int(batches.cardinality()), steps_per_execution),
        "y": None,
        "sample_weight": None,
        "shuffle": False,
        "validation_split": 0.0,
        "validation_data": validation,
    }


def _one_iterator(endless: tf.data.Dataset, cardinality: int, steps_per_execution: int) -> dict[str, Any]:
    """`x` and `steps_per_epoch` for Keras.

    With `steps_per_epoch` Keras stays with the iterator of a dataset without end, but then executes all steps of the last
    execution, also those beyond the end of an epoch. Where there are such, it gets a dataset that ends, all of whose
    iterators read on from one.
    """
    if cardinality % steps_per_execution:
        batches = iter(endless)
        options = tf.data.Options()
        options.autotune.enabled = False  # to start an iterator sooner
        options.experimental_optimization.apply_default_optimizations = False
        endless = tf.data.Dataset.range(cardinality).map(lambda _: batches.get_next()).with_options(options)
    return {"x": endless, "steps_per_epoch": cardinality}


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
        with tf.device("CPU:0"):
            return tf.cast(array, keras.config.floatx())

    return keras.tree.map_structure(cast, arrays)
