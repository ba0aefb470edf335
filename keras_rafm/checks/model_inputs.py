"""Checks of a functional model's inputs before Keras casts them.

The cast to an int32 input would silently turn 1.9 into 1 and 2**32 + 5 into 5.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from keras_rafm.checks.tensors import require


def check_integer_inputs(inputs: Any, model: keras.Model) -> list[tf.Tensor]:
    """Refuse values that the cast to an integer `keras.Input` would change.

    Args:
        inputs: The inputs of the model, before Keras casts them.
        model: A functional model.

    Returns:
        The checks that the step has to wait for. See `require`.

    Raises:
        TypeError: The values of an integer input are not integers.
        tf.errors.InvalidArgumentError: A value is out of the range of its input's dtype.
    """
    checked: list[tf.Tensor] = []
    for values, declared in pair_inputs(inputs, model.input, model.inputs):
        if values is None or isinstance(values, keras.KerasTensor):
            continue
        if not keras.backend.is_int_dtype(declared.dtype):
            continue
        values = values if hasattr(values, "dtype") else tf.convert_to_tensor(values)
        dtype = tf.as_dtype(values.dtype)
        if not dtype.is_integer:
            raise TypeError(
                f"Input '{declared.name}' of {model.name} must be integers ({declared.dtype}). Received: dtype {dtype.name}"
            )
        limits = tf.as_dtype(declared.dtype)
        if dtype.min < limits.min or dtype.max > limits.max:
            flat = values.flat_values if isinstance(values, tf.RaggedTensor) else tf.convert_to_tensor(values)
            lowest, highest = max(dtype.min, limits.min), min(dtype.max, limits.max)
            fits = (flat >= tf.constant(lowest, dtype)) & (flat <= tf.constant(highest, dtype))
            checked += require(
                tf.reduce_all(fits),
                f"Input '{declared.name}' of {model.name} must fit {declared.dtype} "
                f"([{limits.min}, {limits.max}]). Received the value",
                functools.partial(_first_where_not, fits, flat),
            )
    return checked


def _first_where_not(condition: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    return tf.boolean_mask(values, ~condition)[0]


def pair_inputs(inputs: Any, declared: Any, flat_declared: list[Any]) -> list[tuple[Any, Any]]:
    """Return pairs of an input's values and its `keras.Input`, or nothing if their numbers differ, which Keras reports.

    Args:
        inputs: The inputs of a model call, in any structure that Keras takes.
        declared: The `input` of the model.
        flat_declared: The `inputs` of the model.
    """
    if isinstance(inputs, Mapping):
        names = [tensor.name for tensor in flat_declared]
        if isinstance(declared, Mapping):
            names = [path[0] if len(path) == 1 else None for path, _ in keras.tree.flatten_with_path(declared)]
        return [(inputs.get(name), tensor) for name, tensor in zip(names, flat_declared, strict=True)]
    flat_inputs = keras.tree.flatten(inputs)
    return list(zip(flat_inputs, flat_declared, strict=True)) if len(flat_inputs) == len(flat_declared) else []
