"""Fixtures: exported models, servers of them, and clients."""

import contextlib
import functools
import importlib
from collections.abc import Iterator
from typing import Any

import pytest
from servers import Connect, ModelDirectories, Server, model_server, write_directories


@pytest.fixture(scope="session")
def directories(tmp_path_factory: pytest.TempPathFactory) -> ModelDirectories:
    return write_directories(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def server(directories: ModelDirectories) -> Iterator[Server]:
    with model_server(directories.folder) as started:
        yield started


@pytest.fixture(params=["grpc", "rest"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def open_client() -> Iterator[Connect]:
    """A function that makes clients and closes them after the test."""
    with contextlib.ExitStack() as stack:

        def open_client(kind: str, address: str, model: str = "clicks", **options: Any) -> Any:
            client_class = getattr(importlib.import_module(f"{kind}_client"), f"{kind.title()}Client")
            return stack.enter_context(contextlib.closing(client_class(address, model, **options)))

        yield open_client


@pytest.fixture
def connect(kind: str, server: Server, open_client: Connect) -> Connect:
    """A function that makes clients of the server."""
    return functools.partial(open_client, kind, getattr(server, kind))
