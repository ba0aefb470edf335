"""What must be checked before Keras casts a functional model's inputs: 1.9 would become 1, and 2**32 + 5 become 5."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from keras_rafm.checks.tensors import require


def check_integer_inputs(inputs: Any, model: keras.Model) -> list[tf.Tensor]:
    """Refuse what the cast to an integer `keras.Input` would change.

    Args:
        inputs: As given to the model, before Keras casts them.
        model: A functional model.

    Returns:
        What the step has to wait for, as `require`.

    Raises:
        TypeError: Data for an integer input has another dtype.
        tf.errors.InvalidArgumentError: A value does not fit the dtype of its input.
    """
    checked: list[tf.Tensor] = []
    for given, declared in pair_inputs(inputs, model.input, model.inputs):
        if given is None or isinstance(given, keras.KerasTensor):
            continue
        if not keras.backend.is_int_dtype(declared.dtype):
            continue
        given = given if hasattr(given, "dtype") else tf.convert_to_tensor(given)
        dtype = tf.as_dtype(given.dtype)
        if not dtype.is_integer:
            raise TypeError(
                f"Input '{declared.name}' of {model.name} must be integers ({declared.dtype}). Received: dtype {dtype.name}"
            )
        limits = tf.as_dtype(declared.dtype)
        if dtype.min < limits.min or dtype.max > limits.max:
            flat = given.flat_values if isinstance(given, tf.RaggedTensor) else tf.convert_to_tensor(given)
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


def pair_inputs(given: Any, declared: Any, flat_declared: list[Any]) -> list[tuple[Any, Any]]:
    """Each given input beside its `keras.Input`. Where their numbers differ, Keras itself says so later."""
    if isinstance(given, Mapping):
        names = [tensor.name for tensor in flat_declared]
        if isinstance(declared, Mapping):
            names = [path[0] if len(path) == 1 else None for path, _ in keras.tree.flatten_with_path(declared)]
        return [(given.get(name), tensor) for name, tensor in zip(names, flat_declared, strict=True)]
    flat_given = keras.tree.flatten(given)
    return list(zip(flat_given, flat_declared, strict=True)) if len(flat_given) == len(flat_declared) else []
