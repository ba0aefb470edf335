"""The messages of TF Serving's protocol that `grpc_client.py` speaks, without TensorFlow.

`tensorflow-serving-api` has all messages, but it imports TensorFlow, which is large and takes seconds to start. So the few
that are needed are declared here. On the wire, only the number and the type of a field matter. So messages have other names
here, an enum is an int32, and a map is a list of entries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_MESSAGES = {
    # tensorflow/core/framework: tensor.proto, tensor_shape.proto
    "Dim": ["int64 size = 1"],
    "Shape": ["repeated Dim dim = 2"],
    "Tensor": [
        "int32 dtype = 1",
        "Shape tensor_shape = 2",
        "bytes tensor_content = 4",
        "repeated float float_val = 5",
        "repeated double double_val = 6",
        "repeated int32 int_val = 7",
        "repeated bytes string_val = 8",
        "repeated int64 int64_val = 10",
        "repeated bool bool_val = 11",
    ],
    # tensorflow/core/example: example.proto, feature.proto
    "BytesList": ["repeated bytes value = 1"],
    "FloatList": ["repeated float value = 1"],
    "Int64List": ["repeated int64 value = 1"],
    "Feature": ["BytesList bytes_list = 1", "FloatList float_list = 2", "Int64List int64_list = 3"],
    "FeatureEntry": ["string key = 1", "Feature value = 2"],
    "Features": ["repeated FeatureEntry feature = 1"],
    "Example": ["Features features = 1"],
    # tensorflow/core/protobuf/meta_graph.proto
    "TensorInfo": ["int32 dtype = 2", "Shape tensor_shape = 3"],
    "TensorInfoEntry": ["string key = 1", "TensorInfo value = 2"],
    "SignatureDef": [
        "repeated TensorInfoEntry inputs = 1",
        "repeated TensorInfoEntry outputs = 2",
        "string method_name = 3",
    ],
    # tensorflow_serving/apis
    "Int64Value": ["int64 value = 1"],
    "ModelSpec": ["string name = 1", "Int64Value version = 2", "string signature_name = 3", "string version_label = 4"],
    "TensorEntry": ["string key = 1", "Tensor value = 2"],
    "PredictRequest": ["ModelSpec model_spec = 1", "repeated TensorEntry inputs = 2"],
    "PredictResponse": ["repeated TensorEntry outputs = 1"],
    "ExampleList": ["repeated Example examples = 1"],
    "Input": ["ExampleList example_list = 1"],
    "ExamplesRequest": ["ModelSpec model_spec = 1", "Input input = 2"],
    "Class": ["string label = 1", "float score = 2"],
    "Classifications": ["repeated Class classes = 1"],
    "ClassificationResult": ["repeated Classifications classifications = 1"],
    "ClassificationResponse": ["ClassificationResult result = 1"],
    "Regression": ["float value = 1"],
    "RegressionResult": ["repeated Regression regressions = 1"],
    "RegressionResponse": ["RegressionResult result = 1"],
    "Any": ["string type_url = 1", "bytes value = 2"],
    "MetadataEntry": ["string key = 1", "Any value = 2"],
    "GetModelMetadataRequest": ["ModelSpec model_spec = 1", "repeated string metadata_field = 2"],
    "GetModelMetadataResponse": ["repeated MetadataEntry metadata = 2"],
    "SignatureDefEntry": ["string key = 1", "SignatureDef value = 2"],
    "SignatureDefMap": ["repeated SignatureDefEntry signature_def = 1"],
    "GetModelStatusRequest": ["ModelSpec model_spec = 1"],
    "ModelVersionStatus": ["int64 version = 1", "int32 state = 2"],
    "GetModelStatusResponse": ["repeated ModelVersionStatus model_version_status = 1"],
}


def message_classes(declared: Mapping[str, Sequence[str]]) -> Any:
    """Return the classes of messages.

    Args:
        declared: The fields of each message by its name, as in a `.proto` file. Their types may be declared messages.

    Returns:
        A namespace with one class per message.
    """
    file = descriptor_pb2.FileDescriptorProto(name="messages.proto", syntax="proto3")
    for message, fields in declared.items():
        descriptor = file.message_type.add(name=message)
        for field in fields:
            *repeated, kind, name, _, number = field.split()
            added = descriptor.field.add(name=name, number=int(number))
            added.label = added.LABEL_REPEATED if repeated else added.LABEL_OPTIONAL
            if kind in declared:
                added.type, added.type_name = added.TYPE_MESSAGE, f".{kind}"
            else:
                added.type = getattr(added, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return SimpleNamespace(**message_factory.GetMessageClassesForFiles([file.name], pool))


messages = message_classes(_MESSAGES)
