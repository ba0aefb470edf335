"""Decay of idle rows against an optimizer that decays whole tables in every step, wherever weights are seen."""

import copy
import functools
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from replicas import strategy_of

import keras_rafm as kr

#: Adam makes the most of differences in rounding, and float32 has but four digits of 1 − 0.999.
BETA_1, BETA_2, EPSILON = 0.75, 0.9375, 1e-3
RATE, DECAY = 0.1, 2.0


class NumpyTable:
    """A table in float64 of which every row decays in every step, and those that were read are updated."""

    def __init__(self, weights: np.ndarray, rule: str = "adam") -> None:
        self.weights = weights.astype("float64")
        self.rule, self.num_steps = rule, 0
        self.first = np.zeros_like(self.weights)
        self.second = np.zeros_like(self.weights) if rule == "adam" else np.full_like(self.weights, 0.1 + EPSILON)

    def step(self, rate: float, decay: float, rows: np.ndarray, gradient: np.ndarray) -> None:
        """Rows may repeat."""
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
    """What `LazyAdam` must be equal to, in NumPy: for models that run eagerly."""

    def __init__(self, learning_rate: Any = RATE, decay: float = DECAY, **options: Any) -> None:
        super().__init__(learning_rate, **options)
        self.decay = decay
        self.memory = SimpleNamespace(tables={})  # Keras would track a dict

    def apply(self, grads: list[Any], trainable_variables: Any = None) -> None:
        rate = float(self.learning_rate)
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            weights = np.atleast_1d(variable.numpy())
            table = self.memory.tables.setdefault(variable.path, NumpyTable(weights))
            if not np.array_equal(table.weights.astype(variable.dtype), weights):
                table.weights = weights.astype("float64")  # it was set from outside
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


eager_and_graph = pytest.mark.parametrize("how", ["eager", "function"])


