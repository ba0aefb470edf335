"""`LazyAdam` in models: loss scaling, mixed precision, and the default of `compile`."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import pytest
from optimizer_steps import assert_close

import keras_rafm as kr

PLAN = kr.RankPlan([3, 1, 2, 2, 1, 3, 1, 1, 2], ranks=(2, 3, 4))


IDS = np.random.default_rng(0).integers(-1, 6, (12, 4)).astype("int32")


IDLE = [6, 7, 8]


LABELS = np.random.default_rng(1).integers(0, 2, (12, 1)).astype("float32")


def rafm(optimizer: Any, kind: Callable[..., keras.Model] = kr.RaFMModel, **options: Any) -> keras.Model:
    ids = keras.Input((4,), dtype="int32", name="ids")
    random = keras.initializers.RandomNormal(stddev=0.4)
    model = kind(ids, kr.RaFMLayer(PLAN, factors_initializer=random, seed=5, name="rafm")(ids))
    model.compile(optimizer, keras.losses.BinaryCrossentropy(from_logits=True), **options)
    return model


def factors(model: keras.Model, ids: Sequence[int] = range(9)) -> list[np.ndarray]:
    layer, rows = model.get_layer("rafm"), []
    for level in (1, 2, 3):
        level_ids, matrix = layer.factors(level)
        rows += [row for i, row in zip(level_ids, matrix, strict=True) if i in ids]
    return rows


class TestLossScaling:
    @pytest.mark.parametrize(
        ("kind", "run_eagerly"),
        [(kr.RaFMModel, False), (keras.Model, True)],
        ids=["rafm_model, graph", "model"],
    )
    def test_changes_nothing(self, kind: Callable[..., keras.Model], run_eagerly: bool) -> None:
        models = [
            rafm(keras.optimizers.LossScaleOptimizer(self.adam(), dynamic_growth_steps=2), kind, run_eagerly=run_eagerly),
            rafm(self.adam(), kind, run_eagerly=True),
        ]
        for start in (0, 3, 6, 0):
            for model in models:
                model.train_on_batch(IDS[start : start + 3], LABELS[start : start + 3])
        for one, other in zip(*(model.get_layer("rafm").get_weights() for model in models), strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-6)
        for one, start in zip(factors(models[0], IDLE), factors(rafm(None), IDLE), strict=True):
            assert_close(one, start * (1 - 0.1 * 2.0) ** 4)

    def test_a_skipped_step_decays_nothing(self) -> None:
        model = rafm(keras.optimizers.LossScaleOptimizer(self.adam()), run_eagerly=True)
        model.train_on_batch(IDS[:3], LABELS[:3])
        before = model.get_weights()
        model.train_on_batch(IDS[3:6], LABELS[3:6], sample_weight=np.full(3, np.inf, "float32"))
        assert all(np.array_equal(one, other) for one, other in zip(before, model.get_weights(), strict=True))
        model.train_on_batch(IDS[3:6], LABELS[3:6])
        for one, start in zip(factors(model, IDLE), factors(rafm(None), IDLE), strict=True):
            assert_close(one, start * (1 - 0.1 * 2.0) ** 2)

    def test_mixed_precision(self) -> None:
        keras.mixed_precision.set_global_policy("mixed_float16")
        try:
            model, start = rafm(self.adam()), factors(rafm(None), IDLE)
        finally:
            keras.mixed_precision.set_global_policy("float32")
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        losses = model.fit(IDS, LABELS, batch_size=4, epochs=10, verbose=0).history["loss"]
        assert losses[-1] < 0.8 * losses[0]
        num_steps = int(model.optimizer.iterations)
        assert num_steps > 20
        assert model.get_layer("rafm").free_tables[0].dtype == "float32"
        for one, initial in zip(factors(model, IDLE), start, strict=True):
            np.testing.assert_allclose(one, initial * (1 - 0.1 * 2.0) ** num_steps, rtol=1e-4, atol=1e-30)

    def adam(self) -> keras.optimizers.Optimizer:
        return kr.optimizers.LazyAdam(0.1, idle_decay=2.0, epsilon=1e-3)


def test_default_of_compile() -> None:
    model = rafm(None)
    assert type(model.optimizer) is kr.optimizers.LazyAdam
    assert model.optimizer.get_config() == kr.optimizers.LazyAdam().get_config()
    ids = keras.Input((4,), dtype="int32")
    other = kr.RaFMModel(ids, kr.RaFMLayer(PLAN)(ids))
    other.compile(loss="mse", run_eagerly=True)
    assert type(other.optimizer) is kr.optimizers.LazyAdam
    other.fit(IDS, LABELS, verbose=0)
