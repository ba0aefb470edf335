"""The tests of the clients, and the files in `examples/serving`, with a real `tensorflow_model_server`."""

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
import test_clients
from client_command import ServingError
from models import ROWS, encoded, raw_model, requests_of_columns
from rest_client import RestClient
from servers import EXAMPLES, Connect, ModelDirectories, Server, eventually, running, server_config

import keras_rafm as kr

BINARY = os.environ.get("TF_SERVING_BINARY") or shutil.which("tensorflow_model_server")
if BINARY is None:
    pytest.skip(
        "no tensorflow_model_server is on the PATH or named by TF_SERVING_BINARY; the image tensorflow/serving has one in "
        "/usr/bin",
        allow_module_level=True,
    )


def free_ports() -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("localhost", 0))) for _ in range(2)]
        return [own.getsockname()[1] for own in sockets]


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
    own = Server(f"localhost:{grpc_port}", f"localhost:{rest_port}")
    with running(command) as process, contextlib.closing(RestClient(own.rest, model)) as client:

        def is_up() -> bool:
            assert process.poll() is None, "the server has ended"
            with contextlib.suppress(ServingError):
                return set(client.status().values()) == {"AVAILABLE"}
            return False

        eventually(is_up, seconds=60)
        yield own


@pytest.fixture(scope="module")
def server(directories: ModelDirectories, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """In place of the one that the clients are tested with elsewhere."""
    config = tmp_path_factory.mktemp("config") / "models.config"
    config.write_text(str(server_config(directories.folder, {})))
    with tensorflow_model_server(config, "clicks") as own:
        yield own


class TestSignatures(test_clients.TestSignatures):
    pass


class TestVersions(test_clients.TestVersions):
    pass


class TestRefusals(test_clients.TestRefusals):
    pass


class TestCommandLine(test_clients.TestCommandLine):
    pass


test_values_that_are_not_finite = test_clients.test_values_that_are_not_finite
test_text_in_any_encoding = test_clients.test_text_in_any_encoding


class Deployed:
    """A server with the files in `examples/serving`, but for the place of its model directory."""

    def __init__(self, server: Server, config: Path) -> None:
        self.server, self.config = server, config

    def edit(self, old: str, new: str) -> None:
        """Change `models.config`."""
        text = self.config.read_text()
        assert text.count(old) == 1
        self.config.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def deployed(directories: ModelDirectories, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """Version 1 is warmed up, and so without `ragged`, which batching refuses; version 2 has all signatures."""
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
    """Each gets its own rows back, by every signature that can be batched."""
    client = open_client("grpc", deployed.server.grpc)
    expected = directories.probabilities(2)
    rows = test_clients.rows()

    def ask(number: int) -> bool:
        own = slice(number % 5, None)
        found = client.regress(rows[own])
        padded = client.predict({name: array[own] for name, array in encoded(directories.schema).items()})
        np.testing.assert_allclose(found, expected[own], rtol=0, atol=1e-6)
        np.testing.assert_allclose(padded["probability"][:, 0], expected[own], rtol=0, atol=1e-6)
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
    """As `examples/serving/README.md` goes about it."""
    rows = test_clients.rows()
    stable, canary, status = (
        open_client("grpc", deployed.server.grpc, label=label) for label in ("stable", "canary", None)
    )

    def answers(client: Any, expected: np.ndarray) -> bool:
        found = client.regress(rows)
        return bool(np.allclose(found, expected, rtol=0, atol=1e-6))

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
