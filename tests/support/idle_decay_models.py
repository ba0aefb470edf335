"""Models and reference implementations for tests of idle decay: whole tables decay in every step."""

import copy
import functools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_rafm as kr

#: Chosen so that Adam does not amplify differences in rounding. (`1 − 0.999` has only four digits in float32.)
BETA_1, BETA_2, EPSILON = 0.75, 0.9375, 1e-3


RATE, DECAY = 0.1, 2.0


class NumpyTable:
    """A float64 table in which every step decays all rows and updates the rows that were read."""

    def __init__(self, weights: np.ndarray, rule: str = "adam") -> None:
        self.weights = weights.astype("float64")
        self.rule, self.num_steps = rule, 0
        self.first = np.zeros_like(self.weights)
        self.second = np.zeros_like(self.weights) if rule == "adam" else np.full_like(self.weights, 0.1 + EPSILON)

    def step(self, rate: float, decay: float, rows: np.ndarray, gradient: np.ndarray) -> None:
        """Do one step. `rows` may repeat."""
        self.num_steps += 1
        self.weights *= 1 - rate * decay
        rows, positions = np.unique(rows, return_inverse=True)
        total = np.zeros((rows.size, *self.weights.shape[1:]))
        np.add.at(total, positions.reshape(-1), gradient.astype("float64"))
        if self.rule == "adagrad":
            self.second[rows] += total**2
            self.weights[rows] -= rate * total / np.sqrt(self.second[rows])
            return
        self.first[rows] += (total - self.first[rows]) * (1 - BETA_1)
        self.second[rows] += (total**2 - self.second[rows]) * (1 - BETA_2)
        rate *= np.sqrt(1 - BETA_2**self.num_steps) / (1 - BETA_1**self.num_steps)
        self.weights[rows] -= rate * self.first[rows] / (np.sqrt(self.second[rows]) + EPSILON)


@keras.saving.register_keras_serializable(package="test_idle_decay")
class EveryRowInEveryStep(keras.optimizers.Optimizer):
    """The reference for `LazyAdam` in NumPy, for models that run eagerly. It decays all rows in every step."""

    def __init__(self, learning_rate: Any = RATE, decay: float = DECAY, **options: Any) -> None:
        super().__init__(learning_rate, **options)
        self.decay = decay
        self.memory = SimpleNamespace(tables={})  # not a dict, which Keras would track

    def apply(self, grads: list[Any], trainable_variables: Any = None) -> None:
        rate = float(self.learning_rate)
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            weights = np.atleast_1d(variable.numpy())
            table = self.memory.tables.setdefault(variable.path, NumpyTable(weights))
            if not np.array_equal(table.weights.astype(variable.dtype), weights):
                table.weights = weights.astype("float64")  # other code set the weights
            if isinstance(gradient, tf.IndexedSlices):
                rows, values = gradient.indices.numpy(), gradient.values.numpy()
            else:
                rows, values = np.arange(len(weights)), np.reshape(gradient, weights.shape)
            table.num_steps = int(self.iterations)
            table.step(rate, self.decay if is_table(variable) else 0.0, rows, values)
            variable.assign(table.weights.astype(variable.dtype).reshape(variable.shape))
        self._iterations.assign_add(1)


def is_table(variable: keras.Variable) -> bool:
    return variable.name.startswith(("free_", "dependent_"))


def lazy_adam(rate: Any = RATE, decay: float = DECAY) -> keras.optimizers.Optimizer:
    return kr.optimizers.LazyAdam(rate, idle_decay=decay, beta_1=BETA_1, beta_2=BETA_2, epsilon=EPSILON)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def slices(rows: Sequence[int], shape: Sequence[int], seed: int, dtype: str = "float32") -> tf.IndexedSlices:
    values = tf.constant(normal(seed, len(rows), *shape[1:]), dtype)
    return tf.IndexedSlices(values, tf.constant(rows, "int32", [len(rows)]), tf.constant(shape, "int32"))


def assert_close(actual: Any, expected: Any, relative: float = 1e-5, message: str = "") -> None:
    np.testing.assert_allclose(actual, expected, rtol=relative, atol=relative / 10, err_msg=message)


PLAN = kr.RankPlan([2, 1, 2, 2, 1, 2, 1, 1, 2, 1, 2, 2], ranks=(1, 3))


LEVELS = (1, 2)


