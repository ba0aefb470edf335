"""Training from Kafka: parsers of messages, and datasets with a broker, the mock cluster of librdkafka."""

import gc
import json
import math
import pickle
import re
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import keras_rafm as kr
from keras_rafm.data import CSVFormat, MalformedMessageError, Schema, SkippedRows, kafka_dataset
from keras_rafm.data.kafka import dataset as kafka
from keras_rafm.data.kafka.messages import CSVParser, ExampleParser, JSONParser

pytestmark = pytest.mark.one_tensorflow

needs_tensorflow_io = pytest.mark.skipif(find_spec("tensorflow_io") is None, reason="tensorflow-io is not installed")
needs_broker = pytest.mark.skipif(
    find_spec("tensorflow_io") is None or find_spec("confluent_kafka") is None,
    reason="tensorflow-io or confluent-kafka is not installed",
)

ROOT = Path(__file__).resolve().parents[2]
MISSING_INTEGER = -(2**63)
STREAM = "Kafka topic 't'"
QUICK = {"stream_timeout_ms": 6000, "poll_timeout_ms": 200}  # joining a group takes more than 3 s


def new_schema():
    columns = {"name": "string_categorical", "n": "integer_categorical", "x": "float"}
    schema = Schema(columns, label="y")
    schema.adapt({"name": ["ann", "bob"], "n": [1, 2], "x": [0.5, 1.0]})
    return schema


def row(number):
    return {"name": ["ann", "bob", "eve"][number % 3], "n": number % 5, "x": number / 8, "y": number % 2}


def as_json(row):
    return json.dumps(row).encode()


def as_csv(row):
    return ",".join(map(str, row.values())).encode()


def as_example(row):
    example = tf.train.Example()
    feature = example.features.feature
    feature["name"].bytes_list.value.append(row["name"].encode())
    feature["n"].int64_list.value.append(row["n"])
    feature["x"].float_list.value.append(row["x"])
    feature["y"].float_list.value.append(row["y"])
    return example.SerializeToString()


WRITE = {"json": as_json, "csv": as_csv, "example": as_example}


# --- messages, without a broker


def columns(**options):
    lists = {"tags": Schema.string_categorical(multivalued=True), "ids": Schema.integer_categorical(multivalued=True)}
    flat = {"name": "string_categorical", "n": "integer_categorical", "x": "float"}
    kinds = {**flat, **(lists if options.get("lists") else {}), "y": "float"}
    return Schema(kinds).raw_columns(training=False)


def plain(tensor):
    values = tensor.to_list() if isinstance(tensor, tf.RaggedTensor) else tensor.numpy().tolist()
    return [None if value != value else value for value in values]


def test_json_messages():
    parser = JSONParser(STREAM, columns(lists=True), None)
    messages = [
        b'{"name": "\\u00fc", "n": 9223372036854775807, "x": 1, "tags": ["a", null], "ids": [1, 2], "y": 0.5, "more": {}}',
        b' {"n": null, "tags": null, "x": true, "ids": []} \n',
        b"{}",
    ]
    name, n, x, tags, ids, y = map(plain, parser.parse(messages, 1))
    assert name == ["ü".encode(), b"", b""]
    assert n == [2**63 - 1, MISSING_INTEGER, MISSING_INTEGER]
    assert x == [1.0, 1.0, None]
    assert tags == [[b"a", b""], [], []]
    assert ids == [[1, 2], [], []]
    assert y == [0.5, None, None]


