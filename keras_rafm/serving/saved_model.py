"""Writing a SavedModel: the graphs of its signatures, the objects that they read, and its extra assets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_rafm.serving.raw_inputs import RawInputs
from keras_rafm.serving.served_model import Answer, ServedModel
from keras_rafm.serving.signatures import Signature
from keras_rafm.training.functional_graph import layers_of

#: The folder in a SavedModel for files that the runtime does not read.
EXTRA = "assets.extra"
#: The folder in `EXTRA` that the schema is saved in.
SCHEMA = "schema"


class TracedSignature(NamedTuple):
    """A signature and its graph.

    Attributes:
        signature: The signature.
        function: Its graph, a `tf.types.experimental.ConcreteFunction`.
    """

    signature: Signature
    function: Any


def trace(signatures: Sequence[Signature]) -> list[TracedSignature]:
    """Make the graphs of signatures."""
    return [TracedSignature(signature, _concrete_function(signature)) for signature in signatures]


def saved_objects(
    graph: keras.Model, served: ServedModel, raw: RawInputs | None, signatures: Sequence[TracedSignature]
) -> tf.Module:
    """Return a module of all variables and look-up tables that the signatures of a model read.

    Keras' own export would write every variable twice, and some of them only where the C++ runtime doesn't find them.
    """
    module = tf.Module()
    module.layers = list(served.layers.values())
    module.other_variables = _captured_variables(graph, signatures)
    module.resources = _lookup_tables(graph)
    if raw is not None:
        module.encoder = raw.encoder
    return module


def write_saved_model(
    directory: Path, module: tf.Module, signatures: Sequence[TracedSignature], schema_folder: Path | None
) -> None:
    """Write a SavedModel.

    Args:
        directory: A new directory.
        module: An object that holds all variables and look-up tables that the signatures read.
        signatures: The signatures.
        schema_folder: A saved schema, which is moved into the SavedModel; `None`: there is no schema.
    """
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    functions = {signature.name: function for signature, function in signatures}
    tf.saved_model.save(module, str(directory), functions, options)
    updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(directory))
    for signature, _ in signatures:
        updater.replace_method_name(signature.name, signature.method, tags=tf.saved_model.SERVING)
    updater.save()
    (directory / EXTRA).mkdir()
    if schema_folder is not None:
        schema_folder.rename(directory / EXTRA / SCHEMA)


def _concrete_function(signature: Signature) -> Any:
    def answer(*request: tf.Tensor) -> Answer:
        return signature.answer(*request)

    answer.__name__ = signature.name
    specs = (named.spec for named in signature.inputs)
    return tf.function(answer, autograph=False).get_concrete_function(*specs)


def _captured_variables(graph: keras.Model, signatures: Sequence[TracedSignature]) -> list[tf.Variable]:
    """Return the variables of the trained model that the signatures read: those of layers other than `RaFMLayer`s."""
    captured = {id(tensor) for _, function in signatures for tensor in function.captured_inputs}
    variables = (variable.value for variable in graph.variables)
    return [variable for variable in variables if id(variable.handle) in captured]


def _lookup_tables(graph: keras.Model) -> list[Any]:
    """Return the look-up tables of the layers of the trained model."""
    attributes = (value for layer in layers_of(graph) for value in vars(layer).values())
    return [value for value in attributes if isinstance(value, tf.saved_model.experimental.TrackableResource)]
