"""Steps of optimizers on single variables, for tests that compare them with Keras's optimizers."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_rafm as kr

SHAPES = {"vector": (7,), "matrix": (7, 3), "cube": (7, 2, 2)}


#: The rows that each batch reads. Most rows are idle at times, one batch reads no rows, and no batch reads row 6.
BATCHES = ([2, 0, 4], [2, 5], [5, 2, 1, 0], [], [2, 3], [4, 2, 1])


NEVER_READ = 6


FTRL_WITHOUT_SHRINKAGE: dict[str, dict[str, float]] = {
    "default": {},
    "l1": {"l1_regularization_strength": 0.3},
    "l2": {"l2_regularization_strength": 0.4},
    "beta": {"beta": 0.7},
    "power": {"learning_rate_power": -0.8},
    "accumulator": {"initial_accumulator_value": 0.6},
}


FTRL = FTRL_WITHOUT_SHRINKAGE | {
    "shrinkage": {"l2_shrinkage_regularization_strength": 0.2},
    "everything": {
        "l1_regularization_strength": 0.05,
        "l2_regularization_strength": 0.1,
        "l2_shrinkage_regularization_strength": 0.2,
        "beta": 0.3,
        "learning_rate_power": -0.4,
        "initial_accumulator_value": 0.2,
    },
}


#: Optimizers of this package and of Keras. The two of a pair agree if every row is in every batch.
PAIRS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "adam": (
        lambda **options: kr.optimizers.LazyAdam(0.1, idle_decay=0.0, **options),
        lambda **options: keras.optimizers.Adam(0.1, **options),
    ),
    "adagrad": (
        lambda **options: kr.optimizers.SparseAdagrad(0.1, **options),
        lambda **options: keras.optimizers.Adagrad(0.1, **options),
    ),
    "ftrl": (
        lambda **options: kr.optimizers.SparseFtrl(0.1, l1_regularization_strength=0.01, beta=0.2, **options),
        lambda **options: keras.optimizers.Ftrl(0.1, l1_regularization_strength=0.01, beta=0.2, **options),
    ),
}


#: Options that float32 represents exactly, because Keras rounds options to float32 even for float64 variables.
EXACT: dict[str, dict[str, float]] = {
    "adam": {"beta_1": 0.75, "beta_2": 0.5, "epsilon": 2.0**-10},
    "adagrad": {"initial_accumulator_value": 0.5, "epsilon": 2.0**-10},
    "ftrl": {},
}


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def table(values: np.ndarray, name: str = "table", dtype: str = "float32", **options: Any) -> keras.Variable:
    return keras.Variable(values.astype(dtype), dtype=dtype, name=name, **options)


def slices(rows: Sequence[int], shape: Sequence[int], seed: int, dtype: str = "float32") -> tf.IndexedSlices:
    values = tf.constant(normal(seed, len(rows), *shape[1:]), dtype)
    return tf.IndexedSlices(values, tf.constant(rows, "int32", [len(rows)]), tf.constant(shape, "int32"))


def dense(gradient: tf.IndexedSlices) -> tf.Tensor:
    result = np.zeros(gradient.dense_shape.numpy(), gradient.values.numpy().dtype)
    np.add.at(result, gradient.indices.numpy(), gradient.values.numpy())
    return tf.constant(result)


def all_rows(num_rows: int, num_more: int, seed: int) -> list[int]:
    """Return all row numbers in random order, some of them repeated."""
    generator = np.random.default_rng(seed)
    again = generator.integers(0, num_rows, num_more)
    return generator.permutation(np.concatenate([np.arange(num_rows), again])).tolist()


def stepper(
    optimizer: keras.optimizers.Optimizer, variables: list[keras.Variable], how: str
) -> Callable[[list[Any]], None]:
    optimizer.build(variables)

    def step(gradients: list[Any]) -> None:
        optimizer.apply(gradients, variables)

    # `reduce_retracing` makes a second graph for any number of rows, after a first one for a fixed number.
    return step if how == "eager" else tf.function(step, reduce_retracing=True)


def assert_close(actual: Any, expected: Any, relative: float = 5e-5, message: str = "") -> None:
    """Compare arrays. The default tolerance is wide because `1 − β₂` has only four digits in float32."""
    np.testing.assert_allclose(actual, expected, rtol=relative, atol=relative / 10, err_msg=message)


eager_and_graph = pytest.mark.parametrize("how", ["eager", "function"])


every_pair = pytest.mark.parametrize(("ours", "keras_own"), PAIRS.values(), ids=PAIRS)