class TestTables:
    """Variables and sparse gradients alone."""

    RULES = pytest.mark.parametrize("rule", ["adam", "adagrad"])
    #: Rows come and go, some repeat, one batch reads none, and no batch reads row 6.
    BATCHES = ([2, 0, 4], [2, 5, 2], [5, 2, 1, 0], [], [2, 3], [4, 4, 1, 4], [0])
    RATES: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("constant", lambda: 0.1),
        ("piecewise", lambda: keras.optimizers.schedules.PiecewiseConstantDecay([1, 3], [0.2, 0.05, 0.1])),
        ("exponential", lambda: keras.optimizers.schedules.ExponentialDecay(0.2, 2, 0.5)),
        ("callable", lambda: lambda: tf.constant(0.1)),
    )

    def make(self, rule: str, rate: Any, decay: float) -> keras.optimizers.Optimizer:
        if rule == "adam":
            return lazy_adam(rate, decay)
        return kr.optimizers.SparseAdagrad(rate, idle_decay=decay, epsilon=EPSILON)

    def stepper(self, optimizer: keras.optimizers.Optimizer, variable: keras.Variable, how: str) -> Callable[[Any], None]:
        optimizer.build([variable])

        def step(gradient: tf.IndexedSlices) -> None:
            optimizer.apply([gradient], [variable])

        return step if how == "eager" else tf.function(step, reduce_retracing=True)

    @RULES
    @pytest.mark.parametrize(
        ("rate", "how"),
        [(RATES[0][1], "eager"), *((rate, "function") for _, rate in RATES)],
        ids=["constant, eager", *(name for name, _ in RATES)],
    )
    def test_equal_decay_in_every_step(self, rule: str, rate: Callable[[], Any], how: str) -> None:
        shape = (7, 3)
        variable, optimizer = keras.Variable(normal(1, *shape), dtype="float32"), self.make(rule, rate(), DECAY)
        oracle, step = NumpyTable(variable.numpy(), rule), self.stepper(optimizer, variable, how)
        for seed, rows in enumerate(self.BATCHES):
            gradient, rate_now = slices(rows, shape, seed), float(tf.constant(optimizer.learning_rate))
            step(gradient)
            oracle.step(rate_now, DECAY, np.array(rows, int), gradient.values.numpy())
            # What a step updates is up to date.
            assert_close(variable.numpy()[rows], oracle.weights[rows], message=f"step {seed}")
        assert np.max(np.abs(variable.numpy() - oracle.weights)) > 0.1
        optimizer.flush()
        assert_close(variable.numpy(), oracle.weights)
        optimizer.flush()
        assert_close(variable.numpy(), oracle.weights)

    @eager_and_graph
    @RULES
    def test_learning_rate_set_in_between(self, how: str, rule: str) -> None:
        variable, optimizer = keras.Variable(normal(1, 7, 3), dtype="float32"), self.make(rule, 0.1, DECAY)
        oracle, step = NumpyTable(variable.numpy(), rule), self.stepper(optimizer, variable, how)
        for seed, (rows, rate) in enumerate(zip(self.BATCHES, (0.1, 0.4, 0.4, 0.02, 0.0, 0.3, 0.1), strict=True)):
            optimizer.learning_rate = rate
            gradient = slices(rows, (7, 3), seed)
            step(gradient)
            oracle.step(rate, DECAY, np.array(rows, int), gradient.values.numpy())
        optimizer.flush()
        assert_close(variable.numpy(), oracle.weights)

    @given(
        steps=st.lists(
            st.tuples(
                st.lists(st.integers(0, 5), max_size=5),
                st.sampled_from([0.2, 0.2, 0.03, 0.0]),
                st.booleans(),
                st.booleans(),
            ),
            max_size=8,
        ),
        decay=st.sampled_from([0.0, 1e-3, 0.3, 4.9]),
        rule=st.sampled_from(["adam", "adagrad"]),
    )
    def test_any_batches(self, steps: list[tuple[list[int], float, bool, bool]], decay: float, rule: str) -> None:
        """Rows, learning rate, whether to flush, whether the step is done in a graph."""
        shape, optimizer = (6, 2), self.make(rule, 0.2, decay)
        variable = keras.Variable(normal(1, *shape), dtype="float32")
        oracle, in_graph = NumpyTable(variable.numpy(), rule), self.stepper(optimizer, variable, "function")
        for seed, (rows, rate, flush, use_graph) in enumerate(steps):
            optimizer.learning_rate = rate
            gradient = slices(rows, shape, seed)
            if use_graph and seed < 3:  # making graphs takes its time
                in_graph(gradient)
            else:
                optimizer.apply([gradient], [variable])
            oracle.step(rate, decay, np.array(rows, int), gradient.values.numpy())
            if flush:
                optimizer.flush()
                assert_close(variable.numpy(), oracle.weights, 2e-5)
        optimizer.flush()
        assert_close(variable.numpy(), oracle.weights, 2e-5)

    @pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-6), ("float64", 1e-11)])
    def test_long_idle_rows_do_not_drift(self, dtype: str, tolerance: float) -> None:
        rate, decay, num_steps = float(np.float32(1e-3)), 0.7, 3000
        variable = keras.Variable(normal(1, 5, 3), dtype=dtype)
        optimizer = lazy_adam(rate, decay)
        optimizer.build([variable])
        gradient, start = slices([1], (5, 3), 0, dtype), variable.numpy()

        @tf.function
        def steps(gradient: tf.IndexedSlices) -> None:
            for _ in tf.range(num_steps // 2):
                optimizer.apply([gradient], [variable])

        steps(gradient)
        last = slices([2], (5, 3), 0, dtype)
        optimizer.apply([tf.IndexedSlices(0 * last.values, last.indices, last.dense_shape)], [variable])
        steps(gradient)
        optimizer.flush()
        expected = start.astype("float64") * np.exp((num_steps + 1) * np.log1p(-rate * decay))
        for row in (0, 2, 3, 4):
            np.testing.assert_allclose(variable.numpy()[row], expected[row], rtol=tolerance, err_msg=f"row {row}")

    def test_float64(self) -> None:
        variable, optimizer = keras.Variable(normal(1, 7, 3), dtype="float64"), self.make("adam", 0.125, DECAY)
        oracle = NumpyTable(variable.numpy())
        for seed, rows in enumerate(self.BATCHES):
            gradient = slices(rows, (7, 3), seed, "float64")
            optimizer.apply([gradient], [variable])
            oracle.step(0.125, DECAY, np.array(rows, int), gradient.values.numpy())
        optimizer.flush()
        assert_close(variable.numpy(), oracle.weights, 1e-11)

    def test_more_than_two_axes(self) -> None:
        variable, optimizer = keras.Variable(normal(1, 7, 2, 3), dtype="float32"), self.make("adam", RATE, DECAY)
        oracle = NumpyTable(variable.numpy())
        for seed, rows in enumerate(self.BATCHES):
            gradient = slices(rows, (7, 2, 3), seed)
            optimizer.apply([gradient], [variable])
            oracle.step(RATE, DECAY, np.array(rows, int), gradient.values.numpy())
        optimizer.flush()
        assert_close(variable.numpy(), oracle.weights)

    def test_one_axis_does_not_decay(self) -> None:
        variable, optimizer = keras.Variable(normal(1, 7), dtype="float32"), self.make("adam", RATE, DECAY)
        start = variable.numpy()
        for seed, rows in enumerate(self.BATCHES):
            optimizer.apply([slices(rows, (7,), seed)], [variable])
        optimizer.flush()
        assert variable.numpy()[6] == start[6]

    def test_large_table(self) -> None:
        """More rows than `flush` takes at once."""
        num_rows = 2**22 + 5
        variable = keras.Variable(tf.ones([num_rows, 1]))
        optimizer = kr.optimizers.SparseAdagrad(0.125, idle_decay=4.0)
        optimizer.apply([tf.IndexedSlices(tf.zeros([2, 1]), [3, num_rows - 2], [num_rows, 1])], [variable])
        waiting = variable.numpy()
        assert waiting.sum() == num_rows - 1.0
        optimizer.flush()
        assert np.all(variable.numpy() == 0.5)

    def test_excluded_tables_do_not_decay(self) -> None:
        variables = [keras.Variable(normal(1, 7, 3), dtype="float32", name=name) for name in ("users", "items", "more")]
        start = variables[0].numpy()
        optimizer = self.make("adam", RATE, DECAY)
        optimizer.exclude_from_weight_decay(var_list=variables[2:], var_names=["user"])
        for seed in range(3):
            optimizer.apply([slices([1, 2], (7, 3), seed)] * 3, variables)
        optimizer.flush()
        assert np.array_equal(variables[0].numpy()[3:], start[3:])
        assert_close(variables[1].numpy()[3:], start[3:] * 0.8**3)
        assert np.array_equal(variables[2].numpy()[3:], start[3:])

    def test_frozen_in_between(self) -> None:
        """A table that a step does not update does not decay in it."""
        variables = [keras.Variable(normal(1, 7, 3), dtype="float32", name=name) for name in ("users", "items")]
        start = variables[0].numpy()
        optimizer = self.make("adam", RATE, DECAY)
        optimizer.build(variables)
        for seed, num_variables in enumerate((2, 1, 1, 2, 1)):
            optimizer.apply([slices([1, 2], (7, 3), seed)] * num_variables, variables[:num_variables])
        optimizer.flush()
        assert_close(variables[0].numpy()[3:], start[3:] * 0.8**5)
        assert_close(variables[1].numpy()[3:], start[3:] * 0.8**2)


class TestEmbeddings:
    """A plain `keras.Model`. Its loss is linear, so that gradients don't depend on what an idle row is read as."""

    IDS = np.array([[0, 1, 1], [2, 0, 1], [1, 1, 3], [3, 1, 0], [4, 4, 1], [1, 0, 1], [5, 1, 1], [1, 2, 1]], "int32")
    INPUTS = normal(0, 8, 3, 4).astype("float32")
    TARGETS = normal(1, 8, 3, 2).astype("float32")
    FIT: tuple[tuple[str, Any], ...] = (("batch_size", 2), ("shuffle", False), ("verbose", 0))

    def model(self, optimizer: Any, **options: Any) -> keras.Model:
        ids, inputs = keras.Input((3,), dtype="int32", name="ids"), keras.Input((3, 4), name="inputs")
        found = keras.layers.Embedding(8, 2, name="table", embeddings_initializer=keras.initializers.RandomNormal(seed=1))(
            ids
        )
        product = keras.layers.Dense(2, name="dense", kernel_initializer=keras.initializers.RandomNormal(seed=2))(inputs)
        model = keras.Model([ids, inputs], keras.layers.Add()([found, product]))
        model.compile(optimizer, lambda targets, outputs: 20 * targets * outputs, **options)
        return model

    def expected(self, model: keras.Model, num_epochs: int) -> list[np.ndarray]:
        """The table after every epoch."""
        oracle, result = NumpyTable(model.get_layer("table").get_weights()[0]), []
        for _ in range(num_epochs):
            for start in range(0, 8, 2):
                gradient = 20 * self.TARGETS[start : start + 2].reshape(-1, 2) / 12
                oracle.step(RATE, DECAY, self.IDS[start : start + 2].reshape(-1), gradient)
            result.append(oracle.weights.copy())
        return result

    @pytest.mark.parametrize("run_eagerly", [True, False], ids=["eager", "graph"])
    def test_flush_by_hand(self, run_eagerly: bool) -> None:
        model = self.model(lazy_adam(), run_eagerly=run_eagerly)
        (expected,) = self.expected(model, 1)
        for start in range(0, 8, 2):
            batch = slice(start, start + 2)
            model.train_on_batch([self.IDS[batch], self.INPUTS[batch]], self.TARGETS[batch])
        model.optimizer.flush()
        assert_close(model.get_layer("table").get_weights()[0], expected)

    def test_fit_flushes_at_its_end_and_leaves_kernels_alone(self) -> None:
        model, other = (
            self.model(lazy_adam()),
            self.model(keras.optimizers.Adam(RATE, BETA_1, BETA_2, EPSILON), run_eagerly=True),
        )
        expected = self.expected(model, 2)
        for each in (model, other):
            each.fit([self.IDS, self.INPUTS], self.TARGETS, epochs=2, **dict(self.FIT))
        assert_close(model.get_layer("table").get_weights()[0], expected[-1])
        for one, same in zip(*(each.get_layer("dense").get_weights() for each in (model, other)), strict=True):
            assert_close(one, same, 5e-5)

    def test_callback(self) -> None:
        model, seen = self.model(lazy_adam(), run_eagerly=True), []
        expected = self.expected(model, 3)
        table = model.get_layer("table").embeddings
        look = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(table.numpy()))
        flush = kr.optimizers.FlushIdleDecay()
        model.fit([self.IDS, self.INPUTS], self.TARGETS, epochs=3, callbacks=[flush, look], **dict(self.FIT))
        for epoch, (one, other) in enumerate(zip(seen, expected, strict=True)):
            assert_close(one, other, message=f"epoch {epoch}")

    @pytest.mark.parametrize("run", ["predict", "evaluate", "validation"])
    def test_callback_before_prediction_and_validation(self, run: str) -> None:
        model, flush = self.model(lazy_adam(), run_eagerly=True), kr.optimizers.FlushIdleDecay()
        (expected,) = self.expected(model, 1)
        x, kernel = [self.IDS, self.INPUTS], model.get_layer("dense")
        table = model.get_layer("table").embeddings
        fit = {"epochs": 1, **dict(self.FIT)}
        if run == "validation":
            logs = model.fit(x, self.TARGETS, validation_data=(x, self.TARGETS), callbacks=[flush], **fit).history
            loss = logs["val_loss"][0]
        else:
            for start in range(0, 8, 2):
                batch = slice(start, start + 2)
                model.train_on_batch([part[batch] for part in x], self.TARGETS[batch])
            assert np.max(np.abs(table.numpy() - expected)) > 0.01
            if run == "predict":
                outputs = model.predict(x, callbacks=[flush], verbose=0)
                assert_close(outputs, expected[self.IDS] + kernel(self.INPUTS).numpy(), 1e-4)
                return
            loss = model.evaluate(x, self.TARGETS, callbacks=[flush], verbose=0)
        outputs = expected[self.IDS] + kernel(self.INPUTS).numpy()
        assert loss == pytest.approx(np.mean(20 * self.TARGETS * outputs), rel=1e-4)

    def test_saved_in_between(self, tmp_path: Path) -> None:
        """Without a flush: what waits is in the optimizer's state."""
        keras.saving.register_keras_serializable("test_idle_decay", "twenty_times")(twenty_times)
        model = self.model(lazy_adam(), run_eagerly=True)
        model.compile(lazy_adam(), twenty_times, run_eagerly=True)
        (expected,) = self.expected(model, 1)
        for start in range(0, 8, 2):
            batch = slice(start, start + 2)
            model.train_on_batch([self.IDS[batch], self.INPUTS[batch]], self.TARGETS[batch])
            if start == 4:
                model.save(tmp_path / "model.keras")
                model = keras.models.load_model(tmp_path / "model.keras")
        model.optimizer.flush()
        assert_close(model.get_layer("table").get_weights()[0], expected)


