"""Tables that training reads whole (`max_dense_rows`), compared with tables that it reads by rows."""

import functools
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from oracle import KINDS, KINDS_WITHOUT_VALUES, build_input, large_random_layer

import keras_rafm as kr

pytestmark = pytest.mark.one_tensorflow

PLAN = kr.RankPlan([3, 1, 2, 2, 1, 4, 1, 1, 2, 4, 3, 1], ranks=(2, 3, 4, 40))
#: These read no level whole, then one, two, three and four: 12, 7, 4 and 2 features have at least level 1, 2, 3 and 4.
DENSE_ROWS = (0, 2, 5, 11, 12)
SAMPLES = [
    [(0, 1.0), (1, 0.5), (5, -2.0), (9, 1.0)],
    [(3, 1.0), (3, 2.0), (2, 0.3)],
    [],
    [(10, 1.5), (8, -1.0), (8, 1.0), (4, 0.7), (5, 1.0), (6, -0.4)],
]


def gradients(layer: kr.RaFMLayer, inputs: Any) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the score in training, and the gradients of a loss that depends on it, by the name of the weight."""
    with tf.GradientTape() as tape:
        score = layer(inputs, training=True)
        loss = tf.reduce_sum(score * tf.cast(tf.range(1, tf.shape(score)[0] + 1)[:, None], score.dtype))
        loss += tf.cast(sum(layer.losses), score.dtype)
    values = tape.gradient(loss, layer.trainable_variables)
    return score.numpy(), dict(zip([variable.name for variable in layer.trainable_variables], values, strict=True))


def assert_same_as_by_rows(plan: kr.RankPlan, max_dense_rows: int, inputs: Any) -> None:
    by_rows, whole = (large_random_layer(plan, dtype="float64", max_dense_rows=number) for number in (0, max_dense_rows))
    (score, expected), (score_of_whole, actual) = gradients(by_rows, inputs), gradients(whole, inputs)
    np.testing.assert_allclose(score_of_whole, score, rtol=1e-10, atol=1e-10)
    for name, gradient in expected.items():
        other = tf.convert_to_tensor(actual[name])
        np.testing.assert_allclose(other, tf.convert_to_tensor(gradient), rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_dense_rows", DENSE_ROWS[1:])
@pytest.mark.parametrize("num_padding", [0, 2])
def test_score_and_gradients(kind: str, max_dense_rows: int, num_padding: int) -> None:
    assert_same_as_by_rows(PLAN, max_dense_rows, build_input(kind, SAMPLES, PLAN.num_features, num_padding=num_padding))


@given(
    levels=st.lists(st.integers(1, 3), min_size=1, max_size=9),
    rows=st.lists(st.lists(st.integers(-1, 8), min_size=3, max_size=3), max_size=4),
    max_dense_rows=st.integers(1, 10),
)
def test_any_plan_and_any_ids(levels: list[int], rows: list[list[int]], max_dense_rows: int) -> None:
    ids = np.array(rows, "int32").reshape(-1, 3) % (len(levels) + 1) - 1
    assert_same_as_by_rows(kr.RankPlan(levels, ranks=(1, 2, 3)), max_dense_rows, ids)


@pytest.mark.parametrize("max_dense_rows", DENSE_ROWS)
def test_kinds_of_gradients(max_dense_rows: int) -> None:
    """Gradients are dense for whole tables and `IndexedSlices` for others; outside training, for all tables."""
    layer = large_random_layer(PLAN, max_dense_rows=max_dense_rows)
    ids = build_input(KINDS_WITHOUT_VALUES[0], SAMPLES, PLAN.num_features)
    _, actual = gradients(layer, ids)
    ends = {"linear": 12, "free_1": 12, "free_2": 7, "free_3": 4, "free_4": 2}
    ends |= {"dependent_1": 7, "dependent_2": 4, "dependent_3": 2}
    for name, end in ends.items():
        assert isinstance(actual[name], tf.IndexedSlices) == (end > max_dense_rows), name
    with tf.GradientTape() as tape:
        score = layer(ids)
    for gradient in tape.gradient(score, [layer.linear_weights, *layer.free_tables]):
        assert isinstance(gradient, tf.IndexedSlices)


def test_batch_penalties_are_over_the_rows_in_the_batch() -> None:
    """With such penalties, training reads no table whole."""
    layer = large_random_layer(PLAN, factors_l2=0.5, factors_l2_scope="batch")
    _, actual = gradients(layer, np.array([[0, 1]]))
    assert all(isinstance(gradient, tf.IndexedSlices) for name, gradient in actual.items() if name != "bias")


def trained(optimizer: keras.optimizers.Optimizer, max_dense_rows: int, run_eagerly: bool = False) -> list[np.ndarray]:
    ids = keras.Input((4,), dtype="int32")
    normal = keras.initializers.RandomNormal(stddev=0.5)
    layer = kr.RaFMLayer(PLAN, factors_initializer=normal, seed=3, max_dense_rows=max_dense_rows)
    model = kr.RaFMModel(ids, layer(ids))
    model.compile(optimizer, "mse", run_eagerly=run_eagerly)
    random = np.random.default_rng(0)
    rows, labels = random.integers(-1, 12, (30, 4)).astype("int32"), random.normal(size=(30, 1))
    model.fit(rows, labels, batch_size=5, epochs=2, shuffle=False, verbose=0)
    return model.get_weights()


def assert_same(one: list[np.ndarray], other: list[np.ndarray]) -> None:
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: keras.optimizers.SGD(0.05),
        lambda: kr.optimizers.SparseAdagrad(0.1),
        lambda: kr.optimizers.SparseFtrl(0.1, l1_regularization_strength=0.01),
        lambda: keras.optimizers.Adam(0.05, epsilon=1e-3),
    ],
    ids=["sgd", "adagrad", "ftrl", "keras_adam"],
)
def test_optimizers_that_treat_rows_alike_either_way(optimizer: Callable[[], Any]) -> None:
    """These never change idle rows, or (Adam of Keras) always do. Reading tables whole changes only the speed."""
    by_rows = trained(optimizer(), 0)
    for max_dense_rows in DENSE_ROWS[1:]:
        assert_same(trained(optimizer(), max_dense_rows), by_rows)


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_lazy_adam_is_adam_on_whole_tables(run_eagerly: bool) -> None:
    lazy = kr.optimizers.LazyAdam(0.05, idle_decay=0.0, epsilon=1e-3)
    dense = keras.optimizers.Adam(0.05, epsilon=1e-3)
    assert_same(trained(lazy, 12, run_eagerly), trained(dense, 12, run_eagerly))


def test_idle_decay_of_whole_tables_is_that_of_adamw() -> None:
    """Factors decay in every step. Linear weights and the bias don't."""
    lazy = kr.optimizers.LazyAdam(0.05, idle_decay=0.4, epsilon=1e-3)
    dense = keras.optimizers.AdamW(0.05, weight_decay=0.4, epsilon=1e-3)
    dense.exclude_from_weight_decay(var_names=["linear", "bias"])
    assert_same(trained(lazy, 12), trained(dense, 12))


