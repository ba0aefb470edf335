"""What the lower problem minimises, given the compiled loss: `L(stop(ŷ_{k+1}), ŷ_k)`.

A log-loss model imitates the next level's probability by cross-entropy, every other one its output by the squared
difference. The reduction is that of the compiled loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_rafm.layer import DEFAULT_SQUARED_ERROR_WEIGHT

#: `dependent_loss_weight="auto"` for log-losses, measured on validation data: see benchmarks/README.md.
DEFAULT_CROSS_ENTROPY_WEIGHT = 4.0


class OutputImitation(NamedTuple):
    """How one output of a model imitates the next level.

    Attributes:
        loss: Of `(target, prediction, sample_weight)`.
        weight: Weight of this output's loss in `compile(loss_weights=…)`.
        is_cross_entropy: Whether the compiled loss is a log-loss.
    """

    loss: keras.losses.Loss
    weight: float
    is_cross_entropy: bool

    def __call__(self, next_output: tf.Tensor, output: tf.Tensor, sample_weight: tf.Tensor | None) -> tf.Tensor:
        """`L(stop(f(ŷ_{k+1})), f(ŷ_k))`, weighted: a scalar in Keras's default float dtype."""
        target = tf.stop_gradient(next_output)
        if self.is_cross_entropy and self.loss.from_logits:
            target = tf.sigmoid(target)
        # Without a reduction there is one loss per sample, whose sum is what a Keras model minimises.
        value = tf.cast(self.loss(target, output, sample_weight), keras.config.floatx())
        return self.weight * tf.reduce_sum(value)


def names_of_outputs(model: keras.Model) -> list[str]:
    """The names that `compile` and `fit` know the flat outputs of a functional model by.

    They are the keys of outputs given as a dict, else the names of the layers that the outputs come from.
    """
    if isinstance(model.output, Mapping):
        return [str(path[0]) for path, _ in keras.tree.flatten_with_path(model.output)]
    return list(model.output_names)


def imitations_of(loss: Any, loss_weights: Any, output_names: list[str]) -> list[OutputImitation | None]:
    """The lower loss of every output of a model.

    Args:
        loss: As given to `compile`: one loss for all outputs, a list or a dict of one per output, or `None`.
        loss_weights: As given to `compile`.
        output_names: Names of the outputs, in order.

    Returns:
        One entry per output; `None` where the compiled loss has none. Without any compiled loss (a model that is
        trained through `add_loss` alone) all outputs imitate by squared difference.

    Raises:
        ValueError: There is not one loss, or not one weight, per output.
    """
    if loss is None:
        return [_imitation(keras.losses.MeanSquaredError(), 1.0) for _ in output_names]
    losses = _per_output(loss, output_names, "loss")
    weights = _per_output(1.0 if loss_weights is None else loss_weights, output_names, "loss_weights")
    return [
        None if one is None else _imitation(keras.losses.get(one), 1.0 if weight is None else float(weight))
        for one, weight in zip(losses, weights, strict=True)
    ]


def default_weight(imitations: list[OutputImitation | None]) -> float:
    """`dependent_loss_weight="auto"` for a score that reaches outputs with these lower losses."""
    cross_entropy = [imitation.is_cross_entropy for imitation in imitations if imitation is not None]
    return DEFAULT_CROSS_ENTROPY_WEIGHT if cross_entropy and all(cross_entropy) else DEFAULT_SQUARED_ERROR_WEIGHT


def _imitation(loss: Any, weight: float) -> OutputImitation:
    reduction = getattr(loss, "reduction", "sum_over_batch_size")
    if isinstance(loss, keras.losses.BinaryCrossentropy):
        imitating = keras.losses.BinaryCrossentropy(from_logits=loss.from_logits, axis=loss.axis, reduction=reduction)
        return OutputImitation(imitating, weight, True)
    if loss is keras.losses.binary_crossentropy:
        return OutputImitation(keras.losses.BinaryCrossentropy(reduction=reduction), weight, True)
    return OutputImitation(keras.losses.MeanSquaredError(reduction=reduction), weight, False)


def _per_output(given: Any, output_names: list[str], argument: str) -> list[Any]:
    if isinstance(given, Mapping) and "class_name" not in given:
        unknown = set(given) - set(output_names)
        if unknown:
            raise ValueError(f"`{argument}` must name outputs of the model ({output_names}). Received: {sorted(unknown)}")
        return [given.get(name) for name in output_names]
    if isinstance(given, (list, tuple)):
        if len(given) != len(output_names):
            raise ValueError(f"`{argument}` must have one entry per output ({len(output_names)}). Received: {len(given)}")
        return list(given)
    return [given] * len(output_names)
