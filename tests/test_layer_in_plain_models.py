"""A `RaFMLayer` inside plain Keras models: training, saving, planted truth."""

from pathlib import Path

import keras
import numpy as np
import pytest
from oracle import KINDS, build_input, build_keras_input, large_random_layer, seen_by
from small_layers import IDS, built, make_plan, plain_model

import keras_rafm as kr


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
