"""Idle decay of single tables and of `Embedding` layers, compared with decay of all rows in every step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from idle_decay_models import BETA_1, BETA_2, DECAY, EPSILON, RATE, NumpyTable, assert_close, lazy_adam, normal, slices

import keras_rafm as kr

eager_and_graph = pytest.mark.parametrize("how", ["eager", "function"])


class TestTables:
    """Tests on variables and sparse gradients, without a model."""

    RULES = pytest.mark.parametrize("rule", ["adam", "adagrad"])
    #: The rows that each batch reads. Some repeat, most are idle at times, one batch reads no rows, and none reads row 6.
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
            # The rows that the step updates have no pending decay.
            assert_close(variable.numpy()[rows], oracle.weights[rows], message=f"step {seed}")
        assert np.max(np.abs(variable.numpy() - oracle.weights)) > 0.1
        optimizer.flush()
        assert_close(variable.numpy(), oracle.weights)
        optimizer.flush()
        assert_close(variable.numpy(), oracle.weights)

    @eager_and_graph
    @RULES
    def test_learning_rate_changed_between_steps(self, how: str, rule: str) -> None:
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
        """Do steps, each given by its rows, its learning rate, whether to flush and whether to use a graph."""
        shape, optimizer = (6, 2), self.make(rule, 0.2, decay)
        variable = keras.Variable(normal(1, *shape), dtype="float32")
        oracle, in_graph = NumpyTable(variable.numpy(), rule), self.stepper(optimizer, variable, "function")
        for seed, (rows, rate, flush, use_graph) in enumerate(steps):
            optimizer.learning_rate = rate
            gradient = slices(rows, shape, seed)
            if use_graph and seed < 3:  # making a graph is slow
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
        """The table has more rows than one block of `settle`."""
        num_rows = 2**22 + 5
        variable = keras.Variable(tf.ones([num_rows, 1]))
        optimizer = kr.optimizers.SparseAdagrad(0.125, idle_decay=4.0)
        optimizer.apply([tf.IndexedSlices(tf.zeros([2, 1]), [3, num_rows - 2], [num_rows, 1])], [variable])
        before_flush = variable.numpy()
        assert before_flush.sum() == num_rows - 1.0
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

    def test_frozen_for_some_steps(self) -> None:
        """A table does not decay in steps that do not update it."""
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
    """A plain `keras.Model`. Its loss is linear, so gradients do not depend on the values of idle rows."""

    IDS = np.array([[0, 1, 1], [2, 0, 1], [1, 1, 3], [3, 1, 0], [4, 4, 1], [1, 0, 1], [5, 1, 1], [1, 2, 1]], "int32")
    INPUTS = normal(0, 8, 3, 4).astype("float32")
    TARGETS = normal(1, 8, 3, 2).astype("float32")
    FIT: tuple[tuple[str, Any], ...] = (("batch_size", 2), ("shuffle", False), ("verbose", 0))

    def model(self, optimizer: Any, **options: Any) -> keras.Model:
        ids, inputs = keras.Input((3,), dtype="int32", name="ids"), keras.Input((3, 4), name="inputs")
        vectors = keras.layers.Embedding(
            8, 2, name="table", embeddings_initializer=keras.initializers.RandomNormal(seed=1)
        )(ids)
        product = keras.layers.Dense(2, name="dense", kernel_initializer=keras.initializers.RandomNormal(seed=2))(inputs)
        model = keras.Model([ids, inputs], keras.layers.Add()([vectors, product]))
        model.compile(optimizer, lambda targets, outputs: 20 * targets * outputs, **options)
        return model

    def expected(self, model: keras.Model, num_epochs: int) -> list[np.ndarray]:
        """Return the expected table after every epoch."""
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

    def test_saved_during_training(self, tmp_path: Path) -> None:
        """Without a flush, the state of the optimizer holds the pending decay."""
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
