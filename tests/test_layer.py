"""RaFMLayer as a Keras layer: its tables, options, losses, access to weights, saving, and training in a plain model."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracle import KINDS, Oracle, build_input, build_keras_input, large_random_layer, seen_by

import keras_rafm as kr

RANKS = (2, 3, 4)
LEVELS = [2, 1, 3, 1, 2, 3]  # |F_1|, |F_2|, |F_3| = 6, 4, 2
IDS = np.array([[0, 1, 2, 3], [2, 5, -1, -1], [4, 4, 1, 0]], np.int32)
#: The distinct features of IDS, all six; and of its second row.
SECOND_ROW = IDS[1:2]


def make_plan() -> kr.RankPlan:
    return kr.RankPlan(LEVELS, RANKS)


def other_plan() -> kr.RankPlan:
    """The same ranks and level sizes as `make_plan`, other features in them."""
    return kr.RankPlan(LEVELS[::-1], RANKS)


def built(layer: kr.RaFMLayer) -> dict[str, np.ndarray]:
    """The layer's variables by name."""
    layer.build()
    return {variable.name: variable.numpy() for variable in layer.variables}


def plain_model(layer: kr.RaFMLayer, width: int | None = 4) -> keras.Model:
    ids = keras.Input((width,), dtype="int32", name="ids")
    return keras.Model(ids, layer(ids))


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
        """Highest level first, then falling count."""
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
    #: free_1 and dependent_1 have one shape here, and so have free_2 and dependent_2 with each other.
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
        # Mode "upper" has no lower losses, so that all losses are penalties.
        return large_random_layer(make_plan(), dependent_gradient="upper", **options)

    def penalty(self, layer: kr.RaFMLayer, features: set[int]) -> float:
        """Of everything that these features own."""
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
        """Each distinct feature counts once, however often and with whatever value it occurs; padding does not."""
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


