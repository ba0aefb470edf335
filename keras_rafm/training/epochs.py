"""How `RaFMModel.fit` reads the batches of all epochs: from one iterator.

Keras starts two iterators per epoch and does not use the second. Each of them instantiates all functions of the dataset
again, which takes tens of milliseconds: as long as ten training steps. Here one iterator goes over all epochs, and every
epoch reads the same batches as in Keras. Batches of arrays and of `Samples`, which depend on nothing outside them, are
prepared ahead of their epoch. Any other dataset starts when the first batch of an epoch is needed, and never earlier.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_rafm.checks.arguments import integer
from keras_rafm.data.samples.array_batches import (
    Orders,
    batch_size_of,
    endless_of,
    gathered_batches,
    num_batches,
    read_ahead,
)

_DEFAULT_BATCH_SIZE = 32  # of `keras.Model.fit`


def with_one_iterator(reads: dict[str, Any], epochs: int) -> dict[str, Any]:
    """Return arguments of `keras.Model.fit` that read the same batches from one iterator.

    Args:
        reads: The arguments `x`, `y`, `sample_weight`, `batch_size`, `shuffle`, `class_weight`, `validation_split`,
            `validation_data` and `steps_per_epoch` of `keras.Model.fit`.
        epochs: The number of epochs.

    Returns:
        The arguments with an endless dataset and `steps_per_epoch`. With these Keras would do all steps of the last
        execution of an epoch, including steps beyond the end of the epoch; `CountedSteps` leaves these out. `reads` itself
        is returned where only Keras can read the data: with `steps_per_epoch` or `class_weight`, for datasets of unknown
        length, generators and `PyDataset`s, and for arrays that are neither NumPy arrays nor dense tensors or have
        different lengths.

    Raises:
        TypeError: `x` is an array and `batch_size` is not an integer.
        ValueError: `x` is an array and `batch_size` is negative.
    """
    if reads["steps_per_epoch"] or keras.config.max_steps_per_epoch() or epochs < 1 or reads["class_weight"] is not None:
        return reads
    x = reads["x"]
    if isinstance(x, tf.data.Dataset):
        cardinality = int(x.cardinality())
        if cardinality <= 0 or reads["y"] is not None or reads["sample_weight"] is not None:
            return reads
        make_endless = endless_of(x)
        if make_endless is not None:
            # `shuffle` is turned off because Keras warns that it doesn't shuffle a dataset.
            return {**reads, "x": make_endless(epochs), "steps_per_epoch": cardinality, "shuffle": False}
        options = tf.data.Options()
        options.experimental_optimization.inject_prefetch = False  # after `repeat` it would start the next epoch early
        endless = x.prefetch(tf.data.AUTOTUNE).repeat().with_options(options)
        return {**reads, "x": endless, "steps_per_epoch": cardinality}
    return _arrays_with_one_iterator(reads, epochs)


def known_batch_size(reads: dict[str, Any]) -> int | None:
    """Return the number of samples in the batches that `keras.Model.fit` reads with these arguments, or `None`.

    It is known for arrays, for datasets with a static batch dimension, and for unmodified keras_rafm datasets.
    """
    x, batch_size = reads["x"], reads["batch_size"]
    if isinstance(x, tf.data.Dataset):
        return batch_size_of(x)
    are_arrays = x is not None and all(hasattr(array, "shape") for array in keras.tree.flatten(x))
    if not are_arrays:
        return None
    is_valid = isinstance(batch_size, (int, np.integer)) and batch_size > 0
    return int(batch_size) if is_valid else _DEFAULT_BATCH_SIZE


class CountedSteps:
    """A function that does several training steps per call, but none beyond the end of an epoch.

    Args:
        train_step: The `train_step` of a `keras.Model`.
        steps_per_execution: The largest number of steps per call.
        jit_compile: Whether XLA compiles the steps.
        run_eagerly: Whether steps run without a graph.
    """

    def __init__(
        self, train_step: Callable[[Any], Any], steps_per_execution: int, jit_compile: bool, run_eagerly: bool
    ) -> None:
        def one_step(data: Any) -> Any:
            def none_if_missing(item: Any) -> Any:  # Keras represents missing parts of a batch by empty optionals
                return None if isinstance(item, tf.experimental.Optional) else item

            return train_step(keras.tree.map_structure(none_if_missing, data))

        def several_steps(iterator: tf.data.Iterator, number: int) -> Any:
            for _ in range(number):
                logs = one_step(next(iterator))
            return logs

        self._steps_per_execution = steps_per_execution
        self._several_steps: Callable[[tf.data.Iterator, Any], Any]
        if run_eagerly or tf.config.functions_run_eagerly():
            self._several_steps = several_steps
        else:
            self._one_step = tf.function(one_step, jit_compile=jit_compile, reduce_retracing=True, autograph=False)
            self._several_steps = tf.function(self._loop, reduce_retracing=True, autograph=False)

    def __call__(self, iterator: tf.data.Iterator, epoch: EpochInProgress) -> Any:
        """Do up to `steps_per_execution` steps of the epoch, and return the logs of the last one."""
        return self._several_steps(iterator, tf.constant(epoch.next_steps(self._steps_per_execution)))

    def _loop(self, iterator: tf.data.Iterator, number: tf.Tensor) -> Any:
        logs = self._one_step.get_concrete_function(iterator.element_spec).structured_outputs
        no_logs = tf.experimental.Optional.empty(tf.nest.map_structure(tf.TensorSpec.from_tensor, logs))

        def body(step: tf.Tensor, _: tf.experimental.Optional) -> tuple[tf.Tensor, tf.experimental.Optional]:
            return step + 1, tf.experimental.Optional.from_value(self._one_step(iterator.get_next()))

        _, last = tf.while_loop(lambda step, _: step < number, body, [tf.constant(0), no_logs])
        return last.get_value()


class EpochInProgress(keras.callbacks.Callback):
    """Counts the steps that are left in the present epoch.

    Args:
        steps_per_epoch: The number of steps in an epoch.
    """

    def __init__(self, steps_per_epoch: int) -> None:
        super().__init__()
        self._steps_per_epoch = self._steps_left = steps_per_epoch

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start with all steps left."""
        self._steps_left = self._steps_per_epoch

    def next_steps(self, at_most: int) -> int:
        """Return how many steps to do now, and count them as done."""
        number = min(at_most, self._steps_left)
        self._steps_left -= number
        return number


