"""Wrong inputs and options of the layer: the error names what was wrong, and nothing is computed."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_rafm as kr

pytestmark = pytest.mark.one_tensorflow

InvalidArgumentError = tf.errors.InvalidArgumentError
NAN, INF = float("nan"), float("inf")
NUM_FEATURES = 6


def make_plan() -> kr.RankPlan:
    return kr.RankPlan([2, 1, 3, 1, 2, 3], (2, 3, 4))


@pytest.fixture
def layer() -> kr.RaFMLayer:
    return kr.RaFMLayer(make_plan(), name="scores")


def ragged(rows: list, dtype: str) -> tf.RaggedTensor:
    return tf.ragged.constant(rows, dtype, ragged_rank=1)


def in_graph(layer: kr.RaFMLayer, signature: Any) -> Callable:
    """Return the layer as a graph that knows only the signature of its input."""
    layer.build()
    return tf.function(layer, input_signature=[signature])


WRONG_IDS = [
    pytest.param([[1, 77, 2]], "77", id="too large"),
    pytest.param([[1, NUM_FEATURES]], str(NUM_FEATURES), id="one too large"),
    pytest.param([[0, 1], [-2, -1]], "-2", id="below -1"),
    pytest.param([[-(2**31)]], str(-(2**31)), id="smallest int32"),
    pytest.param([[0, 2**32 + 5]], str(2**32 + 5), id="one that int32 would make 5"),
]


class TestIds:
    @pytest.mark.parametrize(("ids", "named"), WRONG_IDS)
    def test_direct_call(self, layer: kr.RaFMLayer, ids: list, named: str) -> None:
        with pytest.raises(InvalidArgumentError, match=rf"scores: ids must be in \[0, 6\), or -1 .*the id {named}\b"):
            layer(np.array(ids, np.int64))

    @pytest.mark.parametrize(("ids", "named"), WRONG_IDS)
    def test_level_scores(self, layer: kr.RaFMLayer, ids: list, named: str) -> None:
        with pytest.raises(InvalidArgumentError, match=rf"\[0, 6\).*the id {named}\b"):
            layer.level_scores(np.array(ids, np.int64))

    def test_in_a_graph(self, layer: kr.RaFMLayer) -> None:
        run = in_graph(layer, tf.TensorSpec([None, None], tf.int64))
        assert run(np.array([[1, 2]], np.int64)).shape == (1, 1)
        for wrong in (77, -2, 2**32 + 5):
            with pytest.raises(InvalidArgumentError, match=rf"\[0, 6\).*the id\] \[?{wrong}\b"):
                run(np.array([[1, wrong]], np.int64))

    def test_in_a_ragged_tensor(self, layer: kr.RaFMLayer) -> None:
        with pytest.raises(InvalidArgumentError, match=r"\[0, 6\).*the id 6\b"):
            layer(ragged([[1], [], [2, 6]], "int32"))

    def test_in_a_sparse_tensor(self, layer: kr.RaFMLayer) -> None:
        with pytest.raises(InvalidArgumentError, match=r"\[0, 6\).*the id 9\b"):
            layer(tf.SparseTensor([[0, 1], [0, 9]], [1.0, 1.0], [1, NUM_FEATURES]))

    def test_in_fit_and_predict_of_a_plain_model(self, layer: kr.RaFMLayer) -> None:
        inputs = keras.Input((2,), dtype="int32")
        model = keras.Model(inputs, layer(inputs))
        model.compile("sgd", "mse")
        before = model.get_weights()
        ids, labels = np.array([[1, 2], [3, 60]]), np.zeros((2, 1))
        with pytest.raises(InvalidArgumentError, match=r"\[0, 6\).*60"):
            model.fit(ids, labels, verbose=0)
        with pytest.raises(InvalidArgumentError, match=r"\[0, 6\).*60"):
            model.predict(ids, verbose=0)
        for old, new in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(new, old)

    @pytest.mark.parametrize(
        ("ids", "dtype"),
        [
            (np.array([[1.0, 2.0]]), "float64"),
            (np.array([[NAN, 2.0]], np.float32), "float32"),
            (np.array([[True, False]]), "bool"),
            (np.array([["1", "2"]]), "string"),
            (np.array([[1, 2]], np.int16), "int16"),
            (np.array([[1, 2]], np.uint64), "uint64"),
        ],
        ids=lambda given: given if isinstance(given, str) else "",
    )
    def test_of_wrong_dtype(self, layer: kr.RaFMLayer, ids: np.ndarray, dtype: str) -> None:
        for run in (layer, layer.level_scores):
            with pytest.raises(TypeError, match=f"scores: ids must be int32 or int64. Received: dtype {dtype}"):
                run(ids)
            with pytest.raises(TypeError, match=f"dtype {dtype}"):
                run({"ids": ids, "values": np.ones((1, 2))})

    def test_ragged_of_wrong_dtype(self, layer: kr.RaFMLayer) -> None:
        with pytest.raises(TypeError, match="dtype float32"):
            layer(ragged([[1.0], [2.0]], "float32"))

    @pytest.mark.parametrize("shape", [(), (4,), (2, 2, 1)])
    def test_of_wrong_rank(self, layer: kr.RaFMLayer, shape: tuple) -> None:
        with pytest.raises(ValueError, match=r"scores: `ids` must be of shape \[batch, occurrences\]. Received: shape \("):
            layer(np.ones(shape, np.int32))

    def test_of_wrong_rank_seen_only_at_run_time(self, layer: kr.RaFMLayer) -> None:
        """Without a check, a batch [2, 2, 1] of unknown rank would be read as other samples."""
        run = in_graph(layer, tf.TensorSpec(None, tf.int32))
        for shape in ((), (4,), (2, 2, 1)):
            with pytest.raises(InvalidArgumentError, match=r"`ids` must be of shape \[batch, occurrences\]"):
                run(np.ones(shape, np.int32))

    def test_ragged_of_wrong_rank(self, layer: kr.RaFMLayer) -> None:
        with pytest.raises(ValueError, match="shape"):
            layer(tf.ragged.constant([[[1, 2], [3]], [[4]]]))
        with pytest.raises(ValueError, match="shape"):
            layer(tf.RaggedTensor.from_row_lengths(np.ones((3, 2), np.int32), [1, 2]))


class TestValues:
    @pytest.mark.parametrize("value", [NAN, INF, -INF])
    def test_not_finite(self, layer: kr.RaFMLayer, value: float) -> None:
        ids, values = np.array([[1, 2], [3, 4]]), np.array([[1.0, 2.0], [value, 4.0]], np.float32)
        message = f"scores: values must be finite. Received the value {value}"
        with pytest.raises(InvalidArgumentError, match=message):
            layer({"ids": ids, "values": values})
        with pytest.raises(InvalidArgumentError, match=message):
            layer({"ids": ragged(ids.tolist(), "int32"), "values": ragged(values.tolist(), "float32")})
        with pytest.raises(InvalidArgumentError, match=message):
            layer(tf.SparseTensor([[0, 1], [1, 3]], [1.0, value], [2, NUM_FEATURES]))

    @pytest.mark.parametrize("value", [NAN, INF])
    def test_of_padding_may_be_anything(self, layer: kr.RaFMLayer, value: float) -> None:
        ids = np.array([[1, -1, 2]])
        actual = layer({"ids": ids, "values": np.array([[1.0, value, 3.0]], np.float32)})
        np.testing.assert_array_equal(actual, layer({"ids": ids, "values": np.array([[1.0, 0.0, 3.0]], np.float32)}))

    def test_not_finite_in_a_graph(self, layer: kr.RaFMLayer) -> None:
        spec = {"ids": tf.TensorSpec([None, None], tf.int32), "values": tf.TensorSpec([None, None], tf.float32)}
        run = in_graph(layer, spec)
        with pytest.raises(InvalidArgumentError, match="values must be finite"):
            run({"ids": np.array([[1, 2]], np.int32), "values": np.array([[1, NAN]], np.float32)})

    def test_too_large_for_the_sums(self, layer: kr.RaFMLayer) -> None:
        """Sums are computed in float32, where 1e300 is infinite."""
        with pytest.raises(InvalidArgumentError, match="finite"):
            layer({"ids": np.array([[1, 2]]), "values": np.array([[1.0, 1e300]])})

    @pytest.mark.parametrize(
        "values",
        [np.array([[True, False]]), np.array([["a", "b"]]), np.array([[1j, 2]])],
        ids=["bool", "string", "complex"],
    )
    def test_that_are_no_numbers(self, layer: kr.RaFMLayer, values: np.ndarray) -> None:
        with pytest.raises(TypeError, match=r"scores: values must be numbers. Received: dtype"):
            layer({"ids": np.array([[1, 2]]), "values": values})

    def test_of_wrong_rank(self, layer: kr.RaFMLayer) -> None:
        with pytest.raises(
            ValueError, match=r"`values` must be of shape \[batch, occurrences\]. Received: shape \(2, 2, 1\)"
        ):
            layer({"ids": np.ones((2, 2), np.int32), "values": np.ones((2, 2, 1))})


class TestIdsAndValuesOfDifferentShape:
    SHAPES = ((3, 2), (2, 1), (2, 4), (1, 3), (6, 1))  # with ids [2, 3]: two have as many elements, two would broadcast

    @pytest.mark.parametrize("shape", SHAPES)
    def test_dense(self, layer: kr.RaFMLayer, shape: tuple) -> None:
        with pytest.raises(
            ValueError, match=r"scores: `ids` and `values` must have the same shape.*ids \(2, 3\), values \("
        ):
            layer({"ids": np.ones((2, 3), np.int32), "values": np.ones(shape, np.float32)})

    def test_dense_seen_only_at_run_time(self, layer: kr.RaFMLayer) -> None:
        spec = {"ids": tf.TensorSpec([None, None], tf.int32), "values": tf.TensorSpec([None, None], tf.float32)}
        run = in_graph(layer, spec)
        ids = np.ones((2, 3), np.int32)
        assert run({"ids": ids, "values": np.ones((2, 3), np.float32)}).shape == (2, 1)
        for shape in self.SHAPES:
            with pytest.raises(InvalidArgumentError, match="scores: `ids` and `values` must have the same shape"):
                run({"ids": ids, "values": np.ones(shape, np.float32)})

    def test_dense_in_a_plain_model(self, layer: kr.RaFMLayer) -> None:
        inputs = {"ids": keras.Input((None,), dtype="int32", name="ids"), "values": keras.Input((None,), name="values")}
        model = keras.Model(inputs, layer(inputs))
        with pytest.raises(ValueError, match="same shape"):
            model.predict({"ids": np.ones((2, 3), np.int32), "values": np.ones((2, 2), np.float32)}, verbose=0)

    @pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
    def test_ragged_rows(self, layer: kr.RaFMLayer, graph: bool) -> None:
        spec = {name: tf.RaggedTensorSpec([None, None], t) for name, t in (("ids", tf.int32), ("values", tf.float32))}
        run = in_graph(layer, spec) if graph else layer
        # Repeated, because an operation that does not wait for the check fails first in some runs only.
        for rows in ([[1.0, 1.0], [1.0]], [[1.0], [1.0]], [[], [1.0, 1.0, 1.0]]) * 20:
            with pytest.raises(InvalidArgumentError, match="ragged `ids` and `values` must have rows of the same lengths"):
                run({"ids": ragged([[1], [2, 3]], "int32"), "values": ragged(rows, "float32")})

    def test_ragged_number_of_rows(self, layer: kr.RaFMLayer) -> None:
        inputs = {"ids": ragged([[1], [2, 3]], "int32"), "values": ragged([[1.0], [2.0, 3.0], []], "float32")}
        with pytest.raises(ValueError, match=r"same shape.*ids \(2, None\), values \(3, None\)"):
            layer(inputs)
        spec = {name: tf.RaggedTensorSpec([None, None], t) for name, t in (("ids", tf.int32), ("values", tf.float32))}
        with pytest.raises(InvalidArgumentError, match="rows of the same lengths"):
            in_graph(layer, spec)(inputs)

    @pytest.mark.parametrize("ragged_one", ["ids", "values"])
    def test_one_dense_and_one_ragged(self, layer: kr.RaFMLayer, ragged_one: str) -> None:
        inputs: dict[str, Any] = {"ids": np.ones((2, 2), np.int32), "values": np.ones((2, 2), np.float32)}
        inputs[ragged_one] = tf.RaggedTensor.from_tensor(inputs[ragged_one])
        with pytest.raises(TypeError, match=r"scores: `ids` and `values` must both be dense or both be tf.RaggedTensor"):
            layer(inputs)


class TestMappings:
    @pytest.mark.parametrize("keys", [("ids", "vals"), ("values",), ("ids", "values", "labels"), ("id",)])
    def test_of_wrong_keys(self, layer: kr.RaFMLayer, keys: tuple) -> None:
        with pytest.raises(ValueError, match=r"scores: .*must have the keys 'ids' and 'values'. Received: \['"):
            layer({key: np.ones((2, 2), np.int32) for key in keys})

    def test_with_a_sparse_tensor_inside(self, layer: kr.RaFMLayer) -> None:
        sparse = tf.SparseTensor([[0, 1]], [1], [1, NUM_FEATURES])
        with pytest.raises(TypeError, match=r"tf.SparseTensor holds both ids and values, so it must be the only input"):
            layer({"ids": sparse})
        with pytest.raises(TypeError, match="must be the only input"):
            layer({"ids": np.ones((1, 1), np.int32), "values": sparse})

    def test_of_ids_alone_is_fine(self, layer: kr.RaFMLayer) -> None:
        ids = np.array([[1, 2]])
        np.testing.assert_array_equal(layer({"ids": ids}), layer(ids))


class TestSparseTensors:
    @pytest.mark.parametrize("width", [NUM_FEATURES - 1, NUM_FEATURES + 1])
    def test_of_wrong_width(self, layer: kr.RaFMLayer, width: int) -> None:
        inputs = tf.SparseTensor([[0, 1], [2, 3]], [1.0, 1.0], [3, width])
        message = rf"scores: .*must be of shape \[batch, num_features=6\]. Received the shape.*3 {width}"
        with pytest.raises(InvalidArgumentError, match=message):
            layer(inputs)
        with pytest.raises(InvalidArgumentError, match=message):
            in_graph(layer, tf.SparseTensorSpec([None, None], tf.float32))(inputs)

    def test_of_wrong_rank(self, layer: kr.RaFMLayer) -> None:
        with pytest.raises(ValueError, match=r"must be of shape \[batch, num_features=6\]"):
            layer(tf.SparseTensor([[0, 1, 0]], [1.0], [1, NUM_FEATURES, 1]))

    @pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
    def test_of_unordered_rows(self, layer: kr.RaFMLayer, graph: bool) -> None:
        inputs = tf.SparseTensor([[1, 0], [0, 2]], [1.0, 1.0], [2, NUM_FEATURES])
        run = in_graph(layer, tf.SparseTensorSpec([None, NUM_FEATURES], tf.float32)) if graph else layer
        with pytest.raises(InvalidArgumentError, match=r"must be in order \(use tf.sparse.reorder\)"):
            run(inputs)
        assert run(tf.sparse.reorder(inputs)).shape == (2, 1)

    def test_of_values_that_are_no_numbers(self, layer: kr.RaFMLayer) -> None:
        with pytest.raises(TypeError, match=r"values must be numbers. Received: dtype string"):
            layer(tf.SparseTensor([[0, 1]], ["a"], [1, NUM_FEATURES]))


class TestOptions:
    @pytest.mark.parametrize("plan", [None, (4, 8), 8, {"ranks": [4]}, "plan"])
    def test_no_plan(self, plan: object) -> None:
        with pytest.raises(TypeError, match=r"`plan` must be a keras_rafm.RankPlan. Received: .* of type"):
            kr.RaFMLayer(plan)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (
                {"factors_l2_scope": "rows"},
                r"`factors_l2_scope` must be one of 'tables', 'batch'. Received: factors_l2_scope='rows'",
            ),
            ({"dependent_gradient": "none"}, "`dependent_gradient` must be one of .*Received: dependent_gradient='none'"),
            ({"dependent_gradient": None}, "`dependent_gradient` must be one of"),
            ({"dependent_loss_weight": "automatic"}, "`dependent_loss_weight` must be .*Received: 'automatic'"),
            ({"dependent_loss_weight": (1.0,)}, r"`dependent_loss_weight` .* a sequence of 2 .*Received: \(1.0,\)"),
            ({"dependent_loss_weight": (1, 2, 3)}, "`dependent_loss_weight` .* a sequence of 2"),
            ({"dependent_loss_weight": [[1, 2]]}, "`dependent_loss_weight` .* a sequence of 2"),
            ({"dependent_loss_weight": NAN}, "`dependent_loss_weight` must be non-negative and finite. Received: nan"),
            ({"dependent_loss_weight": (1.0, -1.0)}, "`dependent_loss_weight` must be non-negative"),
            ({"dependent_loss_weight": None}, "`dependent_loss_weight`"),
            ({"factors_l2": -1e-6}, "`factors_l2` must be non-negative and finite. Received: -1e-06"),
            ({"factors_l2": INF}, "`factors_l2` must be non-negative and finite"),
            ({"factors_l2": (0.1, 0.2)}, "`factors_l2` must be a number or a sequence of 3"),
            ({"factors_l2": "small"}, "`factors_l2`"),
            ({"linear_l2": -1}, "`linear_l2` must be non-negative"),
            ({"linear_l2": [0.1, 0.2]}, "`linear_l2` must be a number"),
            ({"factors_initializer": ["zeros", "ones"]}, r"one initialiser or one per level \(3\). Received: 2"),
            ({"factors_initializer": "noughts"}, "initializer"),
        ],
        ids=repr,
    )
    def test_wrong_options(self, options: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            kr.RaFMLayer(make_plan(), **options)

    @pytest.mark.parametrize("seed", [1.0, "one", True])
    def test_seeds_that_are_no_integers(self, seed: object) -> None:
        with pytest.raises(TypeError, match=r"`seed` must be an integer or None. Received:"):
            kr.RaFMLayer(make_plan(), seed=seed)

    @pytest.mark.parametrize("weights", [(1.0, 2.0), [1, 2], np.array([1, 2])], ids=["tuple", "list", "array"])
    def test_one_number_per_level(self, weights: object) -> None:
        assert kr.RaFMLayer(make_plan(), dependent_loss_weight=weights).dependent_loss_weight == (1.0, 2.0)

    def test_options_by_position(self) -> None:
        with pytest.raises(TypeError, match="positional"):
            kr.RaFMLayer(make_plan(), False)