def test_whole_tables_have_no_marks() -> None:
    names = []
    for max_dense_rows in (0, 5, 12):
        layer = kr.RaFMLayer(PLAN, max_dense_rows=max_dense_rows)
        layer.build()
        optimizer = kr.optimizers.LazyAdam(0.1)
        optimizer.build(layer.trainable_variables)
        names.append(
            {variable.name.split("_decay_marks")[0] for variable in optimizer.variables if "marks" in variable.name}
        )
    everything = {"free_1", "free_2", "free_3", "free_4", "dependent_1", "dependent_2", "dependent_3"}
    assert names == [everything, {"free_1", "free_2", "dependent_1"}, set()]


def test_a_step_that_reads_a_whole_table_by_rows_decays_it_all_the_same() -> None:
    """A custom training loop may call the layer without `training=True`."""
    layer = large_random_layer(kr.RankPlan([1, 1, 1], ranks=(2,)))
    optimizer = kr.optimizers.LazyAdam(0.1, idle_decay=2.0)
    before = dict(zip(*layer.factors(1), strict=True))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(np.array([[0, 1]])))
    optimizer.apply(tape.gradient(loss, layer.trainable_variables), layer.trainable_variables)
    after = dict(zip(*layer.factors(1), strict=True))
    np.testing.assert_allclose(after[2], before[2] * 0.8, rtol=1e-6)
    assert np.max(np.abs(after[0] - before[0] * 0.8)) > 0.05


