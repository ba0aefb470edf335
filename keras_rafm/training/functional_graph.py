"""The graph of a functional Keras model: its nodes, the calls of `RaFMLayer`s in it, and running it.

Keras has no public way to walk a graph. `keras.utils.plot_model` and every tool around Keras read the attributes that
are read here, and nothing else in this package reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_rafm.layer import RaFMLayer


class LayerCall(NamedTuple):
    """A call of a `RaFMLayer` in the graph of a model.

    Attributes:
        layer: The layer.
        ids: The model input that the layer takes as ids, or that is sparse; `None` if the graph computes the ids.
        values: The model input that the layer takes as values; `None` if there are no values or the graph computes them.
        has_values: Whether the layer is called with values.
    """

    layer: RaFMLayer
    ids: Any
    values: Any
    has_values: bool


def functional_graph(model: Any) -> keras.Model:
    """Return a model whose graph can be walked: the model itself, or a functional view of a Sequential.

    Raises:
        RuntimeError: The call is inside the scope of a distribution strategy.
        TypeError: `model` is neither functional nor a built Sequential.
    """
    if tf.distribute.has_strategy():
        raise RuntimeError(
            "exported models and retrieval vectors have no replicas: make them outside of `strategy.scope()`. "
            "Received: a call inside the scope"
        )
    if isinstance(model, keras.Sequential) and model.built:
        return keras.Model(model.inputs, model.outputs)
    if isinstance(model, keras.Model) and hasattr(model, "operations"):  # a subclassed model has none
        return model
    raise TypeError(
        "`model` must be a functional keras.Model or a built Sequential. "
        f"Received: {model!r} of type {type(model).__name__}"
    )


def node_of(tensor: keras.KerasTensor) -> Any:
    """Return the node of the graph that makes a tensor."""
    operation, node_index, _ = tensor._keras_history
    return operation._inbound_nodes[node_index]


def nodes_above(outputs: list[keras.KerasTensor]) -> list[Any]:
    """Return every node that the outputs depend on, parents before children."""
    ordered: dict[int, Any] = {}
    stack = [(node_of(output), False) for output in outputs]
    while stack:
        node, parents_done = stack.pop()
        if id(node) in ordered:
            continue
        if parents_done:
            ordered[id(node)] = node
        else:
            stack.append((node, True))
            stack.extend((node_of(tensor), False) for tensor in node.input_tensors)
    return list(ordered.values())


def layers_of(model: keras.Model) -> list[keras.layers.Layer]:
    """Return all layers of a model, those of nested models included."""
    return list(model._flatten_layers(include_self=False))


def rafm_layers_of(model: keras.Model) -> list[RaFMLayer]:
    """Return all `RaFMLayer`s of a model, those of nested models included."""
    return [layer for layer in layers_of(model) if isinstance(layer, RaFMLayer)]


def inputs_of_call(node: Any) -> Any:
    """Return what a node passes to its layer as `inputs`: a tensor, or a mapping of tensors."""
    return node.arguments.args[0] if node.arguments.args else node.arguments.kwargs["inputs"]


def calls_of(model: keras.Model) -> list[LayerCall]:
    """Return the calls of `RaFMLayer`s in the graph of a functional model, each after those above it.

    Raises:
        ValueError: The graph calls no `RaFMLayer`.
    """
    model_inputs = {id(tensor) for tensor in model.inputs}
    calls = []
    for node in nodes_above(model.outputs):
        if isinstance(node.operation, RaFMLayer):
            ids, values, has_values = _ids_and_values(node)
            ids, values = (tensor if id(tensor) in model_inputs else None for tensor in (ids, values))
            calls.append(LayerCall(node.operation, ids, values, has_values))
    if not calls:
        raise ValueError(f"{model.name} has no RaFMLayer among its layers")
    return calls


def takes_values(layer: RaFMLayer) -> bool:
    """Return whether any call of a layer has values. A layer that is in no graph may be called with values."""
    nodes = layer._inbound_nodes
    return not nodes or any(_ids_and_values(node)[2] for node in nodes)


def _ids_and_values(node: Any) -> tuple[Any, Any, bool]:
    """Return the ids and values that a node passes to a `RaFMLayer`, and whether there are values."""
    inputs = inputs_of_call(node)
    ids, values = (inputs["ids"], inputs.get("values")) if isinstance(inputs, Mapping) else (inputs, None)
    return ids, values, values is not None or bool(getattr(ids, "sparse", False))


def is_sigmoid_layer(operation: Any) -> bool:
    """Return whether an operation of a graph is the layer `keras.layers.Activation("sigmoid")`."""
    return isinstance(operation, keras.layers.Activation) and operation.activation is keras.activations.sigmoid


def run_graph(outputs: list[keras.KerasTensor], input_values: Mapping[int, Any]) -> list[Any]:
    """Return the values of some tensors of a functional graph in inference.

    A functional model casts its inputs and takes them only as they are declared. Here a layer may get another kind of
    tensor, such as a ragged one in place of a dense one.

    Args:
        outputs: Tensors of the graph.
        input_values: The value of each `keras.Input` above them, by the `id` of its tensor.
    """
    values = dict(input_values)
    for node in nodes_above(outputs):
        if node.is_input:
            continue
        args, kwargs = node.arguments.fill_in(values)
        if isinstance(node.operation, keras.layers.Layer):
            kwargs = {**kwargs, "training": False}
        results = keras.tree.flatten(node.operation(*args, **kwargs))
        values.update((id(tensor), result) for tensor, result in zip(node.output_tensors, results, strict=True))
    return [values[id(output)] for output in outputs]
