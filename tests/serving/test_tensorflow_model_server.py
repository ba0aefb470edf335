"""The example clients and the files in `examples/serving` against a real `tensorflow_model_server`."""

import concurrent.futures
import contextlib
import os
import shutil
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from client_command import ServingError
from client_tests import CommandLineTests, RefusalsTests, SignaturesTests, VersionsTests, rows_as_json
from models import ROWS, encoded, raw_model, requests_of_columns
from rest_client import RestClient
from servers import EXAMPLES, Connect, ModelDirectories, Server, eventually, running, server_config

import keras_rafm as kr

BINARY = os.environ.get("TF_SERVING_BINARY") or shutil.which("tensorflow_model_server")
if BINARY is None:
    pytest.skip(
        "tensorflow_model_server is neither on the PATH nor named by TF_SERVING_BINARY; the image tensorflow/serving has "
        "it in /usr/bin",
        allow_module_level=True,
    )


def free_ports() -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("localhost", 0))) for _ in range(2)]
        return [free.getsockname()[1] for free in sockets]


@contextlib.contextmanager
def tensorflow_model_server(config: Path, model: str, *flags: str) -> Iterator[Server]:
    grpc_port, rest_port = free_ports()
    command = [
        str(BINARY),
        f"--port={grpc_port}",
        f"--rest_api_port={rest_port}",
        f"--model_config_file={config}",
        "--allow_version_labels_for_unavailable_models=true",
        "--enable_signature_method_name_check=true",
        *flags,
    ]
    server = Server(f"localhost:{grpc_port}", f"localhost:{rest_port}")
    with running(command) as process, contextlib.closing(RestClient(server.rest, model)) as client:

        def is_up() -> bool:
            assert process.poll() is None, "the server has ended"
            with contextlib.suppress(ServingError):
                return set(client.status().values()) == {"AVAILABLE"}
            return False

        eventually(is_up, seconds=60)
        yield server


@pytest.fixture(scope="module")
def server(directories: ModelDirectories, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The real server, in place of the fixture in `conftest.py`."""
    config = tmp_path_factory.mktemp("config") / "models.config"
    config.write_text(str(server_config(directories.folder, {})))
    with tensorflow_model_server(config, "clicks") as started:
        yield started


class TestSignatures(SignaturesTests):
    """Run the shared tests."""


class TestVersions(VersionsTests):
    """Run the shared tests."""


class TestRefusals(RefusalsTests):
    """Run the shared tests."""


class TestCommandLine(CommandLineTests):
    """Run the shared tests."""


class Deployed:
    """A server that runs with the files in `examples/serving`, on another model directory."""

    def __init__(self, server: Server, config: Path) -> None:
        self.server, self.config = server, config

    def edit(self, old: str, new: str) -> None:
        """Change `models.config`."""
        text = self.config.read_text()
        assert text.count(old) == 1
        self.config.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def deployed(directories: ModelDirectories, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """A server of two versions. Version 1 is warmed up, so it lacks `ragged`, which batching refuses; version 2 has all."""
    folder = tmp_path_factory.mktemp("deployed")
    signatures = ["raw", "examples", "classify", "regress", "low", "level_scores"]
    warm_up = {"warm_up": ROWS, "warm_up_batch_sizes": (1, 100), "signatures": signatures}
    for version, options in ((1, warm_up), (2, {})):
        kr.export(directories.models[version], folder / "clicks", directories.schema, **options)
    config = folder / "models.config"
    config.write_text((EXAMPLES / "models.config").read_text().replace("/models/clicks", str(folder / "clicks")))
    with tensorflow_model_server(
        config,
        "clicks",
        "--model_config_file_poll_wait_seconds=1",
        "--enable_batching=true",
        f"--batching_parameters_file={EXAMPLES / 'batching.config'}",
        f"--monitoring_config_file={EXAMPLES / 'monitoring.config'}",
    ) as server:
        yield Deployed(server, config)


def test_requests_in_batches(deployed: Deployed, open_client: Connect, directories: ModelDirectories) -> None:
    """Each request gets the answers to its own rows, from every signature that can be batched."""
    client = open_client("grpc", deployed.server.grpc)
    expected = directories.probabilities(2)
    rows = rows_as_json()

    def ask(number: int) -> bool:
        chosen = slice(number % 5, None)
        outputs = client.regress(rows[chosen])
        padded = client.predict({name: array[chosen] for name, array in encoded(directories.schema).items()})
        np.testing.assert_allclose(outputs, expected[chosen], rtol=0, atol=1e-6)
        np.testing.assert_allclose(padded["probability"][:, 0], expected[chosen], rtol=0, atol=1e-6)
        return True

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(400)))
    flat = dict(requests_of_columns(directories.schema))["ragged"]
    with pytest.raises(ServingError, match="0th-dimension size"):
        client.predict(flat, "ragged")


def test_monitoring(deployed: Deployed) -> None:
    with urllib.request.urlopen(f"http://{deployed.server.rest}/monitoring/prometheus/metrics", timeout=10) as answer:
        assert ":tensorflow:serving:" in answer.read().decode()


def test_canary_and_rollback(deployed: Deployed, open_client: Connect, directories: ModelDirectories) -> None:
    """Follow the steps in `examples/serving/README.md`."""
    rows = rows_as_json()
    stable, canary, status = (
        open_client("grpc", deployed.server.grpc, label=label) for label in ("stable", "canary", None)
    )

    def answers(client: Any, expected: np.ndarray) -> bool:
        return bool(np.allclose(client.regress(rows), expected, rtol=0, atol=1e-6))

    first, second = directories.probabilities(1), directories.probabilities(2)
    assert answers(stable, first)
    assert answers(canary, second)
    deployed.edit('key: "stable"\n      value: 1', 'key: "stable"\n      value: 2')
    eventually(lambda: answers(stable, second))
    deployed.edit('key: "stable"\n      value: 2', 'key: "stable"\n      value: 1')
    eventually(lambda: answers(stable, first))

    third = raw_model(directories.schema, seed=7)
    kr.export(third, deployed.config.parent / "clicks", directories.schema)
    deployed.edit("versions: 2", "versions: 2\n        versions: 3")
    eventually(lambda: status.status().get(3) == "AVAILABLE")
    assert answers(canary, second)
    deployed.edit('key: "canary"\n      value: 2', 'key: "canary"\n      value: 3')
    scores = third(directories.schema(ROWS)).numpy()[:, 0]
    eventually(lambda: answers(canary, 1 / (1 + np.exp(-scores))))
    assert answers(stable, first)
