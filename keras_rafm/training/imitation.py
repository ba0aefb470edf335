"""The loss of the lower problem, `L(stop(ŷ_{k+1}), ŷ_k)`, for a given compiled loss.

Under a log-loss, a level imitates the probability of the next level by cross-entropy. Under every other loss, it imitates
the output of the next level by the squared difference. The reduction is the one of the compiled loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_rafm.layer import DEFAULT_SQUARED_ERROR_WEIGHT

#: The weight that `dependent_loss_weight="auto"` stands for under log-losses, measured on validation data: see
#: benchmarks/README.md.
DEFAULT_CROSS_ENTROPY_WEIGHT = 4.0


class OutputImitation(NamedTuple):
    """How one output of a model imitates the next level.

    Attributes:
        loss: A loss of `(target, prediction, sample_weight)`.
        weight: The weight of this output in `compile(loss_weights=…)`.
        is_cross_entropy: Whether the compiled loss is a log-loss.
    """

    loss: keras.losses.Loss
    weight: float
    is_cross_entropy: bool

    def __call__(self, next_output: tf.Tensor, output: tf.Tensor, sample_weight: tf.Tensor | None) -> tf.Tensor:
        """Return `L(stop(f(ŷ_{k+1})), f(ŷ_k))` times the weight: a scalar in Keras's default float dtype."""
        target = tf.stop_gradient(next_output)
        if self.is_cross_entropy and self.loss.from_logits:
            target = tf.sigmoid(target)
        # Without a reduction there is one loss per sample, and a Keras model minimises their sum.
        value = tf.cast(self.loss(target, output, sample_weight), keras.config.floatx())
        return self.weight * tf.reduce_sum(value)


def names_of_outputs(model: keras.Model) -> list[str]:
    """Return the names of the flat outputs of a functional model, as `compile` and `fit` use them.

    These are the keys if the outputs are a dict, and otherwise the names of the layers that compute the outputs.
    """
    if isinstance(model.output, Mapping):
        return [str(path[0]) for path, _ in keras.tree.flatten_with_path(model.output)]
    return list(model.output_names)


def imitations_of(loss: Any, loss_weights: Any, output_names: list[str]) -> list[OutputImitation | None]:
    """Return the lower loss of every output of a model.

    Args:
        loss: The `loss` of `compile`: one loss for all outputs, a list or a dict with one loss per output, or `None`.
        loss_weights: The `loss_weights` of `compile`.
        output_names: The names of the outputs, in order.

    Returns:
        One entry per output, `None` for an output without a compiled loss. If there is no compiled loss at all, because
        the model is trained by `add_loss` alone, all outputs imitate by the squared difference.

    Raises:
        ValueError: The number of losses or of weights is not the number of outputs, or a name is not one of an output.
    """
    if loss is None:
        return [_imitation(keras.losses.MeanSquaredError(), 1.0) for _ in output_names]
    losses = _per_output(loss, output_names, "loss")
    weights = _per_output(1.0 if loss_weights is None else loss_weights, output_names, "loss_weights")
    return [
        None if output_loss is None else _imitation(keras.losses.get(output_loss), 1.0 if weight is None else float(weight))
        for output_loss, weight in zip(losses, weights, strict=True)
    ]


def default_weight(imitations: list[OutputImitation | None]) -> float:
    """Return the weight that `dependent_loss_weight="auto"` stands for, given the lower losses of the reached outputs."""
    cross_entropy = [imitation.is_cross_entropy for imitation in imitations if imitation is not None]
    return DEFAULT_CROSS_ENTROPY_WEIGHT if cross_entropy and all(cross_entropy) else DEFAULT_SQUARED_ERROR_WEIGHT


def _imitation(loss: Any, weight: float) -> OutputImitation:
    reduction = getattr(loss, "reduction", "sum_over_batch_size")
    if isinstance(loss, keras.losses.BinaryCrossentropy):
        # Without label smoothing, so that perfect imitation has a gradient of zero.
        cross_entropy = keras.losses.BinaryCrossentropy(from_logits=loss.from_logits, axis=loss.axis, reduction=reduction)
        return OutputImitation(cross_entropy, weight, is_cross_entropy=True)
    if loss is keras.losses.binary_crossentropy:
        return OutputImitation(keras.losses.BinaryCrossentropy(reduction=reduction), weight, is_cross_entropy=True)
    return OutputImitation(keras.losses.MeanSquaredError(reduction=reduction), weight, is_cross_entropy=False)


def _per_output(value: Any, output_names: list[str], argument: str) -> list[Any]:
    if isinstance(value, Mapping) and "class_name" not in value:  # a dict with that key is one serialised loss
        unknown = set(value) - set(output_names)
        if unknown:
            raise ValueError(f"`{argument}` must name outputs of the model ({output_names}). Received: {sorted(unknown)}")
        return [value.get(name) for name in output_names]
    if isinstance(value, (list, tuple)):
        if len(value) != len(output_names):
            raise ValueError(f"`{argument}` must have one entry per output ({len(output_names)}). Received: {len(value)}")
        return list(value)
    return [value] * len(output_names)
