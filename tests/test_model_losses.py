"""The lower losses of `RaFMModel`, compared with losses computed in NumPy."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from rafm_models import (
    IDS,
    LABELS,
    LOGITS_LOSS,
    SAMPLE_WEIGHT,
    assert_same_weights,
    changed,
    compiled,
    cross_entropy,
    layer_of,
    level_scores,
    log_loss_imitation,
    make_layer,
    make_model,
    squared_imitation,
    weights_by_name,
)

import keras_rafm as kr

IMITATIONS: list[Any] = [
    pytest.param(keras.losses.BinaryCrossentropy(from_logits=True), None, log_loss_imitation, id="logits"),
    pytest.param(keras.losses.BinaryCrossentropy(), "sigmoid", log_loss_imitation, id="probabilities"),
    pytest.param("binary_crossentropy", "sigmoid", log_loss_imitation, id="name"),
    pytest.param(keras.losses.binary_crossentropy, "sigmoid", log_loss_imitation, id="function"),
    pytest.param(
        keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.3), None, log_loss_imitation, id="smoothing"
    ),
    pytest.param(keras.losses.MeanSquaredError(), None, squared_imitation, id="squared"),
    pytest.param("mse", None, squared_imitation, id="squared_name"),
    pytest.param(keras.losses.Huber(delta=0.1), None, squared_imitation, id="other"),
    pytest.param(lambda y, p: tf.reduce_mean(tf.abs(y - p), axis=-1), None, squared_imitation, id="own_function"),
]


class TestDependentLoss:
    @pytest.mark.parametrize(("loss", "activation", "imitation"), IMITATIONS)
    def test_is_the_imitation_of_the_next_level(
        self, loss: Any, activation: str | None, imitation: Callable[[np.ndarray, np.ndarray], np.ndarray]
    ) -> None:
        # The batches have 10, 10 and 4 samples, so a mean over samples differs from a mean over batches.
        model = compiled(loss, keras.optimizers.SGD(0.0), activation=activation)
        history = model.fit(IDS, LABELS, batch_size=10, verbose=0).history
        one, two, three = level_scores(model)
        assert history["dependent_loss_1"] == pytest.approx([np.mean(imitation(two, one))], rel=1e-4)
        assert history["dependent_loss_2"] == pytest.approx([np.mean(imitation(three, two))], rel=1e-4)

    def test_weight_is_not_in_the_log(self) -> None:
        logs = [
            compiled(dependent_loss_weight=weight).train_on_batch(IDS, LABELS, return_dict=True) for weight in (0.5, 7.0)
        ]
        assert logs[0] == logs[1]

    @pytest.mark.parametrize(("loss", "weight"), [(LOGITS_LOSS, 4.0), (keras.losses.MeanSquaredError(), 1.0)])
    def test_auto_weight_depends_on_the_loss(self, loss: keras.losses.Loss, weight: float) -> None:
        by_default, explicit = compiled(loss), compiled(loss, dependent_loss_weight=weight)
        for model in (by_default, explicit):
            model.train_on_batch(IDS, LABELS)
        assert_same_weights(by_default, explicit)

    @pytest.mark.parametrize(
        ("loss", "activation"),
        [
            (keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.3), None),
            (keras.losses.BinaryCrossentropy(label_smoothing=0.3), "sigmoid"),
            (keras.losses.MeanSquaredError(), None),
        ],
    )
    def test_perfect_imitation_has_no_gradient(self, loss: keras.losses.Loss, activation: str | None) -> None:
        # No sample has two features above level 1, so ŷ_1 = ŷ_2 = ŷ_3.
        perfect = np.array([[0, 1, 4, 6], [2, 1, 7, -1], [5, 4, -1, -1]], "int32")
        model = compiled(
            loss, activation=activation, dependent_gradient="lower", dependent_loss_weight=10.0, use_linear=False
        )
        scores = level_scores(model, perfect)
        np.testing.assert_allclose(scores[0], scores[2], atol=1e-6)
        before = weights_by_name(model)
        model.train_on_batch(perfect, LABELS[:3])
        for table in layer_of(model).dependent_tables:
            np.testing.assert_allclose(table.numpy(), before[table.path], rtol=0, atol=1e-6)
        assert changed(before, model) >= {"free_1", "bias"}

        model.train_on_batch(np.array([[0, 2, 4, 6]], "int32"), LABELS[:1])  # two features above level 1
        assert np.max(np.abs(layer_of(model).dependent_tables[0].numpy() - before["rafm/dependent_1"])) > 1e-3

    @pytest.mark.parametrize("level", [1, 2])
    @pytest.mark.parametrize("loss", [LOGITS_LOSS, keras.losses.MeanSquaredError()], ids=["log_loss", "squared"])
    def test_of_a_level_moves_the_dependent_factors_of_that_level_alone(self, level: int, loss: keras.losses.Loss) -> None:
        """It changes neither the factors of the next level, which it imitates, nor those of lower levels."""
        without = compiled(loss, dependent_loss_weight=0.0)
        with_it = compiled(loss, dependent_loss_weight=(5.0, 0.0) if level == 1 else (0.0, 5.0))
        for model in (without, with_it):
            model.train_on_batch(IDS, LABELS)
        expected = weights_by_name(without)
        differing = {
            path
            for path, value in weights_by_name(with_it).items()
            if not np.allclose(value, expected[path], rtol=0, atol=1e-6)
        }
        assert differing == {"rafm/linear", "rafm/bias", f"rafm/dependent_{level}"}

    def test_in_mode_upper_is_logged_and_moves_nothing(self) -> None:
        model, ablated = compiled(dependent_gradient="upper"), compiled(dependent_loss_weight=0.0)
        one, two, _ = level_scores(model)
        logs = model.train_on_batch(IDS, LABELS, return_dict=True)
        ablated.train_on_batch(IDS, LABELS)
        assert logs["dependent_loss_1"] == pytest.approx(np.mean(log_loss_imitation(two, one)), rel=1e-5)
        assert_same_weights(model, ablated)


class TestWeightsAndReductions:
    @pytest.mark.parametrize(
        ("reduction", "divisor"),
        [
            ("sum", 1.0),
            ("sum_over_batch_size", 24.0),
            ("mean", 24.0),
            ("mean_with_sample_weight", float(np.sum(SAMPLE_WEIGHT))),
        ],
    )
    @pytest.mark.parametrize("squared", [False, True], ids=["log_loss", "squared"])
    def test_sample_weight_and_reduction_follow_the_compiled_loss(
        self, reduction: str, divisor: float, squared: bool
    ) -> None:
        if squared:
            loss, upper, lower = keras.losses.MeanSquaredError(reduction=reduction), squared_imitation, squared_imitation
        else:
            loss = keras.losses.BinaryCrossentropy(from_logits=True, reduction=reduction)
            upper, lower = cross_entropy, log_loss_imitation
        model = compiled(loss)
        one, two, three = level_scores(model)
        logs = model.train_on_batch(IDS, LABELS, sample_weight=SAMPLE_WEIGHT, return_dict=True)
        expected = [upper(LABELS[:, 0], three), lower(two, one), lower(three, two)]
        values = [logs[name] for name in ("loss", "dependent_loss_1", "dependent_loss_2")]
        assert values == pytest.approx([np.sum(SAMPLE_WEIGHT * each) / divisor for each in expected], rel=1e-4)

    @pytest.mark.parametrize("reduction", ["sum", None])
    def test_without_a_mean_a_step_is_larger_by_the_batch_size(self, reduction: str | None) -> None:
        mean = compiled(keras.losses.MeanSquaredError(), keras.optimizers.SGD(0.024))
        other = compiled(keras.losses.MeanSquaredError(reduction=reduction), keras.optimizers.SGD(0.001))
        for model in (mean, other):
            model.train_on_batch(IDS, LABELS)
        assert_same_weights(mean, other)

    def test_samples_of_weight_zero_have_no_effect(self) -> None:
        weight = np.repeat([1.0, 0.0], 12)
        loss = keras.losses.BinaryCrossentropy(from_logits=True, reduction="sum")
        weighted, alone = compiled(loss, keras.optimizers.SGD(0.01)), compiled(loss, keras.optimizers.SGD(0.01))
        weighted.train_on_batch(IDS, LABELS, sample_weight=weight)
        alone.train_on_batch(IDS[:12], LABELS[:12])
        assert_same_weights(weighted, alone)

    def test_class_weight_is_a_sample_weight(self) -> None:
        by_class, by_sample = compiled(), compiled()
        options = {"batch_size": 8, "shuffle": False, "verbose": 0}
        by_class_history = by_class.fit(IDS, LABELS, class_weight={0: 0.3, 1: 2.5}, **options).history
        weight = np.where(LABELS[:, 0] == 1, 2.5, 0.3)
        by_sample_history = by_sample.fit(IDS, LABELS, sample_weight=weight, **options).history
        assert by_class_history == by_sample_history
        assert_same_weights(by_class, by_sample, atol=0)
        plain = compiled()
        assert plain.fit(IDS, LABELS, **options).history["dependent_loss_1"] != by_class_history["dependent_loss_1"]

    def test_loss_weights_scale_both_problems(self) -> None:
        model = make_model()
        model.compile(keras.optimizers.SGD(0.1), LOGITS_LOSS, loss_weights=[0.5], run_eagerly=True)
        halved = compiled(optimizer=keras.optimizers.SGD(0.05))
        logs, halved_logs = (each.train_on_batch(IDS, LABELS, return_dict=True) for each in (model, halved))
        assert_same_weights(model, halved)
        assert logs["loss"] == pytest.approx(0.5 * halved_logs["loss"], rel=1e-5)


@keras.saving.register_keras_serializable(package="tests")
class SquaredErrorTo(keras.layers.Layer):
    """Return the score, and add its squared error to the target as a loss."""

    def call(self, score: Any, target: Any) -> Any:
        self.add_loss(keras.ops.mean(keras.ops.square(score - target)))
        return score


def test_model_that_is_trained_by_add_loss_alone() -> None:
    ids, target = keras.Input((4,), dtype="int32", name="ids"), keras.Input((1,), name="target")
    model = kr.RaFMModel({"ids": ids, "target": target}, SquaredErrorTo()(make_layer()(ids), target))
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    reference = compiled("mse")
    one, two, three = level_scores(model)
    logs = model.train_on_batch({"ids": IDS, "target": LABELS}, return_dict=True)
    reference.train_on_batch(IDS, LABELS)
    assert logs == {
        "loss": pytest.approx(np.mean((three - LABELS[:, 0]) ** 2), rel=1e-5),
        "dependent_loss_1": pytest.approx(np.mean((two - one) ** 2), rel=1e-4),
        "dependent_loss_2": pytest.approx(np.mean((three - two) ** 2), rel=1e-4),
    }
    assert_same_weights(model, reference)
