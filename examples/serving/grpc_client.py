"""A client of TF Serving's gRPC API. It needs NumPy, `grpcio` and `protobuf`, but not TensorFlow.

    python grpc_client.py --model clicks --ids "1 20 300" --ids "4 50"
    python grpc_client.py --server localhost:8500 --model clicks --signature raw < rows.jsonl

Each line of the input is a row, and each line of the output is the answer to one row.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import grpc
import numpy as np
from client_command import ServingError, Signature, TensorInfo, main
from serving_messages import messages

#: Dtype numbers in tensorflow/core/framework/types.proto -> name, NumPy dtype, and field of a Tensor for values.
_DTYPES: dict[int, tuple[str, np.dtype[Any], str]] = {
    1: ("DT_FLOAT", np.dtype("<f4"), "float_val"),
    2: ("DT_DOUBLE", np.dtype("<f8"), "double_val"),
    3: ("DT_INT32", np.dtype("<i4"), "int_val"),
    7: ("DT_STRING", np.dtype(object), "string_val"),
    9: ("DT_INT64", np.dtype("<i8"), "int64_val"),
    10: ("DT_BOOL", np.dtype(bool), "bool_val"),
}
_STRING = 7
_NUMBERS = {dtype: number for number, (_, dtype, _) in _DTYPES.items()}
_BY_NAME = {name: dtype for name, dtype, _ in _DTYPES.values()}
#: State numbers in tensorflow_serving/apis/get_model_status.proto -> names.
_STATES = {10: "START", 20: "LOADING", 30: "AVAILABLE", 40: "UNLOADING", 50: "END"}


class GrpcClient:
    """A client for one model on one server. Threads may share it.

    Every method raises `ServingError` if the call fails; its `code` is the name of the gRPC status.

    Args:
        server: `host:port`; for several servers, `dns:///host:port`.
        model: The name of the model.
        version: The version of the model. Default: the highest that is served.
        label: The label of a version, in place of its number.
        timeout: The deadline of each call in seconds.
    """

    def __init__(
        self, server: str, model: str, version: int | None = None, label: str | None = None, *, timeout: float = 5.0
    ) -> None:
        # Accept answers of more than 4 MB, the default limit, and call the servers behind the name in turns.
        options = [("grpc.max_receive_message_length", -1), ("grpc.lb_policy_name", "round_robin")]
        self._channel = grpc.insecure_channel(server, options)
        self._spec = messages.ModelSpec(name=model, version_label=label or "")
        if version is not None:
            self._spec.version.CopyFrom(messages.Int64Value(value=version))
        self._timeout = timeout
        self._signatures: dict[str, Signature] = {}

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def predict(self, inputs: Mapping[str, Any], signature: str = "serving_default") -> dict[str, np.ndarray[Any, Any]]:
        """Return the outputs of a signature.

        Args:
            inputs: Arrays, which are sent unchanged, or lists, which become arrays of the dtypes of the signature.
            signature: The name of the signature.

        Returns:
            The outputs by name. Strings are `bytes` in an array of objects.
        """
        arrays = {name: self._array(name, value, signature) for name, value in inputs.items()}
        entries = [messages.TensorEntry(key=name, value=to_tensor(array)) for name, array in arrays.items()]
        request = messages.PredictRequest(model_spec=self._spec_of(signature), inputs=entries)
        response = self._call("PredictionService/Predict", request, messages.PredictResponse)
        return {entry.key: from_tensor(entry.value) for entry in response.outputs}

    def classify(self, examples: Sequence[Mapping[str, Any]], signature: str = "classify") -> list[list[tuple[str, float]]]:
        """Return the classes of each example, with their probabilities.

        Args:
            examples: The features of each example by name: strings, floats or ints, or lists of these. Features that are
                left out are missing values.
            signature: The name of the signature.
        """
        result = self._call_with_examples("Classify", examples, signature, messages.ClassificationResponse)
        return [[(entry.label, entry.score) for entry in row.classes] for row in result.classifications]

    def regress(self, examples: Sequence[Mapping[str, Any]], signature: str = "regress") -> list[float]:
        """Return a number for each example. See `classify` for the arguments."""
        result = self._call_with_examples("Regress", examples, signature, messages.RegressionResponse)
        return [regression.value for regression in result.regressions]

    def signatures(self) -> dict[str, Signature]:
        """Return the signatures of the model by name."""
        request = messages.GetModelMetadataRequest(model_spec=self._spec, metadata_field=["signature_def"])
        response = self._call("PredictionService/GetModelMetadata", request, messages.GetModelMetadataResponse)
        (packed,) = (entry.value for entry in response.metadata)
        signatures = messages.SignatureDefMap.FromString(packed.value).signature_def
        return {
            entry.key: Signature(entry.value.method_name, _infos(entry.value.inputs), _infos(entry.value.outputs))
            for entry in signatures
            if entry.value.method_name  # the signature for initialisation has none
        }

    def status(self) -> dict[int, str]:
        """Return the state of each version that the server knows, such as `AVAILABLE`."""
        request = messages.GetModelStatusRequest(model_spec=self._spec)
        response = self._call("ModelService/GetModelStatus", request, messages.GetModelStatusResponse)
        return {entry.version: _STATES.get(entry.state, "UNKNOWN") for entry in response.model_version_status}

    def _call_with_examples(self, method: str, examples: Sequence[Mapping[str, Any]], signature: str, response: Any) -> Any:
        example_list = messages.ExampleList(examples=[example_of(features) for features in examples])
        request = messages.ExamplesRequest(
            model_spec=self._spec_of(signature), input=messages.Input(example_list=example_list)
        )
        return self._call(f"PredictionService/{method}", request, response).result

    def _call(self, method: str, request: Any, response: Any) -> Any:
        call = self._channel.unary_unary(
            f"/tensorflow.serving.{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        try:
            return call(request, timeout=self._timeout)
        except grpc.RpcError as error:
            raise ServingError(error.code().name, error.details()) from error

    def _spec_of(self, signature: str) -> Any:
        spec = messages.ModelSpec(signature_name=signature)
        spec.MergeFrom(self._spec)
        return spec

    def _array(self, name: str, value: Any, signature: str) -> np.ndarray[Any, Any]:
        if isinstance(value, np.ndarray):
            return value
        if not self._signatures:
            self._signatures = self.signatures()
        info = self._signatures.get(signature)
        if info is None or name not in info.inputs:
            return np.array(value)  # the server will refuse the request
        return _array_of(name, value, info.inputs[name].dtype)


def _array_of(name: str, values: Any, dtype: str) -> np.ndarray[Any, Any]:
    """Return a list as an array of a dtype, unless that changes a value."""
    if dtype not in _BY_NAME:
        raise ValueError(
            f"'{name}' must be an array, since this client can't make one of {dtype}. Received: {values!r:.40}"
        )
    wanted = _BY_NAME[dtype]
    try:
        array = np.array(values, object if dtype == "DT_STRING" else None)
    except ValueError as error:  # the lists have different lengths
        raise ValueError(f"'{name}' must be {dtype}: {error}") from error
    if dtype == "DT_STRING":
        if not all(isinstance(text, str | bytes) for text in array.ravel()):
            raise ValueError(f"'{name}' must be {dtype}. Received: {values!r:.40}")
        return array
    if array.size and not np.can_cast(array.dtype, wanted, "same_kind"):
        raise ValueError(f"'{name}' must be {dtype}. Received: {array.dtype}")
    cast = array.astype(wanted)
    if cast.dtype.kind == "i" and not np.array_equal(cast, array):
        raise ValueError(f"'{name}' must be {dtype}. Received: {array[cast != array][0]}")
    return cast


def to_tensor(array: np.ndarray[Any, Any]) -> Any:
    """Return an array as a message.

    Raises:
        ValueError: The client does not support the dtype of the array.
    """
    shape = messages.Shape(dim=[messages.Dim(size=size) for size in array.shape])
    if array.dtype.kind in "OSU":
        texts = [text.encode() if isinstance(text, str) else text for text in array.ravel().tolist()]
        return messages.Tensor(dtype=_STRING, tensor_shape=shape, string_val=texts)
    little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
    if little_endian.dtype not in _NUMBERS:
        raise ValueError(f"arrays must be of {[name for name, _, _ in _DTYPES.values()]}. Received: {array.dtype}")
    number = _NUMBERS[little_endian.dtype]
    return messages.Tensor(dtype=number, tensor_shape=shape, tensor_content=little_endian.tobytes())


def from_tensor(tensor: Any) -> np.ndarray[Any, Any]:
    """Return the array in a message."""
    if tensor.dtype not in _DTYPES:
        raise ValueError(f"outputs must be of {[name for name, _, _ in _DTYPES.values()]}. Received: DT_{tensor.dtype}")
    _, dtype, field = _DTYPES[tensor.dtype]
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, dtype).reshape(shape)
    values = np.array(getattr(tensor, field), dtype)
    # If values are left out at the end, they equal the last one.
    return values.take(np.arange(math.prod(shape)), mode="clip").reshape(shape)


def example_of(features: Mapping[str, Any]) -> Any:
    """Return a `tf.train.Example`. Its `SerializeToString` makes the bytes for the signature `examples`."""
    entries = [messages.FeatureEntry(key=name, value=_feature_of(name, value)) for name, value in features.items()]
    return messages.Example(features=messages.Features(feature=entries))


def _feature_of(name: str, value: Any) -> Any:
    values = value if isinstance(value, list) else [value]
    if not values:
        return messages.Feature()
    if all(isinstance(value, str | bytes) for value in values):
        texts = [text.encode() if isinstance(text, str) else text for text in values]
        return messages.Feature(bytes_list=messages.BytesList(value=texts))
    if all(isinstance(value, int) for value in values):
        return messages.Feature(int64_list=messages.Int64List(value=values))
    if all(isinstance(value, float) for value in values):
        return messages.Feature(float_list=messages.FloatList(value=values))
    raise ValueError(f"the feature '{name}' must be strings, ints or floats. Received: {value!r}")


def _infos(entries: Iterable[Any]) -> dict[str, TensorInfo]:
    return {
        entry.key: TensorInfo(_name_of(entry.value.dtype), [dim.size for dim in entry.value.tensor_shape.dim])
        for entry in entries
    }


def _name_of(dtype: int) -> str:
    return _DTYPES[dtype][0] if dtype in _DTYPES else f"DT_{dtype}"


if __name__ == "__main__":
    sys.exit(main(GrpcClient, __doc__.split("\n")[0], "localhost:8500"))
