"""Small compiled models of three levels, and their losses in NumPy."""

from typing import Any

import keras
import numpy as np

import keras_rafm as kr

PLAN = kr.RankPlan([3, 1, 2, 2, 1, 3, 1, 1, 2], ranks=(2, 3, 4))


GENERATOR = np.random.default_rng(0)


IDS = GENERATOR.integers(-1, PLAN.num_features, (24, 4)).astype("int32")


IDS[0] = [5, 5, 0, 5]


LABELS = GENERATOR.integers(0, 2, (24, 1)).astype("float32")


SAMPLE_WEIGHT = GENERATOR.uniform(0.2, 3.0, 24).astype("float32")


LOGITS_LOSS = keras.losses.BinaryCrossentropy(from_logits=True)


def make_layer(name: str = "rafm", plan: kr.RankPlan = PLAN, **options: Any) -> kr.RaFMLayer:
    options = {
        "factors_initializer": keras.initializers.RandomNormal(stddev=0.4),
        "linear_initializer": keras.initializers.RandomNormal(stddev=0.4, seed=3),
        "factors_l2": 0.0,
        "seed": 5,
        **options,
    }
    return kr.RaFMLayer(plan, name=name, **options)


def make_model(activation: str | None = None, **options: Any) -> kr.RaFMModel:
    ids = keras.Input((4,), dtype="int32", name="ids")
    score = make_layer(**options)(ids)
    return kr.RaFMModel(ids, score if activation is None else keras.layers.Activation(activation, name="top")(score))


def compiled(loss: Any = LOGITS_LOSS, optimizer: Any = None, run_eagerly: bool = True, **options: Any) -> kr.RaFMModel:
    """Return a compiled model. It runs eagerly by default, which is twenty times faster than tracing for a step or two."""
    model = make_model(**options)
    model.compile(optimizer or keras.optimizers.SGD(0.1), loss, run_eagerly=run_eagerly)
    return model


def layer_of(model: kr.RaFMModel, name: str = "rafm") -> kr.RaFMLayer:
    return model.get_layer(name)


def level_scores(model: kr.RaFMModel, ids: np.ndarray = IDS) -> list[np.ndarray]:
    """Return `ŷ_1 … ŷ_m` of every sample in float64."""
    return list(layer_of(model).level_scores(ids).numpy().astype("float64").T)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def cross_entropy(target: np.ndarray, logit: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, logit) - target * logit


def log_loss_imitation(next_score: np.ndarray, score: np.ndarray) -> np.ndarray:
    return cross_entropy(sigmoid(next_score), score)


def squared_imitation(next_score: np.ndarray, score: np.ndarray) -> np.ndarray:
    return (next_score - score) ** 2


def weights_by_name(model: kr.RaFMModel) -> dict[str, np.ndarray]:
    return {weight.path: weight.numpy() for weight in model.weights}


def assert_same_weights(one: keras.Model, other: keras.Model, atol: float = 1e-6) -> None:
    for a, b in zip(one.weights, other.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=0, atol=atol, err_msg=a.path)


def changed(before: dict[str, np.ndarray], model: kr.RaFMModel) -> set[str]:
    """Return the names of the weights that differ from `before`."""
    after = weights_by_name(model)
    return {path.split("/", 1)[-1] for path in before if not np.array_equal(before[path], after[path])}