class TestLowerLoss:
    """What the layer adds in training when no RaFMModel is around: squared differences of neighbouring level scores."""

    @staticmethod
    def make_layer(**options: Any) -> kr.RaFMLayer:
        return large_random_layer(make_plan(), factors_l2=0.0, **options)

    @staticmethod
    def squared_differences(layer: kr.RaFMLayer, ids: np.ndarray) -> np.ndarray:
        scores = layer.level_scores(ids).numpy().astype(np.float64)
        return np.mean((scores[:, 1:] - scores[:, :-1]) ** 2, axis=0)

    @pytest.mark.parametrize(
        ("weight", "expected_weights"), [("auto", (1, 1)), (0.5, (0.5, 0.5)), ((2.0, 3.0), (2, 3)), ((0.0, 3.0), (3,))]
    )
    def test_values(self, weight: Any, expected_weights: tuple) -> None:
        layer = self.make_layer(dependent_loss_weight=weight)
        layer(IDS, training=True)
        differences = self.squared_differences(layer, IDS)[-len(expected_weights) :]
        np.testing.assert_allclose([float(x) for x in layer.losses], expected_weights * differences, rtol=1e-4)

    @pytest.mark.parametrize("training", [False, None])
    def test_only_in_training(self, training: bool | None) -> None:
        layer = self.make_layer()
        layer(IDS, training=True)
        layer(IDS, training=training)
        assert layer.losses == []

    @pytest.mark.parametrize("options", [{"dependent_gradient": "upper"}, {"dependent_loss_weight": 0.0}])
    def test_not_without_imitation(self, options: dict) -> None:
        layer = self.make_layer(**options)
        layer(IDS, training=True)
        assert layer.losses == []

    def test_not_with_one_level(self) -> None:
        layer = large_random_layer(kr.RankPlan([1, 1], (3,)), factors_l2=0.0)
        layer(np.array([[0, 1]]), training=True)
        assert layer.losses == []

    def test_weights_by_mode(self) -> None:
        auto, given = kr.RaFMLayer(make_plan()), kr.RaFMLayer(make_plan(), dependent_loss_weight=(2, 3))
        upper = kr.RaFMLayer(make_plan(), dependent_gradient="upper", dependent_loss_weight=(2, 3))
        assert auto.dependent_loss_weights(default=4.0) == (4.0, 4.0)
        assert given.dependent_loss_weights(default=4.0) == (2.0, 3.0)
        assert upper.dependent_loss_weights(default=4.0) == (0.0, 0.0)

    def test_gradients(self) -> None:
        """The loss of level k moves the dependent factors of level k, `w` and `b`, and nothing else."""
        layer = self.make_layer()
        ids = np.array([[0, 1, 2, 5], [2, 5, 3, 4]])  # features of all three levels in each sample
        with tf.GradientTape(persistent=True) as tape:
            layer(ids, training=True)
            losses = list(layer.losses)
        assert len(losses) == 2
        scores = layer.level_scores(ids).numpy()
        for k, loss in enumerate(losses, start=1):
            trainable = {v.name: v for v in layer.trainable_variables}
            gradients = dict(zip(trainable, tape.gradient(loss, [v.value for v in trainable.values()]), strict=True))
            moved = {name for name, g in gradients.items() if g is not None and np.any(tf.convert_to_tensor(g))}
            assert moved == {f"dependent_{k}", "linear", "bias"}
            np.testing.assert_allclose(gradients["bias"], np.mean(2 * (scores[:, k - 1] - scores[:, k])), rtol=1e-4)

    @pytest.mark.parametrize("mode", ["both", "lower", "upper"])
    def test_which_gradient_the_score_has(self, mode: str) -> None:
        layer = self.make_layer(dependent_gradient=mode)
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(layer(IDS))
        trainable = layer.trainable_variables
        gradients = tape.gradient(total, [v.value for v in trainable])
        moved = {
            v.name
            for v, g in zip(trainable, gradients, strict=True)
            if g is not None and np.any(tf.convert_to_tensor(g).numpy())
        }
        free = {"free_1", "free_2", "free_3", "linear", "bias"}
        assert moved == (free if mode == "lower" else free | {"dependent_1", "dependent_2"})

    def test_small_differences_survive_mixed_float16(self) -> None:
        """The smallest number of float16 is 6e-8."""
        options = {"factors_initializer": keras.initializers.RandomNormal(stddev=1e-3), "factors_l2": 0.0, "seed": 1}
        layer = kr.RaFMLayer(make_plan(), dtype="mixed_float16", **options)
        exact = kr.RaFMLayer(make_plan(), **options)
        layer(IDS, training=True)
        exact(IDS, training=True)
        assert 0 < float(exact.losses[0]) < 1e-8
        np.testing.assert_allclose([float(x) for x in layer.losses], [float(x) for x in exact.losses], rtol=1e-5)

    def test_evaluate_does_not_report_it(self) -> None:
        layer = self.make_layer()
        model = plain_model(layer)
        model.compile("sgd", "mse")
        labels = np.array([[1.0], [2.0], [3.0]])
        expected = np.mean((layer(IDS).numpy() - labels) ** 2)
        np.testing.assert_allclose(model.evaluate(IDS, labels, verbose=0), expected, rtol=1e-5)
        lower = self.squared_differences(layer, IDS).sum()
        history = model.fit(IDS, labels, batch_size=3, verbose=0).history
        np.testing.assert_allclose(history["loss"], [expected + lower], rtol=1e-4)