def test_csv_messages():
    parser = CSVParser(STREAM, columns(), None, CSVFormat())
    assert [plain(values) for values in parser.parse([b"ann,1, 0.5,1", b'"a,""b\n",,,\r\n'], 1)] == [
        [b"ann", b'a,"b\n'], [1, MISSING_INTEGER], [0.5, None], [1.0, None],
    ]  # fmt: skip
    other = CSVFormat(delimiter="\t", quote=None, column_names=("y", "more", "x", "n", "name"))
    parser = CSVParser(STREAM, columns(), None, other)
    assert [plain(values) for values in parser.parse([b'1\t?\t0.5\t7\t"bob"'], 1)] == [[b'"bob"'], [7], [0.5], [1.0]]
    parser = CSVParser(STREAM, columns(), None, CSVFormat(missing_values=("NA", "-1")))
    assert [plain(values) for values in parser.parse([b"NA,NA,-1,-1"], 1)] == [[b""], [MISSING_INTEGER], [None], [None]]
    with pytest.raises(ValueError, match=r"Kafka topic 't': text has no lists\. Received: column 'tags' with lists"):
        CSVParser(STREAM, columns(lists=True), None, CSVFormat())
    with pytest.raises(ValueError, match="expected a column 'name', `column_names` has 'a'"):
        CSVParser(STREAM, columns(), None, CSVFormat(column_names=("a",)))


def test_examples():
    parsed = ExampleParser(STREAM, columns(), None).parse([as_example(row(4)), b""], 1)
    assert list(map(plain, parsed)) == [[b"bob", b""], [4, MISSING_INTEGER], [0.5, None], [0.0, None]]


LABELLED = {
    "json": (JSONParser, [b'{"x": 1, "y": 1}', b'{"x": 1, "y": 2}', b'{"x": 1}', b'{"x": 1, "y": 0}']),
    "csv": (lambda *args: CSVParser(*args, CSVFormat()), [b"1,1", b"1,2", b"1,", b"1,0"]),
    "example": (ExampleParser, [as_example({**row(0), "y": y}) for y in (1, 2)] + [b"", as_example({**row(0), "y": 0})]),
}


@pytest.mark.parametrize("kind", LABELLED)
def test_illegal_labels(kind):
    parser, messages = LABELLED[kind]
    raw_columns = Schema({"x": "float"}, label="y").raw_columns(training=True)
    expected = r"column 'y': expected one of the labels 0 and 1, or -1 and 1, received "
    with pytest.raises(MalformedMessageError, match=rf"message 2, {expected}'?2"):
        parser(STREAM, raw_columns, None).parse(messages, 1)
    errors = []
    _, y = parser(STREAM, raw_columns, errors.append).parse(messages, 1)
    assert plain(y) == [1.0, 0.0]
    assert [(error.line, error.column) for error in errors] == [(2, "y"), (3, "y")]


def test_numbers_missing_from_the_first_examples():
    """The first message that has a number decides how it is stored."""
    parser = ExampleParser(STREAM, Schema({"x": "float", "z": "float"}).raw_columns(training=False), None)

    def message(**numbers):
        example = tf.train.Example()
        for name, value in numbers.items():
            kind = "int64_list" if isinstance(value, int) else "float_list"
            getattr(example.features.feature[name], kind).value.append(value)
        return example.SerializeToString()

    assert list(map(plain, parser.parse([message(), message(x=1)], 1))) == [[None, 1.0], [None, None]]
    assert list(map(plain, parser.parse([message(z=0.5), message(x=2)], 3))) == [[None, 2.0], [0.5, None]]