def twenty_times(targets: Any, outputs: Any) -> Any:
    return 20 * targets * outputs


PLAN = kr.RankPlan([2, 1, 2, 2, 1, 2, 1, 1, 2, 1, 2, 2], ranks=(1, 3))
LEVELS = (1, 2)
#: Batches of two samples. Some features come and go; 0, 1, 2 are in the first one and in the fourth, 9, 10, 11 in none.
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
#: Four samples with every feature.
QUERY = np.arange(12, dtype="int32").reshape(4, 3)


KINDS: dict[str, Any] = {"rafm_model": kr.RaFMModel, "model": keras.Model}
every_kind = pytest.mark.parametrize("kind", KINDS)


def layer_of(model: keras.Model) -> kr.RaFMLayer:
    return model.get_layer("rafm")


def build(optimizer: Any = None, kind: str = "rafm_model", run_eagerly: bool = True, **options: Any) -> keras.Model:
    """By rows: the idle rows of tables that are read whole have nothing waiting on them."""
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
    """As the layer gives them."""
    layer = model.get_layer("rafm")
    return dict(zip([weight.name for weight in layer.weights], layer.get_weights(), strict=True))


def raw_weights_of(model: keras.Model) -> dict[str, np.ndarray]:
    """As they are in memory."""
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
    """A model whose tables decay in every step, after some batches."""
    model = build(EveryRowInEveryStep(), kind)
    weights, memory = reference_after(num_batches, kind)
    model.optimizer.build(model.trainable_variables)
    layer_of(model).set_weights(weights)
    model.optimizer.memory = copy.deepcopy(memory)
    model.optimizer.iterations.assign(num_batches)
    return model


