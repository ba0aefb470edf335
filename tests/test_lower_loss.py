"""The lower losses that a `RaFMLayer` adds in a plain model."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracle import large_random_layer
from small_layers import IDS, make_plan, plain_model

import keras_rafm as kr


class TestLowerLoss:
    """Outside a RaFMModel, the layer adds squared differences of neighbouring level scores in training."""

    @staticmethod
    def make_layer(**options: Any) -> kr.RaFMLayer:
        return large_random_layer(make_plan(), factors_l2=0.0, **options)

    @staticmethod
    def squared_differences(layer: kr.RaFMLayer, ids: np.ndarray) -> np.ndarray:
        scores = layer.level_scores(ids).numpy().astype(np.float64)
        return np.mean((scores[:, 1:] - scores[:, :-1]) ** 2, axis=0)

    @pytest.mark.parametrize(
        ("weight", "expected_weights"), [("auto", (1, 1)), (0.5, (0.5, 0.5)), ((2.0, 3.0), (2, 3)), ((0.0, 3.0), (3,))]
    )
    def test_values(self, weight: Any, expected_weights: tuple) -> None:
        layer = self.make_layer(dependent_loss_weight=weight)
        layer(IDS, training=True)
        differences = self.squared_differences(layer, IDS)[-len(expected_weights) :]
        np.testing.assert_allclose([float(x) for x in layer.losses], expected_weights * differences, rtol=1e-4)

    @pytest.mark.parametrize("training", [False, None])
    def test_only_in_training(self, training: bool | None) -> None:
        layer = self.make_layer()
        layer(IDS, training=True)
        layer(IDS, training=training)
        assert layer.losses == []

    @pytest.mark.parametrize("options", [{"dependent_gradient": "upper"}, {"dependent_loss_weight": 0.0}])
    def test_not_without_imitation(self, options: dict) -> None:
        layer = self.make_layer(**options)
        layer(IDS, training=True)
        assert layer.losses == []

    def test_not_with_one_level(self) -> None:
        layer = large_random_layer(kr.RankPlan([1, 1], (3,)), factors_l2=0.0)
        layer(np.array([[0, 1]]), training=True)
        assert layer.losses == []

    def test_weights_by_mode(self) -> None:
        auto, given = kr.RaFMLayer(make_plan()), kr.RaFMLayer(make_plan(), dependent_loss_weight=(2, 3))
        upper = kr.RaFMLayer(make_plan(), dependent_gradient="upper", dependent_loss_weight=(2, 3))
        assert auto.dependent_loss_weights(default=4.0) == (4.0, 4.0)
        assert given.dependent_loss_weights(default=4.0) == (2.0, 3.0)
        assert upper.dependent_loss_weights(default=4.0) == (0.0, 0.0)

    def test_gradients(self) -> None:
        """The loss of level k moves the dependent factors of level k, `w` and `b`, and nothing else."""
        layer = self.make_layer()
        ids = np.array([[0, 1, 2, 5], [2, 5, 3, 4]])  # features of all three levels in each sample
        with tf.GradientTape(persistent=True) as tape:
            layer(ids, training=True)
            losses = list(layer.losses)
        assert len(losses) == 2
        scores = layer.level_scores(ids).numpy()
        for k, loss in enumerate(losses, start=1):
            trainable = {v.name: v for v in layer.trainable_variables}
            gradients = dict(zip(trainable, tape.gradient(loss, [v.value for v in trainable.values()]), strict=True))
            moved = {name for name, g in gradients.items() if g is not None and np.any(tf.convert_to_tensor(g))}
            assert moved == {f"dependent_{k}", "linear", "bias"}
            np.testing.assert_allclose(gradients["bias"], np.mean(2 * (scores[:, k - 1] - scores[:, k])), rtol=1e-4)

    @pytest.mark.parametrize("mode", ["both", "lower", "upper"])
    def test_which_gradient_the_score_has(self, mode: str) -> None:
        layer = self.make_layer(dependent_gradient=mode)
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(layer(IDS))
        trainable = layer.trainable_variables
        gradients = tape.gradient(total, [v.value for v in trainable])
        moved = {
            v.name
            for v, g in zip(trainable, gradients, strict=True)
            if g is not None and np.any(tf.convert_to_tensor(g).numpy())
        }
        free = {"free_1", "free_2", "free_3", "linear", "bias"}
        assert moved == (free if mode == "lower" else free | {"dependent_1", "dependent_2"})

    def test_small_differences_survive_mixed_float16(self) -> None:
        """The smallest number of float16 is 6e-8."""
        options = {"factors_initializer": keras.initializers.RandomNormal(stddev=1e-3), "factors_l2": 0.0, "seed": 1}
        layer = kr.RaFMLayer(make_plan(), dtype="mixed_float16", **options)
        exact = kr.RaFMLayer(make_plan(), **options)
        layer(IDS, training=True)
        exact(IDS, training=True)
        assert 0 < float(exact.losses[0]) < 1e-8
        np.testing.assert_allclose([float(x) for x in layer.losses], [float(x) for x in exact.losses], rtol=1e-5)

    def test_evaluate_does_not_report_it(self) -> None:
        layer = self.make_layer()
        model = plain_model(layer)
        model.compile("sgd", "mse")
        labels = np.array([[1.0], [2.0], [3.0]])
        expected = np.mean((layer(IDS).numpy() - labels) ** 2)
        np.testing.assert_allclose(model.evaluate(IDS, labels, verbose=0), expected, rtol=1e-5)
        lower = self.squared_differences(layer, IDS).sum()
        history = model.fit(IDS, labels, batch_size=3, verbose=0).history
        np.testing.assert_allclose(history["loss"], [expected + lower], rtol=1e-4)
