"""`LazyAdam`, `SparseAdagrad` and `SparseFtrl` against Keras' optimizers on the same gradients made dense."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from replicas import strategy_of

import keras_rafm as kr

SHAPES = {"vector": (7,), "matrix": (7, 3), "cube": (7, 2, 2)}
#: Rows come and go, one batch reads none, and no batch reads row 6.
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
#: Ours and Keras', which do the same where every row is in every batch.
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
#: Options that float32 holds exactly: Keras rounds them to it, also for float64 variables.
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
    """Every row, and some of them again."""
    generator = np.random.default_rng(seed)
    again = generator.integers(0, num_rows, num_more)
    return generator.permutation(np.concatenate([np.arange(num_rows), again])).tolist()


def stepper(
    optimizer: keras.optimizers.Optimizer, variables: list[keras.Variable], how: str
) -> Callable[[list[Any]], None]:
    optimizer.build(variables)

    def step(gradients: list[Any]) -> None:
        optimizer.apply(gradients, variables)

    # The number of rows is part of the first graph and left open in later ones.
    return step if how == "eager" else tf.function(step, reduce_retracing=True)


def state(optimizer: keras.optimizers.Optimizer, name: str) -> list[np.ndarray]:
    return [variable.numpy() for variable in optimizer.variables if variable.name.endswith(name)]


def assert_close(actual: Any, expected: Any, relative: float = 5e-5, message: str = "") -> None:
    """The default leaves room for `1 − β₂`, whose float32 has four digits."""
    np.testing.assert_allclose(actual, expected, rtol=relative, atol=relative / 10, err_msg=message)


eager_and_graph = pytest.mark.parametrize("how", ["eager", "function"])
#: Every shape, one of them in a graph too.
shape_and_how = pytest.mark.parametrize(
    ("shape", "how"),
    [*((shape, "eager") for shape in SHAPES.values()), (SHAPES["matrix"], "function")],
    ids=[*SHAPES, "matrix, function"],
)
every_pair = pytest.mark.parametrize(("ours", "keras_own"), PAIRS.values(), ids=PAIRS)


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


@pytest.mark.parametrize("ours", [ours for ours, _ in PAIRS.values()], ids=PAIRS)
def test_a_training_step_in_a_saved_model(ours: Callable[..., Any], tmp_path: Path) -> None:
    class Trainer(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tables = [table(normal(seed, 7, 3), f"table_{seed}") for seed in (1, 2)]
            self.optimizer = ours()
            self.optimizer.build(self.tables)
            self.weights = [weights.value for weights in self.tables]  # Keras variables are not saved by themselves
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


def test_a_step_gives_back_the_memory_of_its_rows() -> None:
    """Rows are updated in variables of their own, which must not outlive the step. A new process has no earlier peak."""
    result = subprocess.run([sys.executable, "-c", PEAK_OF_MANY_STEPS], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    few, many = map(int, result.stdout.split())
    assert many < 1.5 * few  # 2.4 times as much if they did


#: Prints the peak of memory after a few steps, and after many.
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


@pytest.mark.parametrize("is_sparse", [False, True])
@pytest.mark.parametrize("ours", [ours for ours, _ in PAIRS.values()], ids=PAIRS)
def test_a_gradient_that_is_not_a_number_stays_visible(ours: Callable[..., Any], is_sparse: bool) -> None:
    weights = table(np.ones((3, 2)))
    step = stepper(ours(), [weights], "eager")
    for value in (np.nan, 1.0):
        gradient = slices([0, 1, 2], weights.shape, seed=0)
        gradient = tf.IndexedSlices(gradient.values * [[1, 1], [value, 1], [1, 1]], gradient.indices, gradient.dense_shape)
        step([gradient if is_sparse else dense(gradient)])
        np.testing.assert_array_equal(np.isnan(weights.numpy()), [[False, False], [True, False], [False, False]])


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
        """From the first update on, whatever the weights are before: Keras sets rows without gradients to zero."""
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
    """Lazy Adam in float64: a row moves only in the steps that read it, with the bias correction of the step."""

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


class TestRepeatedRows:
    @eager_and_graph
    @every_pair
    @pytest.mark.parametrize(
        "clipping",
        [{}, {"clipnorm": 0.5}, {"clipvalue": 0.2}, {"global_clipnorm": 0.7}],
        ids=["no clipping", "clipnorm", "clipvalue", "global_clipnorm"],
    )
    def test_are_summed_up_first(
        self, how: str, ours: Callable[..., Any], keras_own: Callable[..., Any], clipping: dict[str, float]
    ) -> None:
        starts = [normal(1, 5, 3), normal(2, 7), normal(3, 4)]
        variables = [[table(start, f"variable_{index}") for index, start in enumerate(starts)] for _ in range(2)]
        step = stepper(ours(**clipping), variables[0], how)
        their_step = stepper(keras_own(**clipping), variables[1], "eager")
        for seed in range(3):
            first = slices(all_rows(5, 6 - seed, seed), (5, 3), seed)
            second = slices(all_rows(7, 3, seed), (7,), seed + 10)
            of_dense = tf.constant(normal(seed + 20, 4), "float32")
            step([first, second, of_dense])
            their_step([dense(first), dense(second), of_dense])
            for one, other in zip(*variables, strict=True):
                assert_close(one.numpy(), other.numpy(), message=f"{one.name}, step {seed}")

    @every_pair
    def test_gradients_from_outside_a_graph(self, ours: Callable[..., Any], keras_own: Callable[..., Any]) -> None:
        """A graph function closes over them."""
        start, gradient = normal(1, 5, 3), slices(all_rows(5, 4, 0), (5, 3), 0)
        variables = [table(start), table(start)]
        optimizer = ours()
        optimizer.build(variables[:1])
        tf.function(lambda: optimizer.apply([gradient], variables[:1]))()
        keras_own().apply([dense(gradient)], variables[1:])
        assert_close(variables[0].numpy(), variables[1].numpy())

    def test_int64_rows(self) -> None:
        start, gradient = normal(1, 5, 3), slices([1, 3, 1, 1], (5, 3), 0)
        variables = [table(start), table(start)]
        wide = tf.IndexedSlices(gradient.values, tf.cast(gradient.indices, "int64"), gradient.dense_shape)
        for variable, given in zip(variables, (gradient, wide), strict=True):
            kr.optimizers.LazyAdam(0.1).apply([given], [variable])
        assert np.array_equal(variables[0].numpy(), variables[1].numpy())

    @every_pair
    def test_loss_scale_factor(self, ours: Callable[..., Any], keras_own: Callable[..., Any]) -> None:
        start, gradient = normal(1, 5, 3), slices(all_rows(5, 4, 0), (5, 3), 0)
        variables = [table(start), table(start)]
        scaled = tf.IndexedSlices(8 * gradient.values, gradient.indices, gradient.dense_shape)
        ours(loss_scale_factor=8.0).apply([scaled], variables[:1])
        keras_own().apply([dense(gradient)], variables[1:])
        assert_close(variables[0].numpy(), variables[1].numpy())


class TestInAModelWithAnEmbedding:
    """An `Embedding` of ids is a product with their one-hot vectors, whose gradient is dense."""

    LABELS = normal(0, 13, 1).astype("float32")
    #: Repeated within samples and batches, and not all of them in every batch.
    IDS = np.random.default_rng(5).choice([0, 1, 1, 2, 3, 3, 3, 4, 5], (2, 13, 4)).astype("int32")
    #: All six are in every batch of five.
    ALL_IDS = np.resize(np.random.default_rng(0).permutation(6), (1, 13, 4)).astype("int32")

    def of_ids(self, optimizer: Any, lookups: int, **options: Any) -> keras.Model:
        inputs = [keras.Input((4,), dtype="int32") for _ in range(lookups)]
        return self.compiled(inputs, keras.layers.Embedding(6, 3, name="table"), optimizer, **options)

    def of_one_hot_vectors(self, optimizer: Any, lookups: int) -> keras.Model:
        inputs = [keras.Input((4, 6)) for _ in range(lookups)]
        made = self.compiled(inputs, keras.layers.Dense(3, use_bias=False, name="table"), optimizer, run_eagerly=True)
        made.optimizer.build(made.trainable_variables)
        return made

    def compiled(self, inputs: list[Any], layer: keras.layers.Layer, optimizer: Any, **options: Any) -> keras.Model:
        vectors = [keras.layers.Flatten()(layer(one)) for one in inputs]
        joined = keras.layers.Add()(vectors) if len(vectors) > 1 else vectors[0]
        hidden = keras.layers.Dense(4, activation="tanh", kernel_initializer=keras.initializers.GlorotNormal(seed=1))
        top = keras.layers.Dense(1, kernel_initializer=keras.initializers.GlorotNormal(seed=2))
        model = keras.Model(inputs, top(hidden(joined)))
        model.compile(optimizer, "mse", **options)
        return model

    def assert_same_training(self, ours: keras.Model, theirs: keras.Model, ids: np.ndarray) -> None:
        start = normal(3, 6, 3)
        for model in (ours, theirs):
            model.get_layer("table").set_weights([start])
        fit = {"batch_size": 5, "epochs": 2, "shuffle": False, "verbose": 0}
        ours.fit([*ids], self.LABELS, **fit)
        theirs.fit([*np.eye(6, dtype="float32")[ids]], self.LABELS, **fit)
        for one, other in zip(ours.weights, theirs.weights, strict=True):
            assert_close(one.numpy(), other.numpy(), message=one.path)
        assert np.max(np.abs(ours.get_layer("table").get_weights()[0] - start)) > 1e-3

    @pytest.mark.parametrize(
        ("lookups", "options"),
        [(2, {"run_eagerly": True}), (1, {}), (2, {}), (1, {"steps_per_execution": 2})],
        ids=["two lookups, eager", "one lookup", "two lookups", "steps_per_execution"],
    )
    def test_adagrad(self, lookups: int, options: dict[str, Any]) -> None:
        ours = self.of_ids(kr.optimizers.SparseAdagrad(0.1), lookups, **options)
        theirs = self.of_one_hot_vectors(keras.optimizers.Adagrad(0.1), lookups)
        self.assert_same_training(ours, theirs, self.IDS[:lookups])

    @pytest.mark.parametrize(
        ("kind", "clipping", "options"),
        [("adam", {}, {}), ("ftrl", {}, {}), ("adagrad", {"clipnorm": 0.01}, {"run_eagerly": True})],
        ids=["adam", "ftrl", "adagrad, clipnorm, eager"],
    )
    def test_every_id_in_every_batch(self, kind: str, clipping: dict[str, float], options: dict[str, Any]) -> None:
        for start in (0, 5, 10):
            assert np.unique(self.ALL_IDS[0, start : start + 5]).size == 6
        # Adam makes the most of differences in rounding.
        given = clipping | ({"epsilon": 1e-3} if kind == "adam" else {})
        ours, keras_own = PAIRS[kind]
        theirs = self.of_one_hot_vectors(keras_own(**given), 1)
        self.assert_same_training(self.of_ids(ours(**given), 1, **options), theirs, self.ALL_IDS)

    def test_a_batch_of_fixed_size(self) -> None:
        """The number of ids is known when the graph is made, that of distinct ones is not."""
        theirs = self.of_one_hot_vectors(keras.optimizers.Adagrad(0.1), 1)
        ours = self.of_ids(kr.optimizers.SparseAdagrad(0.1), 1)
        for model in (ours, theirs):
            model.get_layer("table").set_weights([normal(3, 6, 3)])
        for start in (0, 4, 8):
            ids, labels = self.IDS[0, start : start + 4], self.LABELS[start : start + 4]
            ours.train_on_batch([ids], labels)
            theirs.train_on_batch([np.eye(6, dtype="float32")[ids]], labels)
        for one, other in zip(ours.weights, theirs.weights, strict=True):
            assert_close(one.numpy(), other.numpy(), message=one.path)

    def test_two_devices_train_as_one(self) -> None:
        data = tf.data.Dataset.from_tensor_slices(((self.IDS[0, :12],), self.LABELS[:12])).batch(4)
        with strategy_of(2).scope():
            model = self.of_ids(kr.optimizers.SparseAdagrad(0.1), 1)
        models = model, self.of_ids(kr.optimizers.SparseAdagrad(0.1), 1, run_eagerly=True)
        for each in models:
            each.get_layer("table").set_weights([normal(3, 6, 3)])
            each.fit(data, epochs=2, shuffle=False, verbose=0)
        for two, one in zip(*(each.get_weights() for each in models), strict=True):
            np.testing.assert_allclose(two, one, rtol=0, atol=1e-6)


class TestDenseGradients:
    @eager_and_graph
    @pytest.mark.parametrize("kind", PAIRS)
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_as_in_keras(self, how: str, kind: str, dtype: str) -> None:
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
    """To the digits that float64 has."""
    variables = [table(normal(1, 7, 3), dtype="float64") for _ in range(2)]
    ours, keras_own = (make(**EXACT[kind]) for make in PAIRS[kind])
    step, their_step = stepper(ours, variables[:1], how), stepper(keras_own, variables[1:], "eager")
    for seed in range(4):
        gradient = slices(all_rows(7, 3, seed), (7, 3), seed, "float64")
        step([gradient])
        their_step([dense(gradient)])
    assert_close(variables[0].numpy(), variables[1].numpy(), 1e-10)


SCHEDULE = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
#: Class and options, none of them a default.
MADE: dict[str, tuple[Any, dict[str, Any]]] = {
    "lazy_adam": (
        kr.optimizers.LazyAdam,
        {"learning_rate": 0.25, "idle_decay": 1.5, "beta_1": 0.75, "beta_2": 0.5, "epsilon": 0.01, "name": "one"},
    ),
    "sparse_adagrad": (
        kr.optimizers.SparseAdagrad,
        {"learning_rate": 0.25, "initial_accumulator_value": 0.5, "epsilon": 0.2, "idle_decay": 1.5, "clipvalue": 0.5},
    ),
    "sparse_ftrl": (
        kr.optimizers.SparseFtrl,
        {"learning_rate": 0.25, "global_clipnorm": 2.0, "name": "two", **FTRL["everything"]},
    ),
    "clipnorm": (kr.optimizers.LazyAdam, {"learning_rate": 0.25, "clipnorm": 0.5, "loss_scale_factor": 2.0}),
}
REMAKES: dict[str, Callable[[Any], Any]] = {
    "from_config": lambda optimizer: type(optimizer).from_config(optimizer.get_config()),
    "serialize": lambda optimizer: keras.optimizers.deserialize(keras.optimizers.serialize(optimizer)),
    "json": lambda optimizer: keras.optimizers.deserialize(json.loads(json.dumps(keras.optimizers.serialize(optimizer)))),
    "get": lambda optimizer: keras.optimizers.get(keras.optimizers.serialize(optimizer)),
}


class TestConfig:
    @pytest.mark.parametrize(("kind", "options"), MADE.values(), ids=MADE)
    @pytest.mark.parametrize("remake", REMAKES.values(), ids=REMAKES)
    def test_round_trip(self, kind: Any, options: dict[str, Any], remake: Callable[[Any], Any]) -> None:
        optimizer = kind(**options)
        remade = remake(optimizer)
        assert type(remade) is kind
        assert remade.get_config() == optimizer.get_config()
        assert optimizer.get_config() == optimizer.get_config() | options

    @pytest.mark.parametrize("kind", ["lazy_adam", "sparse_adagrad", "sparse_ftrl"])
    def test_remade_optimizers_train_as_the_first(self, kind: str) -> None:
        make, options = MADE[kind]
        optimizer = make(**options)
        optimizers = [optimizer, *(remake(optimizer) for remake in REMAKES.values())]
        weights = []
        for each in optimizers:
            variable = table(normal(1, 7, 3))
            for seed, rows in enumerate(BATCHES):
                each.apply([slices(rows, (7, 3), seed)], [variable])
            each.flush()
            weights.append(variable.numpy())
        for other in weights[1:]:
            assert np.array_equal(weights[0], other)

    @pytest.mark.parametrize("kind", ["lazy_adam", "sparse_adagrad", "sparse_ftrl"])
    @pytest.mark.parametrize("remake", [REMAKES["from_config"], REMAKES["json"]], ids=["from_config", "json"])
    def test_schedule(self, kind: str, remake: Callable[[Any], Any]) -> None:
        make, options = MADE[kind]
        optimizer = make(**{**options, "learning_rate": SCHEDULE})
        remade = remake(optimizer)
        assert remade.get_config() == optimizer.get_config()
        variable = table(normal(1, 7, 3))
        for seed, rows in enumerate(BATCHES):
            assert float(remade.learning_rate) == pytest.approx(0.1 * 0.5 ** (seed / 2))
            remade.apply([slices(rows, (7, 3), seed)], [variable])

    @pytest.mark.parametrize("kind", ["lazy_adam", "sparse_adagrad", "sparse_ftrl"])
    def test_options_that_are_refused_are_not_in_it(self, kind: str) -> None:
        make, options = MADE[kind]
        refused = {"weight_decay", "use_ema", "ema_momentum", "gradient_accumulation_steps", "amsgrad"}
        assert not refused & make(**options).get_config().keys()


class TestRefused:
    KINDS = pytest.mark.parametrize(
        "make",
        [kr.optimizers.LazyAdam, kr.optimizers.SparseAdagrad, kr.optimizers.SparseFtrl],
        ids=["lazy_adam", "sparse_adagrad", "sparse_ftrl"],
    )
    DECAYING = pytest.mark.parametrize(
        "make", [kr.optimizers.LazyAdam, kr.optimizers.SparseAdagrad], ids=["lazy_adam", "sparse_adagrad"]
    )

    @KINDS
    @pytest.mark.parametrize(
        "option",
        [{"weight_decay": 0.1}, {"use_ema": True}, {"gradient_accumulation_steps": 2}],
        ids=lambda given: next(iter(given)),
    )
    def test_options_that_touch_whole_tables(self, make: Callable[..., Any], option: dict[str, Any]) -> None:
        (name,) = option
        with pytest.raises(ValueError, match=f"{make.__name__} has no `{name}`"):
            make(0.1, **option)

    def test_amsgrad(self) -> None:
        with pytest.raises(ValueError, match="LazyAdam has no `amsgrad`"):
            kr.optimizers.LazyAdam(0.1, amsgrad=True)

    @pytest.mark.parametrize(("start", "epsilon"), [(0.0, 0.0), (-0.1, 0.05), (float("nan"), 0.1)])
    def test_adagrad_that_divides_zero_by_zero(self, start: float, epsilon: float) -> None:
        with pytest.raises(
            ValueError, match=r"`initial_accumulator_value` plus `epsilon` must be greater than 0\. Received: "
        ):
            kr.optimizers.SparseAdagrad(0.1, initial_accumulator_value=start, epsilon=epsilon)

    @KINDS
    def test_unknown_options(self, make: Callable[..., Any]) -> None:
        with pytest.raises(ValueError, match="bta_1"):
            make(0.1, bta_1=0.5)

    @DECAYING
    @pytest.mark.parametrize(
        "value", [-0.1, float("nan"), float("inf"), float("-inf"), True, False, "0.1", None, [0.1]], ids=str
    )
    def test_idle_decay_that_is_no_number_of_0_or_more(self, make: Callable[..., Any], value: Any) -> None:
        with pytest.raises(ValueError, match="`idle_decay` must be a finite number of at least 0"):
            make(0.1, idle_decay=value)

    @DECAYING
    @pytest.mark.parametrize("idle_decay", [4.0, 5.0])
    def test_idle_decay_that_turns_signs(self, make: Callable[..., Any], idle_decay: float) -> None:
        for give in (lambda: make(0.25, idle_decay=idle_decay), lambda: make(learning_rate=0.25, idle_decay=idle_decay)):
            with pytest.raises(ValueError, match="`idle_decay` times `learning_rate` must be less than 1"):
                give()
        make(0.25, idle_decay=3.9)

    @eager_and_graph
    @DECAYING
    @pytest.mark.parametrize("rate", [0.5, 3.0])
    def test_schedule_that_turns_signs(self, how: str, make: Callable[..., Any], rate: float) -> None:
        schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.1, rate])
        variable = table(normal(1, 7, 3))
        optimizer = make(schedule, idle_decay=2.0)
        step = stepper(optimizer, [variable], how)
        for seed in range(2):
            step([slices([1, 2], (7, 3), seed)])
        before = variable.numpy()
        with pytest.raises(
            tf.errors.InvalidArgumentError, match="`idle_decay` times the learning rate must be less than 1"
        ):
            step([slices([1, 2], (7, 3), 2)])
        optimizer.flush()
        assert np.all(np.isfinite(variable.numpy()))
        assert np.array_equal(variable.numpy()[[1, 2]], before[[1, 2]])

    @eager_and_graph
    def test_learning_rate_that_turns_signs(self, how: str) -> None:
        optimizer = kr.optimizers.LazyAdam(0.1, idle_decay=2.0)
        step = stepper(optimizer, [table(normal(1, 7, 3))], how)
        step([slices([1], (7, 3), 0)])
        optimizer.learning_rate = 0.6
        with pytest.raises(
            tf.errors.InvalidArgumentError, match="`idle_decay` times the learning rate must be less than 1"
        ):
            step([slices([1], (7, 3), 0)])

    @DECAYING
    def test_decay_of_a_table_with_a_constraint(self, make: Callable[..., Any]) -> None:
        layer = keras.layers.Embedding(5, 2, embeddings_constraint="non_neg", name="positive")
        layer.build()
        gradient = slices([1, 3], (5, 2), 0)
        with pytest.raises(ValueError, match=r"can't decay positive/embeddings, which has a constraint"):
            make(0.1, idle_decay=0.3).apply([gradient], layer.trainable_variables)
        make(0.1, idle_decay=0.0).apply([gradient], layer.trainable_variables)
        excluding = make(0.1, idle_decay=0.3)
        excluding.exclude_from_weight_decay(var_names=["embeddings"])
        excluding.apply([gradient], layer.trainable_variables)
        assert np.all(layer.get_weights()[0] >= 0)

    @DECAYING
    def test_not_a_kernel_with_a_constraint(self, make: Callable[..., Any]) -> None:
        """No table, since its gradient is dense: it is never decayed."""
        layer = keras.layers.Dense(2, kernel_constraint="non_neg")
        layer.build((None, 5))
        make(0.1, idle_decay=0.3).apply([tf.ones([5, 2]), tf.ones([2])], layer.trainable_variables)
        assert np.all(layer.get_weights()[0] >= 0)

    def test_decay_with_ftrl(self) -> None:
        with pytest.raises(ValueError, match="SparseFtrl has no `idle_decay`"):
            kr.optimizers.SparseFtrl(0.1, idle_decay=0.1)


PLAN = kr.RankPlan([3, 1, 2, 2, 1, 3, 1, 1, 2], ranks=(2, 3, 4))
IDS = np.random.default_rng(0).integers(-1, 6, (12, 4)).astype("int32")
IDLE = [6, 7, 8]
LABELS = np.random.default_rng(1).integers(0, 2, (12, 1)).astype("float32")


def rafm(optimizer: Any, kind: Callable[..., keras.Model] = kr.RaFMModel, **options: Any) -> keras.Model:
    ids = keras.Input((4,), dtype="int32", name="ids")
    random = keras.initializers.RandomNormal(stddev=0.4)
    model = kind(ids, kr.RaFMLayer(PLAN, factors_initializer=random, seed=5, name="rafm")(ids))
    model.compile(optimizer, keras.losses.BinaryCrossentropy(from_logits=True), **options)
    return model


def factors(model: keras.Model, ids: Sequence[int] = range(9)) -> list[np.ndarray]:
    layer, found = model.get_layer("rafm"), []
    for level in (1, 2, 3):
        its_ids, matrix = layer.factors(level)
        found += [row for i, row in zip(its_ids, matrix, strict=True) if i in ids]
    return found


class TestLossScaling:
    @pytest.mark.parametrize(
        ("kind", "run_eagerly"),
        [(kr.RaFMModel, False), (keras.Model, True)],
        ids=["rafm_model, graph", "model"],
    )
    def test_changes_nothing(self, kind: Callable[..., keras.Model], run_eagerly: bool) -> None:
        models = [
            rafm(keras.optimizers.LossScaleOptimizer(self.adam(), dynamic_growth_steps=2), kind, run_eagerly=run_eagerly),
            rafm(self.adam(), kind, run_eagerly=True),
        ]
        for start in (0, 3, 6, 0):
            for model in models:
                model.train_on_batch(IDS[start : start + 3], LABELS[start : start + 3])
        for one, other in zip(*(model.get_layer("rafm").get_weights() for model in models), strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
        for one, start in zip(factors(models[0], IDLE), factors(rafm(None), IDLE), strict=True):
            assert_close(one, start * (1 - 0.1 * 2.0) ** 4)

    def test_a_step_that_is_left_out_decays_nothing(self) -> None:
        model = rafm(keras.optimizers.LossScaleOptimizer(self.adam()), run_eagerly=True)
        model.train_on_batch(IDS[:3], LABELS[:3])
        before = model.get_weights()
        model.train_on_batch(IDS[3:6], LABELS[3:6], sample_weight=np.full(3, np.inf, "float32"))
        assert all(np.array_equal(one, other) for one, other in zip(before, model.get_weights(), strict=True))
        model.train_on_batch(IDS[3:6], LABELS[3:6])
        for one, start in zip(factors(model, IDLE), factors(rafm(None), IDLE), strict=True):
            assert_close(one, start * (1 - 0.1 * 2.0) ** 2)

    def test_mixed_precision(self) -> None:
        keras.mixed_precision.set_global_policy("mixed_float16")
        try:
            model, start = rafm(self.adam()), factors(rafm(None), IDLE)
        finally:
            keras.mixed_precision.set_global_policy("float32")
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        losses = model.fit(IDS, LABELS, batch_size=4, epochs=10, verbose=0).history["loss"]
        assert losses[-1] < 0.8 * losses[0]
        num_steps = int(model.optimizer.iterations)
        assert num_steps > 20
        assert model.get_layer("rafm").free_tables[0].dtype == "float32"
        for one, initial in zip(factors(model, IDLE), start, strict=True):
            np.testing.assert_allclose(one, initial * (1 - 0.1 * 2.0) ** num_steps, rtol=1e-4, atol=1e-30)

    def adam(self) -> keras.optimizers.Optimizer:
        return kr.optimizers.LazyAdam(0.1, idle_decay=2.0, epsilon=1e-3)


def test_default_of_compile() -> None:
    model = rafm(None)
    assert type(model.optimizer) is kr.optimizers.LazyAdam
    assert model.optimizer.get_config() == kr.optimizers.LazyAdam().get_config()
    ids = keras.Input((4,), dtype="int32")
    other = kr.RaFMModel(ids, kr.RaFMLayer(PLAN)(ids))
    other.compile(loss="mse", run_eagerly=True)
    assert type(other.optimizer) is kr.optimizers.LazyAdam
    other.fit(IDS, LABELS, verbose=0)