class TestConfig:
    def test_is_small_and_json(self) -> None:
        plan = kr.RankPlan(np.random.default_rng(0).integers(1, 5, 100_000), (4, 8, 16, 32))
        layer = kr.RaFMLayer(plan, seed=np.int64(3), factors_l2=np.array([0.1, 0.2, 0.3, 0.4]))
        unbuilt = json.dumps(layer.get_config())
        layer.build()
        assert json.dumps(layer.get_config()) == unbuilt
        assert len(unbuilt) < 2_000

    def test_round_trip_of_every_option(self) -> None:
        options = {
            "name": "scores",
            "trainable": False,
            "use_linear": False,
            "use_bias": False,
            "factors_initializer": [keras.initializers.Constant(k) for k in (1.0, 2.0, 3.0)],
            "linear_initializer": "ones",
            "factors_l2": (0.1, 0.2, 0.3),
            "factors_l2_scope": "batch",
            "linear_l2": 0.5,
            "dependent_gradient": "lower",
            "dependent_loss_weight": (3.0, 4.0),
            "seed": 9,
            "dtype": "mixed_bfloat16",
        }
        layer = kr.RaFMLayer(make_plan(), **options)
        config = json.loads(json.dumps(layer.get_config()))
        again = kr.RaFMLayer.from_config(config)
        assert json.loads(json.dumps(again.get_config())) == config
        for name in ("use_linear", "factors_l2", "factors_l2_scope", "dependent_gradient", "dependent_loss_weight", "seed"):
            assert getattr(again, name) == options[name]
        assert (again.name, again.compute_dtype, again.level_sizes) == ("scores", "bfloat16", (6, 4, 2))
        assert {name: v[0, 0] for name, v in built(again).items() if name.startswith("free")} == {
            "free_1": 1,
            "free_2": 2,
            "free_3": 3,
        }

    def test_a_layer_from_a_config_needs_weights(self) -> None:
        layer = large_random_layer(make_plan())
        config = layer.get_config()
        clone = kr.RaFMLayer.from_config(config)
        uses = (
            lambda: clone(IDS),
            lambda: tf.function(clone)(tf.constant(IDS)),
            lambda: clone.level_scores(IDS),
            lambda: clone.factors(1),
            lambda: clone.assign_factors(1, [0], [[1.0, 2.0]]),
            lambda: clone.linear(),
            lambda: clone.assign_linear([0], [1.0]),
            lambda: clone.plan,
        )
        for use in uses:
            with pytest.raises(ValueError, match=r"was made from a config(.|\n)*Set its weights"):
                use()
        clone.set_weights(layer.get_weights())
        np.testing.assert_array_equal(clone(IDS), layer(IDS))
        np.testing.assert_array_equal(clone.level_scores(IDS), layer.level_scores(IDS))
        assert clone.plan == make_plan()
        assert clone.get_config() == config

    def test_weights_of_another_plan(self) -> None:
        clone = kr.RaFMLayer.from_config(kr.RaFMLayer(make_plan()).get_config())
        clone.set_weights([np.array(w) for w in built(kr.RaFMLayer(other_plan())).values()])
        for _ in range(2):  # it does not get used to them
            with pytest.raises(ValueError, match="belong to another RankPlan"):
                clone(IDS)

    def test_weights_of_another_plan_given_to_a_layer_with_a_plan(self, tmp_path: Path) -> None:
        """They bring their slot map along, so the layer is then one of that plan, and can be saved as that."""
        other = large_random_layer(other_plan())
        other.build()
        layer = kr.RaFMLayer(make_plan())
        model = plain_model(layer)
        layer.set_weights(other.get_weights())
        np.testing.assert_array_equal(layer(IDS), other(IDS))
        assert layer.plan == other_plan()
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(loaded.predict(IDS, verbose=0), model.predict(IDS, verbose=0))

    @pytest.mark.filterwarnings("ignore:Skipping nested container")  # Keras warns so before it raises
    def test_weights_file_of_another_plan(self, tmp_path: Path) -> None:
        plain_model(kr.RaFMLayer(other_plan(), name="scores")).save_weights(tmp_path / "other.weights.h5")
        model = plain_model(kr.RaFMLayer(make_plan(), name="scores"))
        with pytest.raises(ValueError, match="another RankPlan"):
            model.load_weights(tmp_path / "other.weights.h5")
        with pytest.raises(ValueError, match="another RankPlan"):
            model.predict(IDS, verbose=0)


