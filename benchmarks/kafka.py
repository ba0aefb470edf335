"""Reading from Kafka: `python -m benchmarks.kafka`.

It sends messages of a label and ten string columns, as JSON, CSV and `tf.train.Example`, to librdkafka's mock cluster in
this process, and takes the messages per second through `RaFMModel.fit`, from the end of the first batch to that of the last
full one. The peer takes the same messages by the same operation of tensorflow-io and leaves them as they are: the ratio is
what is left of its speed. Joining a group, some 3 seconds, is not in the figures.

Needs tensorflow-io and confluent-kafka (the extras `io` and `test`). The mock cluster holds 5 MB per partition.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from typing import Any

import numpy as np

from benchmarks.reading import compiled_model

_MESSAGES, _COLUMNS, _BATCH = 40_000, 10, 1024
_NAMES = [f"c{number}" for number in range(_COLUMNS)]
_FORMATS = ("json", "csv", "example")
_QUICK = {"stream_timeout_ms": 6000, "poll_timeout_ms": 200}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=_MESSAGES)
    parser.add_argument("--formats", nargs="+", choices=_FORMATS, default=_FORMATS, help="of messages; default: all")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()

    import tensorflow as tf
    from confluent_kafka import Producer

    from keras_rafm.data import Schema, kafka_dataset

    rows = _rows(options.messages)
    schema = Schema(dict.fromkeys(_NAMES, "string_categorical"), label="label")
    schema.adapt({name: [row[name] for row in rows] for name in _NAMES})
    owner = Producer({"test.mock.num.brokers": 1, "log_level": 0})  # the cluster lives as long as it
    (broker,) = owner.list_topics(timeout=10).brokers.values()
    server = f"{broker.host}:{broker.port}"
    producer = Producer({"bootstrap.servers": server, "log_level": 0})
    loads = " ".join(f"{load:.1f}" for load in os.getloadavg())
    print(
        f"{options.messages:,} messages, TensorFlow {tf.__version__}, {os.cpu_count()} processors, loads before: {loads}\n"
    )
    print("\n| messages | fit, messages/s | messages alone | ratio |")
    print("|---|---|---|---|", flush=True)
    for message_format in options.formats:
        for number, row in enumerate(rows):
            producer.produce(message_format, value=_message(row, message_format), key=str(number))
            producer.poll(0)
        assert producer.flush(60) == 0
        model = compiled_model(schema)

        speeds: dict[str, list[float]] = {"fit": [], "alone": []}
        for _ in range(options.runs):
            batches = kafka_dataset(schema, message_format, server, _BATCH, message_format=message_format, **_QUICK)
            speeds["fit"].append(_fitted_per_second(model, batches))
            speeds["alone"].append(_polled_per_second(message_format, server, options.messages))
        ratios = [own / peer for own, peer in zip(speeds["fit"], speeds["alone"], strict=True)]
        cells = [message_format, *(f"{statistics.median(own):,.0f}" for own in speeds.values())]
        print(f"| {' | '.join([*cells, f'{statistics.median(ratios):.2f}'])} |", flush=True)


def _rows(number: int) -> list[dict[str, Any]]:
    draw = np.random.default_rng(0)
    sizes = np.geomspace(2, 1_000_000, _COLUMNS)
    ids = (np.exp(draw.random((number, _COLUMNS)) * np.log(sizes + 1)) - 1).astype(np.int64).tolist()
    labels = draw.integers(0, 2, number).tolist()
    return [
        {**{name: f"v{value}" for name, value in zip(_NAMES, row, strict=True)}, "label": label}
        for row, label in zip(ids, labels, strict=True)
    ]


def _message(row: dict[str, Any], message_format: str) -> bytes:
    import tensorflow as tf

    if message_format == "json":
        return json.dumps(row).encode()
    if message_format == "csv":
        return ",".join(map(str, row.values())).encode()
    example = tf.train.Example()
    for name in _NAMES:
        example.features.feature[name].bytes_list.value.append(row[name].encode())
    example.features.feature["label"].float_list.value.append(row["label"])
    content: bytes = example.SerializeToString()
    return content


def _polled_per_second(topic: str, server: str, number: int) -> float:
    """Raw messages."""
    from keras_rafm.data.kafka.dataset import _Consumer

    settings = {"bootstrap.servers": server, "group.id": f"alone-{time.time_ns()}", "auto.offset.reset": "earliest"}
    consumer = _Consumer([topic], {**settings, "batch.num.messages": str(_BATCH)}, _QUICK["poll_timeout_ms"])
    polls: list[tuple[float, int]] = []
    while sum(size for _, size in polls) < number:
        size = len(consumer.poll())
        if size:
            polls.append((time.perf_counter(), size))
    consumer.close()
    return _per_second(polls)


def _fitted_per_second(model: Any, batches: Any) -> float:
    import keras

    steps: list[tuple[float, int]] = []

    class Clock(keras.callbacks.Callback):
        """Notes when batches end."""

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            """One more."""
            steps.append((time.perf_counter(), _BATCH))

    model.fit(batches, epochs=1, verbose=0, shuffle=False, callbacks=[Clock()])
    return _per_second(steps)


def _per_second(ended: list[tuple[float, int]]) -> float:
    """Of batches: when each was there, and its size. The last one, which may have waited for more messages, is left out."""
    (first, _), *others = ended[:-1]
    return sum(size for _, size in others) / (others[-1][0] - first)


if __name__ == "__main__":
    main()