#: Batches of two samples. Features 0, 1 and 2 are idle between the first and the fourth batch; 9, 10 and 11 are in none.
IDS = np.array(
    [
        [[0, 1, 2], [3, 4, -1]],
        [[3, 5, 6], [3, 4, 5]],
        [[6, 7, 8], [3, 6, 6]],
        [[0, 1, 2], [2, 5, 7]],
        [[3, 5, -1], [8, -1, -1]],
        [[4, 5, 6], [0, 8, 3]],
    ],
    "int32",
)


LABELS = normal(1, 6, 2, 1).astype("float32")


NEVER_READ = (9, 10, 11)


#: Four samples that together have every feature.
QUERY = np.arange(12, dtype="int32").reshape(4, 3)


KINDS: dict[str, Any] = {"rafm_model": kr.RaFMModel, "model": keras.Model}


every_kind = pytest.mark.parametrize("kind", KINDS)


def layer_of(model: keras.Model) -> kr.RaFMLayer:
    return model.get_layer("rafm")


def build(optimizer: Any = None, kind: str = "rafm_model", run_eagerly: bool = True, **options: Any) -> keras.Model:
    """Build a model that reads all tables by rows, because tables that are read whole never have pending decay."""
    ids, random = keras.Input((3,), dtype="int32", name="ids"), keras.initializers.RandomNormal(stddev=0.5)
    layer = kr.RaFMLayer(
        PLAN,
        factors_initializer=random,
        linear_initializer=random,
        seed=5,
        dependent_loss_weight=2.0,
        name="rafm",
        max_dense_rows=0,
        **options,
    )
    model = KINDS[kind](ids, layer(ids))
    if optimizer is not None:
        model.compile(optimizer, "mse", run_eagerly=run_eagerly)
    return model


def train(model: keras.Model, batches: Sequence[int]) -> None:
    for batch in batches:
        model.train_on_batch(IDS[batch], LABELS[batch])


def weights_of(model: keras.Model) -> dict[str, np.ndarray]:
    """Return the weights that `get_weights` of the layer returns, by name."""
    layer = model.get_layer("rafm")
    return dict(zip([weight.name for weight in layer.weights], layer.get_weights(), strict=True))


def raw_weights_of(model: keras.Model) -> dict[str, np.ndarray]:
    """Return the present values of the weights by name, without applying pending decay."""
    return {weight.name: weight.numpy() for weight in model.get_layer("rafm").weights}


def assert_same_weights(one: dict[str, np.ndarray], other: dict[str, np.ndarray], tolerance: float = 3e-6) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_allclose(value, other[name], rtol=0, atol=tolerance, err_msg=name)


def largest_difference(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    return max(float(np.max(np.abs(value - other[name]), initial=0)) for name, value in one.items())


@functools.cache
def reference_after(num_batches: int, kind: str) -> tuple[list[np.ndarray], SimpleNamespace]:
    model = build(EveryRowInEveryStep(), kind)
    train(model, range(num_batches))
    return layer_of(model).get_weights(), model.optimizer.memory


def reference(num_batches: int, kind: str = "rafm_model") -> keras.Model:
    """Return a model whose tables decay in every step, trained on some batches."""
    model = build(EveryRowInEveryStep(), kind)
    weights, memory = reference_after(num_batches, kind)
    model.optimizer.build(model.trainable_variables)
    layer_of(model).set_weights(weights)
    model.optimizer.memory = copy.deepcopy(memory)
    model.optimizer.iterations.assign(num_batches)
    return model


def expected(num_batches: int, kind: str = "rafm_model") -> dict[str, np.ndarray]:
    """Return the weights of `reference` by name."""
    names = [weight.name for weight in layer_of(build(kind=kind)).weights]
    return dict(zip(names, reference_after(num_batches, kind)[0], strict=True))


@functools.cache
def state_after(num_batches: int, kind: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    model = build(lazy_adam(), kind)
    train(model, range(num_batches))
    return list(raw_weights_of(model).values()), [variable.numpy() for variable in model.optimizer.variables]


def halfway(num_batches: int = 4, kind: str = "rafm_model") -> keras.Model:
    """Return a model that `LazyAdam` has trained on some batches, with decay pending on its idle rows."""
    model = build(lazy_adam(), kind)
    weights, state = state_after(num_batches, kind)
    model.optimizer.build(model.trainable_variables)
    for variable, value in zip(layer_of(model).weights, weights, strict=True):
        variable.assign(value)
    model.optimizer.set_weights(state)
    return model
