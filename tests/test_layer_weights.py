"""Config, access to weights, and saving of a `RaFMLayer`."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from oracle import large_random_layer
from small_layers import IDS, LEVELS, RANKS, built, make_plan, other_plan, plain_model

import keras_rafm as kr


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
        for _ in range(2):  # the second call raises as well
            with pytest.raises(ValueError, match="belong to another RankPlan"):
                clone(IDS)

    def test_weights_of_another_plan_given_to_a_layer_with_a_plan(self, tmp_path: Path) -> None:
        """The weights include the slot map, so the layer then belongs to the other plan and can be saved with it."""
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

    @pytest.mark.filterwarnings("ignore:Skipping nested container")  # Keras warns before it raises
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
        layer.assign_factors(2, [5, 0], [[1, 2, 3], [4, 5, 6]])  # features of level 3 and of level 2
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
            (1, [2, 0, 2], np.ones((3, 2)), "must not repeat. Received: feature 2"),
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
