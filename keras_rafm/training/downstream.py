"""The downstream part of a functional model: everything between a RaFM score and the outputs.

The bi-level update needs the model's outputs with the level score `ŷ_k` in place of `ŷ_m`. So the graph is cut at the
score and at every other tensor that joins downstream of it. The part downstream of the cut then runs again on each level
score, with everything else held constant.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_rafm.layer import RaFMLayer
from keras_rafm.training.functional_graph import nodes_above


class Downstream(NamedTuple):
    """The downstream part of one `RaFMLayer`.

    Attributes:
        layer: The layer.
        outputs: The positions of the flat outputs of the model that depend on the score.
        joining: The other tensors that enter downstream of the score, in the order in which `rerun` takes their values.
        model: A model from `[score, *joining]` to these outputs, or `None` if the score itself is the only such output.
    """

    layer: RaFMLayer
    outputs: list[int]
    joining: list[keras.KerasTensor]
    model: keras.Model | None

    def rerun(self, score: tf.Tensor, joining_values: list[tf.Tensor]) -> list[tf.Tensor]:
        """Return the outputs for another score, with everything else held constant.

        Downstream weights get no gradient, statistics and seeds of downstream layers do not change, and losses that these
        layers add are not added again. But Keras then forgets the losses that were added in the model's own forward pass,
        so collect them before.

        Args:
            score: The score, `[B, 1]`. The outputs are differentiable with respect to it.
            joining_values: The values of `joining` in the model's own forward pass.
        """
        if self.model is None:
            return [score]
        constants = [(variable, tf.stop_gradient(variable.value)) for variable in self.model.variables]
        with keras.StatelessScope(state_mapping=constants):
            values = self.model([score, *map(_stop_gradient, joining_values)], training=True)
        return keras.tree.flatten(values)


def find_downstreams(outputs: list[keras.KerasTensor], all_layers: list[keras.layers.Layer]) -> list[Downstream]:
    """Cut a functional graph at the score of every `RaFMLayer` in it.

    Args:
        outputs: The flat outputs of the model.
        all_layers: All layers of the model, including those inside nested models.

    Raises:
        ValueError: There is no `RaFMLayer`, or one is inside a nested model or called more than once.
    """
    nodes = nodes_above(outputs)
    downstreams = []
    for layer in all_layers:
        if not isinstance(layer, RaFMLayer):
            continue
        calls = [node for node in nodes if node.operation is layer]
        if not calls:
            raise ValueError(
                f"The score of {layer.name} must be a tensor of the RaFMModel itself, but {layer.name} is inside a nested "
                "model or layer. Use the layers of the nested model directly in the RaFMModel."
            )
        if len(calls) > 1:
            raise ValueError(
                f"{layer.name} must be called once in a RaFMModel, which could not distinguish the level scores of several "
                f"calls. Received: {len(calls)} calls. Use one RaFMLayer per call."
            )
        downstreams.append(_cut(layer, calls[0].output_tensors[0], nodes, outputs))
    if not downstreams:
        raise ValueError("A RaFMModel must have at least one RaFMLayer between its inputs and its outputs. Received: none")
    return downstreams


def _cut(layer: RaFMLayer, score: keras.KerasTensor, nodes: list[Any], outputs: list[keras.KerasTensor]) -> Downstream:
    downstream = {id(score)}
    downstream_nodes = []
    for node in nodes:  # parents come before children
        if any(id(tensor) in downstream for tensor in node.input_tensors):
            downstream_nodes.append(node)
            downstream.update(id(tensor) for tensor in node.output_tensors)
    reached = [index for index, output in enumerate(outputs) if id(output) in downstream]
    if [id(outputs[index]) for index in reached] == [id(score)]:
        return Downstream(layer, reached, joining=[], model=None)
    entering = {
        id(tensor): tensor for node in downstream_nodes for tensor in node.input_tensors if id(tensor) not in downstream
    }
    joining = list(entering.values())
    model = _model_of([score, *joining], downstream_nodes, [outputs[index] for index in reached])
    return Downstream(layer, reached, joining, model)


def _model_of(inputs: list[keras.KerasTensor], nodes: list[Any], outputs: list[keras.KerasTensor]) -> keras.Model:
    """Return a model of some nodes of a graph, with a new `keras.Input` in place of each tensor in `inputs`.

    `keras.Model(inputs, outputs)` would do the same for tensors from the middle of a graph, but fails if an output is one
    of the inputs, or if a layer is used both upstream and downstream of the cut.
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
