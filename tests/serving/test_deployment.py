"""The deployment files in `examples/serving` are valid for TF Serving and agree with each other."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import text_format
from servers import EXAMPLES
from serving_messages import message_classes
from tensorflow_serving.config import model_server_config_pb2

pytestmark = pytest.mark.one_tensorflow

#: Messages of TF Serving's session_bundle_config.proto and monitoring_config.proto. Its Python package lacks them.
MESSAGES = message_classes(
    {
        "Int64Value": ["int64 value = 1"],
        "BatchingParameters": [
            "Int64Value max_batch_size = 1",
            "Int64Value batch_timeout_micros = 2",
            "Int64Value max_enqueued_batches = 3",
            "Int64Value num_batch_threads = 4",
            "repeated int64 allowed_batch_sizes = 6",
            "bool pad_variable_length_inputs = 7",
        ],
        "PrometheusConfig": ["bool enable = 1", "string path = 2"],
        "MonitoringConfig": ["PrometheusConfig prometheus_config = 1"],
    }
)
#: The used flags of tensorflow_model_server, as in its main.cc.
FLAGS = {
    "port",
    "rest_api_port",
    "model_config_file",
    "model_config_file_poll_wait_seconds",
    "allow_version_labels_for_unavailable_models",
    "enable_signature_method_name_check",
    "enable_batching",
    "batching_parameters_file",
    "monitoring_config_file",
    "tensorflow_intra_op_parallelism",
    "tensorflow_inter_op_parallelism",
}
COMPOSE = yaml.safe_load((EXAMPLES / "compose.yaml").read_text())["services"]["model-server"]
KUBERNETES = {entry["kind"]: entry for entry in yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text())}
KUSTOMIZATION = yaml.safe_load((EXAMPLES / "kustomization.yaml").read_text())
POD = KUBERNETES["Deployment"]["spec"]["template"]
CONTAINER = POD["spec"]["containers"][0]


def parsed(name: str, message: Any) -> Any:
    return text_format.Parse((EXAMPLES / name).read_text(), message)


def model_config() -> Any:
    (config,) = parsed("models.config", model_server_config_pb2.ModelServerConfig()).model_config_list.config
    return config


def flags() -> dict[str, str]:
    return dict(argument.removeprefix("--").split("=") for argument in COMPOSE["command"])


def test_models() -> None:
    config = model_config()
    mounts = {volume.split(":")[1] for volume in COMPOSE["volumes"]}
    assert Path(config.base_path).parent.as_posix() in mounts
    assert Path(config.base_path).name == config.name  # warm-up requests use this name
    assert config.model_platform == "tensorflow"
    assert config.version_labels.keys() == {"stable", "canary"}
    assert set(config.version_labels.values()) <= set(config.model_version_policy.specific.versions)


def test_batching() -> None:
    parameters = parsed("batching.config", MESSAGES.BatchingParameters())
    assert parameters.max_batch_size.value > 0
    assert parameters.max_enqueued_batches.value > 0
    assert parameters.HasField("batch_timeout_micros")
    assert not parameters.pad_variable_length_inputs
    cpus = parameters.num_batch_threads.value
    assert COMPOSE["cpus"] == int(CONTAINER["resources"]["requests"]["cpu"]) == cpus
    assert int(flags()["tensorflow_intra_op_parallelism"]) == int(flags()["tensorflow_inter_op_parallelism"]) == cpus


def test_monitoring() -> None:
    config = parsed("monitoring.config", MESSAGES.MonitoringConfig()).prometheus_config
    assert config.enable
    annotations = POD["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] == config.path
    assert annotations["prometheus.io/port"] == flags()["rest_api_port"]


def test_both_start_the_same_server() -> None:
    assert [*COMPOSE["entrypoint"], *COMPOSE["command"]] == [*CONTAINER["command"], *CONTAINER["args"]]
    assert COMPOSE["image"] == CONTAINER["image"]
    assert set(flags()) == FLAGS
    config_files = {Path(value).name for value in flags().values() if value.startswith("/config/")}
    assert config_files == set(KUSTOMIZATION["configMapGenerator"][0]["files"])
    assert KUSTOMIZATION["resources"] == ["kubernetes.yaml"]
    ports = {name: int(flags()[flag]) for name, flag in (("grpc", "port"), ("rest", "rest_api_port"))}
    assert COMPOSE["ports"] == [f"{port}:{port}" for port in ports.values()]
    assert {port["name"]: port["containerPort"] for port in CONTAINER["ports"]} == ports
    assert {port["name"]: port["port"] for port in KUBERNETES["Service"]["spec"]["ports"]} == ports


def test_names_within_kubernetes() -> None:
    labels = POD["metadata"]["labels"]
    assert KUBERNETES["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert KUBERNETES["Service"]["spec"]["selector"] == labels
    volumes = {volume["name"]: volume for volume in POD["spec"]["volumes"]}
    assert {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]} == {
        "models": "/models",
        "config": "/config",
    }
    assert volumes["config"]["configMap"]["name"] == KUSTOMIZATION["configMapGenerator"][0]["name"]
    claim = volumes["models"]["persistentVolumeClaim"]["claimName"]
    assert claim == KUBERNETES["PersistentVolumeClaim"]["metadata"]["name"]


def test_probes() -> None:
    path = f"/v1/models/{model_config().name}"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert CONTAINER[probe]["httpGet"] == {"path": path, "port": "rest"}
    assert f"GET {path} HTTP/1.0" in COMPOSE["healthcheck"]["test"][-1]
    assert f"/{flags()['rest_api_port']}\n" in COMPOSE["healthcheck"]["test"][-1].replace(" ", "\n")