def expected(num_batches: int, kind: str = "rafm_model") -> dict[str, np.ndarray]:
    """The weights of `reference`."""
    names = [weight.name for weight in layer_of(build(kind=kind)).weights]
    return dict(zip(names, reference_after(num_batches, kind)[0], strict=True))


@functools.cache
def state_after(num_batches: int, kind: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    model = build(lazy_adam(), kind)
    train(model, range(num_batches))
    return list(raw_weights_of(model).values()), [variable.numpy() for variable in model.optimizer.variables]


def halfway(num_batches: int = 4, kind: str = "rafm_model") -> keras.Model:
    """A model trained by `LazyAdam` on some batches, with decay waiting on its idle rows."""
    model = build(lazy_adam(), kind)
    weights, state = state_after(num_batches, kind)
    model.optimizer.build(model.trainable_variables)
    for variable, value in zip(layer_of(model).weights, weights, strict=True):
        variable.assign(value)
    model.optimizer.set_weights(state)
    return model


class TestTraining:
    @pytest.mark.parametrize(
        ("kind", "run_eagerly"),
        [("rafm_model", True), ("rafm_model", False), ("model", True)],
        ids=["rafm_model", "rafm_model, graph", "model"],
    )
    def test_equals_decay_in_every_step(self, kind: str, run_eagerly: bool) -> None:
        model = build(lazy_adam(), kind, run_eagerly)
        start = weights_of(model)
        train(model, range(6))
        assert_same_weights(weights_of(model), expected(6, kind))
        for name, weights in weights_of(model).items():
            assert name == "slots" or np.max(np.abs(weights - start[name])) > 0.03, name

    @pytest.mark.parametrize(
        "rate",
        [
            lambda: keras.optimizers.schedules.PiecewiseConstantDecay([1, 3], [0.2, 0.05, 0.1]),
            lambda: keras.optimizers.schedules.ExponentialDecay(0.2, 2, 0.5),
        ],
        ids=["piecewise", "exponential"],
    )
    def test_schedules(self, rate: Callable[[], Any]) -> None:
        models = [build(lazy_adam(rate())), build(EveryRowInEveryStep(rate()))]
        for model in models:
            train(model, range(6))
        assert_same_weights(*(weights_of(model) for model in models))

    def test_learning_rate_set_in_between(self) -> None:
        models = [build(lazy_adam()), build(EveryRowInEveryStep())]
        for model in models:
            for batch, rate in zip(range(6), (0.1, 0.3, 0.0, 0.02, 0.2, 0.1), strict=True):
                model.optimizer.learning_rate = rate
                train(model, [batch])
        assert_same_weights(*(weights_of(model) for model in models))

    def test_what_decays(self) -> None:
        """Factors do, of one column too; linear weights and the bias don't."""
        model = build(lazy_adam())
        layer, train_steps = model.get_layer("rafm"), 6
        factors, linear = {k: dict(zip(*layer.factors(k), strict=True)) for k in LEVELS}, layer.linear()
        train(model, range(train_steps))
        for level in LEVELS:
            for feature, vector in zip(*layer.factors(level), strict=True):
                if feature in NEVER_READ:
                    assert_close(vector, factors[level][feature] * 0.8**train_steps)
        never = list(NEVER_READ)
        assert np.array_equal(layer.linear()[never], linear[never])
        biases = [build(lazy_adam(decay=decay), dependent_gradient="upper") for decay in (0.0, DECAY)]
        for each in biases:
            each.get_layer("rafm").assign_bias(1.0)
            empty = np.full((2, 3), -1, "int32")
            for _ in range(3):
                each.train_on_batch(empty, LABELS[0])
        assert biases[0].get_layer("rafm").bias() == biases[1].get_layer("rafm").bias() != 1.0

    def test_gradients_after_long_idle_times(self) -> None:
        """Are those of the rows as they are by then."""
        num_idle, rate, decay = 250, 0.01, 0.5
        model = build(lazy_adam(rate, decay), run_eagerly=False)
        start = model.get_layer("rafm").get_weights()
        # Nothing but decay: there is no gradient in a batch that weighs nothing.
        idle = tf.data.Dataset.from_tensors((IDS[1], LABELS[1], np.zeros(2, "float32"))).repeat(num_idle)
        model.fit(idle, shuffle=False, verbose=0)
        train(model, [0])

        other, decayed = build(EveryRowInEveryStep(rate, decay)), []
        for variable, value in zip(other.get_layer("rafm").weights, start, strict=True):
            decayed.append(value * (1 - rate * decay) ** num_idle if is_table(variable) else value)
        other.set_weights(decayed)
        other.optimizer.iterations.assign(num_idle)
        train(other, [0])
        assert_same_weights(weights_of(model), weights_of(other))
        assert largest_difference(weights_of(model), dict(zip(weights_of(model), decayed, strict=True))) > 1e-3

    def test_penalty_over_the_batch(self) -> None:
        """Its rows are as they are after the decay that waits on them."""
        options = {"factors_l2": 0.3, "factors_l2_scope": "batch", "linear_l2": 0.1}
        models = [build(lazy_adam(), **options), build(EveryRowInEveryStep(), **options)]
        for model in models:
            train(model, range(6))
        assert_same_weights(*(weights_of(model) for model in models))

    def test_penalty_over_tables(self) -> None:
        """Their gradients are dense, and they decay all the same."""
        models = [build(lazy_adam(), factors_l2=0.3), build(EveryRowInEveryStep(), factors_l2=0.3)]
        for model in models:
            train(model, range(6))
        assert_same_weights(*(raw_weights_of(model) for model in models), 5e-6)

    def test_float64(self) -> None:
        models = [build(lazy_adam(), dtype="float64"), build(EveryRowInEveryStep(), dtype="float64")]
        for model in models:
            train(model, range(6))
        assert models[0].get_layer("rafm").free_tables[0].dtype == "float64"
        assert_same_weights(*(weights_of(model) for model in models), 1e-7)

    def test_excluded_tables(self) -> None:
        optimizer = lazy_adam()
        optimizer.exclude_from_weight_decay(var_names=["free_2", "dependent_1"])
        model = build(optimizer)
        before = {k: dict(zip(*layer_of(model).factors(k), strict=True)) for k in LEVELS}
        train(model, range(4))
        # Factors of level 1 of features above it are the dependent ones.
        for level, own_level in ((1, 1), (1, 2), (2, 2)):
            for feature, vector in zip(*layer_of(model).factors(level), strict=True):
                if feature in NEVER_READ and PLAN.levels[feature] == own_level:
                    assert_close(vector, before[level][feature] * (0.8**4 if own_level == 1 else 1.0))

    def test_steps_per_execution(self) -> None:
        model = build(lazy_adam())
        model.compile(model.optimizer, "mse", steps_per_execution=3)
        data = tf.data.Dataset.from_tensor_slices((IDS, LABELS))
        model.fit(data, shuffle=False, verbose=0)
        assert_same_weights(raw_weights_of(model), expected(6))


def exported_score(model: keras.Model, path: Path) -> Any:
    served = tf.saved_model.load(str(kr.export(model, path / "exported")))
    return served.signatures["serving_default"](ids=tf.constant(QUERY))["score"].numpy()


def saved_weights(model: keras.Model, path: Path) -> Any:
    model.save(path / "model.keras")
    return keras.models.load_model(path / "model.keras", compile=False).get_weights()


def saved_weights_alone(model: keras.Model, path: Path) -> Any:
    model.save_weights(path / "model.weights.h5")
    other = build(kind="rafm_model" if isinstance(model, kr.RaFMModel) else "model")
    other.load_weights(path / "model.weights.h5")
    return other.get_weights()


def flushed(model: keras.Model, path: Path) -> Any:
    del path
    getattr(model.optimizer, "flush", lambda: None)()
    return list(raw_weights_of(model).values())


#: Everything that shows weights, in one way or another.
VIEWS_OF_RAFM_MODEL: dict[str, Callable[[keras.Model, Path], Any]] = {
    "model.get_weights": lambda model, _: model.get_weights(),
    "layer.factors": lambda model, _: [layer_of(model).factors(level)[1] for level in LEVELS],
    "layer.linear": lambda model, _: layer_of(model).linear(),
    "layer.get_weights": lambda model, _: layer_of(model).get_weights(),
    "layer.level_scores": lambda model, _: layer_of(model).level_scores(QUERY).numpy(),
    "layer": lambda model, _: layer_of(model)(QUERY, training=False).numpy(),
    "model": lambda model, _: model(QUERY, training=False).numpy(),
    "model.predict": lambda model, _: model.predict(QUERY, verbose=0),
    "model.evaluate": lambda model, _: model.evaluate(QUERY, np.ones((4, 1)), verbose=0),
    "model.save": saved_weights,
    "model.save_weights": saved_weights_alone,
    "pickle": lambda model, _: pickle.loads(pickle.dumps(model)).get_layer("rafm").get_weights(),
    "kr.export": exported_score,
    "optimizer.flush": flushed,
    "a model around the layer": lambda model, _: keras.Model(model.input, layer_of(model).output)(QUERY).numpy(),
}
#: Those of the layer, and what Keras does through it. Another model than ours doesn't flush in `get_weights`.
VIEWS_OF_PLAIN_MODEL = (
    "layer.get_weights",
    "layer.level_scores",
    "model.predict",
    "model.save",
    "model.save_weights",
    "optimizer.flush",
)


class TestNobodySeesAStaleWeight:
    """In the middle of training, with rows idle: all that is looked at is as if tables decayed in every step."""

    @pytest.mark.parametrize(
        ("kind", "view"),
        [
            *(("rafm_model", view) for view in VIEWS_OF_RAFM_MODEL),
            *(("model", view) for view in VIEWS_OF_PLAIN_MODEL),
        ],
    )
    def test_looked_at_in_between(self, tmp_path: Path, kind: str, view: str) -> None:
        model, settled = halfway(5, kind), build(keras.optimizers.SGD(0.0), kind)
        layer_of(settled).set_weights([*expected(5, kind).values()])
        # Otherwise there would be nothing to be missed.
        assert largest_difference(raw_weights_of(model), expected(5, kind)) > 0.1

        look = VIEWS_OF_RAFM_MODEL[view]
        seen, as_expected = (look(each, tmp_path) for each in (model, settled))

        for one, other in zip(keras.tree.flatten(seen), keras.tree.flatten(as_expected), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=5e-6)
        # And nothing has changed by it.
        train(model, [5])
        assert_same_weights(weights_of(model), expected(6, kind))

    def test_models_trained_with_adagrad(self) -> None:
        model = build(kr.optimizers.SparseAdagrad(RATE, idle_decay=DECAY))
        before = {k: dict(zip(*layer_of(model).factors(k), strict=True)) for k in LEVELS}
        train(model, range(4))
        for level in LEVELS:
            for feature, vector in zip(*layer_of(model).factors(level), strict=True):
                if feature in NEVER_READ:
                    assert_close(vector, before[level][feature] * 0.8**4)


def other_weights() -> list[np.ndarray]:
    """Slots are as they are."""
    return [0.1 + value if value.dtype.kind == "f" else value for value in expected(2).values()]


class TestWritten:
    """Weights that are set in the middle of training have nothing waiting on them; the others keep what they have."""

    WRITERS: tuple[tuple[str, Callable[[keras.Model], None]], ...] = (
        ("model.set_weights", lambda model: model.set_weights(other_weights())),
        ("layer.set_weights", lambda model: layer_of(model).set_weights(other_weights())),
        ("assign_factors 1", lambda model: layer_of(model).assign_factors(1, [9, 1, 10], normal(3, 3, 1))),
        ("assign_factors 2", lambda model: layer_of(model).assign_factors(2, [10, 5], normal(3, 2, 3))),
        ("assign_linear", lambda model: layer_of(model).assign_linear([9, 1], [3.0, 4.0])),
    )

    @pytest.mark.parametrize("write", [write for _, write in WRITERS], ids=[name for name, _ in WRITERS])
    def test_in_between(self, write: Callable[[keras.Model], None]) -> None:
        models = model, oracle = halfway(), reference(4)
        for each in models:
            write(each)
        assert_same_weights(weights_of(model), raw_weights_of(oracle))
        for each in models:
            train(each, (4, 5))
        assert_same_weights(weights_of(model), raw_weights_of(oracle))

    def test_assigned_rows_are_exactly_what_was_assigned(self) -> None:
        model, values = halfway(), normal(3, 3, 1).astype("float32")
        layer_of(model).assign_factors(1, [9, 1, 10], values)
        found = dict(zip(*layer_of(model).factors(1), strict=True))
        for feature, value in zip((9, 1, 10), values, strict=True):
            assert np.array_equal(found[feature], value)

    @every_kind
    def test_load_weights(self, tmp_path: Path, kind: str) -> None:
        """With the state of the optimizer, as Keras saves it; after a look at the weights, and after more training."""
        model, other = halfway(3, kind), halfway(4, kind)
        other.save_weights(tmp_path / "other.weights.h5")
        for _ in range(2):
            model.load_weights(tmp_path / "other.weights.h5")
            assert_same_weights(weights_of(model), weights_of(other), 0)
            assert_same_weights(weights_of(model), expected(4, kind))
            model.load_weights(tmp_path / "other.weights.h5")
            train(model, (4, 5))
            assert_same_weights(weights_of(model), expected(6, kind))


@functools.cache
def expected_after_epochs() -> list[dict[str, np.ndarray]]:
    model, result = build(EveryRowInEveryStep()), []
    for _ in range(2):
        for start in (0, 2, 4):
            model.train_on_batch(IDS[start : start + 2].reshape(4, 3), LABELS[start : start + 2].reshape(4, 1))
        result.append(raw_weights_of(model))
    return result


class TestCallbacks:
    def fit(self, model: keras.Model, callbacks: Any, epochs: int = 2) -> None:
        options = {"batch_size": 4, "epochs": epochs, "shuffle": False, "verbose": 0}
        model.fit(IDS.reshape(12, 3), LABELS.reshape(12, 1), callbacks=callbacks, **options)

    @pytest.mark.parametrize(
        "given_as",
        [
            lambda callback, model: [callback],
            lambda callback, model: callback,
            lambda callback, model: keras.callbacks.CallbackList([callback], add_history=True, model=model),
        ],
        ids=["list", "alone", "callback_list"],
    )
    def test_see_settled_weights(self, given_as: Callable[[Any, Any], Any]) -> None:
        model, seen = build(lazy_adam()), []
        look = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda epoch, logs: seen.append(raw_weights_of(model)),
            on_train_end=lambda logs: seen.append(raw_weights_of(model)),
        )
        self.fit(model, given_as(look, model))
        for one, other in zip(seen, [*expected_after_epochs(), expected_after_epochs()[-1]], strict=True):
            assert_same_weights(one, other)

    def test_given_by_position(self) -> None:
        """`fit(x, y, batch_size, epochs, verbose, callbacks)`."""
        model, seen = build(lazy_adam()), []
        look = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(raw_weights_of(model)))
        model.fit(IDS.reshape(12, 3), LABELS.reshape(12, 1), 4, 2, 0, [look], shuffle=False)
        for one, other in zip(seen, expected_after_epochs(), strict=True):
            assert_same_weights(one, other)

    def test_none(self) -> None:
        model = build(lazy_adam())
        self.fit(model, None)
        assert_same_weights(raw_weights_of(model), expected_after_epochs()[-1])

    @every_kind
    def test_early_stopping_restores_the_best_weights(self, kind: str) -> None:
        scores, seen = [3.0, 1.0, 2.0, 4.0, 5.0], []
        model = build(lazy_adam(), kind)
        stop = keras.callbacks.EarlyStopping("score", mode="min", patience=2, restore_best_weights=True)
        callbacks = [
            keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(score=scores[epoch])),
            stop,
            keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(weights_of(model))),
        ]
        # In another model than ours, it has to be asked for.
        flush = [] if kind == "rafm_model" else [kr.optimizers.FlushIdleDecay()]
        self.fit(model, [*flush, *callbacks], epochs=5)
        assert stop.stopped_epoch == 3
        assert largest_difference(seen[1], seen[3]) > 0.01
        for found in (raw_weights_of(model), weights_of(model)):
            assert_same_weights(found, seen[1], 0)
        # Nothing from before is waiting on them.
        train(model, [1])
        for name in ("free_1", "free_2"):
            slots = layer_of(model).plan.slots[list(NEVER_READ)] - (PLAN.level_sizes[1] if name == "free_1" else 0)
            rows = [
                slot for slot, level in zip(slots, PLAN.levels[list(NEVER_READ)], strict=True) if name == f"free_{level}"
            ]
            assert_close(weights_of(model)[name][rows], 0.8 * seen[1][name][rows])

    def test_model_checkpoint_in_the_middle_of_an_epoch(self, tmp_path: Path) -> None:
        model, other = build(lazy_adam()), build()
        save = keras.callbacks.ModelCheckpoint(str(tmp_path / "{batch}.weights.h5"), save_weights_only=True, save_freq=3)
        data = tf.data.Dataset.from_tensor_slices((IDS, LABELS))
        model.fit(data, shuffle=False, callbacks=[save], verbose=0)
        other.load_weights(tmp_path / "3.weights.h5")
        assert_same_weights(weights_of(other), expected(3))


