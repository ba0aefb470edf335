"""The example clients, over both protocols, against a server that runs exported models in another process."""

import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import grpc_client
import numpy as np
import pytest
import tensorflow as tf
from client_command import ServingError
from models import MISSING_INTEGER, RAW, ROWS, encoded, raw_model, requests_of_columns
from servers import EXAMPLES, Connect, ModelDirectories, Server, eventually, set_labels

import keras_rafm as kr

pytestmark = pytest.mark.one_tensorflow

NUM_ROWS = len(ROWS["user"])


def rows() -> list[dict[str, Any]]:
    """`ROWS` as JSON objects, without what is missing."""

    def is_there(value: Any) -> bool:
        return value not in ("", [""], MISSING_INTEGER) and value == value

    return [
        {name: value for name, value in zip(ROWS, values, strict=True) if is_there(value)}
        for values in zip(*ROWS.values(), strict=True)
    ]


def assert_close(found: Any, expected: np.ndarray) -> None:
    assert np.shape(found) == expected.shape
    np.testing.assert_allclose(np.asarray(found), expected, rtol=0, atol=1e-6)


class TestSignatures:
    def test_predict(self, connect: Connect, directories: ModelDirectories) -> None:
        expected = directories.probabilities(2)[:, None]
        assert np.std(expected) > 0.01
        client = connect()
        for name, inputs in requests_of_columns(directories.schema):
            if name in ("serving_default", "ragged", "raw", "examples"):
                found = client.predict(inputs, name)
                assert_close(found["probability"], expected)
                np.testing.assert_allclose(found["score"], np.log(expected / (1 - expected)), rtol=1e-5, atol=1e-5)
                np.testing.assert_array_equal(found["class"], expected > 0.5)

    def test_levels(self, connect: Connect, directories: ModelDirectories) -> None:
        inputs = encoded(directories.schema)
        scores = directories.models[2].layers[-1].level_scores(inputs)
        expected = tf.sigmoid(scores).numpy()
        assert expected.shape == (NUM_ROWS, 3)
        assert_close(connect().predict(inputs, "level_scores")["level_probabilities"], expected)
        assert_close(connect().predict(inputs, "low")["probability"], expected[:, :1])

    def test_classify_and_regress(self, connect: Connect, directories: ModelDirectories) -> None:
        expected = directories.probabilities(2)
        found = connect().classify(rows())
        assert [[label for label, _ in row] for row in found] == [["0", "1"]] * NUM_ROWS
        assert_close([[score for _, score in row] for row in found], np.stack([1 - expected, expected], axis=1))
        assert_close(connect().regress(rows()), expected)

    def test_one_output_has_its_name(self, connect: Connect, directories: ModelDirectories) -> None:
        expected = directories.models["ratings"](directories.schema(ROWS)).numpy()
        found = connect("ratings").predict(RAW, "raw")
        assert set(found) == {"score"}
        assert_close(found["score"], expected)

    def test_rows_over_rest(self, server: Server, open_client: Connect, directories: ModelDirectories) -> None:
        instances = [dict(zip(RAW, row, strict=True)) for row in zip(*RAW.values(), strict=True)]
        found = open_client("rest", server.rest).predict_rows(instances, "raw")
        assert_close([row["probability"] for row in found], directories.probabilities(2)[:, None])
        (found,) = open_client("rest", server.rest, "ratings").predict_rows(instances[:1], "raw")
        assert_close(found, directories.models["ratings"](directories.schema(ROWS)).numpy()[0])

    def test_description(self, connect: Connect) -> None:
        found = connect().signatures()
        assert set(found) == {
            "serving_default", "ragged", "raw", "examples", "classify", "regress", "low", "level_scores",
        }  # fmt: skip
        assert found["classify"].method == "tensorflow/serving/classify"
        assert found["raw"].inputs == {
            "user": ("DT_STRING", [-1]),
            "shop": ("DT_INT64", [-1]),
            "price": ("DT_FLOAT", [-1]),
            "tags": ("DT_STRING", [-1, -1]),
        }
        assert set(found["raw"].outputs) == {"score", "probability", "class"}


def test_values_that_are_not_finite(connect: Connect, directories: ModelDirectories) -> None:
    """They go there and come back, and other rows have their scores."""
    inputs = encoded(directories.schema)
    inputs["values"][0, 0] = np.nan
    scores = np.asarray(connect().predict(inputs)["score"])
    assert np.isnan(scores[0, 0])
    assert np.all(np.isfinite(scores[1:]))