class TestAccessToWeights:
    @pytest.mark.parametrize("level", [1, 2, 3])
    def test_factors_are_those_of_the_level_or_above(self, level: int) -> None:
        layer = kr.RaFMLayer(make_plan())
        ids, matrix = layer.factors(level)
        assert sorted(ids.tolist()) == [i for i, k in enumerate(LEVELS) if k >= level]
        assert ids.dtype == np.int32
        assert matrix.shape == (len(ids), RANKS[level - 1])
        assert matrix.dtype == np.float32

    @pytest.mark.parametrize("level", [1, 2, 3])
    def test_round_trip_of_all_factors(self, level: int) -> None:
        layer, other = large_random_layer(make_plan(), 1), large_random_layer(make_plan(), 2)
        untouched = {k: other.factors(k)[1] for k in {1, 2, 3} - {level}}
        ids, matrix = layer.factors(level)
        order = np.random.default_rng(0).permutation(len(ids))
        other.assign_factors(level, ids[order], matrix[order])
        np.testing.assert_array_equal(other.factors(level)[1], matrix)
        for k, before in untouched.items():
            np.testing.assert_array_equal(other.factors(k)[1], before)

    def test_assign_some_factors(self) -> None:
        layer = large_random_layer(make_plan())
        before = dict(zip(layer.factors(2)[0].tolist(), layer.factors(2)[1], strict=True))
        layer.assign_factors(2, [5, 0], [[1, 2, 3], [4, 5, 6]])  # of level 3 and of level 2
        after = dict(zip(layer.factors(2)[0].tolist(), layer.factors(2)[1], strict=True))
        assert after[5].tolist() == [1, 2, 3]
        assert after[0].tolist() == [4, 5, 6]
        for i in (2, 4):
            np.testing.assert_array_equal(after[i], before[i])

    def test_assign_no_factors(self) -> None:
        layer = large_random_layer(make_plan())
        before = layer.get_weights()
        layer.assign_factors(1, [], np.zeros((0, 2)))
        layer.assign_linear([], [])
        for old, new in zip(before, layer.get_weights(), strict=True):
            np.testing.assert_array_equal(new, old)

    def test_given_out_numbers_are_copies(self) -> None:
        layer = large_random_layer(make_plan())
        before = layer.level_scores(IDS).numpy()
        for array in (layer.factors(1)[1], layer.factors(3)[1], layer.linear()):
            array[:] = 100
        np.testing.assert_array_equal(layer.level_scores(IDS), before)

    def test_level_without_features(self) -> None:
        layer = kr.RaFMLayer(kr.RankPlan([1, 1], RANKS))
        ids, matrix = layer.factors(3)
        assert (ids.shape, matrix.shape) == ((0,), (0, 4))
        layer.assign_factors(3, ids, matrix)

    def test_linear_and_bias(self) -> None:
        layer = kr.RaFMLayer(make_plan())
        layer.assign_linear([5, 2], [1.5, -2.5])
        layer.assign_bias(0.25)
        assert layer.linear().tolist() == [0, 0, -2.5, 0, 0, 1.5]
        assert layer.bias() == 0.25
        assert isinstance(layer.bias(), float)
        layer.assign_linear(range(6), np.arange(6))
        assert layer.linear().tolist() == [0, 1, 2, 3, 4, 5]

    @pytest.mark.parametrize(
        ("level", "ids", "matrix", "message"),
        [
            (0, [0], [[1, 2]], r"`level` must be in 1 … 3. Received: level=0"),
            (4, [0], [[1, 2]], r"`level` must be in 1 … 3"),
            (2, [1], [[1, 2, 3]], "must be of level 2 or above. Received: feature 1"),
            (3, [2, 0], np.ones((2, 4)), "must be of level 3 or above. Received: feature 0"),
            (1, [6], [[1, 2]], r"`feature_ids` must be in \[0, 6\). Received: 6"),
            (1, [-1], [[1, 2]], r"`feature_ids` must be in \[0, 6\). Received: -1"),
            (1, [2, 0, 2], np.ones((3, 2)), "must not repeat. Received feature 2"),
            (1, [[0, 1]], np.ones((2, 2)), r"`feature_ids` must be one-dimensional. Received: shape \(1, 2\)"),
            (1, [0, 1], np.ones((1, 2)), r"`matrix` must be of shape \(2, 2\). Received: shape \(1, 2\)"),
            (1, [0, 1], np.ones((2, 3)), r"`matrix` must be of shape \(2, 2\)"),
            (1, [0], [1, 2], r"`matrix` must be of shape \(1, 2\)"),
            (1, [0], [[1, float("nan")]], "`matrix` must be finite. Received: nan"),
        ],
    )
    def test_wrong_factors(self, level: int, ids: list, matrix: Any, message: str) -> None:
        layer = large_random_layer(make_plan())
        before = [np.array(w) for w in built(layer).values()]
        with pytest.raises(ValueError, match=message):
            layer.assign_factors(level, ids, matrix)
        for old, new in zip(before, built(layer).values(), strict=True):
            np.testing.assert_array_equal(new, old)

    @pytest.mark.parametrize("ids", [[0.0, 1.0], [True, False], ["0", "1"]])
    def test_feature_ids_that_are_no_integers(self, ids: list) -> None:
        layer = kr.RaFMLayer(make_plan())
        with pytest.raises(TypeError, match="`feature_ids` must be integers"):
            layer.assign_factors(1, ids, np.ones((2, 2)))
        with pytest.raises(TypeError, match="`feature_ids` must be integers"):
            layer.assign_linear(ids, [1, 2])

    @pytest.mark.parametrize(
        ("ids", "weights", "message"),
        [
            ([6], [1], r"`feature_ids` must be in \[0, 6\)"),
            ([1, 1], [1, 2], "must not repeat"),
            ([0, 1], [1], r"`weights` must be of shape \(2,\)"),
            ([0], [[1]], r"`weights` must be of shape \(1,\)"),
            ([0], [float("inf")], "`weights` must be finite. Received: inf"),
        ],
    )
    def test_wrong_linear_weights(self, ids: list, weights: list, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            kr.RaFMLayer(make_plan()).assign_linear(ids, weights)

    @pytest.mark.parametrize("bias", [float("nan"), [1.0]])
    def test_wrong_bias(self, bias: Any) -> None:
        with pytest.raises(ValueError, match="`bias` must be"):
            kr.RaFMLayer(make_plan()).assign_bias(bias)

    @pytest.mark.parametrize("level", [0, 4, -1])
    def test_factors_of_no_level(self, level: int) -> None:
        with pytest.raises(ValueError, match=f"`level` must be in 1 … 3. Received: level={level}"):
            kr.RaFMLayer(make_plan()).factors(level)


class TestSaving:
    def test_clone_model(self) -> None:
        model = plain_model(large_random_layer(make_plan()))
        clone = keras.models.clone_model(model)
        with pytest.raises(ValueError, match="made from a config"):
            clone.predict(IDS, verbose=0)
        clone.set_weights(model.get_weights())
        np.testing.assert_array_equal(clone.predict(IDS, verbose=0), model.predict(IDS, verbose=0))

    def test_model_from_json(self) -> None:
        model = plain_model(large_random_layer(make_plan()))
        again = keras.models.model_from_json(model.to_json())
        with pytest.raises(ValueError, match="made from a config"):
            again(IDS)
        again.set_weights(model.get_weights())
        np.testing.assert_array_equal(again.predict(IDS, verbose=0), model.predict(IDS, verbose=0))

    def test_weights_file(self, tmp_path: Path) -> None:
        model = plain_model(large_random_layer(make_plan(), 1, name="scores"))
        again = plain_model(large_random_layer(make_plan(), 2, name="scores"))
        model.save_weights(tmp_path / "model.weights.h5")
        again.load_weights(tmp_path / "model.weights.h5")
        np.testing.assert_array_equal(again.predict(IDS, verbose=0), model.predict(IDS, verbose=0))

    def test_zero_row_tables(self, tmp_path: Path) -> None:
        model = plain_model(large_random_layer(kr.RankPlan([1, 3, 1, 1, 3, 1], (1, 2, 4, 5))))
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(loaded.predict(IDS, verbose=0), model.predict(IDS, verbose=0))

    def test_loaded_layer_is_whole(self, tmp_path: Path) -> None:
        plan = kr.RankPlan(LEVELS, RANKS, counts=[5, 4, 3, 9, 8, 7])
        layer = large_random_layer(plan, name="scores", dependent_gradient="lower", factors_l2=(0.1, 0.2, 0.3))
        plain_model(layer).save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras").get_layer("scores")
        assert isinstance(loaded, kr.RaFMLayer)
        assert loaded.get_config() == layer.get_config()
        np.testing.assert_array_equal(loaded.plan.levels, LEVELS)
        for k in (1, 2, 3):
            for old, new in zip(layer.factors(k), loaded.factors(k), strict=True):
                np.testing.assert_array_equal(new, old)
        np.testing.assert_array_equal(loaded.level_scores(IDS), layer.level_scores(IDS))


class TestPlainModel:
    @pytest.mark.parametrize("kind", KINDS)
    def test_fit_save_and_load(self, kind: str, tmp_path: Path) -> None:
        """Every kind of input: the loss falls, and the saved model gives the same scores."""
        random = np.random.default_rng(0)
        samples = [
            [(int(i), float(x)) for i, x in zip(random.integers(0, 6, n), random.normal(size=n), strict=True)]
            for n in random.integers(0, 5, 64)
        ]
        samples = seen_by(kind, samples)
        batch = build_input(kind, samples, 6)
        labels = np.array([[1.0 + sum(x for i, x in sample if i in (2, 5))] for sample in samples])
        inputs = build_keras_input(kind, 6)
        model = keras.Model(inputs, kr.RaFMLayer(kr.RankPlan([2, 1, 2, 1, 1, 2], (2, 3)))(inputs))
        model.compile(keras.optimizers.Adam(0.05), "mse")
        losses = model.fit(batch, labels, batch_size=20, epochs=8, verbose=0).history["loss"]
        assert losses[-1] < 0.3 * losses[0]
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(loaded(batch), model(batch))

    def test_a_loaded_model_trains_on(self, tmp_path: Path) -> None:
        model = plain_model(kr.RaFMLayer(make_plan()))
        model.compile(keras.optimizers.Adam(0.05), "mse", run_eagerly=True)
        labels = np.array([[1.0], [2.0], [3.0]])
        first = model.fit(IDS, labels, epochs=4, verbose=0).history["loss"]
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        loaded.run_eagerly = True
        second = loaded.fit(IDS, labels, epochs=4, verbose=0).history["loss"]
        third = model.fit(IDS, labels, epochs=4, verbose=0).history["loss"]
        assert first[0] > first[-1] > second[0] > second[-1]
        np.testing.assert_allclose(second, third, rtol=1e-4)  # Adam's momenta were saved too

    def test_all_tables_move(self) -> None:
        layer = kr.RaFMLayer(make_plan(), factors_l2=0.0)
        model = plain_model(layer)
        model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=True)
        before = built(layer)
        model.fit(IDS, np.array([[3.0], [-3.0], [1.0]]), epochs=2, verbose=0)
        for name, values in built(layer).items():
            assert np.array_equal(values, before[name]) == (name == "slots"), name

    def test_under_a_functional_model_with_other_layers(self) -> None:
        ids = keras.Input((4,), dtype="int32", name="ids")
        numbers = keras.Input((2,), name="numbers")
        score = kr.RaFMLayer(kr.RankPlan([1] * 6, (3,)))(ids)
        output = keras.layers.Activation("sigmoid")(score + keras.layers.Dense(1)(numbers))
        model = keras.Model([ids, numbers], output)
        model.compile(keras.optimizers.Adam(0.1), "binary_crossentropy")
        x, y = [IDS, np.ones((3, 2), np.float32)], np.array([[1], [0], [1]])
        model.fit(x, y, epochs=30, verbose=0)
        np.testing.assert_array_equal(np.round(model(x)), y)

    def test_in_a_sequential_model(self, tmp_path: Path) -> None:
        model = keras.Sequential([keras.Input((4,), dtype="int32"), large_random_layer(make_plan())])
        expected = model.predict(IDS, verbose=0)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(loaded.predict(IDS, verbose=0), expected)

    def test_same_seed_same_training(self) -> None:
        histories = []
        for _ in range(2):
            keras.utils.set_random_seed(5)
            model = plain_model(kr.RaFMLayer(make_plan()))
            model.compile(keras.optimizers.Adam(0.05), "mse", run_eagerly=True)
            histories.append(model.fit(IDS, np.array([[1.0], [2.0], [3.0]]), epochs=3, verbose=0).history["loss"])
        np.testing.assert_allclose(histories[0], histories[1], rtol=1e-5)


