"""One optimizer step, compared with finite differences of the stated losses for every weight.

The expected values come from independent code in NumPy and float64, with a double loop over pairs of features. The upper
loss is `L(y, ŷ_m)` as a function of all weights. The lower loss of level k is `L(f(ŷ_{k+1}), f(ŷ_k))` as a function of the
dependent factors of level k, `w` and `b`. Everything else in it, including the target, has its initial value.
"""

from collections.abc import Callable, Iterator

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_rafm as kr

NUM_FEATURES = 9
RANKS = (2, 3, 4)
LEVELS = np.array([1, 3, 2, 3, 1, 2, 3, 2, 1])
IDS = np.array([[0, 1, 2, 3], [3, 6, 5, 1], [7, 2, 2, 8], [4, -1, 6, -1], [-1, -1, -1, -1]], "int32")
VALUES = np.array([[1, 0.5, -2, 1], [1, 1, 1, 1], [0.3, 2, -1, 1], [1, 9, 1.5, 9], [9, 9, 9, 9]], "float64")
LABELS = np.array([[1], [0], [1], [0], [1]], "float64")
SAMPLE_WEIGHT = np.array([1.0, 0.5, 2.0, 1.5, 0.25])
DEPENDENT_WEIGHTS = (0.7, 2.5)
STEP = 1e-6

Weights = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def cross_entropy(target: np.ndarray, logit: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, logit) - target * logit


#: Name -> compiled loss, whether the model ends in a sigmoid, upper loss of (y, score), lower loss of (next score, score).
LOSSES: dict[str, tuple[keras.losses.Loss, bool, Callable, Callable]] = {
    "logits": (
        keras.losses.BinaryCrossentropy(from_logits=True),
        False,
        cross_entropy,
        lambda t, s: cross_entropy(sigmoid(t), s),
    ),
    "probabilities": (
        keras.losses.BinaryCrossentropy(),
        True,
        cross_entropy,
        lambda t, s: cross_entropy(sigmoid(t), s),
    ),
    "label_smoothing": (
        keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.2),
        False,
        lambda y, s: cross_entropy(0.8 * y + 0.1, s),
        lambda t, s: cross_entropy(sigmoid(t), s),
    ),
    "squared": (keras.losses.MeanSquaredError(), False, lambda y, s: (y - s) ** 2, lambda t, s: (t - s) ** 2),
    "other": (keras.losses.LogCosh(), False, lambda y, s: np.log(np.cosh(s - y)), lambda t, s: (t - s) ** 2),
}


def level_score(weights: Weights, level: int) -> np.ndarray:
    """Return `ŷ_level` of every sample, computed by a double loop over pairs."""
    scores = []
    for ids, values in zip(IDS, VALUES, strict=True):
        occurrences = [(i, x) for i, x in zip(ids, values, strict=True) if i >= 0]
        score = float(weights["bias"])
        for a, (i, x) in enumerate(occurrences):
            score += weights["linear"][i] * x
            for j, z in occurrences[a + 1 :]:
                q = min(LEVELS[i], LEVELS[j], level)
                score += vector(weights, i, q) @ vector(weights, j, q) * x * z
        scores.append(score)
    return np.array(scores)


def vector(weights: Weights, feature: int, level: int) -> np.ndarray:
    return weights[f"free_{level}" if LEVELS[feature] == level else f"dependent_{level}"][feature]


def upper_loss(weights: Weights, loss: str, l2: float) -> float:
    pairs = LOSSES[loss][2](LABELS[:, 0], level_score(weights, len(RANKS)))
    penalty = l2 * sum(np.sum(v**2) for name, v in weights.items() if name not in ("linear", "bias"))
    return np.mean(SAMPLE_WEIGHT * pairs) + penalty


def lower_loss(weights: Weights, initial: Weights, level: int, loss: str) -> float:
    """Return the lower loss of a level. Of `weights`, only the dependent factors of the level, `w` and `b` are used."""
    variable = (f"dependent_{level}", "linear", "bias")
    mixed = {name: (weights if name in variable else initial)[name] for name in weights}
    target = level_score(initial, level + 1)
    return np.mean(SAMPLE_WEIGHT * LOSSES[loss][3](target, level_score(mixed, level)))


def finite_differences(function: Callable[[Weights], float], weights: Weights, name: str) -> np.ndarray:
    gradient = np.zeros_like(weights[name])
    for index in np.ndindex(gradient.shape):
        sides = []
        for sign in (1, -1):
            moved = {key: value.copy() for key, value in weights.items()}
            moved[name][index] += sign * STEP
            sides.append(function(moved))
        gradient[index] = (sides[0] - sides[1]) / (2 * STEP)
    return gradient


def read_weights(layer: kr.RaFMLayer) -> Weights:
    """Return all weights by feature id. Rows of features that are not in a table are zero."""
    weights = {"linear": layer.linear(), "bias": np.array(layer.bias())}
    for level, rank in enumerate(RANKS, start=1):
        ids, matrix = layer.factors(level)
        for kind, chosen in (("free", LEVELS[ids] == level), ("dependent", LEVELS[ids] > level)):
            table = np.zeros((NUM_FEATURES, rank))
            table[ids[chosen]] = matrix[chosen]
            weights[f"{kind}_{level}"] = table
    return weights