WRONG = [
    ("json", b"", "message 12: expected a JSON object (Expecting value"),
    ("json", b"[1]", "message 12: expected a JSON object, received a list; the message is b'[1]'"),
    ("json", b'{"x": NaN}', "message 12: expected a JSON object (NaN is not JSON)"),
    ("json", b'{"n": 1.0}', "message 12, column 'n': expected an integer from -9223372036854775808 to "
     "9223372036854775807, received 1.0; the message is b'{\"n\": 1.0}'"),
    ("json", b'{"n": 9223372036854775808}', "column 'n': expected an integer from"),
    ("json", b'{"x": 1e39}', "column 'x': expected a number that is finite as float32, received 1e+39"),
    ("json", b'{"name": 3}', "column 'name': expected a string that is UTF-8, received 3"),
    ("json", b'{"name": "\\ud800"}', "column 'name': expected a string that is UTF-8, received '\\ud800'"),
    ("csv", b"", "message 12: expected 4 fields"),
    ("csv", b"a,1,0.5", "message 12: expected 4 fields"),
    ("csv", b"a,1,x,1", "message 12, column 'x': expected a number, received 'x'; the message is b'a,1,x,1'"),
    ("csv", b"a,1.5,0,1", "message 12, column 'n': expected an integer, received '1.5'"),
    ("csv", b"a,1,2,3\nb,1,2,3", "message 12: expected one line, received 8 bytes after it"),
    ("csv", b'"a,1,2,3', "message 12, column 'name': expected the quote opened on line 1 to be closed"),
    ("csv", b"\xff,1,2,3", "message 12, column 'name': expected UTF-8"),
    ("example", b"\xff\xff", "message 12: expected a tf.train.Example ("),
    ("example", as_example({**row(0), "x": math.inf}), "column 'x': expected numbers that are finite, received inf"),
]  # fmt: skip


def parser_of(kind, on_error):
    if kind == "csv":
        return CSVParser(STREAM, columns(), on_error, CSVFormat())
    return {"json": JSONParser, "example": ExampleParser}[kind](STREAM, columns(), on_error)


# The ids are numbers, since protobuf serialises a map in any order.
@pytest.mark.parametrize(("kind", "message", "problem"), WRONG, ids=[f"{case[0]}-{n}" for n, case in enumerate(WRONG)])
def test_malformed_messages(kind, message, problem):
    good = WRITE[kind](row(1))
    with pytest.raises(MalformedMessageError, match="^" + re.escape(STREAM) + ", .*" + re.escape(problem)) as raised:
        parser_of(kind, None).parse([good, message, good], 11)
    copy = pickle.loads(pickle.dumps(raised.value))
    assert (str(copy), copy.message, copy.line) == (str(raised.value), message, 12)
    skipped = SkippedRows()
    parsed = parser_of(kind, skipped).parse([good, message, good, message], 11)
    assert plain(parsed[1]) == [1, 1]
    assert skipped.per_file == {STREAM: 2}
    assert [len(values) for values in parser_of(kind, skipped).parse([message], 11)] == [0] * 4


def test_errors_are_reported_in_the_order_of_the_messages():
    errors = []
    JSONParser(STREAM, columns(), errors.append).parse([b'{"x": ""}', b"?", b'{"n": ""}', b"{}"], 1)
    assert [error.line for error in errors] == [1, 2, 3]
    with pytest.raises(MalformedMessageError, match="message 1, column 'x'"):
        JSONParser(STREAM, columns(), None).parse([b'{"x": ""}', b"?"], 1)


# --- with a broker


@pytest.fixture(scope="module")
def cluster():
    """A function that sends messages to a cluster, and the cluster's address.

    The cluster exists as long as the producer that made it.
    """
    from confluent_kafka import Producer

    producers = {"of the cluster": Producer({"test.mock.num.brokers": 1, "log_level": 0})}
    (broker,) = producers["of the cluster"].list_topics(timeout=10).brokers.values()
    server = f"{broker.host}:{broker.port}"
    producers["of messages"] = Producer({"bootstrap.servers": server, "log_level": 0})

    def send(topic, messages):
        producer = producers["of messages"]
        for number, message in enumerate(messages):
            producer.produce(topic, value=message, key=str(number), partition=number % 2)
        assert producer.flush(10) == 0

    yield send, server
    producers.clear()  # ends the cluster


def first_rows(dataset, number):
    """Return batches with at least this number of rows. The sizes of batches depend on when messages arrive."""
    batches = []
    for batch in dataset:
        batches.append(batch)
        if sum(len(y) for _, y in batches) >= number:
            break
    return batches


