"""The tables of a `RaFMLayer`: shapes, options, initial values and penalties."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracle import KINDS, Oracle, build_input, large_random_layer
from small_layers import IDS, LEVELS, RANKS, SECOND_ROW, built, make_plan, plain_model

import keras_rafm as kr


class TestVariables:
    @pytest.mark.parametrize(
        ("levels", "ranks", "counts"),
        [
            ([1] * 5, (3,), None),
            (LEVELS, RANKS, None),
            ([2, 2, 2], (1, 5), None),
            ([1, 1, 1], (1, 5), [3, 1, 2]),
            ([1, 3, 1], (1, 2, 4), None),
        ],
        ids=["one level", "three levels", "low level empty", "top level empty", "middle level empty"],
    )
    def test_only_active_factors_are_stored(self, levels: list, ranks: tuple, counts: list | None) -> None:
        plan = kr.RankPlan(levels, ranks, counts)
        layer = kr.RaFMLayer(plan)
        variables = built(layer)
        linear, bias, slots = plan.num_features, 1, plan.num_features
        assert sum(v.size for v in variables.values()) == plan.num_active_factors + linear + bias + slots
        assert layer.count_params() == plan.num_active_factors + linear + bias + slots
        free = {name: v.size for name, v in variables.items() if name.startswith("free_")}
        dependent = {name: v.size for name, v in variables.items() if name.startswith("dependent_")}
        assert sum(free.values()) == plan.num_free_factors
        assert sum(dependent.values()) == plan.num_dependent_factors
        assert list(free) == [f"free_{k}" for k in range(1, len(ranks) + 1)]
        assert list(dependent) == [f"dependent_{k}" for k in range(1, len(ranks))]

    def test_names_shapes_and_dtypes(self) -> None:
        layer = kr.RaFMLayer(make_plan())
        shapes = {name: v.shape for name, v in built(layer).items()}
        assert shapes == {
            "slots": (6,),
            "linear": (6,),
            "bias": (),
            "free_1": (2, 2),
            "dependent_1": (4, 2),
            "free_2": (2, 3),
            "dependent_2": (2, 3),
            "free_3": (2, 4),
        }
        assert [v.name for v in layer.non_trainable_variables] == ["slots"]
        assert built(layer)["slots"].dtype == np.int32

    def test_rows_are_in_slot_order(self) -> None:
        """Slots are ordered by falling level, then by falling count."""
        layer = kr.RaFMLayer(kr.RankPlan([1, 2, 2, 1], (1, 2), counts=[8, 2, 5, 9]))
        for feature, number in enumerate([10.0, 11.0, 12.0, 13.0]):
            layer.assign_factors(1, [feature], [[number]])
            layer.assign_linear([feature], [-number])
        variables = built(layer)
        assert variables["dependent_1"].ravel().tolist() == [12, 11]
        assert variables["free_1"].ravel().tolist() == [13, 10]
        assert variables["linear"].tolist() == [-12, -11, -13, -10]

    def test_properties(self) -> None:
        layer = kr.RaFMLayer(make_plan())
        assert (layer.ranks, layer.level_sizes) == (RANKS, (6, 4, 2))
        assert (layer.num_levels, layer.num_features) == (3, 6)
        assert layer.plan == make_plan()

    def test_a_frozen_layer_has_no_trainable_variables(self) -> None:
        layer = kr.RaFMLayer(make_plan(), trainable=False)
        layer.build()
        assert layer.trainable_variables == []
        assert len(layer.non_trainable_variables) == 8

    @pytest.mark.parametrize("policy", ["float32", "float64", "float16", "bfloat16", "mixed_float16", "mixed_bfloat16"])
    def test_dtype_policies(self, policy: str) -> None:
        layer = kr.RaFMLayer(make_plan(), dtype=policy)
        variable_dtype = "float32" if policy.startswith("mixed") else policy
        output_dtype = policy.removeprefix("mixed_")
        output = layer(IDS)
        assert {v.dtype for v in layer.trainable_variables} == {variable_dtype}
        assert output.dtype == layer.level_scores(IDS).dtype == output_dtype
        assert layer(keras.Input((4,), dtype="int32")).dtype == output_dtype
        assert output.shape == (3, 1)
        assert layer.factors(1)[1].dtype == variable_dtype

    def test_global_mixed_policy_keeps_tables_in_float32(self) -> None:
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            layer = kr.RaFMLayer(make_plan(), factors_initializer="ones")
            model = plain_model(layer)
            assert model.predict(IDS, verbose=0).dtype == tf.bfloat16.as_numpy_dtype
        finally:
            keras.config.set_dtype_policy("float32")
        assert {v.dtype for v in layer.trainable_variables} == {"float32"}


class TestOptions:
    def test_without_linear_term(self) -> None:
        plan = make_plan()
        layer = large_random_layer(plan, use_linear=False)
        assert "linear" not in built(layer)
        np.testing.assert_array_equal(layer.linear(), np.zeros(6, np.float32))
        np.testing.assert_allclose(layer(np.array([[-1]])), [[0.7]], rtol=1e-6)
        with pytest.raises(ValueError, match="has no linear term"):
            layer.assign_linear([0], [1.0])

    def test_without_bias(self) -> None:
        layer = large_random_layer(make_plan(), use_bias=False)
        assert "bias" not in built(layer)
        assert layer.bias() == 0
        np.testing.assert_array_equal(layer(np.array([[-1]])), [[0]])
        np.testing.assert_allclose(layer(np.array([[2]])), [[layer.linear()[2]]])
        with pytest.raises(ValueError, match="has no bias"):
            layer.assign_bias(1.0)

    def test_with_neither(self) -> None:
        layer = large_random_layer(make_plan(), use_bias=False, use_linear=False)
        np.testing.assert_array_equal(layer(np.array([[2], [5]])), [[0], [0]])
        ids, factors = layer.factors(3)
        expected = factors[ids.tolist().index(2)] @ factors[ids.tolist().index(5)]
        np.testing.assert_allclose(layer(np.array([[2, 5]])), [[expected]], rtol=1e-5)


class TestInitializers:
    #: Here free_1 and dependent_1 have the same shape, and so do free_2 and dependent_2.
    EQUAL_SHAPES = kr.RankPlan(np.repeat([1, 1, 2, 3], 50), (4, 8, 16))

    def test_defaults(self) -> None:
        variables = built(kr.RaFMLayer(kr.RankPlan(np.repeat([1, 2], 500), (8, 16))))
        for name in ("free_1", "dependent_1", "free_2"):
            assert abs(variables[name].mean()) < 1e-3
            assert 0.0095 < variables[name].std() < 0.0105
        assert not variables["linear"].any()
        assert variables["bias"] == 0

    @pytest.mark.parametrize(
        "make_options",
        [
            dict,
            lambda: {"seed": 3},
            lambda: {"factors_initializer": keras.initializers.RandomNormal(seed=3)},
            lambda: {"factors_initializer": keras.initializers.GlorotUniform(seed=3), "seed": 5},
            lambda: {"factors_initializer": keras.initializers.RandomNormal(seed=keras.random.SeedGenerator(3))},
            lambda: {"factors_initializer": [keras.initializers.RandomNormal(seed=3)] * 3},
        ],
        ids=["default", "layer seed", "seeded", "seeded and layer seed", "seed generator", "per level"],
    )
    def test_two_tables_never_have_equal_numbers(self, make_options: Any) -> None:
        variables = built(kr.RaFMLayer(self.EQUAL_SHAPES, **make_options()))
        assert variables["free_1"].shape == variables["dependent_1"].shape
        rows = np.concatenate([v[:, :4] for name, v in variables.items() if name.startswith(("free", "dependent"))])
        assert len(np.unique(rows.round(9), axis=0)) == len(rows)

    def test_seed_of_the_layer_decides_everything(self) -> None:
        normal = keras.initializers.RandomNormal()
        one, same, other = (
            built(kr.RaFMLayer(make_plan(), linear_initializer=normal, seed=seed)) for seed in (7, np.int64(7), 8)
        )
        for name, values in one.items():
            np.testing.assert_array_equal(values, same[name])
            if name not in ("slots", "bias"):
                assert not np.any(values == other[name]), name

    @pytest.mark.parametrize("seed", [3, -3])
    def test_seed_of_the_initializer(self, seed: int) -> None:
        one, same = (
            built(kr.RaFMLayer(make_plan(), factors_initializer=keras.initializers.RandomNormal(seed=seed)))
            for _ in range(2)
        )
        np.testing.assert_array_equal(one["free_1"], same["free_1"])

    def test_seed_of_the_process(self) -> None:
        draws = []
        for seed in (1, 1, 2):
            keras.utils.set_random_seed(seed)
            draws.append(built(kr.RaFMLayer(make_plan()))["free_1"])
        np.testing.assert_array_equal(draws[0], draws[1])
        assert not np.any(draws[0] == draws[2])

    def test_per_level_by_name_object_and_function(self) -> None:
        def sevens(shape: tuple, dtype: Any = None) -> tf.Tensor:
            return tf.fill(shape, tf.constant(7, dtype))

        options = ["ones", keras.initializers.Constant(5.0), sevens]
        layer = kr.RaFMLayer(make_plan(), factors_initializer=options, linear_initializer="ones")
        variables = built(layer)
        for name, number in {
            "free_1": 1,
            "dependent_1": 1,
            "free_2": 5,
            "dependent_2": 5,
            "free_3": 7,
            "linear": 1,
        }.items():
            np.testing.assert_array_equal(variables[name], np.full(variables[name].shape, number))

    def test_given_initializer_is_not_touched(self) -> None:
        """The user's object draws the same numbers before and after a layer has used it."""
        initializer = keras.initializers.RandomNormal(seed=3)
        before = np.array(initializer((2, 2)))
        built(kr.RaFMLayer(make_plan(), factors_initializer=initializer))
        np.testing.assert_array_equal(initializer((2, 2)), before)