class TestPlantedTruth:
    """Labels drawn from a known RaFM: a fresh layer with the same plan finds it again."""

    @pytest.mark.parametrize(
        ("model_class", "mode", "share_left"),
        # Imitation pulls the levels towards each other, which this truth does not want.
        [(keras.Model, "both", 0.35), (kr.RaFMModel, "upper", 0.1)],
        ids=["plain", "RaFMModel without imitation"],
    )
    def test_recovery(self, model_class: type, mode: str, share_left: float) -> None:
        random = np.random.default_rng(0)
        num_fields, values_per_field, num_samples = 4, 6, 4096
        num_features = num_fields * values_per_field
        plan = kr.RankPlan(random.integers(1, 3, num_features), (2, 4))
        truth = kr.RaFMLayer(plan)
        for k, rank in enumerate(plan.ranks, start=1):
            ids, _ = truth.factors(k)
            truth.assign_factors(k, ids, random.normal(size=(len(ids), rank)))
        truth.assign_linear(range(num_features), random.normal(size=num_features))
        truth.assign_bias(1.0)
        rows = random.integers(0, values_per_field, (num_samples, num_fields)) + values_per_field * np.arange(num_fields)
        rows = rows.astype(np.int32)
        labels = truth(rows).numpy()

        ids = keras.Input((num_fields,), dtype="int32")
        normal = keras.initializers.RandomNormal(stddev=0.3)
        layer = kr.RaFMLayer(plan, factors_initializer=normal, factors_l2=0.0, dependent_gradient=mode)
        model = model_class(ids, layer(ids))
        model.compile(keras.optimizers.Adam(0.03), "mse")
        train, test = slice(0, 3072), slice(3072, None)
        model.fit(rows[train], labels[train], batch_size=256, epochs=25, verbose=0)
        rmse = np.sqrt(np.mean((model.predict(rows[test], verbose=0) - labels[test]) ** 2))
        assert rmse < share_left * labels[test].std()