def sorted_rows(batches):
    """Return all rows of batches in an order that does not depend on partitions."""
    parts = [np.concatenate([x["ids"], x["values"], y], axis=1) for x, y in batches]
    rows = np.concatenate(parts)
    return rows[np.lexsort(rows.T)]


def assert_rows(batches, numbers):
    rows = [row(number) for number in numbers]
    raw = {name: [values[name] for values in rows] for name in rows[0]}
    np.testing.assert_array_equal(sorted_rows(batches), sorted_rows([new_schema().training_batch(raw)]))


@needs_broker
def test_all_formats_at_once(cluster):
    """In one process, tensorflow-io's own datasets would replace each other's consumers."""
    send, server = cluster
    datasets = {}
    for kind, write in WRITE.items():
        send(f"all-{kind}", map(write, map(row, range(100))))
        datasets[kind] = kafka_dataset(new_schema(), f"all-{kind}", server, 32, message_format=kind, **QUICK)
    for dataset in datasets.values():
        batches = first_rows(dataset, 100)
        assert max(len(y) for _, y in batches) <= 32
        assert_rows(batches, range(100))


@needs_broker
@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_a_group_resumes_where_it_stopped(cluster):
    from confluent_kafka import Consumer, TopicPartition

    send, server = cluster
    schema = new_schema()
    send("clicks", map(as_json, map(row, range(64))))
    send("others", [as_json(row(96))])
    plan = kr.RankPlan.from_counts(schema.counts, ranks=(2, 4), thresholds=(1,))
    inputs = schema.inputs()
    model = kr.RaFMModel(inputs, kr.RaFMLayer(plan)(inputs))
    model.compile(optimizer="sgd", loss="mse")
    options = {"message_format": "json", "group_id": "trainers", **QUICK, "stream_timeout_ms": 4000}
    dataset = kafka_dataset(schema, ["clicks", "others"], [server], 32, **options)
    model.fit(dataset, shuffle=False, verbose=0)
    send("clicks", map(as_json, map(row, range(64, 96))))
    assert_rows(first_rows(dataset, 32), range(64, 96))
    del dataset
    gc.collect()
    consumer = Consumer({"bootstrap.servers": server, "group.id": "trainers", "log_level": 0})
    deadline, offsets = time.monotonic() + 10, []
    while sum(offsets) != 96 and time.monotonic() < deadline:  # a thread closes the dataset's consumer
        time.sleep(0.1)
        committed = consumer.committed([TopicPartition("clicks", number) for number in (0, 1)], timeout=10)
        offsets = [partition.offset for partition in committed]
    consumer.close()
    assert offsets == [48, 48]


@needs_broker
def test_malformed_messages_of_a_topic(cluster):
    send, server = cluster
    send("some-bad", [as_json(row(0)), b"?", as_json(row(2)), b'{"n": "x"}', as_json(row(4))])
    skipped = SkippedRows()
    slow = {**QUICK, "poll_timeout_ms": 2000}  # so that one batch has the messages of all partitions
    raising = kafka_dataset(new_schema(), "some-bad", server, 8, message_format="json", **QUICK)
    skipping = kafka_dataset(new_schema(), "some-bad", server, 5, message_format="json", on_error=skipped, **slow)
    serving = kafka_dataset(
        new_schema(), "some-bad", server, 8, message_format="json", on_error=SkippedRows(), training=False, **QUICK
    )
    with pytest.raises(
        tf.errors.OpError, match=r"Kafka topic 'some-bad', message \d.*the message is b'(\?|{\"n\": \"x\"})'"
    ):
        list(raising)
    assert_rows(skipping.take(1), [0, 2, 4])
    assert len(skipped) == 2
    (batch,) = serving.take(1)
    assert set(batch) == {"ids", "values"}


