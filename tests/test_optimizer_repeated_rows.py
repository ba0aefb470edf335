"""Sparse gradients with repeated rows: the optimizers sum their values before they update a row."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from optimizer_steps import (
    PAIRS,
    all_rows,
    assert_close,
    dense,
    eager_and_graph,
    every_pair,
    normal,
    slices,
    stepper,
    table,
)
from replicas import strategy_of

import keras_rafm as kr


class TestRepeatedRows:
    @eager_and_graph
    @every_pair
    @pytest.mark.parametrize(
        "clipping",
        [{}, {"clipnorm": 0.5}, {"clipvalue": 0.2}, {"global_clipnorm": 0.7}],
        ids=["no clipping", "clipnorm", "clipvalue", "global_clipnorm"],
    )
    def test_are_summed_first(
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
        """The graph captures gradients that were made outside it."""
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
        for variable, slices_of_dtype in zip(variables, (gradient, wide), strict=True):
            kr.optimizers.LazyAdam(0.1).apply([slices_of_dtype], [variable])
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
    """An `Embedding` of ids equals a `Dense` layer of their one-hot vectors, whose gradient is dense."""

    LABELS = normal(0, 13, 1).astype("float32")
    #: Ids repeat within samples and batches, and no batch has all of them.
    IDS = np.random.default_rng(5).choice([0, 1, 1, 2, 3, 3, 3, 4, 5], (2, 13, 4)).astype("int32")
    #: Every batch of five samples has all six ids.
    ALL_IDS = np.resize(np.random.default_rng(0).permutation(6), (1, 13, 4)).astype("int32")

    def of_ids(self, optimizer: Any, lookups: int, **options: Any) -> keras.Model:
        inputs = [keras.Input((4,), dtype="int32") for _ in range(lookups)]
        return self.compiled(inputs, keras.layers.Embedding(6, 3, name="table"), optimizer, **options)

    def of_one_hot_vectors(self, optimizer: Any, lookups: int) -> keras.Model:
        inputs = [keras.Input((4, 6)) for _ in range(lookups)]
        model = self.compiled(inputs, keras.layers.Dense(3, use_bias=False, name="table"), optimizer, run_eagerly=True)
        model.optimizer.build(model.trainable_variables)
        return model

    def compiled(self, inputs: list[Any], layer: keras.layers.Layer, optimizer: Any, **options: Any) -> keras.Model:
        vectors = [keras.layers.Flatten()(layer(ids)) for ids in inputs]
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
        # A larger epsilon keeps Adam from amplifying differences in rounding.
        options_of_both = clipping | ({"epsilon": 1e-3} if kind == "adam" else {})
        ours, keras_own = PAIRS[kind]
        theirs = self.of_one_hot_vectors(keras_own(**options_of_both), 1)
        self.assert_same_training(self.of_ids(ours(**options_of_both), 1, **options), theirs, self.ALL_IDS)

    def test_a_batch_of_fixed_size(self) -> None:
        """The graph knows the number of ids, but not the number of distinct ids."""
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
