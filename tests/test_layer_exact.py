"""The score and every level score equal a brute-force double loop, for every plan and every kind of input."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import (
    KINDS,
    Oracle,
    assert_close,
    build_input,
    build_keras_input,
    input_signature,
    large_random_layer,
    seen_by,
)
from strategies import plans_and_samples

import keras_rafm as kr

FLOAT32, FLOAT64 = 1e-5, 1e-10

PLANS = {
    "one level": kr.RankPlan([1] * 6, (3,)),
    "two levels": kr.RankPlan([2, 1, 2, 1, 1, 2], (2, 4)),
    "four levels": kr.RankPlan([4, 1, 3, 2, 4, 1], (1, 2, 3, 5)),
    "no feature in the low level": kr.RankPlan([3, 2, 2, 3, 2, 3], (2, 3, 4)),
    "no feature in the middle level": kr.RankPlan([1, 3, 1, 3, 3, 1], (2, 3, 4)),
    "no feature in the top level": kr.RankPlan([2, 1, 1, 2, 1, 2], (2, 3, 4)),
    "all features in the top level": kr.RankPlan([3] * 6, (2, 3, 4)),
    "all features in the low level": kr.RankPlan([1] * 6, (2, 3, 4)),
    "ordered by count": kr.RankPlan([2, 1, 2, 1, 1, 2], (2, 4), counts=[5, 1, 9, 3, 2, 7]),
}

FULL = [(0, 0.5), (1, -2.0), (2, 1.0), (3, 3.0), (4, -0.25), (5, 1.5)]
#: name -> (samples, number of padding ids added to each row)
BATCHES = {
    "several samples": ([FULL, FULL[:2], [(5, 2.0), (0, -1.0), (3, 1.0)]], 0),
    "padding anywhere": ([FULL[3:], [(1, 0.5)], FULL[1:4]], 3),
    "an id twice in a sample": ([[(0, 1.0), (0, -2.0), (3, 0.5), (0, 1.5)], [(4, 1.0), (4, 1.0)]], 0),
    "empty samples": ([[], FULL, [], []], 0),
    "nothing but padding": ([[], [], []], 2),
    "nothing at all": ([[], []], 0),
    "batch of one": ([FULL[:3]], 1),
    "batch of none": ([], 0),
    "one occurrence each": ([[(2, 2.0)], [(3, -1.0)], [(2, 1.0)]], 0),
}


def assert_exact(layer: kr.RaFMLayer, plan: kr.RankPlan, inputs: object, samples: list, relative: float = FLOAT32) -> None:
    oracle = Oracle(layer, plan)
    magnitudes = oracle.magnitudes(samples)
    assert_close(layer(inputs), oracle.scores(samples), magnitudes, relative)
    assert_close(layer.level_scores(inputs), oracle.level_scores(samples), magnitudes, relative)


def test_oracle_by_hand() -> None:
    """The oracle itself against numbers computed by hand: three features of levels 2, 2, 1 and ranks 1 and 2."""
    plan = kr.RankPlan([2, 2, 1], (1, 2))
    layer = kr.RaFMLayer(plan)
    layer.assign_factors(1, [0, 1, 2], [[2.0], [3.0], [5.0]])
    layer.assign_factors(2, [0, 1], [[1.0, -1.0], [4.0, 2.0]])
    layer.assign_linear([0, 1, 2], [0.5, 0.25, 1.0])
    layer.assign_bias(10.0)
    sample = [(0, 1.0), (1, 2.0), (2, -1.0)]
    linear = 10 + 0.5 + 2 * 0.25 - 1
    pair_02, pair_12 = 2 * 5 * -1, 3 * 5 * 2 * -1
    pair_01_low, pair_01_high = 2 * 3 * 2, (1 * 4 - 1 * 2) * 2
    expected = [linear + pair_02 + pair_12 + pair_01_low, linear + pair_02 + pair_12 + pair_01_high]
    np.testing.assert_allclose(Oracle(layer, plan).level_scores([sample]), [expected])
    np.testing.assert_allclose(layer.level_scores(build_input("dense_values", [sample], 3)), [expected], rtol=1e-6)
    np.testing.assert_allclose(layer(build_input("dense_values", [sample], 3)), [[expected[1]]], rtol=1e-6)


@settings(max_examples=60)
@given(
    plans_and_samples(),
    st.sampled_from(KINDS),
    st.sampled_from(["int32", "int64"]),
    st.integers(0, 2),
    st.integers(0, 1000),
    st.sampled_from(["float32", "float64"]),
)
def test_any_plan_and_any_input(
    plan_and_samples: tuple, kind: str, id_dtype: str, num_padding: int, seed: int, dtype: str
) -> None:
    plan, samples = plan_and_samples
    samples = seen_by(kind, samples)
    layer = large_random_layer(plan, seed, dtype=dtype)
    inputs = build_input(kind, samples, plan.num_features, id_dtype, num_padding, seed)
    assert_exact(layer, plan, inputs, samples, FLOAT64 if dtype == "float64" else FLOAT32)


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
def test_every_shape_of_plan(plan: kr.RankPlan) -> None:
    layer = large_random_layer(plan)
    samples = [FULL, FULL[2:5], [(1, 2.0), (1, 1.0), (4, -1.0)], []]
    assert_exact(layer, plan, build_input("dense_values", samples, 6), samples)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", BATCHES)
def test_every_shape_of_batch(kind: str, batch: str) -> None:
    plan = PLANS["four levels"]
    samples, num_padding = BATCHES[batch]
    samples = seen_by(kind, samples)
    inputs = build_input(kind, samples, plan.num_features, num_padding=num_padding)
    assert_exact(large_random_layer(plan), plan, inputs, samples)


@pytest.mark.parametrize("kind", KINDS)
def test_one_feature(kind: str) -> None:
    plan = kr.RankPlan([1], (3,))
    samples = seen_by(kind, [[(0, 2.0)], [(0, 1.0), (0, -3.0)], []])
    assert_exact(large_random_layer(plan), plan, build_input(kind, samples, 1), samples)


@pytest.mark.parametrize("id_dtype", ["int32", "int64"])
@pytest.mark.parametrize("value_dtype", ["float16", "float32", "float64", "int32"])
def test_dtypes_of_ids_and_values(id_dtype: str, value_dtype: str) -> None:
    plan = PLANS["four levels"]
    samples = [[(0, 2.0), (3, -1.0), (5, 3.0)]]
    inputs = {"ids": np.array([[0, 3, 5]], id_dtype), "values": np.array([[2, -1, 3]], value_dtype)}
    assert_exact(large_random_layer(plan), plan, inputs, samples)


@pytest.mark.parametrize("splits", list(itertools.product(["int32", "int64"], repeat=2)))
def test_dtypes_of_row_splits(splits: tuple[str, str]) -> None:
    plan = PLANS["two levels"]
    samples = [[(0, 2.0), (3, -1.0)], [], [(5, 3.0)]]
    inputs = {
        "ids": tf.ragged.constant([[0, 3], [], [5]], row_splits_dtype=splits[0]),
        "values": tf.ragged.constant([[2.0, -1.0], [], [3.0]], row_splits_dtype=splits[1]),
    }
    assert_exact(large_random_layer(plan), plan, inputs, samples)


def test_numpy_inputs_equal_tensor_inputs() -> None:
    plan = PLANS["four levels"]
    layer = large_random_layer(plan)
    ids = np.array([[0, 3, -1], [2, 2, 5]])
    np.testing.assert_array_equal(layer(ids), layer(tf.constant(ids)))
    np.testing.assert_array_equal(layer.level_scores(ids), layer.level_scores(tf.constant(ids)))


@pytest.mark.parametrize("kind", KINDS)
def test_in_a_graph_of_unknown_shapes(kind: str) -> None:
    plan = PLANS["four levels"]
    layer = large_random_layer(plan)
    layer.build()

    @tf.function(input_signature=[input_signature(kind, plan.num_features)])
    def run(inputs: object) -> tuple[tf.Tensor, tf.Tensor]:
        return layer(inputs), layer.level_scores(inputs)

    oracle = Oracle(layer, plan)
    for samples, num_padding in BATCHES.values():
        samples = seen_by(kind, samples)
        score, level_scores = run(build_input(kind, samples, plan.num_features, num_padding=num_padding))
        magnitudes = oracle.magnitudes(samples)
        assert_close(score, oracle.scores(samples), magnitudes, FLOAT32)
        assert_close(level_scores, oracle.level_scores(samples), magnitudes, FLOAT32)
    assert run.experimental_get_tracing_count() == 1


def test_in_a_graph_of_unknown_rank() -> None:
    plan = PLANS["two levels"]
    layer = large_random_layer(plan)
    run = tf.function(layer, input_signature=[tf.TensorSpec(None, tf.int64)])
    samples = seen_by("dense", [FULL, FULL[1:3]])
    oracle = Oracle(layer, plan)
    score = run(build_input("dense", samples, 6, "int64"))
    assert_close(score, oracle.scores(samples), oracle.magnitudes(samples), FLOAT32)


@pytest.mark.parametrize("kind", KINDS)
def test_in_a_functional_model(kind: str) -> None:
    plan = PLANS["two levels"]
    layer = large_random_layer(plan)
    inputs = build_keras_input(kind, plan.num_features, "int64")
    output = layer(inputs)
    assert output.shape == (None, 1)
    model = keras.Model(inputs, output)
    samples = seen_by(kind, [FULL, [], FULL[3:], FULL[:1], [(1, 1.0), (1, 2.0)]])
    batch = build_input(kind, samples, plan.num_features, "int64", num_padding=1)
    oracle = Oracle(layer, plan)
    # 5 samples in batches of 2: the last batch is smaller.
    assert_close(model.predict(batch, batch_size=2, verbose=0), oracle.scores(samples), oracle.magnitudes(samples), FLOAT32)


@pytest.mark.parametrize(
    ("policy", "compute_dtype", "rounding"),
    [("mixed_float16", tf.float16, 2**-11), ("mixed_bfloat16", tf.bfloat16, 2**-8)],
)
@pytest.mark.parametrize("kind", KINDS)
def test_mixed_precision_rounds_nothing_but_the_output(
    kind: str, policy: str, compute_dtype: tf.DType, rounding: float
) -> None:
    plan = PLANS["four levels"]
    layer = large_random_layer(plan, dtype=policy)
    samples = seen_by(kind, [FULL, FULL[2:], [(1, 1.0), (1, 2.0)], []])
    inputs = build_input(kind, samples, plan.num_features)
    score, level_scores = layer(inputs), layer.level_scores(inputs)
    assert score.dtype == level_scores.dtype == compute_dtype
    assert {v.dtype for v in layer.trainable_variables} == {"float32"}
    oracle = Oracle(layer, plan)
    inexact = FLOAT32 * oracle.magnitudes(samples)
    for actual, expected in ((score, oracle.scores(samples)), (level_scores, oracle.level_scores(samples))):
        assert_close(actual, expected, inexact + rounding * np.abs(expected), 1.0)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_casts_no_table(policy: str) -> None:
    """A cast of a whole table would make its gradient dense."""
    layer = large_random_layer(PLANS["four levels"], dtype=policy)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(layer(np.array([[0, 3]])))
    tables = [v.value for v in layer.trainable_variables if v.name != "bias"]
    for gradient in tape.gradient(total, tables):
        assert isinstance(gradient, tf.IndexedSlices)
        assert gradient.dtype == tf.float32


@pytest.mark.parametrize(
    ("kind", "in_graph"), [("dense_values", False), ("dense_values", True), ("ragged_values", False), ("sparse", False)]
)
def test_gradient_of_values(kind: str, in_graph: bool) -> None:
    """Compare with central differences of the oracle, exact up to rounding because a score is quadratic in each value."""
    plan = PLANS["four levels"]
    layer = large_random_layer(plan, dtype="float64")
    samples = [FULL, [(3, 1.0), (3, -2.0), (0, 0.5)], [], [(5, 2.0)]]
    inputs = build_input(kind, samples, plan.num_features)
    flat = inputs.values if kind == "sparse" else getattr(inputs["values"], "flat_values", inputs["values"])
    upstream = np.array([[1.0], [-2.0], [3.0], [0.5]])

    def gradient(flat_values: tf.Tensor) -> tf.Tensor:
        if kind == "sparse":
            moved = tf.SparseTensor(inputs.indices, flat_values, inputs.dense_shape)
        elif kind == "ragged_values":
            moved = {"ids": inputs["ids"], "values": inputs["values"].with_flat_values(flat_values)}
        else:
            moved = {"ids": inputs["ids"], "values": flat_values}
        with tf.GradientTape() as tape:
            tape.watch(flat_values)
            weighted = tf.reduce_sum(layer(moved) * upstream)
        return tape.gradient(weighted, flat_values)

    actual = tf.convert_to_tensor((tf.function(gradient) if in_graph else gradient)(tf.cast(flat, tf.float64))).numpy()
    if kind == "dense_values":  # the padding has no influence
        np.testing.assert_array_equal(actual[inputs["ids"].numpy() == -1], 0)
        actual = actual[inputs["ids"].numpy() != -1]
    oracle = Oracle(layer, plan)
    expected = []
    for sample, weight in zip(samples, upstream[:, 0], strict=True):
        for place, (i, x) in enumerate(sample):
            above, below = ([*sample[:place], (i, x + h), *sample[place + 1 :]] for h in (0.5, -0.5))
            expected.append(weight * (oracle.score(above) - oracle.score(below)))
    np.testing.assert_allclose(actual.ravel(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("kind", "in_graph"), [*((kind, False) for kind in KINDS), ("sparse", True)])
def test_gradient_of_tables(kind: str, in_graph: bool) -> None:
    """Each table's gradient equals the formula's. Its rows are distinct: Keras optimizers are wrong on repeated ones."""
    plan = PLANS["four levels"]
    layer = large_random_layer(plan, dtype="float64")
    samples = seen_by(kind, [FULL[:4], [(3, 1.0), (3, -2.0), (0, 0.5), (4, 1.0)], [], [(0, 2.0), (4, 1.0)]])
    inputs = build_input(kind, samples, plan.num_features, num_padding=1)
    tables = [v.value for v in layer.trainable_variables if v.name != "bias"]

    def gradients() -> list[tf.IndexedSlices]:
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(layer(inputs))
        return tape.gradient(total, tables)

    found = (tf.function(gradients) if in_graph else gradients)()
    by_name = {}
    for variable, slices in zip((v for v in layer.trainable_variables if v.name != "bias"), found, strict=True):
        assert isinstance(slices, tf.IndexedSlices), variable.name
        indices = slices.indices.numpy()
        assert len(set(indices.tolist())) == len(indices), variable.name
        by_name[variable.name] = tf.math.unsorted_segment_sum(slices.values, indices, variable.shape[0]).numpy()

    oracle = Oracle(layer, plan)
    for k, rank in enumerate(plan.ranks, start=1):
        expected = {i: np.zeros(rank) for i in oracle.factors[k]}
        for sample in samples:
            for (i, x_i), (j, x_j) in itertools.permutations(sample, 2):
                if min(plan.levels[i], plan.levels[j]) == k:
                    expected[i] += x_i * x_j * oracle.factors[k][j]
        # The rows of the tables are in the order of `factors`: first the dependent factors, then the free ones.
        actual = np.concatenate([by_name[name] for name in (f"dependent_{k}", f"free_{k}") if name in by_name])
        np.testing.assert_allclose(actual, list(expected.values()), rtol=1e-9, atol=1e-9)
    expected_linear = np.zeros(plan.num_features)
    for i, x in itertools.chain(*samples):
        expected_linear[i] += x
    np.testing.assert_allclose(by_name["linear"][plan.slots], expected_linear)


def test_gradient_of_a_batch_without_occurrences_is_zero() -> None:
    layer = large_random_layer(PLANS["four levels"])
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(layer(np.full((2, 3), -1)))
    for variable, gradient in zip(
        layer.trainable_variables, tape.gradient(total, [v.value for v in layer.trainable_variables]), strict=True
    ):
        if variable.name == "bias":
            assert float(gradient) == 2
        else:
            assert not np.any(tf.convert_to_tensor(gradient))
