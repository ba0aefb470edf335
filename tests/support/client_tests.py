"""Tests of the example clients that run against any server: one of the test helpers, and `tensorflow_model_server`.

Test files subclass these classes. They supply the fixture `server`; `conftest.py` has the others.
"""

import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable
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

NUM_ROWS = len(ROWS["user"])


def rows_as_json() -> list[dict[str, Any]]:
    """Return `ROWS` as JSON objects without the missing values."""

    def is_present(value: Any) -> bool:
        return value not in ("", [""], MISSING_INTEGER) and value == value

    return [
        {name: value for name, value in zip(ROWS, values, strict=True) if is_present(value)}
        for values in zip(*ROWS.values(), strict=True)
    ]


def assert_close(actual: Any, expected: np.ndarray) -> None:
    assert np.shape(actual) == expected.shape
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=0, atol=1e-6)


class SignaturesTests:
    def test_predict(self, connect: Connect, directories: ModelDirectories) -> None:
        expected = directories.probabilities(2)[:, None]
        assert np.std(expected) > 0.01
        client = connect()
        for name, inputs in requests_of_columns(directories.schema):
            if name in ("serving_default", "ragged", "raw", "examples"):
                answer = client.predict(inputs, name)
                assert_close(answer["probability"], expected)
                np.testing.assert_allclose(answer["score"], np.log(expected / (1 - expected)), rtol=1e-5, atol=1e-5)
                np.testing.assert_array_equal(answer["class"], expected > 0.5)

    def test_levels(self, connect: Connect, directories: ModelDirectories) -> None:
        inputs = encoded(directories.schema)
        scores = directories.models[2].layers[-1].level_scores(inputs)
        expected = tf.sigmoid(scores).numpy()
        assert expected.shape == (NUM_ROWS, 3)
        assert_close(connect().predict(inputs, "level_scores")["level_probabilities"], expected)
        assert_close(connect().predict(inputs, "low")["probability"], expected[:, :1])

    def test_classify_and_regress(self, connect: Connect, directories: ModelDirectories) -> None:
        expected = directories.probabilities(2)
        answer = connect().classify(rows_as_json())
        assert [[label for label, _ in row] for row in answer] == [["0", "1"]] * NUM_ROWS
        assert_close([[score for _, score in row] for row in answer], np.stack([1 - expected, expected], axis=1))
        assert_close(connect().regress(rows_as_json()), expected)

    def test_one_output_has_its_name(self, connect: Connect, directories: ModelDirectories) -> None:
        expected = directories.models["ratings"](directories.schema(ROWS)).numpy()
        answer = connect("ratings").predict(RAW, "raw")
        assert set(answer) == {"score"}
        assert_close(answer["score"], expected)

    def test_rows_over_rest(self, server: Server, open_client: Connect, directories: ModelDirectories) -> None:
        instances = [dict(zip(RAW, row, strict=True)) for row in zip(*RAW.values(), strict=True)]
        answer = open_client("rest", server.rest).predict_rows(instances, "raw")
        assert_close([row["probability"] for row in answer], directories.probabilities(2)[:, None])
        (answer,) = open_client("rest", server.rest, "ratings").predict_rows(instances[:1], "raw")
        assert_close(answer, directories.models["ratings"](directories.schema(ROWS)).numpy()[0])

    def test_description(self, connect: Connect) -> None:
        answer = connect().signatures()
        assert set(answer) == {
            "serving_default", "ragged", "raw", "examples", "classify", "regress", "low", "level_scores",
        }  # fmt: skip
        assert answer["classify"].method == "tensorflow/serving/classify"
        assert answer["raw"].inputs == {
            "user": ("DT_STRING", [-1]),
            "shop": ("DT_INT64", [-1]),
            "price": ("DT_FLOAT", [-1]),
            "tags": ("DT_STRING", [-1, -1]),
        }
        assert set(answer["raw"].outputs) == {"score", "probability", "class"}

    def test_values_that_are_not_finite(self, connect: Connect, directories: ModelDirectories) -> None:
        """They pass both ways, and the scores of other rows stay finite."""
        inputs = encoded(directories.schema)
        inputs["values"][0, 0] = np.nan
        scores = np.asarray(connect().predict(inputs)["score"])
        assert np.isnan(scores[0, 0])
        assert np.all(np.isfinite(scores[1:]))

    def test_text_in_any_encoding(self, connect: Connect, directories: ModelDirectories) -> None:
        raw = {
            **RAW,
            "user": [b"\xff\x00", b"ann", "ünïcode 東京", "\x00", "ann", '"'],
            "tags": [["a", "b"]] * NUM_ROWS,
        }
        known = {**ROWS, "user": ["new", "ann", "new", "new", "ann", "new"], "tags": raw["tags"]}
        expected = tf.sigmoid(directories.models[2](directories.schema(known))).numpy()
        assert_close(connect().predict(raw, "raw")["probability"], expected)


