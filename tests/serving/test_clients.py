"""The example clients, over both protocols, against a server that runs exported models in another process."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc_client
import numpy as np
import pytest
import tensorflow as tf
from client_command import ServingError
from client_tests import CommandLineTests, RefusalsTests, SignaturesTests, VersionsTests, rows_as_json
from servers import Connect, Server

pytestmark = pytest.mark.one_tensorflow


class TestSignatures(SignaturesTests):
    """Run the shared tests."""


class TestVersions(VersionsTests):
    """Run the shared tests."""


class TestRefusals(RefusalsTests):
    """Run the shared tests."""


class TestCommandLine(CommandLineTests):
    """Run the shared tests."""


class TestConnection:
    def test_is_reused(self, server: Server, open_client: Connect) -> None:
        client = open_client("rest", server.rest)
        client.status()
        first = client._connection.sock
        client.signatures()
        with pytest.raises(ServingError):
            client.predict({"ids": "x"})
        client.regress(rows_as_json())
        assert client._connection.sock is first
        client.close()
        assert client.status()

    def test_reconnects_if_the_server_closed_it(self, open_client: Connect) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                text = b'{"model_version_status": [{"version": "3", "state": "LOADING"}]}'
                self.send_response(200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)
                self.close_connection = True  # without a header that announces it

            def do_POST(self) -> None:
                self.send_response(503)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"no")

            def log_message(self, *arguments: Any) -> None:
                """Print nothing."""

        with ThreadingHTTPServer(("localhost", 0), Handler) as closing:
            threading.Thread(target=closing.serve_forever, daemon=True).start()
            client = open_client("rest", f"http://localhost:{closing.server_port}/behind/a/proxy")
            for _ in range(3):
                assert client.status() == {3: "LOADING"}
            with pytest.raises(ServingError, match="HTTP 503: no"):
                client.regress([{}])
            closing.shutdown()


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "bool", "object"])
def test_tensors_are_encoded_as_by_tensorflow(dtype: str) -> None:
    texts = np.array([[b"a", b""], [b"\x00\xff", b"a"], [b"", b""]], object)
    full = texts if dtype == "object" else np.array([[0, 1], [5, 0], [1, 1]], dtype)
    for array in (full, full[0, 0], full[:0]):
        array = np.asarray(array, dtype)
        of_client = grpc_client.to_tensor(array)
        (of_tensorflow,) = tf.nest.flatten(tf.make_tensor_proto(array, shape=array.shape))
        received = grpc_client.from_tensor(of_client.FromString(of_tensorflow.SerializeToString()))
        sent = tf.make_ndarray(of_tensorflow.FromString(of_client.SerializeToString()))
        for decoded in (received, sent):
            assert decoded.shape == array.shape
            np.testing.assert_array_equal(decoded, array)
    repeated = tf.compat.v1.make_tensor_proto(7, "int32", [2, 3])
    np.testing.assert_array_equal(
        grpc_client.from_tensor(of_client.FromString(repeated.SerializeToString())), np.full((2, 3), 7)
    )