MANY_IDS = np.random.default_rng(5).integers(0, PLAN.num_features, (24, 2)).astype("int32")
MANY_LABELS = np.random.default_rng(6).normal(size=24).astype("float32")
BATCHES: dict[str, Callable[[int], dict[str, Any]]] = {
    "arrays": lambda size: {"x": {"ids": MANY_IDS}, "y": MANY_LABELS, "batch_size": size},
    "samples": lambda size: {
        "x": kr.data.Samples(MANY_IDS, np.ones(MANY_IDS.shape, "float32"), MANY_LABELS).dataset(size, with_values=False)
    },
    "shapes": lambda size: {
        "x": tf.data.Dataset.from_tensor_slices(({"ids": MANY_IDS}, MANY_LABELS)).batch(size, drop_remainder=True)
    },
    "unknown": lambda size: {"x": tf.data.Dataset.from_tensor_slices(({"ids": MANY_IDS}, MANY_LABELS)).batch(size)},
}


def dense_rows_model(max_dense_rows: Any, optimizer: keras.optimizers.Optimizer, **options: Any) -> kr.RaFMModel:
    ids = keras.Input((2,), dtype="int32", name="ids")
    normal = keras.initializers.RandomNormal(stddev=0.3)
    options |= {"factors_initializer": normal, "seed": 3, "max_dense_rows": max_dense_rows}
    # In float32, Adam would amplify the rounding errors of gradients that should be zero.
    layer = kr.RaFMLayer(PLAN, dtype="float64", **options)
    model = kr.RaFMModel({"ids": ids}, layer(ids))
    model.compile(optimizer, "mse")
    return model


def weights_after_fit(max_dense_rows: Any, data: dict[str, Any], **options: Any) -> list[np.ndarray]:
    model = dense_rows_model(max_dense_rows, kr.optimizers.LazyAdam(0.1, idle_decay=1.0), **options)
    model.fit(**data, epochs=2, shuffle=False, verbose=0)
    return model.get_weights()


@functools.cache
def weights_of_arrays(max_dense_rows: int, size: int) -> list[np.ndarray]:
    return weights_after_fit(max_dense_rows, BATCHES["arrays"](size))


def are_close(weights: list[np.ndarray], others: list[np.ndarray]) -> bool:
    return all(np.allclose(weight, other, atol=1e-5) for weight, other in zip(weights, others, strict=True))


@pytest.mark.parametrize("way", BATCHES)
@pytest.mark.parametrize(("size", "max_dense_rows"), [(3, 2), (4, 4), (12, 8192)])  # the levels have 12, 7, 4 and 2 slots
def test_auto_reads_tables_whole_with_two_occurrences_per_row(way: str, size: int, max_dense_rows: int) -> None:
    """`LazyAdam` changes the idle rows of tables that are read whole, so the weights show how tables were read."""
    weights = weights_after_fit("auto", BATCHES[way](size))
    same = [rows for rows in (0, 2, 4, 8192) if are_close(weights, weights_of_arrays(rows, size))]
    assert same == [8192 if way == "unknown" else max_dense_rows]


def test_auto_with_penalties_over_whole_tables() -> None:
    data = BATCHES["arrays"](3)
    auto, whole = (weights_after_fit(rows, data, factors_l2=0.01) for rows in ("auto", 8192))
    assert are_close(auto, whole)


