"""What `RaFMModel.fit` reads: the batches of all epochs from one iterator.

Keras starts two iterators per epoch, the second for nothing. Each instantiates all functions of the dataset anew, which
takes tens of milliseconds: as long as ten training steps. Here one iterator goes over all epochs. Every epoch reads what it
would have read. Batches of arrays and of `Samples`, which depend on nothing else, are got ready ahead of their epoch; any
other dataset is started anew when the first batch of an epoch is asked for, never before.
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

_DEFAULT_BATCH_SIZE = 32  # Keras'


def with_one_iterator(reads: dict[str, Any], epochs: int) -> dict[str, Any]:
    """Arguments of `keras.Model.fit` that read the same from one iterator.

    Args:
        reads: `x`, `y`, `sample_weight`, `batch_size`, `shuffle`, `class_weight`, `validation_split`, `validation_data` and
            `steps_per_epoch` as `keras.Model.fit` takes them.
        epochs: How many there will be.

    Returns:
        What to give to Keras instead: a dataset without end, and `steps_per_epoch`. With these Keras executes all steps of
        the last execution, also those beyond the end of an epoch: `CountedSteps` does not. The same as given where Keras
        has to do it: for `steps_per_epoch`, datasets of unknown length, generators and `PyDataset`s, `class_weight`, and
        arrays that are not NumPy's or dense tensors or do not fit each other.

    Raises:
        TypeError: `batch_size` of arrays is not an integer.
        ValueError: It is negative.
    """
    if reads["steps_per_epoch"] or keras.config.max_steps_per_epoch() or epochs < 1 or reads["class_weight"] is not None:
        return reads
    x = reads["x"]
    if isinstance(x, tf.data.Dataset):
        cardinality = int(x.cardinality())
        if cardinality <= 0 or reads["y"] is not None or reads["sample_weight"] is not None:
            return reads
        endless_of_x = endless_of(x)
        if endless_of_x is not None:
            # Keras warns that it doesn't shuffle a dataset.
            return {**reads, "x": endless_of_x(epochs), "steps_per_epoch": cardinality, "shuffle": False}
        options = tf.data.Options()
        options.experimental_optimization.inject_prefetch = False  # behind `repeat` it would read ahead of the epoch
        endless = x.prefetch(tf.data.AUTOTUNE).repeat().with_options(options)
        return {**reads, "x": endless, "steps_per_epoch": cardinality}
    return _of_arrays(reads, epochs)


def known_batch_size(reads: dict[str, Any]) -> int | None:
    """How many samples a batch has that `keras.Model.fit` is going to read with these arguments, if that can be known."""
    x, given = reads["x"], reads["batch_size"]
    if isinstance(x, tf.data.Dataset):
        return batch_size_of(x)
    are_arrays = x is not None and all(hasattr(array, "shape") for array in keras.tree.flatten(x))
    if not are_arrays:
        return None
    is_valid = isinstance(given, (int, np.integer)) and given > 0
    return int(given) if is_valid else _DEFAULT_BATCH_SIZE


class CountedSteps:
    """A `train_function` of `keras.Model` that does several steps, but none beyond the end of an epoch.

    Args:
        train_step: As that of a `keras.Model`.
        steps_per_execution: How many steps at most.
        jit_compile: Whether steps are compiled by XLA.
        run_eagerly: Whether there is no graph.
    """

    def __init__(
        self, train_step: Callable[[Any], Any], steps_per_execution: int, jit_compile: bool, run_eagerly: bool
    ) -> None:
        def one_step(data: Any) -> Any:
            def present(item: Any) -> Any:  # what Keras does for parts of batches that are not there
                return None if isinstance(item, tf.experimental.Optional) else item

            return train_step(keras.tree.map_structure(present, data))

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
        """Do steps, and return the logs of the last one."""
        return self._several_steps(iterator, tf.constant(epoch.next_steps(self._steps_per_execution)))

    def _loop(self, iterator: tf.data.Iterator, number: tf.Tensor) -> Any:
        logs = self._one_step.get_concrete_function(iterator.element_spec).structured_outputs
        no_logs = tf.experimental.Optional.empty(tf.nest.map_structure(tf.TensorSpec.from_tensor, logs))

        def body(step: tf.Tensor, _: tf.experimental.Optional) -> tuple[tf.Tensor, tf.experimental.Optional]:
            return step + 1, tf.experimental.Optional.from_value(self._one_step(iterator.get_next()))

        _, last = tf.while_loop(lambda step, _: step < number, body, [tf.constant(0), no_logs])
        return last.get_value()


class EpochInProgress(keras.callbacks.Callback):
    """How many steps of an epoch are left."""

    def __init__(self, steps_per_epoch: int) -> None:
        super().__init__()
        self._steps_per_epoch = self._left = steps_per_epoch

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """None is done."""
        self._left = self._steps_per_epoch

    def next_steps(self, at_most: int) -> int:
        """How many to do now."""
        number = min(at_most, self._left)
        self._left -= number
        return number


def _of_arrays(reads: dict[str, Any], epochs: int) -> dict[str, Any]:
    arrays = keras.tree.lists_to_tuples(tuple(reads[name] for name in ("x", "y", "sample_weight")))
    num_samples = _common_length(arrays)
    weighs_outputs = arrays[2] is not None and keras.tree.is_nested(arrays[1])
    if not num_samples or weighs_outputs or reads["shuffle"] not in (True, False):
        return reads
    batch_size = integer(reads["batch_size"] or _DEFAULT_BATCH_SIZE, "batch_size", at_least=1)
    validation = reads["validation_data"]
    if reads["validation_split"] and validation is None:
        num_training = math.floor(num_samples * (1 - reads["validation_split"]))
        if not 0 < num_training < num_samples:
            return reads
        validation = keras.utils.pack_x_y_sample_weight(*_rows(arrays, num_training, num_samples))
        arrays, num_samples = _rows(arrays, 0, num_training), num_training
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
    lengths = set()
    for array in keras.tree.flatten([given for given in arrays if given is not None]):
        if array is None:
            return None
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