def one_step(loss: str, mode: str, l2: float = 0.0) -> tuple[Weights, Weights]:
    """Return the weights before one step of gradient descent with rate 1, and the gradient of that step."""
    compiled, ends_in_sigmoid, _, _ = LOSSES[loss]
    layer = kr.RaFMLayer(
        kr.RankPlan(LEVELS, RANKS),
        factors_initializer=keras.initializers.RandomNormal(stddev=0.6),
        linear_initializer=keras.initializers.RandomNormal(stddev=0.5),
        factors_l2=l2,
        dependent_gradient=mode,
        dependent_loss_weight=DEPENDENT_WEIGHTS,
        seed=7,
    )
    inputs = {
        "ids": keras.Input((4,), dtype="int32", name="ids"),
        "values": keras.Input((4,), dtype="float64", name="values"),
    }
    output = layer(inputs)
    model = kr.RaFMModel(inputs, keras.layers.Activation("sigmoid")(output) if ends_in_sigmoid else output)
    layer.assign_bias(0.3)
    model.compile(keras.optimizers.SGD(1.0), compiled)
    before = read_weights(layer)
    model.train_on_batch({"ids": IDS, "values": VALUES}, LABELS, sample_weight=SAMPLE_WEIGHT)
    after = read_weights(layer)
    return before, {name: before[name] - after[name] for name in before}


@pytest.mark.parametrize("mode", ["both", "lower", "upper"])
@pytest.mark.parametrize("loss", list(LOSSES))
def test_step_equals_finite_differences_of_the_stated_losses(loss: str, mode: str) -> None:
    weights, gradients = one_step(loss, mode)
    for name in weights:
        expected = np.zeros_like(weights[name])
        if not (mode == "lower" and name.startswith("dependent")):
            expected += finite_differences(lambda moved: upper_loss(moved, loss, 0.0), weights, name)
        if mode != "upper":
            for level, weight in enumerate(DEPENDENT_WEIGHTS, start=1):
                expected += weight * finite_differences(
                    lambda moved, level=level: lower_loss(moved, weights, level, loss), weights, name
                )
        np.testing.assert_allclose(gradients[name], expected, rtol=1e-5, atol=1e-8, err_msg=f"{name}")
        if name != "dependent_3":  # the last level has no dependent factors
            assert np.abs(expected).max() > 1e-3, f"{name} has no gradient to speak of: the test would show nothing"


def test_l2_over_tables_acts_on_idle_rows_too() -> None:
    weights, gradients = one_step("logits", "both", l2=0.05)
    _, without = one_step("logits", "both")
    for name in weights:
        pull = 0.0 if name in ("linear", "bias") else 2 * 0.05 * weights[name]
        np.testing.assert_allclose(gradients[name] - without[name], pull, atol=1e-9, err_msg=name)


def test_perfect_imitation_has_no_gradient() -> None:
    """If every level score equals the next one, the lower losses are at their minimum for any weight."""
    ids = keras.Input((2,), dtype="int32")
    layer = kr.RaFMLayer(kr.RankPlan([2, 2, 1], (1, 2)), dependent_loss_weight=1e3, factors_l2=0.0)
    model = kr.RaFMModel(ids, layer(ids))
    layer.assign_factors(2, [0, 1], [[0.6, 0.8], [1.0, 0.5]])  # <v_0, v_1> = 1
    layer.assign_factors(1, [0, 1, 2], [[0.5], [2.0], [3.0]])  # as above
    model.compile(keras.optimizers.SGD(1.0), keras.losses.BinaryCrossentropy(from_logits=True))
    before = layer.factors(1)[1]
    model.train_on_batch(np.array([[0, 1]]), np.array([[1.0]]))
    np.testing.assert_allclose(layer.factors(1)[1], before, atol=1e-10)


@pytest.mark.parametrize("has_values", [False, True])
def test_gradients_of_gradients(has_values: bool) -> None:
    """The gradient of the score is linear in the factors, because the score is quadratic in them."""
    layer = kr.RaFMLayer(kr.RankPlan(LEVELS, RANKS), seed=1)
    inputs = {"ids": IDS, "values": VALUES} if has_values else IDS
    layer(inputs)
    table = layer.free_tables[1]
    direction = np.random.default_rng(0).normal(size=table.shape)

    def gradient() -> tf.Tensor:
        with tf.GradientTape() as tape:
            score = tf.reduce_sum(layer(inputs, training=True))
        return tf.convert_to_tensor(tape.gradient(score, table.value))

    with tf.GradientTape() as tape:
        along = tf.reduce_sum(gradient() * direction)
    second = tf.convert_to_tensor(tape.gradient(along, table.value))
    before = gradient()
    table.assign_add(direction)
    np.testing.assert_allclose(second, gradient() - before, rtol=1e-9, atol=1e-12)
