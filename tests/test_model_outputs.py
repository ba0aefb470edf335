"""`RaFMModel`s with several outputs, and with several `RaFMLayer`s."""

from typing import Any

import keras
import numpy as np
import pytest
from rafm_models import (
    IDS,
    LABELS,
    LOGITS_LOSS,
    PLAN,
    SAMPLE_WEIGHT,
    assert_same_weights,
    compiled,
    cross_entropy,
    layer_of,
    level_scores,
    log_loss_imitation,
    make_layer,
    squared_imitation,
    weights_by_name,
)

import keras_rafm as kr


class TestSeveralOutputs:
    """One output depends on the score, the other on a Dense layer of another input."""

    other = np.random.default_rng(1).normal(size=(24, 3)).astype("float32")
    target = np.random.default_rng(2).normal(size=(24, 1)).astype("float32")

    def model(self, kind: str) -> kr.RaFMModel:
        ids, other = keras.Input((4,), dtype="int32", name="ids"), keras.Input((3,), name="other")
        click = keras.layers.Activation("sigmoid", name="click")(make_layer()(ids))
        price = keras.layers.Dense(1, name="price", kernel_initializer=keras.initializers.RandomNormal(seed=1))(other)
        outputs = {
            "list": [click, price],
            "dict": {"click": click, "price": price},
            "dict_of_other_names": {"p_click": click, "the_price": price},
        }
        return kr.RaFMModel([ids, other], outputs[kind])

    def assert_step(self, model: kr.RaFMModel, targets: Any, click: str, price: str, sample_weight: Any = None) -> None:
        one, two, three = level_scores(model)
        predicted = self.other @ model.get_layer("price").kernel.numpy()
        weight = np.ones(24) if sample_weight is None else SAMPLE_WEIGHT
        logs = model.train_on_batch([IDS, self.other], targets, sample_weight=sample_weight, return_dict=True)
        log_loss = np.mean(weight * cross_entropy(LABELS[:, 0], three))
        squared = np.mean((predicted - self.target) ** 2)
        assert logs == {
            f"{click}_loss": pytest.approx(log_loss, rel=1e-4),
            f"{price}_loss": pytest.approx(squared, rel=1e-4),
            "loss": pytest.approx(2.0 * log_loss + 0.25 * squared, rel=1e-4),
            "dependent_loss_1": pytest.approx(2.0 * np.mean(weight * log_loss_imitation(two, one)), rel=1e-4),
            "dependent_loss_2": pytest.approx(2.0 * np.mean(weight * log_loss_imitation(three, two)), rel=1e-4),
        }

    def test_list(self) -> None:
        model = self.model("list")
        model.compile("sgd", run_eagerly=True, loss=["binary_crossentropy", "mse"], loss_weights=[2.0, 0.25])
        self.assert_step(model, [LABELS, self.target], "click", "price")

    def test_list_with_losses_by_name(self) -> None:
        model = self.model("list")
        model.compile(
            "sgd",
            {"click": "binary_crossentropy", "price": "mse"},
            loss_weights={"click": 2.0, "price": 0.25},
            run_eagerly=True,
        )
        self.assert_step(model, [LABELS, self.target], "click", "price")

    @pytest.mark.parametrize(
        ("kind", "click", "price"), [("dict", "click", "price"), ("dict_of_other_names", "p_click", "the_price")]
    )
    @pytest.mark.parametrize("weighted", [False, True])
    def test_dict(self, kind: str, click: str, price: str, weighted: bool) -> None:
        model = self.model(kind)
        model.compile(
            "sgd",
            run_eagerly=True,
            loss={click: "binary_crossentropy", price: "mse"},
            loss_weights={click: 2.0, price: 0.25},
        )
        weights = {click: SAMPLE_WEIGHT, price: np.ones(24, "float32")} if weighted else None
        self.assert_step(model, {click: LABELS, price: self.target}, click, price, weights)

    def test_output_without_a_loss(self) -> None:
        ids = keras.Input((4,), dtype="int32", name="ids")
        score = make_layer()(ids)
        model = kr.RaFMModel(ids, {"score": score, "probability": keras.layers.Activation("sigmoid")(score)})
        model.compile(keras.optimizers.SGD(0.1), {"probability": "binary_crossentropy"}, run_eagerly=True)
        reference = compiled("binary_crossentropy", activation="sigmoid")
        logs = model.train_on_batch(IDS, {"probability": LABELS}, return_dict=True)
        reference_logs = reference.train_on_batch(IDS, LABELS, return_dict=True)
        assert_same_weights(model, reference)
        assert {name: logs[name] for name in reference_logs} == pytest.approx(reference_logs, rel=1e-6)

    def test_score_and_an_output_computed_from_it_both_have_a_loss(self) -> None:
        ids = keras.Input((4,), dtype="int32", name="ids")
        score = make_layer()(ids)
        model = kr.RaFMModel(ids, [score, keras.layers.Activation("sigmoid", name="p")(score)])
        model.compile("sgd", run_eagerly=True, loss=["mse", "binary_crossentropy"])
        one, two, _ = level_scores(model)
        logs = model.train_on_batch(IDS, [LABELS, LABELS], return_dict=True)
        expected = np.mean(squared_imitation(two, one) + log_loss_imitation(two, one))
        assert logs["dependent_loss_1"] == pytest.approx(expected, rel=1e-4)

    def test_losses_that_do_not_match_the_outputs(self) -> None:
        model = self.model("list")
        with pytest.raises(ValueError, match=r"`loss` must name outputs.*'click', 'price'.*'clicks'"):
            model.compile("sgd", {"clicks": "mse", "price": "mse"})
        with pytest.raises(ValueError, match=r"`loss` must have one entry per output \(2\). Received: 3"):
            model.compile("sgd", ["mse", "mse", "mse"])
        with pytest.raises(ValueError, match=r"`loss_weights` must have one entry per output"):
            model.compile("sgd", ["mse", "mse"], loss_weights=[1.0])


