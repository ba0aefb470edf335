"""The scores of an exported layer equal a brute-force double loop, for every plan, kind of input, level and precision."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import KINDS, KINDS_WITHOUT_VALUES, Oracle, assert_close, build_input, large_random_layer, seen_by
from strategies import plans_and_samples

import keras_rafm as kr
from keras_rafm.serving.served_layer import ServedLayer

FLOAT32, FLOAT64 = 1e-5, 1e-10
#: The largest error of each precision, relative to the size of the terms of a score.
TOLERANCES = {"trained": FLOAT32, "bfloat16": 2**-7, "int8": 2**-6}


def served_scores(served: ServedLayer, inputs: Any) -> np.ndarray:
    """Return `ŷ_1 …` of all levels, computed together and checked against each computed alone."""
    levels = list(range(1, served.num_levels + 1))
    together = served.scores(served.occurrences(inputs), levels)
    for level, expected in zip(levels, together, strict=True):
        (alone,) = served.scores(served.occurrences(inputs), [level])
        np.testing.assert_array_equal(alone, expected)
    return np.stack([score.numpy() for score in together], axis=1)


@settings(max_examples=60)
@given(
    plans_and_samples(),
    st.sampled_from(KINDS),
    st.sampled_from(["int32", "int64"]),
    st.integers(0, 2),
    st.integers(0, 1000),
    st.sampled_from(["float32", "float64"]),
    st.booleans(),
    st.booleans(),
)
def test_any_plan_and_any_input(
    plan_and_samples: tuple,
    kind: str,
    id_dtype: str,
    num_padding: int,
    seed: int,
    dtype: str,
    use_linear: bool,
    use_bias: bool,
) -> None:
    plan, samples = plan_and_samples
    samples = seen_by(kind, samples)
    layer = large_random_layer(plan, seed, dtype=dtype, use_linear=use_linear, use_bias=use_bias)
    inputs = build_input(kind, samples, plan.num_features, id_dtype, num_padding, seed)
    layer.build()
    served = ServedLayer(layer, len(plan.ranks), "trained", kind not in KINDS_WITHOUT_VALUES)
    oracle = Oracle(layer, plan)
    relative = FLOAT64 if dtype == "float64" else FLOAT32
    assert_close(served_scores(served, inputs), oracle.level_scores(samples), oracle.magnitudes(samples), relative)


@settings(max_examples=40)
@given(
    plans_and_samples(), st.sampled_from(["dense", "dense_values"]), st.integers(1, 4), st.sampled_from(sorted(TOLERANCES))
)
def test_any_level_and_precision(plan_and_samples: tuple, kind: str, level: int, precision: Any) -> None:
    plan, samples = plan_and_samples
    level = min(level, len(plan.ranks))
    samples = seen_by(kind, samples)
    layer = large_random_layer(plan, 3)
    layer.build()
    served = ServedLayer(layer, level, precision, kind == "dense_values")
    oracle = Oracle(layer, plan)
    inputs = build_input(kind, samples, plan.num_features)
    scores = served_scores(served, inputs)
    assert_close(scores, oracle.level_scores(samples)[:, :level], oracle.magnitudes(samples), TOLERANCES[precision])
    # A model cut off at a level stores only the factors of that level and below.
    widths = [variable.shape[1] for variable in served.variables if variable.shape.rank == 2]
    assert max(widths) == max(rank for rank, size in zip(plan.ranks[:level], plan.level_sizes[:level], strict=True) if size)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@pytest.mark.parametrize("has_values", [False, True])
def test_stored_factors_give_exact_scores(precision: Any, has_values: bool) -> None:
    """Norms are computed from the stored factors: if storing them loses nothing, the scores are exact."""
    plan = kr.RankPlan([2, 1, 2, 1], (2, 3))
    layer = kr.RaFMLayer(plan)
    layer.build()
    # These factors are exact in 16 bits when scaled, and in 8 bits with a scale per row.
    layer.assign_factors(1, [0, 1, 2, 3], np.float32(2**0.5) * np.array([[127, -64], [1, 127], [127, 3], [-127, 0]]) / 16)
    layer.assign_factors(2, [0, 2], np.float32(2**0.5) * np.array([[127, 1, 2], [0, 0, 127]]) / 16)
    layer.assign_linear(np.arange(4), [0.5, -1, 2, 0.25])
    samples = seen_by("dense_values" if has_values else "dense", [[(0, 2.0), (1, -1.0), (2, 0.5)], [(3, 1.0), (3, 2.0)]])
    served = ServedLayer(layer, 2, precision, has_values)
    oracle = Oracle(layer, plan)
    inputs = build_input("dense_values" if has_values else "dense", samples, 4)
    assert_close(served_scores(served, inputs), oracle.level_scores(samples), oracle.magnitudes(samples), 1e-6)


def test_rows_of_zeros_in_eight_bits() -> None:
    layer = kr.RaFMLayer(kr.RankPlan([1, 1], (3,)), factors_initializer="zeros")
    layer.build()
    layer.assign_factors(1, [1], [[1.0, 2.0, 3.0]])
    served = ServedLayer(layer, 1, "int8", False)
    np.testing.assert_allclose(served_scores(served, np.array([[0, 1], [0, 0]])), [[0], [0]], atol=1e-6)


@pytest.mark.parametrize("levels", [[1, 1, 1], [2, 1, 2]])
@pytest.mark.parametrize("kind", ["dense", "dense_values", "ragged_values"])
def test_unknown_ids_and_padding_contribute_nothing(levels: list[int], kind: str) -> None:
    plan = kr.RankPlan(levels, (2, 3)[: max(levels)])
    layer = large_random_layer(plan)
    layer.build()
    served = ServedLayer(layer, max(levels), "trained", kind != "dense")
    limits = np.iinfo(np.int64)
    ids = np.array([[0, -1, 2, 3, limits.min], [limits.max, -2, 2, 2**31, 0]])
    values = np.array([[1, np.nan, 2, np.inf, np.nan], [np.nan, 5, 2, np.nan, 1]], np.float32)
    inputs: Any = ids if kind == "dense" else {"ids": ids, "values": values}
    if kind == "ragged_values":
        inputs = {name: tf.RaggedTensor.from_tensor(array) for name, array in inputs.items()}
    ones = 1.0 if kind == "dense" else 2.0
    expected = Oracle(layer, plan).level_scores([[(0, 1.0), (2, ones)]] * 2)
    np.testing.assert_allclose(served_scores(served, inputs), expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["dense_values", "ragged_values", "sparse"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("precision", ["trained", "int8"])
def test_values_that_are_not_finite_affect_only_their_own_sample(kind: str, value: float, precision: Any) -> None:
    """Other samples keep their scores: a server puts requests of several clients into one batch."""
    plan = kr.RankPlan([2, 1, 2], (2, 3))
    layer = large_random_layer(plan)
    layer.build()
    served = ServedLayer(layer, 2, precision, True)
    samples = [[(0, 1.0), (1, 2.0)], [(1, value), (2, 1.0)], [(2, 3.0)]]
    scores = served_scores(served, build_input(kind, samples, 3))
    clean = served_scores(served, build_input(kind, [samples[0], samples[0], samples[2]], 3))
    assert not np.any(np.isfinite(scores[1]))
    np.testing.assert_array_equal(scores[[0, 2]], clean[[0, 2]])


def test_shapes_that_do_not_fit() -> None:
    layer = large_random_layer(kr.RankPlan([1, 1], (2,)))
    layer.build()
    served = ServedLayer(layer, 1, "trained", True)

    def answer(ids: Any, values: Any) -> Any:
        unknown = {"ids": tf.TensorSpec(None, tf.int64), "values": tf.TensorSpec(None, tf.float32)}
        # Shapes are unknown in the graph, as in a server.
        function = tf.function(lambda inputs: served.scores(served.occurrences(inputs), [1]), input_signature=[unknown])
        return function({"ids": ids, "values": values})

    ids = tf.zeros([2, 3], tf.int64)
    for wrong_ids, values in (
        (ids, tf.ones([2, 2])),
        (ids, tf.ones([1, 1])),
        (ids[0], tf.ones([3])),
        (ids[0], tf.ones([1, 3])),
    ):
        with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
            answer(wrong_ids, values)
