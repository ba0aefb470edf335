"""The downstream part of a model: the level outputs are the outputs of the model with `ŷ_k` in place of `ŷ_m`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_rafm as kr

pytestmark = pytest.mark.one_tensorflow

PLAN = kr.RankPlan([3, 1, 2, 2, 1, 3, 1, 1, 2], ranks=(2, 3, 4))
GENERATOR = np.random.default_rng(1)
IDS = GENERATOR.integers(-1, PLAN.num_features, (16, 4)).astype("int32")
DENSE = GENERATOR.normal(size=(16, 3)).astype("float32")
INPUTS = {"ids": IDS, "dense": DENSE}
LABELS = GENERATOR.integers(0, 2, (16, 1)).astype("float32")
#: The weights that the lower losses may change: the dependent factors, linear weights and bias of the layer.
OF_THE_LOWER_LOSS = {"rafm/linear", "rafm/bias", "rafm/dependent_1", "rafm/dependent_2"}

Build = Callable[[Any, Any, Any], Any]


def normal(seed: int) -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(stddev=0.5, seed=seed)


def dense(units: int, seed: int, **options: Any) -> keras.layers.Dense:
    return keras.layers.Dense(units, kernel_initializer=normal(seed), **options)


@keras.saving.register_keras_serializable(package="tests")
class AddsLoss(keras.layers.Layer):
    """Return the input, and add its mean square as a loss."""

    def call(self, inputs: Any) -> Any:
        self.add_loss(0.3 * keras.ops.mean(keras.ops.square(inputs)))
        return inputs


def wide_and_deep(score: Any, ids: Any, inputs: Any) -> Any:
    tower = dense(1, 2, name="tower_top")(dense(4, 1, name="tower", activation="relu")(inputs))
    return keras.layers.Activation("sigmoid", name="p")(keras.layers.Add(name="sum")([score, tower]))


def deep_fm(score: Any, ids: Any, inputs: Any) -> Any:
    """The deep part reads the same ids through its own embedding."""
    embedded = keras.layers.Embedding(PLAN.num_features + 1, 2, embeddings_initializer=normal(1), name="deep")(ids + 1)
    deep = dense(1, 2, name="deep_top")(keras.layers.Flatten(name="flat")(embedded))
    return keras.ops.sigmoid(score + deep)


def concatenated(score: Any, ids: Any, inputs: Any) -> Any:
    joined = keras.layers.Concatenate(name="joined")([score, inputs])
    hidden = dense(4, 1, name="hidden", activation="tanh", kernel_regularizer=keras.regularizers.L2(0.1))(joined)
    return dense(1, 2, name="top", activation="sigmoid")(hidden)


def normalized(score: Any, ids: Any, inputs: Any) -> Any:
    batch_norm = keras.layers.BatchNormalization(name="norm", beta_initializer=normal(1), momentum=0.7)
    return keras.layers.Activation("sigmoid", name="p")(batch_norm(score))


def adding_losses(score: Any, ids: Any, inputs: Any) -> Any:
    scaled = dense(1, 1, name="scaled", activity_regularizer=keras.regularizers.L2(0.2))(AddsLoss(name="adds")(score))
    return keras.layers.Activation("sigmoid", name="p")(scaled)


def operations(score: Any, ids: Any, inputs: Any) -> Any:
    present = keras.ops.sum(keras.ops.cast(ids >= 0, "float32"), axis=1, keepdims=True)
    return keras.ops.clip(keras.ops.sigmoid(2.0 * score - keras.ops.log(1 + present)), 1e-3, 1 - 1e-3)


def shared_layer(score: Any, ids: Any, inputs: Any) -> Any:
    """One layer is used both upstream and downstream of the cut."""
    scale = dense(1, 1, name="scale", activation="tanh")
    return keras.layers.Activation("sigmoid", name="p")(
        keras.layers.Add(name="sum")([scale(score), scale(inputs[:, :1]), score])
    )


def nested_model(score: Any, ids: Any, inputs: Any) -> Any:
    part = keras.Sequential(
        [keras.Input((2,)), dense(3, 1, activation="tanh", name="in"), dense(1, 2, name="out")], name="part"
    )
    return keras.ops.sigmoid(part(keras.ops.concatenate([score, inputs[:, :1]], axis=1)))


MODELS = [wide_and_deep, deep_fm, concatenated, normalized, adding_losses, operations, shared_layer, nested_model]


def graph(build: Build, **options: Any) -> tuple[dict[str, Any], Any]:
    ids, inputs = keras.Input((4,), dtype="int32", name="ids"), keras.Input((3,), name="dense")
    layer = kr.RaFMLayer(
        PLAN,
        name="rafm",
        **{
            "factors_initializer": keras.initializers.RandomNormal(stddev=0.4),
            "linear_initializer": normal(3),
            "seed": 5,
            "factors_l2": 0.01,
            **options,
        },
    )
    return {"ids": ids, "dense": inputs}, build(layer(ids), ids, inputs)


def rafm_model(build: Build, learning_rate: float = 0.1, run_eagerly: bool = True, **options: Any) -> kr.RaFMModel:
    model = kr.RaFMModel(*graph(build, **options))
    model.compile(keras.optimizers.SGD(learning_rate), "binary_crossentropy", run_eagerly=run_eagerly)
    return model


def cross_entropy(target: np.ndarray, probability: np.ndarray) -> float:
    target, probability = target.astype("float64"), probability.astype("float64")
    return float(np.mean(-target * np.log(probability) - (1 - target) * np.log(1 - probability)))


def weights_by_path(model: keras.Model) -> dict[str, np.ndarray]:
    return {weight.path: weight.numpy() for weight in model.weights}


@pytest.mark.parametrize("build", MODELS, ids=lambda build: build.__name__)
class TestEveryKind:
    def test_dependent_losses_follow_from_the_level_outputs(self, build: Build) -> None:
        model = rafm_model(build, learning_rate=0.0)
        scores = model.get_layer("rafm").level_scores(IDS).numpy().T[:, :, None]

        # The downstream part f as a separate model, with an input in place of the score and weights copied by name.
        score, ids, inputs = keras.Input((1,)), keras.Input((4,), dtype="int32"), keras.Input((3,))
        below = keras.Model([score, ids, inputs], build(score, ids, inputs))
        values = weights_by_path(model)
        for weight in below.weights:
            weight.assign(values[weight.path])
        one, two, three = (below([level_score, IDS, DENSE], training=True).numpy() for level_score in scores)

        logs = model.train_on_batch(INPUTS, LABELS, return_dict=True)
        assert logs["dependent_loss_1"] == pytest.approx(cross_entropy(two, one), rel=1e-4)
        assert logs["dependent_loss_2"] == pytest.approx(cross_entropy(three, two), rel=1e-4)
        assert abs(cross_entropy(two, one) - cross_entropy(two, two)) > 1e-4

    def test_lower_losses_change_nothing_else(self, build: Build) -> None:
        """Compare with a plain Keras model whose layer adds no lower loss."""
        model = rafm_model(build, dependent_loss_weight=20.0)
        plain = keras.Model(*graph(build, dependent_loss_weight=0.0))
        plain.compile(keras.optimizers.SGD(0.1), "binary_crossentropy", run_eagerly=True)
        before = weights_by_path(model)
        for path, value in weights_by_path(plain).items():
            np.testing.assert_array_equal(value, before[path], err_msg=path)
        logs = model.train_on_batch(INPUTS, LABELS, return_dict=True)
        plain_logs = plain.train_on_batch(INPUTS, LABELS, return_dict=True)
        assert logs["loss"] == pytest.approx(plain_logs["loss"], rel=1e-6)
        expected = weights_by_path(plain)
        differing = {
            path
            for path, value in weights_by_path(model).items()
            if not np.allclose(value, expected[path], rtol=0, atol=1e-6)
        }
        # Batch normalisation subtracts the bias again, so the gradient of the bias is zero.
        assert differing == OF_THE_LOWER_LOSS - ({"rafm/bias"} if build is normalized else set())
        moved = {path for path, value in weights_by_path(model).items() if not np.array_equal(value, before[path])}
        assert moved >= {weight.path for weight in model.trainable_weights if not weight.path.startswith("rafm/")}

    def test_losses_are_counted_once(self, build: Build) -> None:
        model = rafm_model(build, learning_rate=0.0)
        plain = keras.Model(*graph(build, dependent_loss_weight=0.0))
        plain.compile(keras.optimizers.SGD(0.0), "binary_crossentropy", run_eagerly=True)
        for _ in range(2):
            assert len(model.losses) <= len(plain.losses)
            logs = model.train_on_batch(INPUTS, LABELS, return_dict=True)
            assert logs["loss"] == pytest.approx(plain.train_on_batch(INPUTS, LABELS), rel=1e-5)
        assert model.test_on_batch(INPUTS, LABELS) == pytest.approx(plain.test_on_batch(INPUTS, LABELS), rel=1e-5)

    def test_the_graph_is_unchanged(self, build: Build, tmp_path: Path) -> None:
        inputs, outputs = graph(build)
        plain = keras.Model(inputs, outputs)
        names, config = [layer.name for layer in plain.layers], plain.get_config()
        model = kr.RaFMModel(inputs, outputs)
        assert [layer.name for layer in model.layers] == names
        assert len(model.weights) == len(plain.weights)
        assert model.get_config()["layers"] == config["layers"]
        expected = plain(INPUTS).numpy()
        np.testing.assert_allclose(model(INPUTS).numpy(), expected, rtol=0, atol=1e-6)

        remade = [kr.RaFMModel.from_config(model.get_config()), keras.models.clone_model(model)]
        remade.append(keras.models.model_from_json(model.to_json()))
        for other in remade:
            assert isinstance(other, kr.RaFMModel)
            other.set_weights(model.get_weights())
        model.save(tmp_path / "model.keras")
        remade.append(keras.models.load_model(tmp_path / "model.keras"))
        for other in remade:
            np.testing.assert_allclose(other(INPUTS).numpy(), expected, rtol=0, atol=1e-6)


def test_intermediate_tensors_and_summary() -> None:
    model = rafm_model(wide_and_deep)
    assert model.get_layer("rafm").output is model.get_layer("sum").input[0]
    both = keras.Model(model.input, [model.get_layer("rafm").output, model.get_layer("tower_top").output])
    score, tower = both(INPUTS)
    np.testing.assert_allclose(score[:, 0], model.get_layer("rafm").level_scores(IDS)[:, -1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(model(INPUTS).numpy(), 1 / (1 + np.exp(-(score + tower).numpy())), rtol=0, atol=1e-6)
    lines: list[str] = []
    model.summary(print_fn=lambda text, line_break=False: lines.append(text))
    printed = "\n".join(lines)
    for name in ("rafm", "tower", "tower_top", "sum"):
        assert f"{name} (" in printed
    assert "rafm[0][0]" in printed


def test_a_second_model_of_the_same_layers_trains_them_too() -> None:
    model = rafm_model(wide_and_deep)
    score = model.get_layer("rafm").output
    second = kr.RaFMModel(model.input["ids"], keras.layers.Activation("sigmoid")(score))
    second.compile(keras.optimizers.SGD(0.1), "binary_crossentropy", run_eagerly=True)
    before = weights_by_path(model)
    assert "dependent_loss_2" in second.train_on_batch(IDS, LABELS, return_dict=True)
    assert np.max(np.abs(weights_by_path(model)["rafm/free_1"] - before["rafm/free_1"])) > 1e-4
    np.testing.assert_array_equal(weights_by_path(model)["tower/kernel"], before["tower/kernel"])
    assert "dependent_loss_2" in model.train_on_batch(INPUTS, LABELS, return_dict=True)


@pytest.mark.parametrize("run_eagerly", [True, False])
def test_batch_normalization_advances_once_per_step(run_eagerly: bool) -> None:
    model = rafm_model(normalized, run_eagerly=run_eagerly)
    score = model.get_layer("rafm").level_scores(IDS).numpy()[:, -1]
    norm = model.get_layer("norm")
    model.train_on_batch(INPUTS, LABELS)
    np.testing.assert_allclose(norm.moving_mean.numpy(), [0.3 * np.mean(score)], rtol=1e-4)
    np.testing.assert_allclose(norm.moving_variance.numpy(), [0.7 + 0.3 * np.var(score)], rtol=1e-4)


def dropped(score: Any, ids: Any, inputs: Any) -> Any:
    joined = keras.layers.Concatenate(name="joined")([score, inputs])
    hidden = keras.layers.Dropout(0.5, seed=7, name="drop")(dense(64, 1, name="hidden")(joined))
    return dense(1, 2, name="top", activation="sigmoid")(hidden)


class TestDropout:
    @pytest.mark.parametrize("run_eagerly", [True, False])
    def test_seed_advances_once_per_step(self, run_eagerly: bool) -> None:
        model = rafm_model(dropped, run_eagerly=run_eagerly)
        plain = keras.Model(*graph(dropped))
        plain.compile(keras.optimizers.SGD(0.1), "binary_crossentropy", run_eagerly=True)
        before = model.get_layer("drop").seed_generator.state.numpy()
        seeds = []
        for each in (model, plain):
            each.fit(INPUTS, LABELS, batch_size=8, epochs=2, verbose=0)
            seeds.append(each.get_layer("drop").seed_generator.state.numpy())
        np.testing.assert_array_equal(*seeds)
        assert not np.array_equal(seeds[0], before)

    def test_a_level_and_its_target_see_the_same_units(self) -> None:
        """Otherwise the lower loss would mostly measure the difference between two dropout masks."""
        ids = np.array([[0, 1, 4, 6], [2, 1, 7, -1], [5, 4, -1, -1]], "int32")  # ŷ_1 = ŷ_2 = ŷ_3
        model = rafm_model(dropped, dependent_gradient="lower", dependent_loss_weight=50.0, factors_l2=0.0)
        scores = model.get_layer("rafm").level_scores(ids).numpy()
        np.testing.assert_allclose(scores[:, 0], scores[:, 2], rtol=0, atol=1e-6)
        before = weights_by_path(model)
        model.train_on_batch({"ids": ids, "dense": DENSE[:3]}, LABELS[:3])
        for path in ("rafm/dependent_1", "rafm/dependent_2"):
            np.testing.assert_allclose(weights_by_path(model)[path], before[path], rtol=0, atol=1e-6)

    def test_downstream_weights_take_the_upper_gradient_alone(self) -> None:
        model, plain = (
            rafm_model(dropped, dependent_loss_weight=20.0),
            keras.Model(*graph(dropped, dependent_loss_weight=0.0)),
        )
        plain.compile(keras.optimizers.SGD(0.1), "binary_crossentropy", run_eagerly=True)
        for each in (model, plain):
            each.train_on_batch(INPUTS, LABELS)
        expected = weights_by_path(plain)
        for path, value in weights_by_path(model).items():
            if path not in OF_THE_LOWER_LOSS:
                np.testing.assert_allclose(value, expected[path], rtol=0, atol=1e-6, err_msg=path)


def test_dependent_factors_get_the_gradient_through_the_downstream_part() -> None:
    """In mode "lower", compare a step of dependent_1 with finite differences of its loss."""
    weights = (1000.0, 2.0)
    model = rafm_model(
        concatenated, learning_rate=1.0, dependent_gradient="lower", dependent_loss_weight=weights, factors_l2=0.0
    )
    layer = model.get_layer("rafm")
    hidden, top = model.get_layer("hidden"), model.get_layer("top")
    kernels = [value.astype("float64") for value in (*hidden.get_weights(), *top.get_weights())]

    def below(score: np.ndarray) -> np.ndarray:
        joined = np.concatenate([score[:, None], DENSE], axis=1)
        return 1 / (1 + np.exp(-(np.tanh(joined @ kernels[0] + kernels[1]) @ kernels[2] + kernels[3])))

    scores = layer.level_scores(IDS).numpy().astype("float64")
    target = below(scores[:, 1])
    table = layer.dependent_tables[0]
    before = table.numpy()
    step = 1e-2
    gradient = np.zeros_like(before)
    for index in np.ndindex(*before.shape):
        ends = []
        for sign in (1, -1):
            shifted = before.copy()
            shifted[index] += sign * step
            table.assign(shifted)
            ends.append(cross_entropy(target, below(layer.level_scores(IDS).numpy().astype("float64")[:, 0])))
        gradient[index] = (ends[0] - ends[1]) / (2 * step)
    table.assign(before)
    model.train_on_batch(INPUTS, LABELS)
    np.testing.assert_allclose(before - table.numpy(), weights[0] * gradient, rtol=0.02, atol=5e-3)
    assert np.max(np.abs(weights[0] * gradient)) > 0.3


class TestErrors:
    def test_no_rafm_layer(self) -> None:
        inputs = keras.Input((3,))
        with pytest.raises(ValueError, match="must have at least one RaFMLayer between its inputs and its outputs"):
            kr.RaFMModel(inputs, keras.layers.Dense(1)(inputs))

    def test_score_that_reaches_no_output(self) -> None:
        inputs, _ = graph(wide_and_deep)
        with pytest.raises(ValueError, match="must have at least one RaFMLayer"):
            kr.RaFMModel(inputs, keras.layers.Dense(1, name="only")(inputs["dense"]))

    def test_rafm_layer_in_a_nested_model(self) -> None:
        ids = keras.Input((4,), dtype="int32")
        inner_ids = keras.Input((4,), dtype="int32")
        inner = keras.Model(inner_ids, kr.RaFMLayer(PLAN, name="hidden_rafm")(inner_ids))
        with pytest.raises(
            ValueError, match=r"hidden_rafm is inside a nested model.*Use the layers of the nested model directly"
        ):
            kr.RaFMModel(ids, inner(ids))

    def test_rafm_layer_called_twice(self) -> None:
        first, second = keras.Input((4,), dtype="int32"), keras.Input((4,), dtype="int32")
        layer = kr.RaFMLayer(PLAN, name="twice")
        with pytest.raises(
            ValueError, match=r"twice must be called once in a RaFMModel.*Received: 2 calls.*one RaFMLayer per call"
        ):
            kr.RaFMModel([first, second], keras.layers.Add()([layer(first), layer(second)]))

    def test_a_second_call_outside_the_model_is_fine(self) -> None:
        first, second = keras.Input((4,), dtype="int32"), keras.Input((4,), dtype="int32")
        layer = kr.RaFMLayer(PLAN)
        layer(second)
        model = kr.RaFMModel(first, layer(first))
        model.compile("sgd", "mse", run_eagerly=True)
        assert "dependent_loss_1" in model.train_on_batch(IDS, LABELS, return_dict=True)
