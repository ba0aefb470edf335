"""Batches of the messages of Kafka topics, for training as they arrive. Kafka is read by tensorflow-io."""

from __future__ import annotations

import atexit
import math
import socket
import threading
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, get_args

import tensorflow as tf

from keras_rafm.checks.arguments import integer, one_of
from keras_rafm.checks.optional_packages import imported
from keras_rafm.data.formats.csv import CSVFormat
from keras_rafm.data.kafka.messages import CSVParser, ExampleParser, JSONParser, MessageParser
from keras_rafm.data.raw.columns import RawColumn
from keras_rafm.data.raw.errors import OnError
from keras_rafm.data.raw.tensorflow_io import tensorflow_io
from keras_rafm.data.samples.array_batches import declare_batch_size
from keras_rafm.data.schema import Schema

MessageFormat = Literal["example", "json", "csv"]
Start = Literal["earliest", "latest"]

_PORT: Final = 9092
_CONNECT_SECONDS: Final = 5.0
_CHECK_MILLISECONDS: Final = 60_000
_NEVER: Final = 2**62


def kafka_dataset(
    schema: Schema,
    topics: str | Sequence[str],
    servers: str | Sequence[str],
    batch_size: int,
    *,
    message_format: MessageFormat | CSVFormat = "example",
    group_id: str | None = None,
    start: Start = "earliest",
    training: bool = True,
    stream_timeout_ms: int | None = 60_000,
    poll_timeout_ms: int = 1000,
    configuration: Mapping[str, str] | None = None,
    on_error: OnError | None = None,
) -> tf.data.Dataset:
    """Return batches of the messages of Kafka topics as they arrive, for `fit`. Needs tensorflow-io (the extra `io`).

    Start: a consumer group resumes after its last committed message, or begins at `start` if it has none. Processes with
    the same `group_id` share the partitions of the topics.

    Commits: fetched messages count as read. They are committed every 5 seconds (`"auto.commit.interval.ms"`) and when the
    dataset is no longer used. A batch is fetched only when it is requested. So after a crash, the batch in training may not
    be read again, while batches of the last 5 seconds may be read twice. A second iteration resumes after the first.
    `prefetch` would overlap fetching with training, but it fetches batches ahead, and an abandoned iteration would end only
    after `stream_timeout_ms`.

    Args:
        schema: The adapted schema of the messages.
        topics: The name of a topic, or several names.
        servers: The address `"host:port"` of a broker, or several addresses.
        batch_size: `B`, the number of messages in a batch. A batch has fewer if the stream pauses for `poll_timeout_ms`.
        message_format: The format of a message: `"example"` for a serialised `tf.train.Example`, `"json"` for a JSON
            object, or `"csv"` for a line of CSV with the fields in the order of `schema.raw_columns(training)`. A
            `CSVFormat` specifies another order, delimiter or quote.
        group_id: The consumer group. With `None`, each dataset has a group of its own, begins at `start` and commits
            nothing.
        start: Where to start without committed messages: at the first available message (`"earliest"`), or at the first one
            that arrives from now on (`"latest"`).
        training: `False` leaves out labels and sample weights, which the messages then need not have.
        stream_timeout_ms: The iteration ends after this time without a message. With `None`, it never ends, and Ctrl-C
            takes effect only between batches. Joining a group takes about 3 seconds, or longer if another member has just
            disconnected without leaving the group.
        poll_timeout_ms: How long an incomplete batch waits for further messages.
        configuration: Further settings of librdkafka, such as `{"security.protocol": "SSL"}`. tensorflow-io accepts no
            value with an equals sign.
        on_error: Receives a `MalformedMessageError` for each malformed message, which is then skipped. A `SkippedRows`
            counts them. By default, the first malformed message ends the iteration. tensorflow-io gives neither the
            partition nor the offset of a message, so errors show its content and its number in this iteration.

    Returns:
        A dataset of what `schema.training_batch` returns, or of what calling the schema returns if not `training`. Its
        length is unknown. An iteration raises a `tf.errors.OpError` if a message is malformed, or if no broker can be
        reached after a time without messages. A topic that does not exist is treated as one without messages; if it is
        created later, it is found within 5 minutes (`"topic.metadata.refresh.interval.ms"`).

    Raises:
        ConnectionError: None of the servers can be reached.
        ImportError: tensorflow-io is not installed, or was built for another version of TensorFlow.
        RuntimeError: The schema has not been adapted.
        TypeError: An argument is of the wrong type.
        ValueError: An argument is out of range, the schema declares no label although `training` is true, Kafka refuses the
            configuration, or messages of this format cannot have the columns.
    """
    names = _names("topics", topics)
    brokers = [address for server in _names("servers", servers) for address in server.split(",")]
    size = integer(batch_size, "batch_size", at_least=1)
    poll = integer(poll_timeout_ms, "poll_timeout_ms", at_least=1)
    timeout = None if stream_timeout_ms is None else integer(stream_timeout_ms, "stream_timeout_ms", at_least=1)
    one_of(start, get_args(Start), "start")
    if training and schema.label is None:
        raise ValueError("the schema must declare a column of labels for training: Schema(…, label='name')")
    schema.encoder()  # raises an error if the schema has not been adapted
    columns = schema.raw_columns(training)
    parser = _parser(message_format, f"Kafka topic {', '.join(map(repr, names))}", columns, on_error)
    settings = {
        "auto.offset.reset": start,
        "enable.auto.commit": "false" if group_id is None else "true",
        "batch.num.messages": str(size),
        **(configuration or {}),
        "group.id": f"keras_rafm-{uuid.uuid4().hex}" if group_id is None else group_id,
        "bootstrap.servers": ",".join(brokers),
    }
    for key, value in settings.items():
        if not isinstance(value, str) or "=" in value or not value:
            raise ValueError(f"a Kafka setting must be a string without an equals sign. Received: {key}={value!r}")
    tensorflow_io()
    _check_brokers(brokers)

    consumer = KafkaConsumer(names, settings, poll)
    polls = _polls_until_timeout(consumer.poll, timeout, poll, brokers)
    batches = polls.map(lambda messages, first: _raw_batch(parser, columns, messages, first))
    if on_error is not None:
        batches = batches.filter(lambda raw: _num_rows(raw[columns[0].name]) > 0)
    encode: Callable[[Any], Any] = schema.training_batch if training else schema
    encoded = batches.map(encode).with_options(_options())
    consumer.close_after(encoded)
    return declare_batch_size(encoded, size)


