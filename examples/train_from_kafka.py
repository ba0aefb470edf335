"""Train from a Kafka topic as messages arrive, and regularly export the model for serving.

The messages are JSON objects of raw columns. The schema was adapted to earlier data with `schema.adapt("train/*.csv")` and
`schema.save("schema")`, and its counts give each feature its rank. After a restart, the process continues at the last
position of the consumer group `--group`, with the weights of `--weights`.

python examples/train_from_kafka.py --servers localhost:9092 --topic clicks --schema schema --export saved_models/clicks
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

import keras_rafm as kr


class ExportEvery(keras.callbacks.Callback):
    """Save the weights and export the model after every `batches` batches and at the end."""

    def __init__(self, batches: int, export: Path, weights: Path, schema: kr.data.Schema) -> None:
        super().__init__()
        self._batches, self._export, self._weights, self._schema = batches, export, weights, schema
        self._num_batches = 0

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Count the batch, and export if it is time."""
        self._num_batches += 1
        if self._num_batches % self._batches == 0:
            self._write(logs or {})

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        """Export the batches since the last export."""
        if self._num_batches % self._batches:
            self._write(logs or {})

    def _write(self, logs: dict[str, float]) -> None:
        self.model.save_weights(self._weights)
        version = kr.export(self.model, self._export, self._schema)
        print(
            f"\n{self._num_batches} batches, loss {logs.get('loss', float('nan')):.4f}: exported to {version}", flush=True
        )


def main() -> None:
    arguments = _parser().parse_args()
    schema = kr.data.Schema.load(arguments.schema)
    plan = kr.RankPlan.from_counts(schema.counts, ranks=(4, 16), thresholds=(arguments.threshold,))
    inputs = schema.inputs()
    model = kr.RaFMModel(inputs, kr.RaFMLayer(plan)(inputs))
    model.compile(optimizer=kr.optimizers.LazyAdam(1e-3), loss=keras.losses.BinaryCrossentropy(from_logits=True))
    if arguments.weights.exists():
        model.load_weights(arguments.weights)

    skipped = kr.data.SkippedRows()
    batches = kr.data.kafka_dataset(
        schema,
        arguments.topic,
        arguments.servers,
        arguments.batch_size,
        message_format="json",
        group_id=arguments.group,
        stream_timeout_ms=arguments.stop_after * 1000 or None,
        on_error=skipped,
    )
    export = ExportEvery(arguments.every, arguments.export, arguments.weights, schema)
    model.fit(batches, shuffle=False, callbacks=[export], verbose=0)
    print(skipped.summary())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--servers", required=True, help="host:port of Kafka brokers, separated by commas")
    parser.add_argument("--topic", required=True)
    parser.add_argument("--group", default="keras_rafm", help="the consumer group (default: %(default)s)")
    parser.add_argument("--schema", required=True, type=Path, help="a saved schema")
    parser.add_argument("--export", required=True, type=Path, help="directory for the exported versions")
    parser.add_argument("--weights", default="kafka.weights.h5", type=Path, help="default: %(default)s")
    parser.add_argument("--every", default=1000, type=int, help="batches between exports (default: %(default)s)")
    parser.add_argument("--batch-size", default=1024, type=int)
    parser.add_argument("--threshold", default=50, type=int, help="features that occur more often have the higher rank")
    parser.add_argument("--stop-after", default=0, type=int, help="stop after these seconds without messages; 0: never")
    return parser


if __name__ == "__main__":
    main()