def test_text_in_any_encoding(connect: Connect, directories: ModelDirectories) -> None:
    raw = {
        **RAW,
        "user": [b"\xff\x00", b"ann", "ünïcode 東京", "\x00", "ann", '"'],
        "tags": [["a", "b"]] * NUM_ROWS,
    }
    known = {**ROWS, "user": ["new", "ann", "new", "new", "ann", "new"], "tags": raw["tags"]}
    expected = tf.sigmoid(directories.models[2](directories.schema(known))).numpy()
    assert_close(connect().predict(raw, "raw")["probability"], expected)


class TestVersions:
    def test_by_number_and_by_label(self, connect: Connect, directories: ModelDirectories, server: Server) -> None:
        expected = {version: directories.probabilities(version)[:, None] for version in (1, 2)}
        assert np.max(np.abs(expected[1] - expected[2])) > 0.01
        for version in (1, 2):
            found = connect(version=version).predict(RAW, "raw")
            assert_close(found["probability"], expected[version])
        for labels in ({"stable": 1, "canary": 2}, {"stable": 2}):
            set_labels(server, directories.folder, labels)
            for label, version in labels.items():
                assert_close(connect(label=label).predict(RAW, "raw")["probability"], expected[version])
                assert connect(label=label).signatures()
        with pytest.raises(ServingError, match="Unrecognized servable version label: canary"):
            connect(label="canary").predict(RAW, "raw")
        with pytest.raises(grpc_client.grpc.RpcError, match="version 3 of model clicks, which is not currently available"):
            set_labels(server, directories.folder, {"canary": 3})
        assert connect().status() == {1: "AVAILABLE", 2: "AVAILABLE"}
        assert connect(version=1).status() == {1: "AVAILABLE"}

    def test_a_new_one_comes_and_goes(
        self, server: Server, open_client: Connect, directories: ModelDirectories, tmp_path: Path
    ) -> None:
        clients = [open_client(kind, address, "changing") for kind, address in server._asdict().items()]
        old = directories.probabilities(1)
        new = raw_model(directories.schema, seed=5)
        path = kr.export(new, directories.folder / "changing", directories.schema, signatures=["regress"])
        assert path.name == "2"
        eventually(lambda: all(client.status().get(2) == "AVAILABLE" for client in clients))
        expected = tf.sigmoid(new(directories.schema(ROWS))).numpy()[:, 0]
        assert np.max(np.abs(expected - old)) > 0.01
        for client in clients:
            assert_close(client.regress(rows()), expected)
        # Back to the version before.
        path.rename(tmp_path / "removed")
        eventually(lambda: all(client.status() == {1: "AVAILABLE", 2: "END"} for client in clients))
        for client in clients:
            assert_close(client.regress(rows()), old)


class Refusal(NamedTuple):
    """A request that is refused.

    Attributes:
        send: Sends it, given how to connect and a request that is not.
        grpc: The status over gRPC.
        rest: The status over HTTP.
        message: Part of what is said.
    """

    send: Callable[[Connect, dict[str, Any]], Any]
    grpc: str
    rest: int
    message: str


INVALID = "INVALID_ARGUMENT"
REFUSALS = {
    "unknown_model": Refusal(lambda to, own: to("other").predict(own), "NOT_FOUND", 404, r"Latest\(other\)"),
    "unknown_version": Refusal(lambda to, own: to(version=7).predict(own), "NOT_FOUND", 404, r"Specific\(clicks, 7\)"),
    "version_without_status": Refusal(lambda to, _: to(version=7).status(), "NOT_FOUND", 404, "Could not find version 7"),
    "unknown_label": Refusal(lambda to, own: to(label="a b/ü").predict(own), INVALID, 400, "version label: a b/ü"),
    "unknown_signature": Refusal(
        lambda to, own: to().predict(own, "other"), "FAILED_PRECONDITION", 400, '"other" not found'
    ),
    "wrong_dtype": Refusal(
        lambda to, own: to().predict({**own, "ids": own["ids"] + 0.5}), INVALID, 400, "to be int32|expected type: int32"
    ),
    "wrong_rank": Refusal(lambda to, own: to().predict({**own, "ids": own["ids"][0]}), INVALID, 400, ""),
    "unequal_rows": Refusal(lambda to, own: to().predict({**own, "ids": own["ids"][1:]}), INVALID, 400, ""),
    "missing_input": Refusal(lambda to, own: to().predict({"ids": own["ids"]}), INVALID, 400, "[mM]issing.*values"),
    "row_splits_too_far": Refusal(
        lambda to, _: to().predict({"ids": [1], "values": [1.0], "row_splits": [0, 9]}, "ragged"), INVALID, 400, ""
    ),
    "broken_examples": Refusal(
        lambda to, _: to().predict({"examples": [b"\n\x7fbroken"]}, "examples"), INVALID, 400, "[Ee]xample"
    ),
    "feature_of_another_type": Refusal(lambda to, _: to().regress([{"price": "x"}]), INVALID, 400, "price"),
    "no_examples": Refusal(lambda to, _: to().classify([]), INVALID, 400, "Input is empty|empty array"),
    "method_of_another_signature": Refusal(
        lambda to, _: to().classify(rows(), "regress"), INVALID, 400, "to be tensorflow/serving/classify. Was: .*/regress"
    ),
}


