"""The part of a functional model that lies between a RaFM score and the outputs.

The bi-level update needs the model's outputs with the level score `ŷ_k` in place of `ŷ_m`. So the graph is cut at the
score and at every other tensor that joins below it, and the part below the cut runs again on each level score, with all
else held constant.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_rafm.layer import RaFMLayer
from keras_rafm.training.functional_graph import nodes_above


class Downstream(NamedTuple):
    """Where the score of one `RaFMLayer` goes.

    Attributes:
        layer: The layer.
        outputs: Which of the model's flat outputs depend on the score.
        joining: The other tensors that enter below the score, in the order `rerun` expects their values.
        model: From `[score, *joining]` to those outputs, or `None` where the score is the only such output itself.
    """

    layer: RaFMLayer
    outputs: list[int]
    joining: list[keras.KerasTensor]
    model: keras.Model | None

    def rerun(self, score: tf.Tensor, joining_values: list[tf.Tensor]) -> list[tf.Tensor]:
        """The outputs with another score, everything else held constant.

        Weights below the score get no gradient, statistics and seeds there stay as they are, and losses that layers add
        there are not added again (those of the model's own pass are forgotten: ask for them before).

        Args:
            score: `[B, 1]`; the outputs are differentiable with respect to it.
            joining_values: Values of `joining` in the model's own forward pass.
        """
        if self.model is None:
            return [score]
        held = [(variable, tf.stop_gradient(variable.value)) for variable in self.model.variables]
        with keras.StatelessScope(state_mapping=held):
            values = self.model([score, *map(_stop_gradient, joining_values)], training=True)
        return keras.tree.flatten(values)


def find_downstreams(outputs: list[keras.KerasTensor], all_layers: list[keras.layers.Layer]) -> list[Downstream]:
    """Cut a functional graph at the score of every `RaFMLayer` in it.

    Args:
        outputs: Flat outputs of the model.
        all_layers: Every layer of the model, those inside nested models included.

    Raises:
        ValueError: There is no `RaFMLayer`, one is inside a nested model or called more than once.
    """
    nodes = nodes_above(outputs)
    found = []
    for layer in all_layers:
        if not isinstance(layer, RaFMLayer):
            continue
        calls = [node for node in nodes if node.operation is layer]
        if not calls:
            raise ValueError(
                f"The score of {layer.name} must be a tensor of the RaFMModel itself, but {layer.name} is inside a nested "
                "model or layer. Put the layers of the nested model into the RaFMModel."
            )
        if len(calls) > 1:
            raise ValueError(
                f"{layer.name} is called {len(calls)} times in a RaFMModel, which can't tell the level scores of the calls "
                "apart. Use one RaFMLayer per call."
            )
        found.append(_cut(layer, calls[0].output_tensors[0], nodes, outputs))
    if not found:
        raise ValueError("A RaFMModel needs at least one RaFMLayer between its inputs and its outputs. Received none.")
    return found


def _cut(layer: RaFMLayer, score: keras.KerasTensor, nodes: list[Any], outputs: list[keras.KerasTensor]) -> Downstream:
    below = {id(score)}
    joining: dict[int, keras.KerasTensor] = {}
    for node in nodes:  # parents come before children
        if any(id(tensor) in below for tensor in node.input_tensors):
            below.update(id(tensor) for tensor in node.output_tensors)
    for node in nodes:
        if any(id(tensor) in below for tensor in node.input_tensors):
            joining.update((id(tensor), tensor) for tensor in node.input_tensors if id(tensor) not in below)
    reached = [index for index, output in enumerate(outputs) if id(output) in below]
    if [id(outputs[index]) for index in reached] == [id(score)]:
        return Downstream(layer, reached, [], None)
    tensors = list(joining.values())
    nodes_below = [node for node in nodes if any(id(tensor) in below for tensor in node.input_tensors)]
    return Downstream(layer, reached, tensors, _model_of([score, *tensors], nodes_below, [outputs[i] for i in reached]))


def _model_of(inputs: list[keras.KerasTensor], nodes: list[Any], outputs: list[keras.KerasTensor]) -> keras.Model:
    """The nodes as a model of their own, with a new `keras.Input` in place of each of the given tensors.

    `keras.Model(inputs, outputs)` on tensors from the middle of a graph does the same unless an output is one of the
    inputs, or a layer is used both above and below the cut: there it fails.
    """
    new_inputs = [
        keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, sparse=tensor.sparse, ragged=tensor.ragged)
        for tensor in inputs
    ]
    new_tensors = {id(tensor): new for tensor, new in zip(inputs, new_inputs, strict=True)}
    for node in nodes:
        args, kwargs = node.arguments.fill_in(new_tensors)
        results = keras.tree.flatten(node.operation(*args, **kwargs))
        new_tensors.update((id(tensor), new) for tensor, new in zip(node.output_tensors, results, strict=True))
    return keras.Model(new_inputs, [new_tensors[id(output)] for output in outputs])


def _stop_gradient(value: Any) -> Any:
    if isinstance(value, tf.RaggedTensor):
        return value.with_flat_values(tf.stop_gradient(value.flat_values))
    if isinstance(value, tf.SparseTensor):
        return tf.SparseTensor(value.indices, tf.stop_gradient(value.values), value.dense_shape)
    return tf.stop_gradient(value)
