"""Initialisers of tables: every table draws numbers of its own, and a large one takes little memory while it is made."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# Making a graph takes tens of milliseconds, which only tables above this size are worth.
_SMALL_TABLE_BYTES = 2**26


def initializer_per_level(initializers: Any, num_levels: int) -> tuple[keras.initializers.Initializer, ...]:
    """Return one initialiser of the factor tables per level.

    Args:
        initializers: One for all levels or a sequence with one per level, as Keras takes them; `None`: the default, normal
            with a standard deviation of 0.01.
        num_levels: `m`.

    Raises:
        ValueError: The sequence has another length.
    """
    if initializers is None:
        initializers = keras.initializers.RandomNormal(stddev=0.01)
    if not isinstance(initializers, (list, tuple)):
        initializers = [initializers] * num_levels
    if len(initializers) != num_levels:
        raise ValueError(
            f"`factors_initializer` must be one initialiser or one per level ({num_levels}). Received: {len(initializers)}"
        )
    return tuple(keras.initializers.get(initializer) for initializer in initializers)


def initializer_of_table(
    initializer: keras.initializers.Initializer, seed: int | None, table_number: int
) -> Callable[..., tf.Tensor]:
    """Return a copy of an initialiser that draws numbers of its own.

    With one seed for all, tables of one shape would get equal rows.

    Args:
        initializer: An initialiser with or without a seed.
        seed: The seed to derive the table's seed from; `None`: that of the initialiser, if it is an integer.
        table_number: A number that no other table of the layer has.
    """
    config = initializer.get_config() if isinstance(initializer, keras.initializers.Initializer) else {}
    if "seed" not in config:
        return initializer
    base = config["seed"] if seed is None else seed
    if isinstance(base, int):
        config["seed"] = int(np.random.SeedSequence([base % 2**64, table_number]).generate_state(1)[0] >> 1)
    elif base is not None:
        return initializer  # a keras.random.SeedGenerator advances by itself; a copy of it would start again
    return _run_in_graph(initializer.__class__.from_config(config))


def _run_in_graph(initializer: keras.initializers.Initializer) -> Callable[..., tf.Tensor]:
    """Draw the same numbers in a graph, which holds two arrays of a table's size at a time where Keras holds three."""

    def initialize(shape: Any, dtype: Any = None) -> tf.Tensor:
        if math.prod(shape) * tf.as_dtype(dtype).size < _SMALL_TABLE_BYTES:
            return initializer(shape, dtype=dtype)
        return tf.function(lambda: initializer(shape, dtype=dtype), autograph=False)()

    return initialize