class TestRefusals:
    @pytest.mark.parametrize("name", REFUSALS)
    def test_is_told_and_the_server_lives_on(
        self, name: str, kind: str, connect: Connect, directories: ModelDirectories
    ) -> None:
        refusal, own = REFUSALS[name], encoded(directories.schema)
        with pytest.raises(ServingError, match=f"(?s){refusal.message}") as error:
            refusal.send(connect, own)
        assert error.value.code == (refusal.grpc if kind == "grpc" else f"HTTP {refusal.rest}")
        assert_close(connect().predict(own)["probability"], directories.probabilities(2)[:, None])

    def test_no_rows(self, server: Server, open_client: Connect, directories: ModelDirectories) -> None:
        own = {name: array[:0] for name, array in encoded(directories.schema).items()}
        found = open_client("grpc", server.grpc).predict(own)
        assert {name: array.shape for name, array in found.items()} == dict.fromkeys(
            ("score", "probability", "class"), (0, 1)
        )

    def test_lists_of_another_kind(self, server: Server, open_client: Connect) -> None:
        client = open_client("grpc", server.grpc)
        for ids in ([[1.5]], [["1"]], [[2**40]], [[1], [2, 3]]):
            with pytest.raises(ValueError, match="'ids' must be DT_INT32"):
                client.predict({"ids": ids, "values": [[1.0]]})
        with pytest.raises(ValueError, match="'user' must be DT_STRING"):
            client.predict({**RAW, "user": [1] * NUM_ROWS}, "raw")
        with pytest.raises(ValueError, match="Received: complex64"):
            client.predict({"ids": np.ones((1, 1), np.complex64), "values": np.ones((1, 1), np.float32)})
        with pytest.raises(ValueError, match="'price' must be strings, ints or floats"):
            client.classify([{"price": [1.5, "x"]}])

    def test_nobody_listens(self, kind: str, open_client: Connect) -> None:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            client = open_client(kind, f"localhost:{free.getsockname()[1]}")
            with pytest.raises(ServingError) as error:
                client.status()
        assert error.value.code == "UNAVAILABLE"

    def test_nobody_answers(self, kind: str, open_client: Connect) -> None:
        with socket.create_server(("localhost", 0)) as silent:
            client = open_client(kind, f"localhost:{silent.getsockname()[1]}", timeout=0.2)
            with pytest.raises(ServingError) as error:
                client.status()
        assert error.value.code == "DEADLINE_EXCEEDED"


class TestConnection:
    def test_is_kept(self, server: Server, open_client: Connect) -> None:
        client = open_client("rest", server.rest)
        client.status()
        first = client._connection.sock
        client.signatures()
        with pytest.raises(ServingError):
            client.predict({"ids": "x"})
        client.regress(rows())
        assert client._connection.sock is first
        client.close()
        assert client.status()

    def test_is_made_again_if_the_server_closed_it(self, open_client: Connect) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                text = b'{"model_version_status": [{"version": "3", "state": "LOADING"}]}'
                self.send_response(200)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)
                self.close_connection = True  # without a word

            def do_POST(self) -> None:
                self.send_response(503)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"no")

            def log_message(self, *arguments: Any) -> None:
                """Say nothing."""

        with ThreadingHTTPServer(("localhost", 0), Handler) as closing:
            threading.Thread(target=closing.serve_forever, daemon=True).start()
            client = open_client("rest", f"http://localhost:{closing.server_port}/behind/a/proxy")
            for _ in range(3):
                assert client.status() == {3: "LOADING"}
            with pytest.raises(ServingError, match="HTTP 503: no"):
                client.regress([{}])
            closing.shutdown()


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "bool", "object"])
def test_tensors_are_those_of_tensorflow(dtype: str) -> None:
    texts = np.array([[b"a", b""], [b"\x00\xff", b"a"], [b"", b""]], object)
    full = texts if dtype == "object" else np.array([[0, 1], [5, 0], [1, 1]], dtype)
    for array in (full, full[0, 0], full[:0]):
        array = np.asarray(array, dtype)
        own = grpc_client.to_tensor(array)
        (theirs,) = tf.nest.flatten(tf.make_tensor_proto(array, shape=array.shape))
        received = grpc_client.from_tensor(own.FromString(theirs.SerializeToString()))
        sent = tf.make_ndarray(theirs.FromString(own.SerializeToString()))
        for found in (received, sent):
            assert found.shape == array.shape
            np.testing.assert_array_equal(found, array)
    repeated = tf.compat.v1.make_tensor_proto(7, "int32", [2, 3])
    np.testing.assert_array_equal(grpc_client.from_tensor(own.FromString(repeated.SerializeToString())), np.full((2, 3), 7))