class TestL2:
    FACTORS_L2, LINEAR_L2 = (0.1, 0.2, 0.4), 0.8

    def make_layer(self, scope: str) -> kr.RaFMLayer:
        options = {"factors_l2": self.FACTORS_L2, "linear_l2": self.LINEAR_L2, "factors_l2_scope": scope}
        # Mode "upper" has no lower losses, so all losses are penalties.
        return large_random_layer(make_plan(), dependent_gradient="upper", **options)

    def penalty(self, layer: kr.RaFMLayer, features: set[int]) -> float:
        """Return the penalty over all weights of these features."""
        oracle = Oracle(layer, make_plan())
        total = self.LINEAR_L2 * sum(oracle.linear[i] ** 2 for i in features)
        for k, l2 in enumerate(self.FACTORS_L2, start=1):
            total += l2 * sum(v @ v for i, v in oracle.factors[k].items() if i in features)
        return total

    @pytest.mark.parametrize("training", [False, True])
    @pytest.mark.parametrize("kind", ["dense", "ragged", "sparse"])
    def test_over_tables(self, kind: str, training: bool) -> None:
        layer = self.make_layer("tables")
        layer(build_input(kind, [[(2, 1.0), (5, 1.0)]], 6), training=training)
        np.testing.assert_allclose(sum(layer.losses), self.penalty(layer, set(range(6))), rtol=1e-5)

    @pytest.mark.parametrize("training", [False, True])
    @pytest.mark.parametrize("kind", KINDS)
    def test_over_batch(self, kind: str, training: bool) -> None:
        """Each distinct feature counts once, independent of its values and occurrences. Padding does not count."""
        layer = self.make_layer("batch")
        samples = [[(2, 1.0), (5, 3.0), (2, 1.0)], [], [(2, -2.0), (1, 1.0)]]
        layer(build_input(kind, samples, 6, num_padding=2), training=training)
        np.testing.assert_allclose(sum(layer.losses), self.penalty(layer, {1, 2, 5}), rtol=1e-5)

    def test_over_an_empty_batch(self) -> None:
        layer = self.make_layer("batch")
        layer(np.array([[-1, -1]]))
        assert float(sum(layer.losses)) == 0

    def test_one_number_for_all_levels(self) -> None:
        layer = large_random_layer(make_plan(), factors_l2=0.5)
        layer(IDS)
        squares = sum(np.sum(layer.factors(k)[1] ** 2) for k in (1, 2, 3))
        np.testing.assert_allclose(sum(layer.losses), 0.5 * squares, rtol=1e-5)

    def test_zero_adds_no_loss(self) -> None:
        layer = kr.RaFMLayer(make_plan(), factors_l2=0)
        layer(IDS)
        assert layer.losses == []

    @pytest.mark.parametrize("scope", ["tables", "batch"])
    def test_level_scores_add_no_loss(self, scope: str) -> None:
        layer = self.make_layer(scope)
        layer(SECOND_ROW)
        before = [float(loss) for loss in layer.losses]
        layer.level_scores(IDS)
        assert [float(loss) for loss in layer.losses] == before

    def test_batch_scope_keeps_gradients_sparse(self) -> None:
        layer = self.make_layer("batch")
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(layer(SECOND_ROW)) + tf.add_n(layer.losses)
        tables = [v.value for v in layer.trainable_variables if v.name != "bias"]
        for gradient in tape.gradient(total, tables):
            assert isinstance(gradient, tf.IndexedSlices)
            assert len(np.unique(gradient.indices)) == len(gradient.indices)
