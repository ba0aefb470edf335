"""`RaFMModel.fit` on two devices (`tf.distribute.MirroredStrategy`), compared with one device."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from replicas import strategy_of

import keras_rafm as kr

PLAN = kr.RankPlan([3, 1, 2, 2, 1, 3, 1, 1, 2], ranks=(2, 3, 4))
GENERATOR = np.random.default_rng(0)
IDS = GENERATOR.integers(-1, PLAN.num_features, (40, 4)).astype("int32")
DENSE = GENERATOR.normal(size=(40, 2)).astype("float32")
LABELS = GENERATOR.integers(0, 2, (40, 1)).astype("float32")
WEIGHT = GENERATOR.uniform(0.2, 2.0, 40).astype("float32")


def build(loss: Any, optimizer: keras.optimizers.Optimizer, plain: bool = False, **options: Any) -> keras.Model:
    ids, inputs = keras.Input((4,), dtype="int32", name="ids"), keras.Input((2,), name="more")
    normal = keras.initializers.RandomNormal(stddev=0.4)
    score = kr.RaFMLayer(PLAN, factors_initializer=normal, seed=5, name="rafm", **options)(ids)
    deep = keras.layers.Dense(1, kernel_initializer=keras.initializers.RandomNormal(seed=4), name="deep")(inputs)
    model = (keras.Model if plain else kr.RaFMModel)([ids, inputs], keras.layers.Add()([score, deep]))
    model.compile(optimizer, loss, metrics=[keras.metrics.MeanAbsoluteError(name="mae")])
    return model


def batches(size: int) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(((IDS[:size], DENSE[:size]), LABELS[:size], WEIGHT[:size])).batch(10)


def assert_two_devices_train_as_one(
    optimizer: Callable[[], keras.optimizers.Optimizer], loss: Any, fit: dict[str, Any], **options: Any
) -> dict[str, list[float]]:
    initial, models, histories = build(loss, optimizer(), **options), [], []
    for devices in (1, 2):
        with strategy_of(devices).scope():
            models.append(build(loss, optimizer(), **options))
        histories.append(models[-1].fit(batches(40), epochs=2, shuffle=False, verbose=0, **fit).history)
    for start, one, two in zip(initial.weights, models[0].weights, models[1].weights, strict=True):
        np.testing.assert_allclose(two.numpy(), one.numpy(), rtol=0, atol=1e-6, err_msg=one.path)
        assert one.name == "slots" or np.max(np.abs(one.numpy() - start.numpy())) > 1e-4, one.path
    assert histories[0].keys() == histories[1].keys()
    for name, values in histories[0].items():
        assert histories[1][name] == pytest.approx(values, rel=1e-5), name
    return histories[1]


def test_two_devices_train_as_one_with_l2_over_tables() -> None:
    history = assert_two_devices_train_as_one(
        lambda: keras.optimizers.SGD(0.2),
        keras.losses.BinaryCrossentropy(from_logits=True),
        {"validation_data": batches(40)},
        factors_l2=(0.01, 0.02, 0.03),
        linear_l2=0.01,
    )
    assert history.keys() == {"loss", "dependent_loss_1", "dependent_loss_2", "mae", "val_loss", "val_mae"}


@pytest.mark.parametrize("max_dense_rows", [0, 5])
def test_two_devices_train_as_one_on_sparse_gradients(max_dense_rows: int) -> None:
    """Features are in the batches of both devices, and updates of Keras optimizers are wrong for repeated rows."""
    both = [np.intersect1d(IDS[start : start + 5], IDS[start + 5 : start + 10]) for start in range(0, 40, 10)]
    assert all(np.any(ids >= 0) for ids in both)
    assert_two_devices_train_as_one(
        lambda: keras.optimizers.Adam(0.02, epsilon=1e-3),
        "mse",
        {},
        factors_l2=0.0,
        dependent_loss_weight=(0.5, 2.0),
        max_dense_rows=max_dense_rows,
    )


def test_two_devices_train_as_one_on_whole_tables() -> None:
    assert_two_devices_train_as_one(lambda: kr.optimizers.LazyAdam(0.02, epsilon=1e-3), "mse", {})


def test_uneven_last_batch_is_weighted_as_in_keras() -> None:
    """One device gets 4 of the 7 samples and the other gets 3. Keras takes the mean of the two means."""
    models = []
    for plain in (False, True):
        with strategy_of(2).scope():
            models.append(build("mse", keras.optimizers.SGD(0.2), plain, dependent_gradient="upper"))
        models[-1].fit(batches(17), shuffle=False, verbose=0)
    for one, other in zip(*(model.weights for model in models), strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=0, atol=1e-6, err_msg=one.path)


def test_float_ids_are_refused() -> None:
    with strategy_of(2).scope():
        model = build("mse", keras.optimizers.SGD(0.2))
    data = tf.data.Dataset.from_tensor_slices(((IDS[:4] + 0.5, DENSE[:4]), LABELS[:4])).batch(4)
    for run in (lambda: model.fit(data, shuffle=False, verbose=0), lambda: model.evaluate(data, verbose=0)):
        with pytest.raises(TypeError, match=r"Input 'ids' .* must be integers \(int32\). Received: dtype float64"):
            run()


@pytest.mark.parametrize("max_dense_rows", [0, 9])
def test_two_devices_train_a_plain_model_as_one(max_dense_rows: int) -> None:
    """Keras's `train_step` does not merge sparse gradients of several devices, so the layer gives it dense ones."""
    models = []
    for devices in (1, 2):
        with strategy_of(devices).scope():
            adam = keras.optimizers.Adam(0.02, epsilon=1e-3)
            models.append(build("mse", adam, plain=True, factors_l2=0.0, max_dense_rows=max_dense_rows))
        models[-1].fit(batches(40), epochs=2, shuffle=False, verbose=0)
    for one, two in zip(*(model.weights for model in models), strict=True):
        np.testing.assert_allclose(two.numpy(), one.numpy(), rtol=0, atol=1e-6, err_msg=one.path)
