"""The layer whose score a model outputs, and the conversion of the model's inputs to those of the layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_rafm.checks.arguments import integer_or_none
from keras_rafm.checks.model_inputs import check_integer_inputs, pair_inputs
from keras_rafm.layer import RaFMLayer
from keras_rafm.training.functional_graph import LayerCall, calls_of, functional_graph, is_sigmoid_layer, node_of


class Scorer(NamedTuple):
    """A layer, and the model whose output is the score of the layer or the sigmoid of that score.

    Attributes:
        layer: The layer.
        graph: The functional graph of the model; `None` for a layer alone.
        call: The call of the layer in the graph; `None` for a layer alone.
        has_sigmoid: Whether the output is the sigmoid of the score.
    """

    layer: RaFMLayer
    graph: keras.Model | None = None
    call: LayerCall | None = None
    has_sigmoid: bool = False

    def checked_level(self, level: int | None) -> int:
        """Return the level `k` of the wanted scores `ŷ_k`; the highest level for `None`.

        Raises:
            TypeError: `level` is not an integer.
            ValueError: The layer has no such level.
        """
        level = integer_or_none(level, "level")
        if level is not None and not 1 <= level <= self.layer.num_levels:
            raise ValueError(f"`level` must be in 1 … {self.layer.num_levels}. Received: level={level}")
        return self.layer.num_levels if level is None else level

    def layer_inputs(self, inputs: Any) -> Any:
        """Return the inputs of the layer from those of the model or of the layer.

        Raises:
            TypeError: Ids are not integers.
            ValueError: There are values, and the model takes none.
        """
        if self.graph is None or self.call is None or _is_nested_list(inputs):
            return inputs
        layer_inputs = _from_model_inputs(inputs, self.graph, self.call)
        has_values = isinstance(layer_inputs, tf.SparseTensor) or (
            isinstance(layer_inputs, Mapping) and "values" in layer_inputs
        )
        if has_values and not self.call.has_values:
            raise ValueError(f"{self.graph.name} takes ids without values. Received: values")
        return layer_inputs


def scorer_of(model: Any) -> Scorer:
    """Find the layer whose score a model outputs.

    Args:
        model: A functional model or a built Sequential, or a `RaFMLayer` alone.

    Raises:
        RuntimeError: A model is given inside the scope of a distribution strategy.
        TypeError: `model` is none of these.
        ValueError: The model's output is not the score of a `RaFMLayer` on inputs of the model, nor its sigmoid.
    """
    if isinstance(model, RaFMLayer):
        return Scorer(model)
    graph = functional_graph(model)
    if len(graph.outputs) != 1:
        raise ValueError(f"{graph.name} must have one output, the score of a RaFMLayer. Received: {len(graph.outputs)}")
    node = node_of(graph.outputs[0])
    has_sigmoid = _is_sigmoid(node.operation)
    if has_sigmoid:
        node = node_of(node.input_tensors[0])
    if not isinstance(node.operation, RaFMLayer):
        raise ValueError(
            f"The output of {graph.name} must be the score of a RaFMLayer, or its sigmoid: no other score is one inner "
            f"product of an item and a context. Received: the output of {node.operation.name}, a "
            f"{type(node.operation).__name__}"
        )
    call = calls_of(graph)[-1]  # the other calls are above it
    if call.ids is None or (call.has_values and call.values is None and not call.ids.sparse):
        raise ValueError(
            f"{node.operation.name} must take its ids and values from the inputs of {graph.name}, not from other layers. "
            f"Pass {node.operation.name} itself as the model, and the inputs of that layer"
        )
    return Scorer(node.operation, graph, call, has_sigmoid)


def _from_model_inputs(inputs: Any, graph: keras.Model, call: LayerCall) -> Any:
    """Return the inputs of the layer from those of the model. Inputs that are not the model's are returned unchanged."""
    pairs = pair_inputs(inputs, graph.input, graph.inputs)
    input_values = {id(declared): value for value, declared in pairs if value is not None}
    wanted = [tensor for tensor in (call.ids, call.values) if tensor is not None]
    is_missing = any(id(tensor) not in input_values for tensor in wanted)
    if is_missing or (isinstance(inputs, Mapping) and len(inputs) > len(input_values)):
        return inputs
    check_integer_inputs(inputs, graph)
    ids, *values = (tf.cast(input_values[id(tensor)], tensor.dtype) for tensor in wanted)
    return {"ids": ids, "values": values[0]} if values else ids


def _is_sigmoid(operation: Any) -> bool:
    # In a graph, `keras.ops.sigmoid` is an operation of a class that is not public.
    return is_sigmoid_layer(operation) or type(operation).__name__ == "Sigmoid"


def _is_nested_list(inputs: Any) -> bool:
    """Return whether ids are given as Python lists, which Keras would take for many inputs."""
    return isinstance(inputs, (list, tuple)) and all(isinstance(row, (list, tuple, int, np.integer)) for row in inputs)
