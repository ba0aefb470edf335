"""Model directories, and servers of them in other processes."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import models
import numpy as np
import tensorflow as tf

import keras_rafm as kr

HERE = Path(__file__).resolve().parent
#: A function that makes a client.
Connect = Callable[..., Any]
EXAMPLES = HERE.parents[1] / "examples" / "serving"
sys.path.insert(0, str(EXAMPLES))


class ModelDirectories(NamedTuple):
    """Model directories for a server.

    Attributes:
        schema: The schema of all models.
        models: The model in the directory `ratings` by this name, and the models in `clicks` by their versions.
        folder: The folder that holds the directories.
    """

    schema: kr.data.Schema
    models: Mapping[Any, keras.Model]
    folder: Path

    def probabilities(self, version: int) -> np.ndarray:
        """Return the probabilities of `models.ROWS` by the model that was exported as this version of `clicks`."""
        return tf.sigmoid(self.models[version](self.schema(models.ROWS))).numpy()[:, 0]


def write_directories(folder: Path) -> ModelDirectories:
    """Write `clicks` with versions 1 and 2, `changing` with version 1, and the regression model `ratings`."""
    keras.utils.set_random_seed(0)
    schema = models.adapted_schema()
    exported: dict[Any, keras.Model] = {version: models.raw_model(schema, seed=version) for version in (1, 2)}
    for model in exported.values():
        kr.export(model, folder / "clicks", schema)
    exported["ratings"] = models.raw_model(schema, "mse")
    kr.export(exported["ratings"], folder / "ratings", schema, signatures=["raw"])
    shutil.copytree(folder / "clicks" / "1", folder / "changing" / "1")
    return ModelDirectories(schema, exported, folder)


class Server(NamedTuple):
    """The addresses of a server.

    Attributes:
        grpc: `host:port`.
        rest: `host:port`.
    """

    grpc: str
    rest: str


@contextlib.contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Start a process, and kill it at the end of the block."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def model_server(folder: Path) -> Iterator[Server]:
    """Run `model_server.py` on all model directories in a folder."""
    directories = [f"--model={directory.name}={directory}" for directory in folder.iterdir()]
    with running([sys.executable, str(HERE / "model_server.py"), *directories]) as process:
        assert process.stdout is not None
        ports = process.stdout.readline().split()
        yield Server(*(f"localhost:{port}" for port in ports))


def server_config(folder: Path, labels: Mapping[str, int]) -> Any:
    """Return a `ModelServerConfig` for all model directories in a folder, with labels for versions of `clicks`."""
    from tensorflow_serving.config import model_server_config_pb2

    config = model_server_config_pb2.ModelServerConfig()
    for directory in folder.iterdir():
        entry = config.model_config_list.config.add(
            name=directory.name, base_path=str(directory), model_platform="tensorflow"
        )
        entry.model_version_policy.all.SetInParent()
        if directory.name == "clicks":
            entry.version_labels.update(labels)
    return config


def set_labels(server: Server, folder: Path, labels: Mapping[str, int]) -> None:
    """Label the versions of `clicks` while the server runs."""
    import grpc
    from tensorflow_serving.apis import model_management_pb2, model_service_pb2_grpc

    request = model_management_pb2.ReloadConfigRequest(config=server_config(folder, labels))
    with grpc.insecure_channel(server.grpc) as channel:
        model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest(request, timeout=10)


def eventually(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"the condition did not hold within {seconds} s"
        time.sleep(0.05)