def test_batches_of_changing_size() -> None:
    """The way that tables are read may change. For Adagrad with decay, it makes no difference."""
    weights = []
    for max_dense_rows in ("auto", 0, 8192):
        model = dense_rows_model(max_dense_rows, kr.optimizers.SparseAdagrad(0.1, idle_decay=1.0))
        for size in (3, 24, 1, 12):
            model.compile(model.optimizer, "mse", run_eagerly=True)
            model.fit(**BATCHES["arrays"](size), shuffle=False, verbose=0)
            model.train_on_batch({"ids": MANY_IDS[:1]}, MANY_LABELS[:1])
        weights.append(model.get_weights())
    assert are_close(weights[0], weights[1])
    assert are_close(weights[0], weights[2])


@pytest.mark.parametrize("max_dense_rows", [7, "auto"])
def test_config(max_dense_rows: Any) -> None:
    layer = kr.RaFMLayer(PLAN, max_dense_rows=max_dense_rows)
    clone = kr.RaFMLayer.from_config(layer.get_config())
    assert clone.max_dense_rows == layer.max_dense_rows == max_dense_rows


@pytest.mark.parametrize(
    ("number", "error"), [(-1, ValueError), (1.0, TypeError), (True, TypeError), (None, TypeError), ("all", TypeError)]
)
def test_bad_numbers(number: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"`max_dense_rows` must be .*Received: "):
        kr.RaFMLayer(PLAN, max_dense_rows=number)


def test_bad_ids() -> None:
    layer = large_random_layer(PLAN)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"ids must be in \[0, 12\).*Received the id 12"):
        layer(np.array([[0, 12]]), training=True)


@pytest.mark.parametrize("max_dense_rows", [2, 5])
def test_idle_rows_of_tables_that_cover_more_than_the_head(max_dense_rows: int) -> None:
    """The gradients hold all rows of the head, but `LazyAdam` updates only the rows in the batch."""
    layer = large_random_layer(PLAN, max_dense_rows=max_dense_rows)
    optimizer = kr.optimizers.LazyAdam(0.1, idle_decay=0.0)
    for ids in ([[9, 5, 1]], [[1, 4, 6]]):
        before = layer.linear()
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(np.array(ids), training=True))
        optimizer.apply(tape.gradient(loss, layer.trainable_variables), layer.trainable_variables)
    moved = np.flatnonzero(layer.linear() != before)
    assert moved.tolist() == [1, 4, 6]


def test_gradients_use_the_weights_of_the_forward_pass() -> None:
    layer = large_random_layer(PLAN)
    with tf.GradientTape(persistent=True) as tape:
        score = tf.reduce_sum(layer(np.array([[0, 5, 9], [1, 2, 3]]), training=True))
    before = tape.gradient(score, layer.trainable_variables)
    for variable in layer.trainable_variables:
        variable.assign(variable * 3)
    for one, other in zip(before, tape.gradient(score, layer.trainable_variables), strict=True):
        np.testing.assert_array_equal(one, other)


def test_16_bit_tables_are_read_by_rows() -> None:
    """The decay of one step is lost in the rounding of 16-bit weights. Pending decay of many steps is not."""
    layer = large_random_layer(PLAN, dtype="bfloat16")
    _, actual = gradients(layer, np.array([[0, 1]]))
    assert isinstance(actual["free_1"], tf.IndexedSlices)


def test_inference_reads_tables_whole_that_training_reads_whole() -> None:
    """If inference read them by rows, TensorFlow would copy them in every later training step."""
    layer = kr.RaFMLayer(PLAN, max_dense_rows=7)
    layer(np.array([[0, 1]]), training=True)
    graph = tf.function(lambda ids: layer(ids)).get_concrete_function(tf.TensorSpec([None, 2], tf.int32)).graph
    handles = {id(inner): outer for outer, inner in graph.captures}
    lookups = [op for op in graph.get_operations() if op.type in ("ResourceGather", "ResourceGatherNd")]
    by_rows = {id(handles[id(op.inputs[0])]) for op in lookups}
    names = {variable.name for variable in layer.variables if id(variable.value.handle) in by_rows}
    assert names == {"linear", "free_1"}
