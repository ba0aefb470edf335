"""`RaFMLayer` inside subclassed models, wrappers and `Sequential`, and with other dtypes.

Keras builds these models late, or casts their inputs and outputs.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_rafm as kr

pytestmark = pytest.mark.one_tensorflow

PLAN = kr.RankPlan([2, 1, 3, 1, 2, 3, 1, 1], ranks=(2, 3, 4))
IDS = np.array([[0, 1, 2], [5, 4, 7], [3, 2, 6], [1, 0, -1]], "int32")
LABELS = np.array([[1], [0], [1], [0]], "float32")


@keras.saving.register_keras_serializable(package="tests")
class Wrapper(keras.layers.Layer):
    def __init__(self, rafm: kr.RaFMLayer, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rafm = rafm

    def call(self, ids: tf.Tensor) -> tf.Tensor:
        return 2.0 * self.rafm(ids)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rafm": keras.saving.serialize_keras_object(self.rafm)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Wrapper":
        return cls(keras.saving.deserialize_keras_object(config.pop("rafm")), **config)


@keras.saving.register_keras_serializable(package="tests")
class Subclassed(keras.Model):
    def __init__(self, rafm: kr.RaFMLayer | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rafm = kr.RaFMLayer(PLAN) if rafm is None else rafm

    def call(self, ids: tf.Tensor) -> tf.Tensor:
        return self.rafm(ids)


class JoinLengths(keras.layers.Layer):
    """Adds a hundredth of the number of occurrences in the sample to its score."""

    def call(self, inputs: list[Any]) -> tf.Tensor:
        score, ids = inputs
        return score + 0.01 * tf.cast(ids.row_lengths(), score.dtype)[:, None]

    def compute_output_spec(self, inputs: list[Any]) -> keras.KerasTensor:
        return keras.KerasTensor((None, 1), dtype=inputs[0].dtype)


def wrapped() -> keras.Model:
    ids = keras.Input((3,), dtype="int32")
    return keras.Model(ids, Wrapper(kr.RaFMLayer(PLAN))(ids))


def sequential() -> keras.Model:
    return keras.Sequential([keras.Input((3,), dtype="int32"), kr.RaFMLayer(PLAN)])


class TestBuiltLate:
    # Keras warns of this when it loads a layer that does not define `build`.
    @pytest.mark.filterwarnings(r"ignore:`build\(\)` was called on layer")
    @pytest.mark.parametrize(
        ("make", "eagerly"), [(Subclassed, False), (Subclassed, True), (wrapped, False), (sequential, False)]
    )
    def test_fit_and_save(self, make: Any, eagerly: bool, tmp_path: Path) -> None:
        model = make()
        model.compile(keras.optimizers.Adam(0.05), "mse", run_eagerly=eagerly)
        losses = model.fit(IDS, LABELS, epochs=5, verbose=0).history["loss"]
        assert losses[-1] < 0.8 * losses[0]
        if make is Subclassed:  # Keras would rebuild it on float inputs, because it does not define `build`
            loaded = Subclassed()
            loaded(tf.constant(IDS))
            loaded.set_weights(model.get_weights())
        else:
            model.save(tmp_path / "model.keras")
            loaded = keras.models.load_model(tmp_path / "model.keras")
        np.testing.assert_allclose(loaded.predict(IDS, verbose=0), model.predict(IDS, verbose=0), rtol=1e-5, atol=1e-6)

    def test_the_slot_map_is_the_plan(self) -> None:
        model = Subclassed()
        model.compile("sgd", "mse")
        model.fit(IDS, LABELS, verbose=0)
        np.testing.assert_array_equal(model.rafm.slots.numpy(), PLAN.slots)
        assert model.rafm.plan == PLAN

    def test_sequential_without_an_input_names_what_is_missing(self) -> None:
        model = keras.Sequential([kr.RaFMLayer(PLAN)])
        with pytest.raises(TypeError, match=r"ids must be int32 or int64.*keras.Input\(shape, dtype='int32'\)"):
            model(tf.constant(IDS, tf.float32))

    def test_sequential_is_exported(self, tmp_path: Path) -> None:
        model = sequential()
        model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
        version = kr.export(model, tmp_path / "model")
        served = tf.saved_model.load(str(version)).signatures["serving_default"](ids=tf.constant(IDS))
        expected = model.predict(IDS, verbose=0)
        np.testing.assert_allclose(served["score"], expected, rtol=1e-6)
        np.testing.assert_allclose(served["probability"], 1 / (1 + np.exp(-expected)), rtol=1e-6)


class TestDtypes:
    @pytest.fixture(autouse=True)
    def _restore(self) -> Iterator[None]:
        yield
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")

    @pytest.mark.parametrize("kind", [keras.Model, kr.RaFMModel])
    @pytest.mark.parametrize(
        ("how", "scope"),
        [
            ("layer", "tables"),
            ("layer", "batch"),
            ("policy", "tables"),
            ("floatx", "tables"),
            ("floatx with a float32 layer", "tables"),
        ],
    )
    def test_float64_trains(self, scope: str, kind: type[keras.Model], how: str) -> None:
        options: dict[str, Any] = {"factors_l2": 0.01, "factors_l2_scope": scope, "linear_l2": 0.01}
        if how == "layer":
            options["dtype"] = "float64"
        elif how == "policy":
            keras.config.set_dtype_policy("float64")
        else:
            keras.config.set_floatx("float64")
            options["dtype"] = "float32" if "float32" in how else None
        ids = keras.Input((3,), dtype="int32")
        model = kind(ids, kr.RaFMLayer(PLAN, **options)(ids))
        model.compile(keras.optimizers.SGD(0.1), "mse")
        losses = model.fit(IDS, LABELS, epochs=4, verbose=0).history["loss"]
        assert losses[-1] < losses[0]

    def test_mixed_precision_imitates_unrounded_scores(self) -> None:
        """Level scores that are equal in float16 still have a squared difference to learn from."""
        steps = {}
        for policy in ("float32", "mixed_float16"):
            normal = keras.initializers.RandomNormal(stddev=0.1)
            layer = kr.RaFMLayer(PLAN, dtype=policy, factors_initializer=normal, factors_l2=0.0, seed=3)
            ids = keras.Input((3,), dtype="int32")
            model = kr.RaFMModel(ids, layer(ids))
            layer.assign_bias(20.0)
            model.compile(keras.optimizers.SGD(1.0), "mse")
            steps[policy] = model.train_on_batch(IDS, np.full((4, 1), 20.0), return_dict=True)
        assert steps["float32"]["dependent_loss_1"] > 0
        assert steps["mixed_float16"]["dependent_loss_1"] == pytest.approx(steps["float32"]["dependent_loss_1"], rel=1e-3)


class TestSymbolicInputs:
    """Wrong symbolic inputs raise an error when the layer is called on them."""

    @pytest.mark.parametrize(
        ("make", "error", "message"),
        [
            (lambda: keras.Input((3,)), TypeError, r"ids must be int32 or int64. Received: dtype float32 \(declare"),
            (lambda: keras.Input((), dtype="int32"), ValueError, r"`ids` must be of shape \[batch, occurrences\]"),
            (lambda: [keras.Input((3,), dtype="int32"), keras.Input((3,))], TypeError, "Received: a list of 2"),
            (lambda: {"id": keras.Input((3,), dtype="int32")}, ValueError, r"keys 'ids' and 'values'. Received: \['id'\]"),
            (
                lambda: {"ids": keras.Input((5,), dtype="int32"), "values": keras.Input((4,))},
                ValueError,
                r"same shape. Received: ids \(None, 5\), values \(None, 4\)",
            ),
            (lambda: keras.Input((7,), sparse=True), ValueError, r"\[batch, num_features=8\]. Received: shape \(None, 7\)"),
        ],
        ids=["no dtype", "rank 1", "list", "wrong key", "widths", "sparse width"],
    )
    def test_refused(self, make: Any, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            kr.RaFMLayer(PLAN)(make())

    def test_compute_output_shape(self) -> None:
        layer = kr.RaFMLayer(PLAN)
        assert layer.compute_output_shape((None, 3)) == (None, 1)
        assert layer.compute_output_shape({"ids": (7, 3), "values": (7, 3)}) == (7, 1)


def test_an_empty_batch_trains_without_nan() -> None:
    """A replica gets an empty batch if the last batch has fewer samples than there are replicas."""
    layer = kr.RaFMLayer(PLAN, factors_l2=0.0)
    with tf.GradientTape() as tape:
        layer(IDS[:0], training=True)
        loss = tf.add_n(layer.losses)
    assert loss.numpy() == 0.0
    for gradient in tape.gradient(loss, [table.value for table in layer.dependent_tables]):
        assert np.all(np.isfinite(tf.convert_to_tensor(gradient)))


def test_a_ragged_tensor_may_join_downstream_of_the_score() -> None:
    ids = keras.Input((None,), dtype="int32", ragged=True)
    # Keras infers dense outputs for custom layers, so the ragged input itself joins here.
    joined = JoinLengths()([kr.RaFMLayer(PLAN, name="rafm")(ids), ids])
    model = kr.RaFMModel(ids, joined)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    history = model.fit(tf.ragged.constant([[0, 1], [2], [3, 4, 5], [6, 7]], dtype=tf.int32), LABELS, verbose=0).history
    assert np.isfinite(history["dependent_loss_1"]).all()


def test_export_refuses_anything_but_a_local_directory() -> None:
    with pytest.raises(ValueError, match=r"local directory. Received: gs://bucket/model"):
        kr.export(sequential(), "gs://bucket/model")
