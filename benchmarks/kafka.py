"""Reading from Kafka: `python -m benchmarks.kafka`.

The command sends messages of a label and ten string columns, as JSON, CSV and `tf.train.Example`, to librdkafka's mock
cluster in this process. It measures the messages per second through `RaFMModel.fit`, from the end of the first batch to the
end of the last full one. The peer fetches the same messages by the same operation of tensorflow-io without parsing them.
The figures don't include joining a group, which takes some 3 seconds.

Needs tensorflow-io and confluent-kafka (the extras `io` and `test`). The mock cluster holds 5 MB per partition.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf

from benchmarks import options, raw_rows
from benchmarks.machine import load_averages
from keras_rafm.data import kafka_dataset
from keras_rafm.data.kafka.dataset import KafkaConsumer

_MESSAGES, _BATCH = 40_000, 1024
_FORMATS = ("json", "csv", "example")
_TIMEOUTS = {"stream_timeout_ms": 6000, "poll_timeout_ms": 200}


class _Clock(keras.callbacks.Callback):
    """Record when each batch ends, and its size."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[tuple[float, int]] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Record the time."""
        self.batches.append((time.perf_counter(), _BATCH))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=options.integer(), default=_MESSAGES)
    parser.add_argument("--formats", nargs="+", choices=_FORMATS, default=_FORMATS, help="of messages; default: all")
    parser.add_argument("--runs", type=options.integer(), default=3)
    arguments = parser.parse_args()

    from confluent_kafka import Producer

    rows = _rows(arguments.messages)
    schema = raw_rows.schema()
    schema.adapt({name: [row[name] for row in rows] for name in raw_rows.NAMES})
    owner = Producer({"test.mock.num.brokers": 1, "log_level": 0})  # the cluster exists as long as this producer
    (broker,) = owner.list_topics(timeout=10).brokers.values()
    server = f"{broker.host}:{broker.port}"
    producer = Producer({"bootstrap.servers": server, "log_level": 0})
    print(
        f"{arguments.messages:,} messages, TensorFlow {tf.__version__}, {os.cpu_count()} processors, "
        f"loads before: {load_averages()}\n"
    )
    print("\n| messages | fit, messages/s | messages alone | ratio |")
    print("|---|---|---|---|", flush=True)
    for message_format in arguments.formats:
        for number, row in enumerate(rows):
            producer.produce(message_format, value=_message(row, message_format), key=str(number))
            producer.poll(0)
        assert producer.flush(60) == 0
        model = raw_rows.compiled_model(schema)

        fit_speeds, poll_speeds = [], []
        for _ in range(arguments.runs):
            batches = kafka_dataset(schema, message_format, server, _BATCH, message_format=message_format, **_TIMEOUTS)
            fit_speeds.append(_fitted_per_second(model, batches))
            poll_speeds.append(_polled_per_second(message_format, server, arguments.messages))
        ratio = statistics.median(fit / poll for fit, poll in zip(fit_speeds, poll_speeds, strict=True))
        cells = [message_format, *(f"{statistics.median(speeds):,.0f}" for speeds in (fit_speeds, poll_speeds))]
        print(f"| {' | '.join([*cells, f'{ratio:.2f}'])} |", flush=True)


def _rows(number: int) -> list[dict[str, Any]]:
    ids, labels = raw_rows.draw(number)
    return [
        {**{name: f"v{value}" for name, value in zip(raw_rows.NAMES, row, strict=True)}, "label": label}
        for row, label in zip(ids.tolist(), labels.tolist(), strict=True)
    ]


def _message(row: dict[str, Any], message_format: str) -> bytes:
    if message_format == "json":
        return json.dumps(row).encode()
    if message_format == "csv":
        return ",".join(map(str, row.values())).encode()
    example = tf.train.Example()
    for name in raw_rows.NAMES:
        example.features.feature[name].bytes_list.value.append(row[name].encode())
    example.features.feature["label"].float_list.value.append(row["label"])
    content: bytes = example.SerializeToString()
    return content


def _polled_per_second(topic: str, server: str, number: int) -> float:
    """Return the messages per second that a consumer fetches without parsing them."""
    settings = {"bootstrap.servers": server, "group.id": f"alone-{time.time_ns()}", "auto.offset.reset": "earliest"}
    consumer = KafkaConsumer([topic], {**settings, "batch.num.messages": str(_BATCH)}, _TIMEOUTS["poll_timeout_ms"])
    polls: list[tuple[float, int]] = []
    while sum(size for _, size in polls) < number:
        size = len(consumer.poll())
        if size:
            polls.append((time.perf_counter(), size))
    consumer.close()
    return _per_second(polls)


def _fitted_per_second(model: Any, batches: Any) -> float:
    """Return the messages per second through `fit`."""
    clock = _Clock()
    model.fit(batches, epochs=1, verbose=0, shuffle=False, callbacks=[clock])
    return _per_second(clock.batches)


def _per_second(batches: list[tuple[float, int]]) -> float:
    """Return the messages per second of batches, given the end and size of each.

    The last batch is left out, because it may have waited for more messages.
    """
    (first_end, _), *others = batches[:-1]
    return sum(size for _, size in others) / (others[-1][0] - first_end)


if __name__ == "__main__":
    main()
