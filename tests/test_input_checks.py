"""`RaFMModel` checks integer inputs before Keras casts them, which would turn 1.9 into 1 and 2³² + 5 into 5."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_rafm as kr

pytestmark = pytest.mark.one_tensorflow

NUM_FEATURES = 9
PLAN = kr.RankPlan([2, 1, 2, 2, 1, 1, 1, 1, 2], ranks=(2, 4))
IDS = np.array([[0, 1, 2], [8, 4, -1], [5, 6, 7], [3, -1, -1]], "int32")
VALUES = np.array([[1, 0.5, 2], [1, -1, 0], [3, 1, 1], [2, 0, 0]], "float32")
LABELS = np.array([[1], [0], [1], [0]], "float32")
TOO_WIDE = np.int64(2) ** 32 + 5

NOT_INTEGERS = r"Input 'ids' of \w+ must be integers \(int32\)\. Received: dtype {}"

RUNS: dict[str, Callable[[keras.Model, Any], Any]] = {
    "fit": lambda model, x: model.fit(x, LABELS, verbose=0),
    "evaluate": lambda model, x: model.evaluate(x, LABELS, verbose=0),
    "predict": lambda model, x: model.predict(x, verbose=0),
    "call": lambda model, x: model(x),
    "train_on_batch": lambda model, x: model.train_on_batch(x, LABELS),
    "test_on_batch": lambda model, x: model.test_on_batch(x, LABELS),
    "predict_on_batch": lambda model, x: model.predict_on_batch(x),
    "traced_call": lambda model, x: tf.function(model)(tf.constant(x)),
}


def make(inputs: Any, layer_inputs: Any = None, run_eagerly: bool = False) -> kr.RaFMModel:
    model = kr.RaFMModel(inputs, kr.RaFMLayer(PLAN, name="rafm")(inputs if layer_inputs is None else layer_inputs))
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=run_eagerly)
    return model


def ids_model(dtype: str = "int32", run_eagerly: bool = False) -> kr.RaFMModel:
    return make(keras.Input((3,), dtype=dtype, name="ids"), run_eagerly=run_eagerly)


@pytest.mark.parametrize("run", RUNS)
class TestEveryWayIn:
    def model(self, run: str) -> kr.RaFMModel:
        return ids_model(run_eagerly=run.endswith("on_batch"))

    def test_floats(self, run: str) -> None:
        with pytest.raises(TypeError, match=NOT_INTEGERS.format("float")):
            RUNS[run](self.model(run), IDS + 0.9)

    def test_integers_out_of_range_of_the_input(self, run: str) -> None:
        ids = IDS.astype("int64")
        ids[2, 1] = TOO_WIDE
        message = rf"(?s)ids.*must fit int32 \(\[-2147483648, 2147483647\]\)\. Received the value.*{TOO_WIDE}"
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            RUNS[run](self.model(run), ids)

    def test_ids_out_of_range(self, run: str) -> None:
        ids = IDS.copy()
        ids[1, 0] = 77
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"(?s)rafm: ids must be in \[0, 9\), or -1.*77"):
            RUNS[run](self.model(run), ids)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bool", "complex64"])
def test_dtypes_other_than_integers(dtype: str) -> None:
    with pytest.raises(TypeError, match=NOT_INTEGERS.format(dtype)):
        ids_model()(tf.cast(IDS, dtype))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64", "uint32", "uint64"])
def test_integers_of_any_width_that_fit(dtype: str) -> None:
    ids = np.where(IDS < 0, 0, IDS)
    expected = ids_model().get_layer("rafm")
    model = ids_model(run_eagerly=True)
    model.set_weights(expected.get_weights())
    score = expected.level_scores(ids)[:, -1:].numpy()
    np.testing.assert_allclose(model(tf.constant(ids, dtype)).numpy(), score, rtol=0, atol=1e-6)
    np.testing.assert_allclose(model.predict(ids.astype(dtype), verbose=0), score, rtol=0, atol=1e-6)
    model.fit(ids.astype(dtype), LABELS, verbose=0)


def test_int64_inputs_accept_every_int64() -> None:
    ids = IDS.astype("int64")
    model = ids_model("int64", run_eagerly=True)
    model.fit(ids, LABELS, verbose=0)
    ids[0, 0] = TOO_WIDE
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"\[0, 9\).*{TOO_WIDE}"):
        model.fit(ids, LABELS, verbose=0)


def test_ids_below_the_range_of_the_input() -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"must fit int32.*-{TOO_WIDE}"):
        ids_model()(tf.constant([[0, 1, -TOO_WIDE]]))


def test_unsigned_ids_beyond_int64() -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"must fit int64.*18446744073709551615"):
        ids_model("int64")(tf.constant([[0, 1, 2**64 - 1]], tf.uint64))


class TestStructures:
    """Wrong ids are found in every structure of inputs, and inputs that are declared as floats may be floats."""

    def several(self, kind: str) -> kr.RaFMModel:
        ids = keras.Input((3,), dtype="int32", name="ids")
        values = keras.Input((3,), name="values")
        inputs = {"dict": {"ids": ids, "values": values}, "list": [values, ids], "tuple": (ids, values)}[kind]
        return make(inputs, {"ids": ids, "values": values}, run_eagerly=True)

    def structure(self, kind: str, ids: Any, values: Any = VALUES) -> Any:
        return {"dict": {"ids": ids, "values": values}, "list": [values, ids], "tuple": (ids, values)}[kind]

    @pytest.mark.parametrize("kind", ["dict", "list", "tuple"])
    def test_ids_are_checked(self, kind: str) -> None:
        model = self.several(kind)
        with pytest.raises(TypeError, match=NOT_INTEGERS.format("float64")):
            model(self.structure(kind, tf.constant(IDS, tf.float64), tf.constant(VALUES)))
        with pytest.raises(TypeError, match=NOT_INTEGERS.format("float")):
            model.fit(self.structure(kind, IDS + 0.5), LABELS, verbose=0)
        wide = IDS.astype("int64")
        wide[0, 0] = TOO_WIDE
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"must fit int32.*{TOO_WIDE}"):
            model.fit(self.structure(kind, wide), LABELS, verbose=0)

    @pytest.mark.parametrize("kind", ["dict", "list", "tuple"])
    @pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
    def test_values_may_be_any_numbers(self, kind: str, dtype: str) -> None:
        model = self.several(kind)
        expected = model.get_layer("rafm").level_scores({"ids": IDS, "values": VALUES.astype(dtype)})[:, -1:]
        inputs = self.structure(kind, IDS.astype("int64"), VALUES.astype(dtype))
        np.testing.assert_allclose(model(inputs).numpy(), expected.numpy(), rtol=0, atol=1e-6)
        assert "dependent_loss_1" in model.fit(inputs, LABELS, verbose=0).history

    def test_dict_for_a_model_with_one_unnamed_structure(self) -> None:
        """Keras matches the keys of a dict with the names of the inputs."""
        ids, values = keras.Input((3,), dtype="int32", name="ids"), keras.Input((3,), name="values")
        model = make([ids, values], {"ids": ids, "values": values}, run_eagerly=True)
        model.fit({"values": VALUES, "ids": IDS}, LABELS, verbose=0)
        with pytest.raises(TypeError, match=NOT_INTEGERS.format("float")):
            model.fit({"values": VALUES, "ids": IDS + 0.5}, LABELS, verbose=0)

    def test_dict_with_keys_that_the_model_does_not_use(self) -> None:
        model = make({"ids": keras.Input((3,), dtype="int32", name="ids")}, run_eagerly=True)
        with pytest.raises(TypeError, match=NOT_INTEGERS.format("float")):
            model({"ids": tf.constant(IDS, tf.float32), "another": tf.constant(VALUES)})

    def test_list_of_one(self) -> None:
        ids = keras.Input((3,), dtype="int32", name="ids")
        model = make([ids], ids, run_eagerly=True)
        model.fit([IDS], LABELS, verbose=0)
        with pytest.raises(TypeError, match=NOT_INTEGERS.format("float")):
            model.fit([IDS + 0.5], LABELS, verbose=0)
        with pytest.raises(TypeError, match=NOT_INTEGERS.format("float")):
            model.fit(IDS + 0.5, LABELS, verbose=0)

    def test_list_of_one_for_a_single_input(self) -> None:
        model = ids_model(run_eagerly=True)
        with pytest.raises(TypeError, match=NOT_INTEGERS.format("float")):
            model.fit([IDS + 0.5], LABELS, verbose=0)


class TestRagged:
    def ragged(self, ids: np.ndarray) -> tf.RaggedTensor:
        return tf.RaggedTensor.from_tensor(ids, lengths=[3, 2, 3, 1])

    def model(self) -> kr.RaFMModel:
        return make(keras.Input((None,), dtype="int32", ragged=True, name="ids"), run_eagerly=True)

    def test_good_ids_of_another_width(self) -> None:
        model = self.model()
        expected = model.get_layer("rafm").level_scores(IDS)[:, -1:]
        inputs = self.ragged(IDS.astype("int64"))
        np.testing.assert_allclose(model(inputs).numpy(), expected.numpy(), rtol=0, atol=1e-6)
        assert "dependent_loss_1" in model.fit(inputs, LABELS, verbose=0).history

    def test_floats(self) -> None:
        with pytest.raises(TypeError, match=NOT_INTEGERS.format("float32")):
            self.model().fit(self.ragged(IDS + 0.5), LABELS, verbose=0)

    def test_integers_out_of_range_of_the_input(self) -> None:
        ids = IDS.astype("int64")
        ids[2, 2] = TOO_WIDE
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"must fit int32.*{TOO_WIDE}"):
            self.model().fit(self.ragged(ids), LABELS, verbose=0)


def test_sparse_inputs_are_floats() -> None:
    model = make(keras.Input((NUM_FEATURES,), sparse=True, name="row"), run_eagerly=True)
    row = tf.SparseTensor([[0, 1], [0, 5], [1, 8], [2, 0]], [1.0, 0.5, -2.0, 1.0], [4, NUM_FEATURES])
    expected = model.get_layer("rafm").level_scores(row)[:, -1:]
    np.testing.assert_allclose(model(row).numpy(), expected.numpy(), rtol=0, atol=1e-6)


def test_a_refused_batch_changes_no_weights() -> None:
    model = ids_model()
    model.fit(IDS, LABELS, verbose=0)
    before = model.get_weights()
    ids = IDS.copy()
    ids[3, 0] = NUM_FEATURES
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"(?s)\[0, 9\).*9"):
        model.fit(ids, LABELS, verbose=0)
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