class TestSavedInBetween:
    """Training goes on as if nothing had happened."""

    OPTIMIZERS: tuple[tuple[str, Callable[[], Any]], ...] = (
        ("lazy_adam", lazy_adam),
        ("schedule", lambda: lazy_adam(keras.optimizers.schedules.ExponentialDecay(0.2, 2, 0.5))),
        ("adagrad", lambda: kr.optimizers.SparseAdagrad(RATE, idle_decay=DECAY)),
        ("loss_scaling", lambda: keras.optimizers.LossScaleOptimizer(lazy_adam())),
    )
    cases = functools.partial(pytest.mark.parametrize, ("optimizer", "kind"))
    ALL = cases(
        [*((make, "rafm_model") for _, make in OPTIMIZERS), (lazy_adam, "model")],
        ids=[*(name for name, _ in OPTIMIZERS), "plain model"],
    )
    MOST = cases(
        [(lazy_adam, "rafm_model"), (OPTIMIZERS[-1][1], "rafm_model"), (lazy_adam, "model")],
        ids=["lazy_adam", "loss_scaling", "plain model"],
    )

    @ALL
    def test_keras_file(self, tmp_path: Path, optimizer: Callable[[], Any], kind: str) -> None:
        models = [build(optimizer(), kind), build(optimizer(), kind)]
        train(models[0], range(3))
        train(models[1], range(3))
        models[0].save(tmp_path / "model.keras")
        models.append(keras.models.load_model(tmp_path / "model.keras"))
        assert type(models[2].optimizer) is type(models[0].optimizer)
        for each in models:
            train(each, (3, 4))
        # The one that was never saved, the saved one, and the loaded one.
        assert_same_weights(weights_of(models[0]), weights_of(models[1]))
        assert_same_weights(weights_of(models[2]), weights_of(models[1]))

    def test_pickle(self) -> None:
        loaded = pickle.loads(pickle.dumps(halfway()))
        train(loaded, (4, 5))
        assert_same_weights(weights_of(loaded), expected(6))

    @MOST
    def test_checkpoint(self, tmp_path: Path, optimizer: Callable[[], Any], kind: str) -> None:
        model, fresh = build(optimizer(), kind), build(optimizer(), kind)
        train(model, range(3))
        path = tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(tmp_path / "checkpoint")
        train(fresh, [2])
        status = tf.train.Checkpoint(model=fresh, optimizer=fresh.optimizer).restore(path)
        status.assert_existing_objects_matched()
        for one, other in zip(model.optimizer.variables, fresh.optimizer.variables, strict=True):
            assert np.array_equal(one.numpy(), other.numpy()), other.path
        for each in (model, fresh):
            train(each, (3, 4))
        assert_same_weights(weights_of(fresh), weights_of(model))

    @every_kind
    @pytest.mark.parametrize("looked_at", [False, True], ids=["trained on", "looked at"])
    def test_checkpoint_of_the_same_model(self, tmp_path: Path, kind: str, looked_at: bool) -> None:
        """What waits is in the checkpoint; a look at the weights does it, and restoring brings it back."""
        model = halfway(4, kind)
        checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
        path = checkpoint.save(tmp_path / "checkpoint")
        if looked_at:
            weights_of(model)
        else:
            train(model, [5])
        checkpoint.restore(path)
        assert_same_weights(weights_of(model), expected(4, kind))
        train(model, [4, 5])
        assert_same_weights(weights_of(model), expected(6, kind))

    def test_set_weights_of_the_optimizer(self) -> None:
        """The state goes with the tables that it belongs to."""
        model, other = halfway(), halfway(3)
        tables, state = raw_weights_of(model), [variable.numpy() for variable in model.optimizer.variables]
        layer_of(other).set_weights([*tables.values()])
        other.optimizer.set_weights(state)
        assert_same_weights(weights_of(other), expected(4))
        train(other, [4, 5])
        assert_same_weights(weights_of(other), expected(6))


