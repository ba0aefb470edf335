"""Training from Kafka as messages come in, through tensorflow-io."""

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

from keras_rafm.checks.arguments import integer
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
    """Batches of the messages of Kafka topics as they come in, for `fit`. Needs tensorflow-io (the extra `io`).

    Where it starts: a group of consumers goes on after the last message that was committed for it, and at `start` if none
    was. Processes with the same `group_id` share the partitions of the topics between them.

    What is committed: messages count as read once they are fetched, which is every 5 seconds (`"auto.commit.interval.ms"`)
    and when the dataset is no longer used. A batch is fetched when it is asked for, none ahead. So after a crash the batch
    that was in training may not come again, while those of the last 5 seconds may come a second time. A second iteration
    goes on after the first. `prefetch` would overlap fetching with training, but fetches ahead, and ends an iteration that
    is given up only after `stream_timeout_ms`.

    Args:
        schema: What the columns mean; adapted.
        topics: Their names.
        servers: `"host:port"` of brokers to begin with, one or several.
        batch_size: `B`, messages per batch. A batch has fewer where the stream pauses for `poll_timeout_ms`.
        message_format: What a message is: a serialised `tf.train.Example` (`"example"`), a JSON object (`"json"`) or a line
            of CSV (`"csv"`) with the fields in the order of `schema.raw_columns(training)`. Another order, delimiter or
            quote: a `CSVFormat`.
        group_id: The group of consumers. `None`: one of its own, for which nothing is committed: each process, and each
            dataset, begins at `start`.
        start: The first message there is (`"earliest"`) or that comes from now on (`"latest"`).
        training: `False` leaves out labels and sample weights, which the messages then need not have.
        stream_timeout_ms: The iteration ends when no message came for so long. `None`: never; then Ctrl-C is noticed only
            between batches. Joining a group takes some 3 seconds, more if another member has just left without a word.
        poll_timeout_ms: How long the messages of an incomplete batch wait for others.
        configuration: More settings of librdkafka, such as `{"security.protocol": "SSL"}`. tensorflow-io takes none whose
            value has an equals sign.
        on_error: Told of each malformed message, as a `MalformedMessageError`; such messages are then left out. A
            `SkippedRows` counts them. By default the first one ends the iteration. tensorflow-io tells neither partition
            nor offset of a message: errors show its content, and its number in this iteration.

    Returns:
        A dataset of what `schema.training_batch` returns, or of what calling the schema returns if not `training`. Its
        length is unknown. An iteration raises a `tf.errors.OpError` of a malformed message and where, after a time without
        messages, no broker can be reached any more. A topic that does not exist is one without messages; that it was made
        later is noticed within 5 minutes (`"topic.metadata.refresh.interval.ms"`).

    Raises:
        ConnectionError: None of the servers can be reached.
        ImportError: tensorflow-io is not installed, or was built for another version of TensorFlow.
        RuntimeError: The schema was not adapted.
        TypeError: An argument is of the wrong kind.
        ValueError: An argument is out of range, no column of labels was declared for training, Kafka refuses the
            configuration, or the columns can't be in such messages.
    """
    names = _names("topics", topics)
    brokers = [own for server in _names("servers", servers) for own in server.split(",")]
    size = integer(batch_size, "batch_size", at_least=1)
    poll = integer(poll_timeout_ms, "poll_timeout_ms", at_least=1)
    timeout = None if stream_timeout_ms is None else integer(stream_timeout_ms, "stream_timeout_ms", at_least=1)
    if start not in get_args(Start):
        raise ValueError(f"`start` must be one of {get_args(Start)}. Received: start={start!r}")
    if training and schema.label is None:
        raise ValueError("the schema declares no column of labels: Schema(…, label='name')")
    schema.encoder()  # raises if there is none yet
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
    _demand_broker(brokers)

    consumer = KafkaConsumer(names, settings, poll)
    read = _until_silence(consumer.poll, timeout, poll, brokers)
    batches = read.map(lambda messages, first: _raw_batch(parser, columns, messages, first))
    if on_error is not None:
        batches = batches.filter(lambda raw: _num_rows(raw[columns[0].name]) > 0)
    encode: Callable[[Any], Any] = schema.training_batch if training else schema
    encoded = batches.map(encode).with_options(_options())
    consumer.close_after(encoded)
    return declare_batch_size(encoded, size)