@needs_broker
def test_every_iteration_ends_after_the_same_time_without_messages(cluster):
    _, server = cluster
    options = {"stream_timeout_ms": 600, "poll_timeout_ms": 200, "start": "latest"}
    dataset = kafka_dataset(new_schema(), "nothing", server, 8, **options)
    for _ in range(2):
        started = tf.timestamp()
        assert list(dataset) == []
        assert 0.5 < float(tf.timestamp() - started) < 3


@needs_broker
def test_a_broker_that_disappears(cluster, monkeypatch):
    _, server = cluster
    dataset = kafka_dataset(new_schema(), "t", server, 8, stream_timeout_ms=200, poll_timeout_ms=100)

    def refuse(address, timeout):
        raise ConnectionRefusedError("Connection refused")

    monkeypatch.setattr(kafka.socket, "create_connection", refuse)
    with pytest.raises(tf.errors.OpError, match=rf"no Kafka broker can be reached at {server} \(Connection refused\)"):
        list(dataset)


@needs_broker
def test_the_training_example_exports_and_continues(cluster, tmp_path):
    send, server = cluster
    new_schema().save(tmp_path / "schema")
    send("example", [*map(as_json, map(row, range(96))), b"?"])
    command = [
        sys.executable, ROOT / "examples/train_from_kafka.py", "--servers", server, "--topic", "example",
        "--schema", tmp_path / "schema", "--export", tmp_path / "model", "--weights", tmp_path / "some.weights.h5",
        "--every", "2", "--batch-size", "32", "--threshold", "1", "--stop-after", "5",
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert {path.name for path in (tmp_path / "model").iterdir()} >= {"1", "2"}
    assert "skipped rows: 1 (Kafka topic 'example': 1)" in result.stdout
    serve = tf.saved_model.load(str(tmp_path / "model" / "1")).signatures["serving_default"]
    assert serve is not None


# --- what is wrong with the arguments


@needs_tensorflow_io
def test_no_broker():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(ConnectionError, match=rf"^no Kafka broker can be reached at {server} \(.*refused\), SSL://"):
        kafka_dataset(new_schema(), "t", [server, f"SSL://{server}"], 8)
    with pytest.raises(ValueError, match="`servers` must be 'host:port'"):
        kafka_dataset(new_schema(), "t", "host:port", 8)


def test_without_tensorflow_io(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_io", None)
    with pytest.raises(ImportError, match=r"tensorflow_io is needed here: pip install 'keras_rafm\[io\]'"):
        kafka_dataset(new_schema(), "t", "localhost", 8)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"topics": ""}, ValueError, "`topics` must be one or more non-empty strings. Received: ''"),
        ({"servers": []}, ValueError, "`servers` must be one or more non-empty strings. Received: []"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be"),
        ({"stream_timeout_ms": 0}, ValueError, "`stream_timeout_ms` must be"),
        ({"poll_timeout_ms": 0.5}, TypeError, "`poll_timeout_ms` must be"),
        ({"start": "committed"}, ValueError, "`start` must be one of 'earliest', 'latest'. Received: start='committed'"),
        ({"message_format": "avro"}, ValueError, "`message_format` must be one of 'example', 'json', 'csv', or"),
        ({"configuration": {"sasl.password": "a=b"}}, ValueError, "Received: sasl.password='a=b'"),
        ({"schema": Schema({"a": "float"}, label="y")}, RuntimeError, "the schema has learnt nothing yet"),
        ({"schema": Schema({"a": "float"})}, ValueError, "the schema must declare a column of labels for training"),
    ],
    ids=str,
)  # fmt: skip
def test_wrong_arguments(options, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        kafka_dataset(**{"schema": new_schema(), "topics": "t", "servers": "localhost", "batch_size": 8, **options})


@needs_broker
def test_settings_that_kafka_refuses(cluster):
    with pytest.raises(ValueError, match=r'Kafka refuses the configuration: .*No such configuration property: "no\.such"'):
        kafka_dataset(new_schema(), "t", cluster[1], 8, configuration={"no.such": "1"})