def _arrays_with_one_iterator(reads: dict[str, Any], epochs: int) -> dict[str, Any]:
    arrays = keras.tree.lists_to_tuples(tuple(reads[name] for name in ("x", "y", "sample_weight")))
    num_samples = _common_length(arrays)
    has_weights_per_output = arrays[2] is not None and keras.tree.is_nested(arrays[1])
    if not num_samples or has_weights_per_output or reads["shuffle"] not in (True, False):
        return reads
    batch_size = integer(reads["batch_size"] or _DEFAULT_BATCH_SIZE, "batch_size", at_least=1)
    validation = reads["validation_data"]
    if reads["validation_split"] and validation is None:
        num_training = math.floor(num_samples * (1 - reads["validation_split"]))
        if not 0 < num_training < num_samples:
            return reads
        validation = keras.utils.pack_x_y_sample_weight(*_slices(arrays, num_training, num_samples))
        arrays, num_samples = _slices(arrays, 0, num_training), num_training
    orders = Orders(random.getrandbits(128)) if reads["shuffle"] else None
    packed = keras.utils.pack_x_y_sample_weight(*_in_floatx(arrays))
    endless = gathered_batches(packed, num_samples, batch_size, drop_remainder=False, orders=orders, epochs=epochs)
    return {
        **reads,
        "x": read_ahead(endless),
        "steps_per_epoch": num_batches(num_samples, batch_size, drop_remainder=False),
        "y": None,
        "sample_weight": None,
        "shuffle": False,
        "validation_split": 0.0,
        "validation_data": validation,
    }


def _common_length(arrays: Any) -> int | None:
    """Return the length of all arrays, or `None` if lengths differ or an array is of a kind that only Keras reads."""
    lengths = set()
    for array in keras.tree.flatten([part for part in arrays if part is not None]):
        if array is None:
            return None
        is_numeric_array = isinstance(array, np.ndarray) and array.dtype.kind in "biuf"
        if not (is_numeric_array or tf.is_tensor(array)) or isinstance(array, (tf.SparseTensor, tf.RaggedTensor)):
            return None
        if len(array.shape) == 0:
            return None
        lengths.add(array.shape[0])
    return lengths.pop() if len(lengths) == 1 else None


def _slices(arrays: Any, start: int, end: int) -> Any:
    return keras.tree.map_structure(lambda array: None if array is None else array[start:end], arrays)


def _in_floatx(arrays: Any) -> Any:
    """Return the arrays with floats cast to Keras's default float dtype, as Keras does."""

    def cast(array: Any) -> Any:
        if array is None or not tf.as_dtype(array.dtype).is_floating:
            return array
        with tf.device("CPU:0"):
            return tf.cast(array, keras.config.floatx())

    return keras.tree.map_structure(cast, arrays)