#: Runs a script where TensorFlow can't be imported, nor what needs it.
WITHOUT_TENSORFLOW = """
import runpy, sys
sys.modules["tensorflow"] = sys.modules["tensorflow_serving"] = sys.modules["keras"] = sys.modules["keras_rafm"] = None
sys.path.insert(0, sys.argv[1])
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class TestCommandLine:
    @pytest.fixture
    def run(self, kind: str, server: Server, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
        """Runs a client: that for gRPC where there is no TensorFlow, that for REST where there are no packages."""
        script = str(EXAMPLES / f"{kind}_client.py")
        python = ["-S", "-E", "-s"] if kind == "rest" else ["-c", WITHOUT_TENSORFLOW, str(EXAMPLES)]

        def done(*arguments: str, rows: str = "") -> subprocess.CompletedProcess[str]:
            command = [sys.executable, *python, script, "--server", getattr(server, kind), *arguments]
            return subprocess.run(command, input=rows, cwd=tmp_path, capture_output=True, text=True, check=False)

        return done

    def answers(self, done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def test_rows(self, run: Callable, directories: ModelDirectories, tmp_path: Path) -> None:
        lines = "".join(json.dumps(row) + "\n" for row in rows())
        expected = directories.probabilities(1)
        found = self.answers(run("--model=clicks", "--version=1", "--signature=raw", "--batch=4", rows=lines))
        assert_close([row["probability"] for row in found], expected[:, None])
        (tmp_path / "rows.jsonl").write_text(lines)
        found = self.answers(run("--model=clicks", "--version=1", "--signature=classify", "rows.jsonl"))
        assert_close([row["1"] for row in found], expected)
        found = self.answers(run("--model=clicks", "--version=1", "--signature=regress", rows=lines))
        assert_close([row["output"] for row in found], expected)

    def test_ids(self, run: Callable, directories: ModelDirectories) -> None:
        found = self.answers(run("--model=clicks", "--ids", "1 3:0.5 2", "--ids", "4"))
        ids, values = np.array([[1, 3, 2], [4, -1, -1]]), np.array([[1, 0.5, 1], [1, 0, 0]], "float32")
        scores = directories.models[2]({"ids": ids, "values": values})
        assert_close([row["probability"] for row in found], tf.sigmoid(scores).numpy())

    def test_status_and_signatures(self, run: Callable) -> None:
        available = [{"version": version, "state": "AVAILABLE"} for version in (1, 2)]
        assert self.answers(run("--model=clicks", "--status")) == available
        (found,) = self.answers(run("--model=ratings", "--signatures"))[:1]
        assert set(found) == {"signature", "method", "inputs", "outputs"}

    def test_refused(self, run: Callable) -> None:
        done = run("--model=clicks", "--version=9", "--status")
        assert re.search("(NOT_FOUND|HTTP 404): Could not find version 9 of model clicks", done.stderr), done.stderr
        assert (done.returncode, done.stdout) == (1, "")

    @pytest.mark.parametrize("kind", ["rest"])  # both have the same command line
    @pytest.mark.parametrize(
        ("arguments", "lines", "message"),
        [
            (["--model=clicks", "--signature=other"], "", "has the signatures .* Received: 'other'"),
            (["--model=clicks", "--signature=raw"], '{"user": "a"}\n{"usr": "b"}', r"Received a row with \['usr'\]"),
            (["--model=clicks"], '{"ids": [1]}', r"Received a row without \['values'\]"),
            (["--model=clicks", "--signature=raw"], '{"user": ["a"]}', "'user' takes one value per row"),
            (["--model=clicks", "--signature=raw"], '{"user": "a"}\nb', "line 2 is not JSON"),
            (["--model=clicks", "--signature=raw"], "[1]", r"line 1 must be a JSON object. Received: \[1\]"),
            (["--model=clicks", "--ids=1 x"], "", "--ids takes ids, or id:value.* Received: '1 x'"),
            (["--model=clicks", "--batch=0"], "", "argument --batch: invalid"),
            (["--model=clicks", "missing.jsonl"], "", "No such file.*missing.jsonl"),
            (["--model=clicks", "--version=1", "--label=stable"], "", "not allowed with argument"),
            ([], "", "arguments are required: --model"),
        ],
    )
    def test_wrong_arguments_and_rows(self, run: Callable, arguments: list[str], lines: str, message: str) -> None:
        done = run(*arguments, rows=lines)
        assert re.search(message, done.stderr), done.stderr
        assert "Traceback" not in done.stderr
        assert done.returncode == 2
