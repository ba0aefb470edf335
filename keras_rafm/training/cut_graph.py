"""The graph of a model, cut at the scores of its `RaFMLayer`s: the forward pass and the lower losses of a training step."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_rafm.score.call_context import LevelScores
from keras_rafm.score.interactions import total
from keras_rafm.training.downstream import find_downstreams
from keras_rafm.training.imitation import default_weight, imitations_of, names_of_outputs


class CutGraph:
    """The downstream parts of a functional model, with a forward pass that also returns the tensors that join them.

    Args:
        model: The model.
        all_layers: Every layer of the model, those inside nested models included.

    Raises:
        ValueError: The model has no `RaFMLayer`, or one is called more than once or is inside a nested model.
    """

    def __init__(self, model: keras.Model, all_layers: list[keras.layers.Layer]) -> None:
        self._model = model
        self._downstreams = find_downstreams(model.outputs, all_layers)
        joining = {id(tensor): tensor for downstream in self._downstreams for tensor in downstream.joining}
        self._joining = list(joining.values())
        self._forward_model = keras.Model(model.input, [*model.outputs, *self._joining]) if self._joining else model

    @property
    def bypasses_call(self) -> bool:
        """Whether `forward` runs a helper model instead of the model's own `call`."""
        return bool(self._joining)

    def dependent_loss_names(self) -> list[str]:
        """Return the name of each lower loss, in the order of `dependent_losses`."""
        has_several_layers = len(self._downstreams) > 1
        return [
            f"{downstream.layer.name}_dependent_loss_{level}" if has_several_layers else f"dependent_loss_{level}"
            for downstream in self._downstreams
            for level in range(1, downstream.layer.num_levels)
        ]

    def forward(self, x: Any) -> tuple[Any, dict[int, tf.Tensor]]:
        """Return the model's outputs in training mode, and the value of every joining tensor by the `id` of the tensor."""
        if not self._joining:
            return self._forward_model(x, training=True), {}
        values = self._forward_model(x, training=True)
        num_outputs = len(self._model.outputs)
        outputs = keras.tree.pack_sequence_as(self._model.output, values[:num_outputs])
        if isinstance(outputs, (list, tuple)) and len(outputs) == 1:
            outputs = outputs[0]
        return outputs, {id(t): value for t, value in zip(self._joining, values[num_outputs:], strict=True)}

    def dependent_losses(
        self,
        loss: Any,
        loss_weights: Any,
        level_scores: LevelScores,
        joining_values: dict[int, tf.Tensor],
        sample_weight: Any,
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Return the lower loss of every level of every layer, and their weighted sum.

        Args:
            loss: The loss that was given to `compile`.
            loss_weights: The weights that were given to `compile`.
            level_scores: The level scores of every layer with several levels.
            joining_values: The second result of `forward`.
            sample_weight: The sample weights of the batch, in any form that `fit` takes.
        """
        names = names_of_outputs(self._model)
        imitations = imitations_of(loss, loss_weights, names)
        sample_weights = _sample_weight_per_output(sample_weight, names)
        losses: list[tf.Tensor] = []
        weighted: list[tf.Tensor] = []
        for downstream in self._downstreams:
            scores = level_scores.get(downstream.layer.name)
            if scores is None:  # a layer of one level has nothing to imitate
                continue
            values = [joining_values[id(tensor)] for tensor in downstream.joining]
            outputs_by_level = [downstream.rerun(score, values) for score in scores]
            reached = [(imitations[index], sample_weights[index]) for index in downstream.outputs]
            weights = downstream.layer.dependent_loss_weights(default_weight([imitation for imitation, _ in reached]))
            for weight, (outputs, next_outputs) in zip(weights, itertools.pairwise(outputs_by_level), strict=True):
                terms = [
                    imitation(next_output, output, weight_per_sample)
                    for (imitation, weight_per_sample), output, next_output in zip(
                        reached, outputs, next_outputs, strict=True
                    )
                    if imitation is not None
                ]
                losses.append(_sum_or_zero(terms))
                if weight:
                    weighted.append(weight * losses[-1])
        return losses, _sum_or_zero(weighted)


def _sum_or_zero(losses: Sequence[tf.Tensor]) -> tf.Tensor:
    return total(losses) if losses else tf.zeros([], keras.config.floatx())


def _sample_weight_per_output(sample_weight: Any, output_names: list[str]) -> list[Any]:
    if isinstance(sample_weight, Mapping):
        return [sample_weight.get(name) for name in output_names]
    if isinstance(sample_weight, (list, tuple)):
        return list(sample_weight)
    return [sample_weight] * len(output_names)