class VersionsTests:
    def test_by_number_and_by_label(self, connect: Connect, directories: ModelDirectories, server: Server) -> None:
        expected = {version: directories.probabilities(version)[:, None] for version in (1, 2)}
        assert np.max(np.abs(expected[1] - expected[2])) > 0.01
        for version in (1, 2):
            answer = connect(version=version).predict(RAW, "raw")
            assert_close(answer["probability"], expected[version])
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

    def test_new_version_and_rollback(
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
            assert_close(client.regress(rows_as_json()), expected)
        # Roll back to the previous version.
        path.rename(tmp_path / "removed")
        eventually(lambda: all(client.status() == {1: "AVAILABLE", 2: "END"} for client in clients))
        for client in clients:
            assert_close(client.regress(rows_as_json()), old)


class Refusal(NamedTuple):
    """A request that the server refuses.

    Attributes:
        send: Sends the request. Its arguments make a client and hold the inputs of a valid request.
        grpc: The status over gRPC.
        rest: The status over HTTP.
        message: A pattern that the message contains.
    """

    send: Callable[[Connect, dict[str, Any]], Any]
    grpc: str
    rest: int
    message: str


INVALID = "INVALID_ARGUMENT"
REFUSALS = {
    "unknown_model": Refusal(
        lambda connect, inputs: connect("other").predict(inputs), "NOT_FOUND", 404, r"Latest\(other\)"
    ),
    "unknown_version": Refusal(
        lambda connect, inputs: connect(version=7).predict(inputs), "NOT_FOUND", 404, r"Specific\(clicks, 7\)"
    ),
    "version_without_status": Refusal(
        lambda connect, _: connect(version=7).status(), "NOT_FOUND", 404, "Could not find version 7"
    ),
    "unknown_label": Refusal(
        lambda connect, inputs: connect(label="a b/ü").predict(inputs), INVALID, 400, "version label: a b/ü"
    ),
    "unknown_signature": Refusal(
        lambda connect, inputs: connect().predict(inputs, "other"), "FAILED_PRECONDITION", 400, '"other" not found'
    ),
    "wrong_dtype": Refusal(
        lambda connect, inputs: connect().predict({**inputs, "ids": inputs["ids"] + 0.5}),
        INVALID,
        400,
        "to be int32|expected type: int32",
    ),
    "wrong_rank": Refusal(lambda connect, inputs: connect().predict({**inputs, "ids": inputs["ids"][0]}), INVALID, 400, ""),
    "unequal_rows": Refusal(
        lambda connect, inputs: connect().predict({**inputs, "ids": inputs["ids"][1:]}), INVALID, 400, ""
    ),
    "missing_input": Refusal(
        lambda connect, inputs: connect().predict({"ids": inputs["ids"]}), INVALID, 400, "[mM]issing.*values"
    ),
    "row_splits_too_far": Refusal(
        lambda connect, _: connect().predict({"ids": [1], "values": [1.0], "row_splits": [0, 9]}, "ragged"),
        INVALID,
        400,
        "",
    ),
    "broken_examples": Refusal(
        lambda connect, _: connect().predict({"examples": [b"\n\x7fbroken"]}, "examples"), INVALID, 400, "[Ee]xample"
    ),
    "feature_of_another_type": Refusal(lambda connect, _: connect().regress([{"price": "x"}]), INVALID, 400, "price"),
    "no_examples": Refusal(lambda connect, _: connect().classify([]), INVALID, 400, "Input is empty|empty array"),
    "method_of_another_signature": Refusal(
        lambda connect, _: connect().classify(rows_as_json(), "regress"),
        INVALID,
        400,
        "to be tensorflow/serving/classify. Was: .*/regress",
    ),
}


class RefusalsTests:
    @pytest.mark.parametrize("name", REFUSALS)
    def test_error_is_reported_and_the_server_keeps_answering(
        self, name: str, kind: str, connect: Connect, directories: ModelDirectories
    ) -> None:
        refusal, inputs = REFUSALS[name], encoded(directories.schema)
        with pytest.raises(ServingError, match=f"(?s){refusal.message}") as error:
            refusal.send(connect, inputs)
        assert error.value.code == (refusal.grpc if kind == "grpc" else f"HTTP {refusal.rest}")
        assert_close(connect().predict(inputs)["probability"], directories.probabilities(2)[:, None])

    def test_no_rows(self, server: Server, open_client: Connect, directories: ModelDirectories) -> None:
        inputs = {name: array[:0] for name, array in encoded(directories.schema).items()}
        answer = open_client("grpc", server.grpc).predict(inputs)
        assert {name: array.shape for name, array in answer.items()} == dict.fromkeys(
            ("score", "probability", "class"), (0, 1)
        )

    def test_lists_of_the_wrong_type(self, server: Server, open_client: Connect) -> None:
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

    def test_no_server_listens(self, kind: str, open_client: Connect) -> None:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            client = open_client(kind, f"localhost:{free.getsockname()[1]}")
            with pytest.raises(ServingError) as error:
                client.status()
        assert error.value.code == "UNAVAILABLE"

    def test_server_does_not_answer(self, kind: str, open_client: Connect) -> None:
        with socket.create_server(("localhost", 0)) as silent:
            client = open_client(kind, f"localhost:{silent.getsockname()[1]}", timeout=0.2)
            with pytest.raises(ServingError) as error:
                client.status()
        assert error.value.code == "DEADLINE_EXCEEDED"


#: Runs a script in a process that can't import TensorFlow or packages that need it.
WITHOUT_TENSORFLOW = """
import runpy, sys
sys.modules["tensorflow"] = sys.modules["tensorflow_serving"] = sys.modules["keras"] = sys.modules["keras_rafm"] = None
sys.path.insert(0, sys.argv[1])
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class CommandLineTests:
    @pytest.fixture
    def run(self, kind: str, server: Server, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
        """Run a client: the one for gRPC without TensorFlow, the one for REST without any packages."""
        script = str(EXAMPLES / f"{kind}_client.py")
        python = ["-S", "-E", "-s"] if kind == "rest" else ["-c", WITHOUT_TENSORFLOW, str(EXAMPLES)]

        def run(*arguments: str, rows: str = "") -> subprocess.CompletedProcess[str]:
            command = [sys.executable, *python, script, "--server", getattr(server, kind), *arguments]
            return subprocess.run(command, input=rows, cwd=tmp_path, capture_output=True, text=True, check=False)

        return run

    def answers(self, done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def test_rows(self, run: Callable, directories: ModelDirectories, tmp_path: Path) -> None:
        lines = "".join(json.dumps(row) + "\n" for row in rows_as_json())
        expected = directories.probabilities(1)
        answer = self.answers(run("--model=clicks", "--version=1", "--signature=raw", "--batch=4", rows=lines))
        assert_close([row["probability"] for row in answer], expected[:, None])
        (tmp_path / "rows.jsonl").write_text(lines)
        answer = self.answers(run("--model=clicks", "--version=1", "--signature=classify", "rows.jsonl"))
        assert_close([row["1"] for row in answer], expected)
        answer = self.answers(run("--model=clicks", "--version=1", "--signature=regress", rows=lines))
        assert_close([row["output"] for row in answer], expected)

    def test_ids(self, run: Callable, directories: ModelDirectories) -> None:
        answer = self.answers(run("--model=clicks", "--ids", "1 3:0.5 2", "--ids", "4"))
        ids, values = np.array([[1, 3, 2], [4, -1, -1]]), np.array([[1, 0.5, 1], [1, 0, 0]], "float32")
        scores = directories.models[2]({"ids": ids, "values": values})
        assert_close([row["probability"] for row in answer], tf.sigmoid(scores).numpy())

    def test_status_and_signatures(self, run: Callable) -> None:
        available = [{"version": version, "state": "AVAILABLE"} for version in (1, 2)]
        assert self.answers(run("--model=clicks", "--status")) == available
        (answer,) = self.answers(run("--model=ratings", "--signatures"))[:1]
        assert set(answer) == {"signature", "method", "inputs", "outputs"}

    def test_refused(self, run: Callable) -> None:
        done = run("--model=clicks", "--version=9", "--status")
        assert re.search("(NOT_FOUND|HTTP 404): Could not find version 9 of model clicks", done.stderr), done.stderr
        assert (done.returncode, done.stdout) == (1, "")

    @pytest.mark.parametrize("kind", ["rest"])  # both have the same command line
    @pytest.mark.parametrize(
        ("arguments", "lines", "message"),
        [
            (["--model=clicks", "--signature=other"], "", "--signature must be one of .* Received: 'other'"),
            (["--model=clicks", "--signature=raw"], '{"user": "a"}\n{"usr": "b"}', r"Received: a row with \['usr'\]"),
            (["--model=clicks"], '{"ids": [1]}', r"Received: a row without \['values'\]"),
            (["--model=clicks", "--signature=raw"], '{"user": ["a"]}', "'user' must have one value per row"),
            (["--model=clicks", "--signature=raw"], '{"user": "a"}\nb', "line 2 is not valid JSON"),
            (["--model=clicks", "--signature=raw"], "[1]", r"line 1 must be a JSON object. Received: \[1\]"),
            (["--model=clicks", "--ids=1 x"], "", "--ids must be ids or id:value pairs.* Received: '1 x'"),
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
