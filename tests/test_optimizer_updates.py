"""Updates of `LazyAdam`, `SparseAdagrad` and `SparseFtrl`, compared with Keras's optimizers on dense gradients."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from optimizer_steps import (
    BATCHES,
    EXACT,
    FTRL,
    FTRL_WITHOUT_SHRINKAGE,
    NEVER_READ,
    PAIRS,
    SHAPES,
    all_rows,
    assert_close,
    dense,
    eager_and_graph,
    normal,
    slices,
    stepper,
    table,
)

import keras_rafm as kr

#: Every shape eagerly, and one of them also in a graph.
shape_and_how = pytest.mark.parametrize(
    ("shape", "how"),
    [*((shape, "eager") for shape in SHAPES.values()), (SHAPES["matrix"], "function")],
    ids=[*SHAPES, "matrix, function"],
)


def state(optimizer: keras.optimizers.Optimizer, name: str) -> list[np.ndarray]:
    return [variable.numpy() for variable in optimizer.variables if variable.name.endswith(name)]


class TestSparseAdagrad:
    @shape_and_how
    @pytest.mark.parametrize(
        "options",
        [{}, {"initial_accumulator_value": 0.8}, {"initial_accumulator_value": 0.0}, {"epsilon": 0.5}],
        ids=["default", "accumulator", "no accumulator", "epsilon"],
    )
    def test_is_adagrad_on_dense_gradients(self, shape: tuple[int, ...], how: str, options: dict[str, float]) -> None:
        start = normal(1, *shape)
        ours, theirs = table(start), table(start)
        step = stepper(kr.optimizers.SparseAdagrad(0.1, **options), [ours], how)
        their_step = stepper(keras.optimizers.Adagrad(0.1, **options), [theirs], "eager")
        for seed, rows in enumerate(BATCHES):
            gradient = slices(rows, shape, seed)
            step([gradient])
            their_step([dense(gradient)])
            assert_close(ours.numpy(), theirs.numpy(), message=f"step {seed}")
        assert np.array_equal(ours.numpy()[NEVER_READ], start.astype("float32")[NEVER_READ])

    def test_follows_a_schedule(self) -> None:
        start, shape = normal(1, 7, 3), (7, 3)
        ours, theirs = table(start), table(start)
        steps = []
        for make, variable in ((kr.optimizers.SparseAdagrad, ours), (keras.optimizers.Adagrad, theirs)):
            rate = keras.optimizers.schedules.ExponentialDecay(0.2, 1, 0.5)
            steps.append(stepper(make(rate), [variable], "function"))
        for seed, rows in enumerate(BATCHES):
            gradient = slices(rows, shape, seed)
            steps[0]([gradient])
            steps[1]([dense(gradient)])
        assert_close(ours.numpy(), theirs.numpy())


class TestSparseFtrl:
    @pytest.mark.parametrize(
        ("options", "how"),
        [
            *((options, "eager") for options in FTRL.values()),
            (FTRL["default"], "function"),
            (FTRL["everything"], "function"),
        ],
        ids=[*FTRL, "default, function", "everything, function"],
    )
    def test_is_ftrl_on_each_row_in_the_steps_that_read_it(self, options: dict[str, float], how: str) -> None:
        shape, start = SHAPES["matrix"], normal(1, 7, 3)
        ours = table(start)
        step = stepper(kr.optimizers.SparseFtrl(0.1, **options), [ours], how)
        of_rows = [table(start[row : row + 1]) for row in range(7)]
        optimizers = [keras.optimizers.Ftrl(0.1, **options) for _ in of_rows]
        for seed, rows in enumerate(BATCHES):
            gradient = slices(rows, shape, seed)
            step([gradient])
            for row, value in zip(rows, gradient.values.numpy(), strict=True):
                optimizers[row].apply([tf.constant(value[None])], [of_rows[row]])
            assert_close(ours.numpy(), np.concatenate([row.numpy() for row in of_rows]), message=f"step {seed}")
        assert np.array_equal(ours.numpy()[NEVER_READ], start.astype("float32")[NEVER_READ])

    @pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
    @pytest.mark.parametrize("options", FTRL_WITHOUT_SHRINKAGE.values(), ids=FTRL_WITHOUT_SHRINKAGE)
    def test_is_ftrl_on_dense_gradients_from_zero_weights(self, shape: tuple[int, ...], options: dict[str, float]) -> None:
        ours, theirs = table(np.zeros(shape)), table(np.zeros(shape))
        step = stepper(kr.optimizers.SparseFtrl(0.1, **options), [ours], "eager")
        their_step = stepper(keras.optimizers.Ftrl(0.1, **options), [theirs], "eager")
        for seed, rows in enumerate(BATCHES):
            gradient = slices(rows, shape, seed)
            step([gradient])
            their_step([dense(gradient)])
            assert_close(ours.numpy(), theirs.numpy(), message=f"step {seed}")
        assert not ours.numpy()[NEVER_READ].any()
        assert ours.numpy()[2].any()

    @pytest.mark.parametrize("options", FTRL.values(), ids=FTRL)
    def test_is_ftrl_on_dense_gradients_on_rows_in_every_batch(self, options: dict[str, float]) -> None:
        """These rows agree for any initial weights. Keras sets rows that have no gradient to zero."""
        shape, start, always = (7, 3), normal(1, 7, 3), [1, 4]
        ours, theirs = table(start), table(start)
        step = stepper(kr.optimizers.SparseFtrl(0.1, **options), [ours], "eager")
        their_step = stepper(keras.optimizers.Ftrl(0.1, **options), [theirs], "eager")
        for seed in range(5):
            gradient = slices([*always, *([0, 3] if seed % 2 else [5])], shape, seed)
            step([gradient])
            their_step([dense(gradient)])
            assert_close(ours.numpy()[always], theirs.numpy()[always], message=f"step {seed}")

    def test_l1_makes_weights_exactly_zero(self) -> None:
        variable = table(np.zeros((7, 3)))
        step = stepper(kr.optimizers.SparseFtrl(0.1, l1_regularization_strength=1.0), [variable], "eager")
        for seed, rows in enumerate(BATCHES):
            step([slices(rows, (7, 3), seed)])
        assert 0 < np.count_nonzero(variable.numpy()[:6]) < 18


class NumpyLazyAdam:
    """Lazy Adam in float64: a row changes only in the steps that read it, with the bias correction of the step number."""

    def __init__(self, weights: np.ndarray, rate: float, beta_1: float, beta_2: float, epsilon: float) -> None:
        self.weights = weights.astype("float32").astype("float64")
        self.first, self.second = np.zeros_like(self.weights), np.zeros_like(self.weights)
        self.rate, self.beta_1, self.beta_2, self.epsilon = rate, beta_1, beta_2, epsilon
        self.num_steps = 0

    def step(self, rows: Sequence[int], gradient: np.ndarray) -> None:
        self.num_steps += 1
        for row, value in zip(rows, gradient.astype("float64"), strict=True):
            self.first[row] = self.beta_1 * self.first[row] + (1 - self.beta_1) * value
            self.second[row] = self.beta_2 * self.second[row] + (1 - self.beta_2) * value**2
            first = self.first[row] / (1 - self.beta_1**self.num_steps)
            # Keras adds epsilon to the root of the second moment before its bias correction.
            correction = np.sqrt(1 - self.beta_2**self.num_steps)
            self.weights[row] -= self.rate * first * correction / (np.sqrt(self.second[row]) + self.epsilon)


class TestLazyAdam:
    @shape_and_how
    @pytest.mark.parametrize(
        "options",
        [
            {"beta_1": 0.9, "beta_2": 0.999, "epsilon": 1e-7},
            {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-2},
            {"beta_1": 0.0, "beta_2": 0.5, "epsilon": 1e-3},
        ],
        ids=["default", "other", "no momentum"],
    )
    def test_is_lazy_adam(self, shape: tuple[int, ...], how: str, options: dict[str, float]) -> None:
        start = normal(1, *shape)
        variable, oracle = table(start), NumpyLazyAdam(start, 0.1, **options)
        optimizer = kr.optimizers.LazyAdam(0.1, idle_decay=0.0, **options)
        step = stepper(optimizer, [variable], how)
        for seed, rows in enumerate(BATCHES):
            gradient = slices(rows, shape, seed)
            before = variable.numpy(), *state(optimizer, "momentum"), *state(optimizer, "velocity")
            step([gradient])
            after = variable.numpy(), *state(optimizer, "momentum"), *state(optimizer, "velocity")
            oracle.step(rows, gradient.values.numpy())
            idle = np.setdiff1d(np.arange(7), rows)
            assert len(before) == len(after) == 3
            for old, new, expected in zip(before, after, (oracle.weights, oracle.first, oracle.second), strict=True):
                assert np.array_equal(old[idle], new[idle])
                assert_close(new, expected, message=f"step {seed}")

    @eager_and_graph
    @pytest.mark.parametrize("idle_decay", [0.0, 0.5, 5.0])
    def test_is_adamw_where_every_row_is_in_every_batch(self, how: str, idle_decay: float) -> None:
        shape, start = (7, 3), normal(1, 7, 3)
        ours, theirs = table(start), table(start)
        step = stepper(kr.optimizers.LazyAdam(0.1, idle_decay=idle_decay), [ours], how)
        adam = keras.optimizers.AdamW(0.1, weight_decay=idle_decay) if idle_decay else keras.optimizers.Adam(0.1)
        their_step = stepper(adam, [theirs], "eager")
        for seed in range(8):
            gradient = slices(all_rows(7, 4, seed), shape, seed)
            step([gradient])
            their_step([dense(gradient)])
            assert_close(ours.numpy(), theirs.numpy(), message=f"step {seed}")


class TestDenseGradients:
    @eager_and_graph
    @pytest.mark.parametrize("kind", PAIRS)
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_equal_keras(self, how: str, kind: str, dtype: str) -> None:
        starts = {"kernel": normal(1, 5, 3), "bias": normal(2, 3)}
        variables = [[table(start, name, dtype) for name, start in starts.items()] for _ in range(2)]
        options = {"clipnorm": 3.0, **(EXACT[kind] if dtype == "float64" else {})}
        step, their_step = (stepper(make(**options), own, how) for make, own in zip(PAIRS[kind], variables, strict=True))
        for seed in range(4):
            gradients = [tf.constant(normal(seed, *start.shape), dtype) for start in starts.values()]
            step(gradients)
            their_step(gradients)
            for one, other in zip(*variables, strict=True):
                assert_close(one.numpy(), other.numpy(), 5e-5 if dtype == "float32" else 1e-10, one.name)

    @pytest.mark.parametrize(
        ("ours", "keras_own"),
        [
            (kr.optimizers.LazyAdam(0.1, idle_decay=5.0), keras.optimizers.Adam(0.1)),
            (kr.optimizers.SparseAdagrad(0.1, idle_decay=5.0), keras.optimizers.Adagrad(0.1)),
        ],
        ids=["adam", "adagrad"],
    )
    def test_are_never_decayed(self, ours: keras.optimizers.Optimizer, keras_own: keras.optimizers.Optimizer) -> None:
        kernels = [table(normal(1, 5, 3), "kernel"), table(normal(1, 5, 3), "kernel")]
        for seed in range(4):
            gradient = tf.constant(normal(seed, 5, 3), "float32")
            ours.apply([gradient], kernels[:1])
            keras_own.apply([gradient], kernels[1:])
        ours.flush()
        assert_close(kernels[0].numpy(), kernels[1].numpy())


@eager_and_graph
@pytest.mark.parametrize("kind", PAIRS)
def test_float64_tables(how: str, kind: str) -> None:
    """Check that float64 tables are updated with the precision of float64."""
    variables = [table(normal(1, 7, 3), dtype="float64") for _ in range(2)]
    ours, keras_own = (make(**EXACT[kind]) for make in PAIRS[kind])
    step, their_step = stepper(ours, variables[:1], how), stepper(keras_own, variables[1:], "eager")
    for seed in range(4):
        gradient = slices(all_rows(7, 3, seed), (7, 3), seed, "float64")
        step([gradient])
        their_step([dense(gradient)])
    assert_close(variables[0].numpy(), variables[1].numpy(), 1e-10)


@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("ours", [ours for ours, _ in PAIRS.values()], ids=PAIRS)
def test_nan_gradients_make_weights_nan(ours: Callable[..., Any], is_sparse: bool) -> None:
    weights = table(np.ones((3, 2)))
    step = stepper(ours(), [weights], "eager")
    for value in (np.nan, 1.0):
        gradient = slices([0, 1, 2], weights.shape, seed=0)
        gradient = tf.IndexedSlices(gradient.values * [[1, 1], [value, 1], [1, 1]], gradient.indices, gradient.dense_shape)
        step([gradient if is_sparse else dense(gradient)])
        np.testing.assert_array_equal(np.isnan(weights.numpy()), [[False, False], [True, False], [False, False]])


@pytest.mark.parametrize("ours", [ours for ours, _ in PAIRS.values()], ids=PAIRS)
def test_a_training_step_in_a_saved_model(ours: Callable[..., Any], tmp_path: Path) -> None:
    class Trainer(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tables = [table(normal(seed, 7, 3), f"table_{seed}") for seed in (1, 2)]
            self.optimizer = ours()
            self.optimizer.build(self.tables)
            self.weights = [weights.value for weights in self.tables]  # a SavedModel holds no Keras variables
            self.state = [variable.value for variable in self.optimizer.variables]

        @tf.function(input_signature=[tf.TensorSpec([None], tf.int32), tf.TensorSpec([None, 3])])
        def step(self, rows: tf.Tensor, values: tf.Tensor) -> list[tf.Tensor]:
            gradient = tf.IndexedSlices(values, rows, tf.constant([7, 3]))
            self.optimizer.apply([gradient, tf.IndexedSlices(2 * values[:2], rows[:2], tf.constant([7, 3]))], self.tables)
            return [tf.identity(weights) for weights in self.weights]

    trainer = Trainer()
    tf.saved_model.save(trainer, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    for rows in BATCHES:
        values = normal(3, len(rows), 3).astype(np.float32)
        arguments = (tf.constant(rows, tf.int32, [len(rows)]), tf.constant(values))
        for theirs, expected in zip(loaded.step(*arguments), trainer.step(*arguments), strict=True):
            assert_close(theirs, expected)


def test_a_step_frees_the_memory_of_its_rows() -> None:
    """Rows are updated in scratch variables, which must not outlive the step. (A new process has no earlier peak.)"""
    result = subprocess.run([sys.executable, "-c", PEAK_OF_MANY_STEPS], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    few, many = map(int, result.stdout.split())
    assert many < 1.5 * few  # 2.4 times as much if scratch variables outlived the step


#: Prints the peak memory after a few steps and after many steps.
PEAK_OF_MANY_STEPS = """
import functools
import resource
import keras
import tensorflow as tf
import keras_rafm as kr

steps = []
for make in (lambda: kr.optimizers.LazyAdam(), lambda: kr.optimizers.SparseAdagrad(), lambda: kr.optimizers.SparseFtrl()):
    for in_graph in (False, True):
        table, optimizer = keras.Variable(tf.zeros([100_000, 32])), make()
        optimizer.build([table])
        gradient = tf.IndexedSlices(tf.ones([100_000, 32]), tf.range(100_000), tf.constant([100_000, 32]))
        step = functools.partial(optimizer.apply, [gradient], [table])
        steps.append(tf.function(step) if in_graph else step)
for number in (2, 20):
    for step in steps:
        for _ in range(number):
            step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
