"""TF Serving's REST API for `served_models`. It reads and writes JSON as TF Serving's util/json_tensor.cc does."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote

import numpy as np
import served_models
import tensorflow as tf
from google.protobuf import json_format
from served_models import Models, RequestError, Status, invalid
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    predict_pb2,
    regression_pb2,
)

HTTP_STATUS = {
    Status.INVALID_ARGUMENT: 400,
    Status.FAILED_PRECONDITION: 400,
    Status.OUT_OF_RANGE: 400,
    Status.NOT_FOUND: 404,
    Status.UNIMPLEMENTED: 501,
    Status.UNAVAILABLE: 503,
}
MODEL = "/v1/models/(?P<name>[^/:]+)(/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
#: The Python types of the JSON values that a tensor of each dtype takes.
TYPES: Mapping[tf.DType, tuple[type, ...]] = {
    tf.float32: (int, float),
    tf.float64: (int, float),
    tf.int32: (int,),
    tf.int64: (int,),
    tf.string: (str, bytes),
    tf.bool: (bool,),
}


def handler_of(models: Models) -> type[BaseHTTPRequestHandler]:
    """Return the class that handles the requests of one connection."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer("GET", f"{MODEL}(?P<method>/metadata)?", {None: get_status, "/metadata": get_metadata}, b"")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            methods = {"predict": post_predict, "classify": post_classify, "regress": post_regress}
            self._answer("POST", f"{MODEL}:(?P<method>classify|regress|predict)", methods, body)

        def _answer(
            self, verb: str, path: str, methods: Mapping[str | None, Callable[[Models, Any, bytes], Any]], body: bytes
        ) -> None:
            try:
                match = re.fullmatch(path, self.path, re.IGNORECASE)
                if match is None:
                    raise invalid(f"Malformed request: {verb} {self.path}")
                status, answer = 200, methods[match["method"]](models, match, body)
            except RequestError as error:
                status, answer = HTTP_STATUS.get(error.status, 500), {"error": str(error)}
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *arguments: Any) -> None:
            """Print nothing."""

    return Handler


def get_status(models: Models, match: Any, _: bytes) -> Any:
    request = get_model_status_pb2.GetModelStatusRequest()
    fill_spec(request.model_spec, match)
    versions = served_models.status(models, request).model_version_status
    status = {"error_code": "OK", "error_message": ""}
    name_of = get_model_status_pb2.ModelVersionStatus.State.Name
    return {
        "model_version_status": [
            {"version": str(entry.version), "state": name_of(entry.state), "status": status} for entry in versions
        ]
    }


def get_metadata(models: Models, match: Any, _: bytes) -> Any:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    fill_spec(request.model_spec, match)
    response = served_models.metadata(models, request)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata["signature_def"].Unpack(signatures)
    spec, definitions = (
        json_format.MessageToDict(message, preserving_proto_field_name=True)
        for message in (response.model_spec, signatures)
    )
    return {"model_spec": spec, "metadata": {"signature_def": definitions}}


def post_predict(models: Models, match: Any, body: bytes) -> Any:
    request, document = predict_pb2.PredictRequest(), document_of(body)
    fill_spec(request.model_spec, match, document)
    name = request.model_spec.signature_name or "serving_default"
    signatures = models.find(request.model_spec).signatures
    if name not in signatures:
        raise invalid(f'Serving signature name: "{name}" not found in signature def')
    infos = signatures[name].inputs
    is_rows = "instances" in document
    if is_rows == ("inputs" in document):
        raise invalid(
            "Missing 'inputs' or 'instances' key" if not is_rows else "Not formatted correctly expecting only one"
        )
    inputs = columns_of(document["instances"], infos) if is_rows else document["inputs"]
    if not isinstance(inputs, dict):
        inputs = {only_name(infos): inputs}
    for key, info in infos.items():
        if key not in inputs:
            raise invalid(f"Missing named input: {key} in 'inputs' object.")
        request.inputs[key].CopyFrom(served_models.tensor_of(array_of(inputs[key], tf.as_dtype(info.dtype))))
    response = served_models.predict(models, request)
    outputs = {key: json_of(tf.make_ndarray(tensor)) for key, tensor in response.outputs.items()}
    if not is_rows:
        return {"outputs": outputs if len(outputs) > 1 else next(iter(outputs.values()))}
    if len(outputs) == 1:
        return {"predictions": next(iter(outputs.values()))}
    return {"predictions": [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]}


def post_classify(models: Models, match: Any, body: bytes) -> Any:
    request = request_of_examples(classification_pb2.ClassificationRequest(), match, document_of(body))
    result = served_models.classify(models, request).result
    return {"results": [[[entry.label, decimal(entry.score)] for entry in row.classes] for row in result.classifications]}