class TestSeveralLayers:
    def model(self, **options: Any) -> kr.RaFMModel:
        ids = keras.Input((4,), dtype="int32", name="ids")
        first, second = make_layer("first", **options)(ids), make_layer("second", seed=9, dependent_loss_weight=0.7)(ids)
        model = kr.RaFMModel(ids, keras.layers.Add(name="sum")([first, second]))
        model.compile(keras.optimizers.SGD(0.1), LOGITS_LOSS, run_eagerly=True)
        return model

    def test_each_imitates_with_the_other_held_constant(self) -> None:
        model = self.model()
        first = layer_of(model, "first").level_scores(IDS).numpy().T
        second = layer_of(model, "second").level_scores(IDS).numpy().T
        logs = model.train_on_batch(IDS, LABELS, return_dict=True)
        expected = {"loss": np.mean(cross_entropy(LABELS[:, 0], first[2] + second[2]))}
        for k in (0, 1):
            expected[f"first_dependent_loss_{k + 1}"] = np.mean(
                log_loss_imitation(first[k + 1] + second[2], first[k] + second[2])
            )
            expected[f"second_dependent_loss_{k + 1}"] = np.mean(
                log_loss_imitation(first[2] + second[k + 1], first[2] + second[k])
            )
        assert logs == pytest.approx(expected, rel=1e-4)

    def test_the_lower_loss_of_one_changes_nothing_in_the_other(self) -> None:
        without, strong = self.model(dependent_loss_weight=0.0), self.model(dependent_loss_weight=9.0)
        for model in (without, strong):
            model.train_on_batch(IDS, LABELS)
        a, b = weights_by_name(without), weights_by_name(strong)
        differing = {path for path in a if not np.allclose(a[path], b[path], rtol=0, atol=1e-6)}
        assert differing == {"first/linear", "first/bias", "first/dependent_1", "first/dependent_2"}

    def test_one_of_them_has_one_level(self) -> None:
        ids = keras.Input((4,), dtype="int32", name="ids")
        flat = make_layer("flat", plan=kr.RankPlan([1] * PLAN.num_features, ranks=(2,)))(ids)
        model = kr.RaFMModel(ids, keras.layers.Add()([flat, make_layer("deep")(ids)]))
        model.compile("sgd", LOGITS_LOSS, run_eagerly=True)
        assert set(model.fit(IDS, LABELS, verbose=0).history) == {
            "loss",
            "deep_dependent_loss_1",
            "deep_dependent_loss_2",
        }
