"""Models as TF Serving serves them: one session per version in a directory, and the methods of TF Serving's protocol.

Graphs are restored and initialised by the names in the SavedModel, as in the C++ runtime. The messages and statuses for bad
requests follow TF Serving's sources (servables/tensorflow, model_servers).
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    predict_pb2,
    regression_pb2,
)

Status = grpc.StatusCode
POLL_SECONDS = 0.2
CLASSIFY, REGRESS = "tensorflow/serving/classify", "tensorflow/serving/regress"
VALUES = {
    tf.float32: "float_val",
    tf.float64: "double_val",
    tf.int32: "int_val",
    tf.int64: "int64_val",
    tf.string: "string_val",
    tf.bool: "bool_val",
}
BY_NUMBER = {status.value[0]: status for status in Status}


class RequestError(Exception):
    """The server refuses a request."""

    def __init__(self, status: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.status = status


def invalid(message: str) -> RequestError:
    return RequestError(Status.INVALID_ARGUMENT, message)


class Servable:
    """A version of a model, loaded into a session."""

    def __init__(self, directory: Path, version: int) -> None:
        self.version = version
        self._session = tf.compat.v1.Session(graph=tf.Graph())
        with self._session.graph.as_default():
            meta_graph = tf.compat.v1.saved_model.load(self._session, ["serve"], str(directory))
        self.signatures = dict(meta_graph.signature_def)
        self._callables: dict[Any, Callable[..., Any]] = {}

    def run(self, signature: Any, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        for name, array in inputs.items():
            expected, actual = tf.as_dtype(signature.inputs[name].dtype), tf.as_dtype(array.dtype)
            if actual != expected:
                raise invalid(f"Expects '{name}' to be {expected.name} but {actual.name} is provided")
        fetches = tuple(signature.outputs[name].name for name in outputs)
        feeds = tuple(signature.inputs[name].name for name in inputs)
        key = (fetches, feeds)
        if key not in self._callables:
            self._callables[key] = self._session.make_callable(list(fetches), list(feeds))
        try:
            results: list[np.ndarray] = self._callables[key](*inputs.values())
        except tf.errors.OpError as error:
            raise RequestError(BY_NUMBER[error.error_code], error.message) from error
        except ValueError as error:  # Python checks shapes, which TF Serving leaves to the graph
            raise invalid(str(error)) from error
        return results


class Models:
    """The served versions of all models, and their labels."""

    def __init__(self, directories: Mapping[str, Path]) -> None:
        self._directories = directories
        self._served: dict[str, dict[int, Servable]] = {name: {} for name in directories}
        self._ended: dict[str, set[int]] = {name: set() for name in directories}
        self._labels: dict[str, dict[str, int]] = {}
        self.poll()

    def poll(self) -> None:
        """Load new versions, and drop those that were deleted."""
        for name, directory in self._directories.items():
            before = self._served[name]
            versions = {int(entry.name) for entry in directory.iterdir() if re.fullmatch("[0-9]+", entry.name)}
            after = {version: before.get(version) or Servable(directory / str(version), version) for version in versions}
            self._ended[name] = (self._ended[name] | before.keys()) - after.keys()
            self._served[name] = after

    def keep_polling(self) -> None:
        """Poll until the process ends."""
        pause = threading.Event()
        while not pause.wait(POLL_SECONDS):
            try:
                self.poll()
            except (OSError, tf.errors.OpError) as error:  # a version was deleted while it was loaded
                print(f"polling: {error}", file=sys.stderr)

    def find(self, spec: Any) -> Servable:
        """Return the version that a `ModelSpec` names."""
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        versions = self._served.get(spec.name, {})
        version = max(versions, default=0)
        request = f"Latest({spec.name})"
        if spec.HasField("version_label"):
            labels = self._labels.get(spec.name, {})
            if spec.version_label not in labels:
                raise invalid(f"Unrecognized servable version label: {spec.version_label}")
            version = labels[spec.version_label]
            request = f"Specific({spec.name}, {version})"
        elif spec.HasField("version"):
            version = spec.version.value
            request = f"Specific({spec.name}, {version})"
        if version not in versions:
            raise RequestError(Status.NOT_FOUND, f"Servable not found for request: {request}")
        return versions[version]

    def states(self, spec: Any) -> dict[int, str]:
        """Return the states, `AVAILABLE` or `END`, of the versions that a `ModelSpec` names."""
        ended, served = self._ended.get(spec.name, set()), self._served.get(spec.name, {})
        states = {**dict.fromkeys(ended, "END"), **dict.fromkeys(served, "AVAILABLE")}
        if spec.HasField("version"):
            version = spec.version.value
            if version not in states:
                raise RequestError(Status.NOT_FOUND, f"Could not find version {version} of model {spec.name}")
            return {version: states[version]}
        if not states:
            raise RequestError(Status.NOT_FOUND, f"Could not find any versions of model {spec.name}")
        return states

    def set_labels(self, config: Any) -> None:
        """Set the labels of a `ModelServerConfig`. All labelled versions must be served."""
        labels = {entry.name: dict(entry.version_labels) for entry in config.model_config_list.config}
        for name, versions in labels.items():
            for version in versions.values():
                if version not in self._served.get(name, {}):
                    raise RequestError(
                        Status.FAILED_PRECONDITION,
                        f"Request to assign label to version {version} of model {name}, which is not currently available "
                        "for inference",
                    )
        self._labels = labels


def predict(models: Models, request: Any) -> Any:
    servable = models.find(request.model_spec)
    name = request.model_spec.signature_name or "serving_default"
    if name not in servable.signatures:
        raise RequestError(Status.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
    signature = servable.signatures[name]
    actual, wanted = set(request.inputs), set(signature.inputs)
    if len(actual) != len(wanted):
        raise invalid(
            f"input size does not match signature: {len(actual)}!={len(wanted)} len({{{','.join(sorted(actual))}}}) != "
            f"len({{{','.join(sorted(wanted))}}}). Sent extra: {{{','.join(sorted(actual - wanted))}}}. Missing but "
            f"required: {{{','.join(sorted(wanted - actual))}}}."
        )
    unknown = actual - wanted
    if unknown:
        raise invalid(f"input tensor alias not found in signature: {min(unknown)}")
    outputs = list(request.output_filter) or sorted(signature.outputs)
    for output in outputs:
        if output not in signature.outputs:
            raise invalid(f"output tensor alias not found in signature: {output}")
    inputs = {key: array_of(key, tensor) for key, tensor in request.inputs.items()}
    response = predict_pb2.PredictResponse()
    for key, array in zip(outputs, servable.run(signature, inputs, outputs), strict=True):
        response.outputs[key].CopyFrom(tensor_of(array))
    describe(response.model_spec, request.model_spec.name, servable, name)
    return response


def classify(models: Models, request: Any) -> Any:
    servable, name, signature = signature_of_examples(models, request, "classification", CLASSIFY)
    examples = examples_in(request.input)
    classes, scores = servable.run(signature, {"inputs": examples}, ["classes", "scores"])
    if not classes.shape == scores.shape == (len(examples), classes.shape[-1]):
        raise invalid(f"Expected Tensor shape: [batch_size num_classes] but got {classes.shape} and {scores.shape}")
    response = classification_pb2.ClassificationResponse()
    for labels, row in zip(classes, scores, strict=True):
        classification = response.result.classifications.add()
        for label, score in zip(labels, row, strict=True):
            classification.classes.add(label=label.decode(), score=score)
    describe(response.model_spec, request.model_spec.name, servable, name)
    return response


def regress(models: Models, request: Any) -> Any:
    servable, name, signature = signature_of_examples(models, request, "regression", REGRESS)
    examples = examples_in(request.input)
    (outputs,) = servable.run(signature, {"inputs": examples}, ["outputs"])
    if outputs.shape not in ((len(examples),), (len(examples), 1)):
        raise invalid(f"Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got {outputs.shape}")
    response = regression_pb2.RegressionResponse()
    for value in outputs.ravel():
        response.result.regressions.add(value=value)
    describe(response.model_spec, request.model_spec.name, servable, name)
    return response


def metadata(models: Models, request: Any) -> Any:
    if list(request.metadata_field) != ["signature_def"]:
        raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
    servable = models.find(request.model_spec)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    for name, signature in servable.signatures.items():
        signatures.signature_def[name].CopyFrom(signature)
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.metadata["signature_def"].Pack(signatures)
    response.model_spec.name = request.model_spec.name
    response.model_spec.version.value = servable.version
    return response


def status(models: Models, request: Any) -> Any:
    response = get_model_status_pb2.GetModelStatusResponse()
    for version, state in sorted(models.states(request.model_spec).items()):
        response.model_version_status.add(version=version, state=state).status.SetInParent()
    return response


def reload_config(models: Models, request: Any) -> Any:
    models.set_labels(request.config)
    return model_management_pb2.ReloadConfigResponse()


def array_of(name: str, tensor: Any) -> np.ndarray:
    try:
        array: np.ndarray = tf.make_ndarray(tensor)
    except (KeyError, TypeError, ValueError) as error:
        raise invalid(f"tensor parsing error: {name}") from error
    return array


def tensor_of(array: np.ndarray) -> Any:
    """Return an array as a message, with its values in the field of their dtype, as in TF Serving's answers."""
    dtype = tf.as_dtype(array.dtype)
    shape = tf.TensorShape(array.shape).as_proto()
    values = {VALUES[dtype]: array.ravel().tolist()}
    return tensor_pb2.TensorProto(dtype=dtype.as_datatype_enum, tensor_shape=shape, **values)


def describe(spec: Any, model: str, servable: Servable, signature: str) -> None:
    spec.name, spec.signature_name, spec.version.value = model, signature, servable.version


def signature_of_examples(models: Models, request: Any, kind: str, method: str) -> tuple[Servable, str, Any]:
    servable = models.find(request.model_spec)
    name = request.model_spec.signature_name or "serving_default"
    if name not in servable.signatures:
        raise invalid(f"No signature was found with the name: {name}")
    signature = servable.signatures[name]
    if signature.method_name != method:
        raise invalid(f"Expected {kind} signature method_name to be {method}. Was: {signature.method_name}")
    return servable, name, signature


def examples_in(message: Any) -> np.ndarray:
    """Return the serialised examples of an `Input`, each with the features of the context, if there is one."""
    context = message.example_list_with_context.context.SerializeToString()
    examples = message.example_list.examples or message.example_list_with_context.examples
    if not examples:
        raise invalid("Input is empty.")
    return np.array([context + example.SerializeToString() for example in examples], object)