class KafkaConsumer:
    """A member of a consumer group.

    tensorflow-io's own datasets are not used for three reasons. Their consumers share one name, so that a second dataset in
    a process replaces the consumer of the first. A second iteration does not restart the time-out. And they never leave the
    group.

    Args:
        topics: The names of the topics.
        settings: The settings of librdkafka.
        poll_timeout_ms: How long `poll` waits for messages.

    Raises:
        ValueError: Kafka refuses the settings.
    """

    def __init__(self, topics: Sequence[str], settings: Mapping[str, str], poll_timeout_ms: int) -> None:
        self._ops = imported("tensorflow_io.python.ops", "io").core_ops
        self._poll_timeout_ms = poll_timeout_ms
        metadata = [f"{key}={value}" for key, value in settings.items()]
        try:
            with tf.init_scope(), tf.device("CPU:0"):
                self._resource = self._ops.io_kafka_group_readable_init(
                    topics=list(topics), metadata=metadata, shared_name=f"keras_rafm-{uuid.uuid4().hex}"
                )
        except tf.errors.OpError as error:
            raise ValueError(f"Kafka refuses the configuration: {error.message}") from error

    def poll(self) -> tf.Tensor:
        """Return the next messages, string `[n]`. `n` is 0 if none arrived in time."""
        polled = self._ops.io_kafka_group_readable_next(
            input=self._resource,
            index=tf.constant(0, tf.int64),
            message_poll_timeout=self._poll_timeout_ms,
            stream_timeout=_NEVER,
        )
        return tf.ensure_shape(polled.message, [None])

    def close_after(self, dataset: tf.data.Dataset) -> None:
        """Close the consumer in a thread once a dataset is no longer used, or when the process exits."""
        closing = weakref.finalize(dataset, lambda: threading.Thread(target=self.close).start())
        closing.atexit = False
        atexit.register(self.close)

    def close(self) -> None:
        """Commit the messages that were read, and leave the group, within 5 seconds (the limit of librdkafka)."""
        with tf.init_scope(), tf.device("CPU:0"):
            tf.raw_ops.DestroyResourceOp(resource=self._resource, ignore_lookup_error=True)