def post_regress(models: Models, match: Any, body: bytes) -> Any:
    request = request_of_examples(regression_pb2.RegressionRequest(), match, document_of(body))
    result = served_models.regress(models, request).result
    return {"results": [decimal(regression.value) for regression in result.regressions]}


def fill_spec(spec: Any, match: Any, document: Mapping[str, Any] | None = None) -> None:
    spec.name = unquote(match["name"])
    if match["version"] is not None:
        spec.version.value = int(match["version"])
    if match["label"] is not None:
        spec.version_label = unquote(match["label"])
    spec.signature_name = (document or {}).get("signature_name", "")


def document_of(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body, object_hook=_bytes_of)  # accepts NaN and Infinity, as TF Serving does
    except ValueError as error:
        raise invalid(f"JSON Parse error: {error}") from error
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {document!r} Is not object")
    return document


def _bytes_of(value: dict[str, Any]) -> Any:
    return base64.b64decode(value["b64"]) if value.keys() == {"b64"} else value


def only_name(infos: Mapping[str, Any]) -> str:
    if len(infos) > 1:
        raise invalid("inputs is a plain value/list, but expecting an object as multiple input tensors required")
    return next(iter(infos))


def columns_of(rows: Any, infos: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(rows, list) or not rows:
        raise invalid("JSON Value: No values in 'instances' array")
    if not isinstance(rows[0], dict):
        return {only_name(infos): rows}
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or row.keys() != infos.keys():
            raise invalid(
                f"Failed to process element: {number} of 'instances' list. JSON object: keys must be equal to: "
                f"{','.join(sorted(infos))}"
            )
    return {name: [row[name] for row in rows] for name in infos}


def array_of(value: Any, dtype: tf.DType) -> np.ndarray:
    """Return a tensor from nested lists. The first elements determine its shape."""
    shape, first = [], value
    while isinstance(first, list):
        shape.append(len(first))
        first = first[0] if first else None
    leaves: list[Any] = []

    def collect(item: Any, level: int) -> None:
        if not isinstance(item, list):
            if level != len(shape):
                raise invalid(f"JSON Value: {item!r} found at incorrect level: {level + 1}")
            if not isinstance(item, TYPES[dtype]) or (isinstance(item, bool) and dtype != tf.bool):
                raise invalid(f"JSON Value: {item!r} is not of expected type: {dtype.name}")
            leaves.append(item.encode() if isinstance(item, str) else item)
        elif level >= len(shape) or len(item) != shape[level]:
            raise invalid(f"Encountered list at unexpected size: {len(item)} at level: {level}")
        else:
            for element in item:
                collect(element, level + 1)

    collect(value, 0)
    try:
        return np.array(leaves, dtype.as_numpy_dtype).reshape(shape)
    except OverflowError as error:
        raise invalid(f"JSON Value is not of expected type: {dtype.name}") from error


def request_of_examples(request: Any, match: Any, document: Mapping[str, Any]) -> Any:
    fill_spec(request.model_spec, match, document)
    rows = document.get("examples")
    if not isinstance(rows, list) or not rows:
        raise invalid("JSON Value: 'examples' value is an empty array")
    if "context" in document:
        fill_example(request.input.example_list_with_context.context, document["context"])
    example_list = request.input.example_list_with_context if "context" in document else request.input.example_list
    for row in rows:
        fill_example(example_list.examples.add(), row)
    return request


def fill_example(example: Any, row: Mapping[str, Any]) -> None:
    for name, value in row.items():
        feature = example.features.feature[name]
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, bool | int):
                field = "int64_list"
            elif isinstance(item, float):
                field = "float_list"
            elif isinstance(item, str | bytes):
                field = "bytes_list"
            else:
                raise invalid(f"Feature: {name} has element with unexpected JSON type: {type(item).__name__}")
            if feature.WhichOneof("kind") not in (None, field):
                raise invalid(f"Unexpected element type in feature: {name}")
            getattr(feature, field).value.append(item.encode() if isinstance(item, str) else item)


def json_of(array: np.ndarray) -> Any:
    if array.dtype == np.float32:
        return np.vectorize(decimal, otypes=[object])(array).tolist() if array.size else array.tolist()
    if array.dtype == object:
        return [text.decode() for text in array.ravel()] if array.ndim == 1 else [json_of(row) for row in array]
    return array.tolist()


def decimal(value: float) -> float:
    """Return a float32 with the six digits that TF Serving writes, or nine if six are not enough."""
    short = float(f"{value:.6g}")
    return short if np.float32(short) == np.float32(value) else float(f"{value:.9g}")