class TestCompiledAgain:
    """Nothing that waits is lost, or done twice."""

    NEXT: tuple[tuple[str, Callable[[], Any], Callable[[], Any]], ...] = (
        ("lazy_adam", lambda: lazy_adam(0.05, 3.0), lambda: EveryRowInEveryStep(0.05, 3.0)),
        ("without decay", lambda: lazy_adam(0.05, 0.0), lambda: EveryRowInEveryStep(0.05, 0.0)),
        ("sgd", lambda: keras.optimizers.SGD(0.2), lambda: keras.optimizers.SGD(0.2)),
        ("adagrad", lambda: kr.optimizers.SparseAdagrad(0.2), lambda: keras.optimizers.Adagrad(0.2)),
    )

    def check(self, model: keras.Model, kind: str, then: Any, expected_then: Any) -> None:
        other = build(expected_then, kind)
        layer_of(other).set_weights([*expected(4, kind).values()])
        model.compile(then, "mse", run_eagerly=True)
        assert_same_weights(weights_of(model), weights_of(other))
        for each in (model, other):
            train(each, (4, 5, 4))
        assert_same_weights(weights_of(model), weights_of(other))

    @pytest.mark.parametrize(("then", "expected_then"), [both for _, *both in NEXT], ids=[name for name, *_ in NEXT])
    def test_with_another_optimizer(self, then: Callable[[], Any], expected_then: Callable[[], Any]) -> None:
        self.check(halfway(), "rafm_model", then(), expected_then())

    def test_in_a_plain_model_after_fit(self) -> None:
        """Which flushes at its end. Other optimizers than ours don't know of what waits."""
        model = build(lazy_adam(), "model")
        model.fit(tf.data.Dataset.from_tensor_slices((IDS[:4], LABELS[:4])), shuffle=False, verbose=0)
        self.check(model, "model", keras.optimizers.SGD(0.2), keras.optimizers.SGD(0.2))

    def test_in_a_plain_model_in_between(self) -> None:
        self.check(halfway(4, "model"), "model", lazy_adam(0.05, 3.0), EveryRowInEveryStep(0.05, 3.0))

    @every_kind
    def test_with_the_same_optimizer(self, kind: str) -> None:
        model = halfway(4, kind)
        for batch in (4, 5):
            model.compile(model.optimizer, "mse", run_eagerly=True)
            train(model, [batch])
        assert_same_weights(weights_of(model), expected(6, kind))

    @every_kind
    def test_with_an_optimizer_of_before(self, kind: str) -> None:
        """Two optimizers that take turns, each with a state of its own."""
        models = []
        for optimizers in ((lazy_adam(), lazy_adam(0.05, 3.0)), (EveryRowInEveryStep(), EveryRowInEveryStep(0.05, 3.0))):
            model = build(optimizers[0], kind)
            models.append(model)
            for turn, batches in enumerate(((0,), (1,), (2, 3), (4,))):
                model.compile(optimizers[turn % 2], "mse", run_eagerly=True)
                if kind == "model" and turn > 1 and model is models[0]:  # it can't do it by itself
                    model.optimizer.attach()
                train(model, batches)
        assert_same_weights(*(weights_of(model) for model in models))


