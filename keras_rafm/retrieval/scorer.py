"""The layer whose score is what a model gives, and the inputs of that model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_rafm.checks.arguments import integer_or_none
from keras_rafm.checks.model_inputs import check_integer_inputs, pair_inputs
from keras_rafm.layer import RaFMLayer
from keras_rafm.serving.export import functional_graph
from keras_rafm.serving.model_inputs import LayerCall, calls_of
from keras_rafm.training.downstream import node_of


class Scorer(NamedTuple):
    """A layer, and the model whose output is its score or the sigmoid of that.

    Attributes:
        layer: The layer.
        graph: The model; `None` for a layer alone.
        call: What it is called with there; `None` for a layer alone.
        has_sigmoid: Whether the output is the sigmoid of the score.
    """

    layer: RaFMLayer
    graph: keras.Model | None = None
    call: LayerCall | None = None
    has_sigmoid: bool = False

    def level(self, given: int | None) -> int:
        """The level `k` of the wanted scores `ŷ_k`; the highest for `None`.

        Raises:
            TypeError: It is not an integer.
            ValueError: There is no such level.
        """
        level = integer_or_none(given, "level")
        if level is not None and not 1 <= level <= self.layer.num_levels:
            raise ValueError(f"`level` must be in 1 … {self.layer.num_levels}. Received: level={level}")
        return self.layer.num_levels if level is None else level

    def inputs(self, given: Any) -> Any:
        """What the layer takes, from what the model or the layer takes.

        Raises:
            TypeError: Ids are not integers.
            ValueError: There are values, and the model takes none.
        """
        if self.graph is None or self.call is None or _is_nested_list(given):
            return given
        own = self._of_model(given, self.graph, self.call)
        has_values = isinstance(own, tf.SparseTensor) or (isinstance(own, Mapping) and "values" in own)
        if has_values and not self.call.has_values:
            raise ValueError(f"{self.graph.name} takes ids without values. Received: values")
        return own

    def _of_model(self, given: Any, graph: keras.Model, call: LayerCall) -> Any:
        """As the layer takes them; inputs that are not those of the model are left as they are."""
        fed = {id(tensor): own for own, tensor in pair_inputs(given, graph.input, graph.inputs) if own is not None}
        wanted = [tensor for tensor in (call.ids, call.values) if tensor is not None]
        if any(id(tensor) not in fed for tensor in wanted) or (isinstance(given, Mapping) and len(given) > len(fed)):
            return given
        check_integer_inputs(given, graph)
        ids, *values = (tf.cast(fed[id(tensor)], tensor.dtype) for tensor in wanted)
        return {"ids": ids, "values": values[0]} if values else ids


def scorer_of(model: Any) -> Scorer:
    """Find the layer.

    Args:
        model: A functional model or a built Sequential, or a `RaFMLayer` alone.

    Raises:
        TypeError: It is nothing of these.
        ValueError: The model's output is not the score of a `RaFMLayer` on inputs of the model, nor the sigmoid of that.
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
    call = calls_of(graph)[-1]  # the others are above it
    if call.ids is None or (call.has_values and call.values is None and not call.ids.sparse):
        raise ValueError(
            f"{node.operation.name} must take its ids and values from the inputs of {graph.name}, and not from layers "
            f"between. Give {node.operation.name} alone, and what it takes"
        )
    return Scorer(node.operation, graph, call, has_sigmoid)


def _is_sigmoid(operation: Any) -> bool:
    if isinstance(operation, keras.layers.Activation):
        return operation.activation is keras.activations.sigmoid
    return type(operation).__name__ == "Sigmoid"  # what `keras.ops.sigmoid` is in a graph, a class that is not public


def _is_nested_list(given: Any) -> bool:
    """Whether it is ids as Python lists, which Keras would take for many inputs."""
    return isinstance(given, (list, tuple)) and all(isinstance(own, (list, tuple, int, np.integer)) for own in given)
