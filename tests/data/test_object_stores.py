"""Files on servers, through tensorflow-io's file systems: HTTP, the only one of them that a test can serve."""

import gzip
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec

import numpy as np
import pytest

from keras_rafm.data import Schema
from keras_rafm.data.raw import files
from keras_rafm.data.raw.files import files_of, opened

pytestmark = pytest.mark.one_tensorflow

needs_tensorflow_io = pytest.mark.skipif(find_spec("tensorflow_io") is None, reason="tensorflow-io is not installed")

#: More rows of Parquet than are read at once, and more text than the 512 KiB of one request.
NUM_ROWS = 30_000


def rows():
    rng = np.random.default_rng(0)
    names = np.array(["ann", "bob", "eve", ""])[rng.integers(0, 4, NUM_ROWS)].tolist()
    return {"name": names, "n": rng.integers(0, 10**9, NUM_ROWS).tolist(), "y": rng.integers(0, 2, NUM_ROWS).tolist()}


def new_schema():
    return Schema({"name": "string_categorical", "n": Schema.integer_hashed(100)}, label="y")


class _Handler(BaseHTTPRequestHandler):
    """Serves the server's files, also by ranges of bytes, as object stores do."""

    protocol_version = "HTTP/1.1"

    def _answer(self, with_body):
        whole = self.server.files.get(self.path)
        range_match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        status, body = 404 if whole is None else 200, whole or b""
        if whole is not None and range_match:
            first, last = map(int, range_match.groups())
            status, body = (206, whole[first : last + 1]) if first < len(whole) else (416, b"")
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{len(whole)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def do_GET(self):
        self._answer(True)

    def do_HEAD(self):
        self._answer(False)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    path = tmp_path_factory.mktemp("served") / "some.parquet"
    columns = rows()
    lines = ["name,n,y", *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    text = "\n".join(lines).encode()
    files = {"/a/some.csv": text, "/a/some.csv.gz": gzip.compress(text), "/a/bad.csv": b"name,n,y\nann,x,1\n"}
    if find_spec("pyarrow") is not None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table(columns), path)
        files["/a/some.parquet"] = path.read_bytes()
    if find_spec("fastavro") is not None:
        import fastavro

        fields = [{"name": name, "type": "string" if name == "name" else "long"} for name in columns]
        with open(path, "wb") as file:
            records = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
            fastavro.writer(file, {"type": "record", "name": "row", "fields": fields}, records)
        files["/a/some.avro"] = path.read_bytes()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.files = files
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def url(server):
    return f"http://127.0.0.1:{server.server_port}/a"


@needs_tensorflow_io
@pytest.mark.parametrize(
    ("name", "package"),
    [("some.csv", "numpy"), ("some.csv.gz", "numpy"), ("some.parquet", "pyarrow"), ("some.avro", "fastavro")],
)
def test_schemas_learn_and_train_from_servers(url, name, package):
    pytest.importorskip(package, reason=f"{package} is not installed")
    schema, other = new_schema(), new_schema()
    schema.adapt(f"{url}/{name}")
    other.adapt(rows())
    np.testing.assert_array_equal(schema.counts, other.counts)
    ids, labels = [], []
    for inputs, batch_labels in schema.dataset([f"{url}/{name}"], 5000):
        ids.append(inputs["ids"].numpy())
        labels.append(batch_labels.numpy())
    expected, expected_labels = other.training_batch(rows())
    np.testing.assert_array_equal(np.concatenate(ids), expected["ids"])
    np.testing.assert_array_equal(np.concatenate(labels), expected_labels)


@needs_tensorflow_io
def test_errors_name_the_address(url):
    with pytest.raises(FileNotFoundError, match=f"file not found: {re.escape(url)}/absent.csv"):
        files_of(f"{url}/absent.csv")
    with pytest.raises(FileNotFoundError, match="file not found: "):
        opened(f"{url}/absent.csv")
    with pytest.raises(ValueError, match=rf"{re.escape(url)}/bad\.csv, line 2, column 'n': expected an integer"):
        new_schema().adapt(f"{url}/bad.csv")


@needs_tensorflow_io
def test_a_server_that_does_not_answer():
    nowhere = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    port = nowhere.server_port
    nowhere.server_close()
    with pytest.raises(OSError, match=rf"http://127\.0\.0\.1:{port}/some\.csv: .*Failed to connect"):
        files_of(f"http://127.0.0.1:{port}/some.csv")


@needs_tensorflow_io
def test_file_systems_are_registered_when_needed():
    code = """
import tensorflow as tf
from keras_rafm.data.raw import files
schemes = tf.io.gfile.get_registered_schemes
assert "s3" not in schemes()
files.register_file_system("some/file")
files.register_file_system("gs://bucket/file")
assert "s3" not in schemes()
files.register_file_system("s3://bucket/file")
assert {"s3", "az", "http", "https", "hdfs"} <= set(schemes())
"""
    command = [sys.executable, "-W", "error::UserWarning:keras_rafm", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_unknown_file_systems():
    with pytest.raises(
        ValueError, match=r"^ftp://host/file\.csv: the file system must be one of \[.*'s3'.*\]\. Received: 'ftp://'"
    ):
        files_of("ftp://host/file.csv")


@pytest.mark.parametrize("scheme", ["s3", "az", "http", "https"])
def test_without_tensorflow_io(monkeypatch, scheme):
    monkeypatch.setattr(files.tf.io.gfile, "get_registered_schemes", lambda: ["file", "ram", ""])
    monkeypatch.setitem(sys.modules, "tensorflow_io", None)
    message = (
        rf"^{scheme}://a/b\.csv: cannot open '{scheme}://' paths: tensorflow_io is needed here: "
        r"pip install 'keras_rafm\[io\]'"
    )
    with pytest.raises(ImportError, match=message):
        files_of(f"{scheme}://a/b.csv")
    with pytest.raises(ImportError, match=message):
        opened(f"{scheme}://a/b.csv")


@needs_tensorflow_io
def test_a_tensorflow_io_that_does_not_load(monkeypatch):
    monkeypatch.setattr(files.tf.io.gfile, "get_registered_schemes", lambda: ["file", "ram", ""])
    message = r"s3://a/b\.csv: cannot open 's3://' paths: the library of tensorflow_io does not load with"
    with pytest.raises(ImportError, match=message):
        files_of("s3://a/b.csv")