def test_dense_gradients_of_an_empty_table() -> None:
    """A penalty over whole tables makes gradients dense, those of tables without rows too."""
    ids = keras.Input((2,), dtype="int32")
    model = kr.RaFMModel(ids, kr.RaFMLayer(kr.RankPlan([1, 1, 3], ranks=(1, 2, 3)), factors_l2=0.1)(ids))
    model.compile(lazy_adam(), "mse")
    before = model.get_weights()
    model.fit(np.array([[0, 1], [2, 1]]), np.ones((2, 1)), verbose=0)
    changed = [np.any(one != other) for one, other in zip(before, model.get_weights(), strict=True)]
    assert changed == [weight.shape[0] > 0 if weight.ndim > 1 else weight.dtype != np.int32 for weight in before]


class TestTwoDevices:
    def test_a_plain_model_is_lazy(self) -> None:
        """Its gradients are dense, and yet rows that nobody reads stay as they are."""
        with strategy_of(2).scope():
            model = build(kr.optimizers.LazyAdam(0.1, idle_decay=0.0), "model", run_eagerly=False)
        before = raw_weights_of(model)
        ids = np.array([[0, 1, 2], [3, 4, 1]])
        for batch in (ids, ids[:, [0, 1, 1]]):  # 2 has momentum when it is not read any more
            model.fit(tf.data.Dataset.from_tensors((batch, [[1.0], [0.0]])), shuffle=False, verbose=0)
        linear = {i: raw_weights_of(model)["linear"][slot] for i, slot in enumerate(before["slots"])}
        assert all((linear[i] == before["linear"][before["slots"][i]]) == (i > 4) for i in range(PLAN.num_features))

    def test_train_as_one(self) -> None:
        """Flushed in the middle, outside and inside of the scope, and by `fit` at its end."""
        with strategy_of(2).scope():
            model = build(lazy_adam(), run_eagerly=False)
        models = model, build(EveryRowInEveryStep())
        data = tf.data.Dataset.from_tensor_slices((IDS, LABELS))
        nobody_reads = [all(PLAN.levels[i] != level for i in batch.flat if i >= 0) for batch in IDS for level in LEVELS]
        assert any(nobody_reads)
        seen: tuple[list[Any], list[Any]] = ([], [])

        def look(batch: int, which: int) -> None:
            before = raw_weights_of(models[which])
            if which == 0 and batch == 2:
                model.optimizer.flush()
            elif which == 0 and batch == 4:
                with strategy_of(2).scope():
                    model.optimizer.flush()
            if batch in (2, 4):
                seen[which].append(raw_weights_of(models[which]))
                assert which == 1 or largest_difference(before, seen[which][-1]) > 0.03

        for which, each in enumerate(models):
            callback = keras.callbacks.LambdaCallback(
                on_train_batch_end=lambda batch, logs, which=which: look(batch, which)
            )
            each.fit(data, shuffle=False, callbacks=[callback], verbose=0)
            seen[which].append(raw_weights_of(each))
        for one, other in zip(*seen, strict=True):
            assert_same_weights(one, other)
        for weight in layer_of(model).weights:
            one, two = strategy_of(2).experimental_local_results(weight.value)
            assert np.array_equal(one.numpy(), two.numpy()), weight.path