def _polls_until_timeout(
    poll: Callable[[], tf.Tensor], timeout_ms: int | None, poll_ms: int, brokers: Sequence[str]
) -> tf.data.Dataset:
    """Return a dataset of messages and the number of the first of them, which ends after a time without messages.

    Args:
        poll: Returns the next messages, if any.
        timeout_ms: The time without messages, or `None` for a dataset that never ends.
        poll_ms: How long each poll waits.
        brokers: Checked whenever this time (by default a minute) has passed without messages.
    """
    polls_to_timeout = math.ceil((timeout_ms or _CHECK_MILLISECONDS) / poll_ms)

    def has_ended_at_timeout() -> tf.Tensor:
        with tf.control_dependencies([tf.py_function(lambda: _check_brokers(brokers), [], [])]):
            return tf.constant(timeout_ms is not None)

    def step(state: tuple[tf.Tensor, tf.Tensor, tf.Tensor], _: tf.Tensor) -> Any:
        empty_polls, first, has_ended = state
        # Transformations request elements even after the end. Messages polled then would be lost.
        messages = tf.cond(has_ended, lambda: tf.zeros([0], tf.string), poll)
        num_messages = tf.size(messages, tf.int64)
        empty_polls = tf.where(num_messages > 0, tf.zeros_like(empty_polls), empty_polls + 1)
        is_timeout = (empty_polls > 0) & tf.equal(empty_polls % polls_to_timeout, 0)
        has_ended |= tf.cond(is_timeout & ~has_ended, has_ended_at_timeout, lambda: tf.constant(False))
        return (empty_polls, first + num_messages, has_ended), (messages, first, has_ended)

    start = (tf.constant(0, tf.int64), tf.constant(1, tf.int64), tf.constant(False))
    polls = tf.data.Dataset.counter().scan(start, step).take_while(lambda messages, first, has_ended: ~has_ended)
    return polls.filter(lambda messages, first, has_ended: tf.size(messages) > 0).map(
        lambda messages, first, has_ended: (messages, first)
    )


def _raw_batch(
    parser: MessageParser, columns: Sequence[RawColumn], messages: tf.Tensor, first: tf.Tensor
) -> dict[str, Any]:
    def parse(messages: tf.Tensor, first: tf.Tensor) -> list[Any]:
        return parser.parse(messages.numpy().tolist(), int(first))

    types = [column.spec if column.is_list else tf.as_dtype(column.dtype) for column in columns]
    parsed = tf.py_function(parse, [messages, first], types)
    return {
        column.name: values if column.is_list else tf.ensure_shape(values, [None])
        for column, values in zip(columns, parsed, strict=True)
    }


def _num_rows(values: Any) -> tf.Tensor:
    return values.nrows() if isinstance(values, tf.RaggedTensor) else tf.size(values, tf.int64)


def _options() -> tf.data.Options:
    options = tf.data.Options()
    # Both optimizations would fetch batches ahead.
    options.experimental_optimization.map_parallelization = False
    options.experimental_optimization.inject_prefetch = False
    options.autotune.enabled = False  # for the reason given in `without_autotuning`
    # The workers of a group receive different messages anyway.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return options


def _parser(
    message_format: MessageFormat | CSVFormat, stream: str, columns: Sequence[RawColumn], on_error: OnError | None
) -> MessageParser:
    if message_format == "example":
        return ExampleParser(stream, columns, on_error)
    if message_format == "json":
        return JSONParser(stream, columns, on_error)
    if message_format == "csv" or isinstance(message_format, CSVFormat):
        csv_format = CSVFormat() if message_format == "csv" else message_format
        return CSVParser(stream, columns, on_error, csv_format)
    names = ", ".join(map(repr, get_args(MessageFormat)))
    raise ValueError(f"`message_format` must be one of {names}, or a CSVFormat. Received: {message_format!r}")


def _names(argument: str, value: str | Sequence[str]) -> list[str]:
    names = [value] if isinstance(value, str) else list(value)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"`{argument}` must be one or more non-empty strings. Received: {value!r}")
    return names


def _check_brokers(brokers: Sequence[str]) -> None:
    """Raise a `ConnectionError` if none of the brokers can be reached. librdkafka would retry without an error."""
    failures = []
    for broker in brokers:
        host, _, port = broker.rpartition("://")[2].strip().rpartition(":")
        if not host:
            host, port = port, str(_PORT)
        if not port.isdigit():
            raise ValueError(f"`servers` must be 'host:port'. Received: {broker!r}")
        try:
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
        except OSError as error:
            failures.append(f"{broker} ({error})")
        else:
            return
    raise ConnectionError(f"no Kafka broker can be reached at {', '.join(failures)}")