class KafkaConsumer:
    """A member of a group of consumers.

    tensorflow-io's own datasets make one under a name that all of them share: with two in a process, the later one takes
    the place of the earlier one. They also don't begin the time-out anew in a second iteration, and never leave the group.
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
        """The next messages, string `[n]`, none if none came in time."""
        polled = self._ops.io_kafka_group_readable_next(
            input=self._resource,
            index=tf.constant(0, tf.int64),
            message_poll_timeout=self._poll_timeout_ms,
            stream_timeout=_NEVER,
        )
        return tf.ensure_shape(polled.message, [None])

    def close_after(self, dataset: tf.data.Dataset) -> None:
        """Close when a dataset is no longer used, without letting anybody wait, or when the process ends."""
        closing = weakref.finalize(dataset, lambda: threading.Thread(target=self.close).start())
        closing.atexit = False
        atexit.register(self.close)

    def close(self) -> None:
        """Commit what was read, and leave the group. Takes up to 5 seconds, the time that librdkafka gives the broker."""
        with tf.init_scope(), tf.device("CPU:0"):
            tf.raw_ops.DestroyResourceOp(resource=self._resource, ignore_lookup_error=True)


def _until_silence(
    poll: Callable[[], tf.Tensor], timeout_ms: int | None, poll_ms: int, brokers: Sequence[str]
) -> tf.data.Dataset:
    """The polls that have messages, each with the number of its first one, up to so much time without any."""
    silent_polls = math.ceil((timeout_ms or _CHECK_MILLISECONDS) / poll_ms)

    def at_silence() -> tf.Tensor:
        with tf.control_dependencies([tf.py_function(lambda: _demand_broker(brokers), [], [])]):
            return tf.constant(timeout_ms is not None)

    def step(state: tuple[tf.Tensor, tf.Tensor, tf.Tensor], _: tf.Tensor) -> Any:
        silent, first, has_ended = state
        # Transformations ask again after the end: what came then would be lost.
        messages = tf.cond(has_ended, lambda: tf.zeros([0], tf.string), poll)
        there = tf.size(messages, tf.int64)
        silent = tf.where(there > 0, tf.zeros_like(silent), silent + 1)
        is_silent = (silent > 0) & tf.equal(silent % silent_polls, 0)
        has_ended |= tf.cond(is_silent & ~has_ended, at_silence, lambda: tf.constant(False))
        return (silent, first + there, has_ended), (messages, first, has_ended)

    start = (tf.constant(0, tf.int64), tf.constant(1, tf.int64), tf.constant(False))
    read = tf.data.Dataset.counter().scan(start, step).take_while(lambda messages, first, has_ended: ~has_ended)
    return read.filter(lambda messages, first, has_ended: tf.size(messages) > 0).map(
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
        column.name: own if column.is_list else tf.ensure_shape(own, [None])
        for column, own in zip(columns, parsed, strict=True)
    }


def _num_rows(values: Any) -> tf.Tensor:
    return values.nrows() if isinstance(values, tf.RaggedTensor) else tf.size(values, tf.int64)


def _options() -> tf.data.Options:
    options = tf.data.Options()
    options.experimental_optimization.map_parallelization = False  # it would fetch ahead, as would the next one
    options.experimental_optimization.inject_prefetch = False
    options.autotune.enabled = False  # as in `without_autotuning`
    # Workers of one group get different messages as it is.
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
    raise ValueError(
        f"`message_format` must be one of {get_args(MessageFormat)}, or a CSVFormat. Received: {message_format!r}"
    )


def _names(argument: str, given: str | Sequence[str]) -> list[str]:
    names = [given] if isinstance(given, str) else list(given)
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"`{argument}` must be strings that are not empty, at least one. Received: {given!r}")
    return names


def _demand_broker(brokers: Sequence[str]) -> None:
    """Raise a `ConnectionError` if none of the brokers can be reached: librdkafka would only wait."""
    refused = []
    for broker in brokers:
        host, _, port = broker.rpartition("://")[2].strip().rpartition(":")
        if not host:
            host, port = port, str(_PORT)
        if not port.isdigit():
            raise ValueError(f"`servers` must be 'host:port'. Received: {broker!r}")
        try:
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
        except OSError as error:
            refused.append(f"{broker} ({error})")
        else:
            return
    raise ConnectionError(f"no Kafka broker can be reached at {', '.join(refused)}")
