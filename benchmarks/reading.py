"""Reading raw columns from files: `python -m benchmarks.reading`.

The command writes the same rows, a label and ten string columns of log-uniform values (2 to 1,000,000 different ones), to a
temporary directory as CSV, CSV with quotes, gzip CSV, Parquet, TFRecord, Avro and, as ids, libFM text. For each file it
measures the rows per second that are read as raw columns, that an adapted `Schema` maps to ids, and that go through
`RaFMModel.fit`. All figures include the start of an iteration, some tenths of a second to build the graph.

Installed peers read or map the same files in alternation, in the same process. Ratios compare rows per second of the same
run: above 1, this package is faster.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib import util
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import tensorflow as tf

from benchmarks import options, raw_rows
from benchmarks.machine import load_averages
from benchmarks.raw_rows import NAMES

_ROWS, _BATCH, _STEPS_PER_EXECUTION = 1_000_000, 4096, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=options.integer(), default=_ROWS)
    parser.add_argument("--kinds", nargs="+", choices=raw_rows.KINDS, default=raw_rows.KINDS, help="of files; default: all")
    parser.add_argument("--runs", type=options.integer(), default=1)
    arguments = parser.parse_args()
    print(
        f"{arguments.rows:,} rows, TensorFlow {tf.__version__}, {os.cpu_count()} processors, "
        f"loads before: {load_averages()}\n"
    )
    print("| file | MB | job | rows/s | peer | rows/s of the peer | ratio |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="keras_rafm_reading_") as folder:
        paths = raw_rows.write_files(Path(folder), arguments.rows, arguments.kinds)
        for kind, path in paths.items():
            _print_rows(kind, path, arguments.rows, arguments.runs)
    print(f"\nLoads after: {load_averages()}")


def _print_rows(kind: str, path: Path, num_rows: int, runs: int) -> None:
    schema = raw_rows.schema(kind)
    schema.adapt(path)
    raw, mapped = schema.raw_dataset(path), schema.dataset(path, _BATCH, num_rows=num_rows)
    jobs: list[tuple[str, Callable[[], object], str, Callable[[], object] | None]] = [
        ("raw columns", lambda: _read(raw), *_raw_peer(kind, path)),
        ("mapped", lambda: _read(mapped), *_mapping_peer(kind, path, schema)),
        ("fit", _fitting(schema, mapped), "", None),
    ]
    for job, ours, peer, theirs in jobs:
        our_speeds, their_speeds = [], []
        for _ in range(runs):
            our_speeds.append(num_rows / _seconds(ours))
            if theirs is not None:
                their_speeds.append(num_rows / _seconds(theirs))
        megabytes = f"{path.stat().st_size / 1e6:,.0f}"
        cells = [f"rows.{kind}", megabytes, job, f"{statistics.median(our_speeds):,.0f}", peer, "", ""]
        if theirs is not None:
            ratios = [our / their for our, their in zip(our_speeds, their_speeds, strict=True)]
            cells[5:] = [f"{statistics.median(their_speeds):,.0f}", f"{statistics.median(ratios):.1f}"]
        print(f"| {' | '.join(cells)} |", flush=True)


def _seconds(job: Callable[[], object]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def _read(dataset: Iterable[Any]) -> None:
    for _ in dataset:
        pass


def _fitting(schema: Any, dataset: Any) -> Callable[[], object]:
    """Return a function that trains an epoch of a model whose graphs have been built."""
    model = raw_rows.compiled_model(schema, _STEPS_PER_EXECUTION)

    def fit(data: Any = dataset) -> None:
        model.fit(data, epochs=1, verbose=0, shuffle=False)

    fit(dataset.take(_STEPS_PER_EXECUTION))
    return fit


def _raw_peer(kind: str, path: Path) -> tuple[str, Callable[[], object] | None]:
    """Return the name of a peer that reads the raw columns, and a function that does so, if there is one."""
    if kind in ("csv", "quoted.csv", "csv.gz"):
        return "make_csv_dataset", lambda: _read(_csv_dataset(path))
    if kind == "parquet" and util.find_spec("tensorflow_io"):
        import tensorflow_io as tfio

        fields = {"label": tf.TensorSpec([], tf.int64), **{name: tf.TensorSpec([], tf.string) for name in NAMES}}
        return "tfio from_parquet", lambda: _read(tfio.IODataset.from_parquet(str(path), fields).batch(_BATCH))
    if kind == "avro":
        return "fastavro alone", lambda: _read_avro(path)
    if kind == "tfrecord":
        features = {name: tf.io.FixedLenFeature([], tf.string, "") for name in NAMES}
        features["label"] = tf.io.FixedLenFeature([], tf.float32)
        records = tf.data.TFRecordDataset(str(path)).batch(_BATCH)
        peer = records.map(lambda texts: tf.io.parse_example(texts, features), tf.data.AUTOTUNE)
        return "parse_example, FixedLenFeature", lambda: _read(peer)
    return "", None


def _read_avro(path: Path) -> None:
    import fastavro

    with path.open("rb") as file:
        _read(fastavro.reader(file))


def _mapping_peer(kind: str, path: Path, schema: Any) -> tuple[str, Callable[[], object] | None]:
    """Return Keras' `StringLookup` of each column after `make_csv_dataset` as the peer of the mapping, for CSV."""
    if kind != "csv":
        return "", None
    lookups = {name: keras.layers.StringLookup(vocabulary=schema.vocabulary(name)[2:]) for name in NAMES}

    def encode(raw: dict[str, Any], labels: Any) -> tuple[Any, Any]:
        return tf.stack([lookups[name](raw[name]) for name in NAMES], axis=1), labels

    return "make_csv_dataset + StringLookup", lambda: _read(_csv_dataset(path).map(encode, tf.data.AUTOTUNE))


def _csv_dataset(path: Path) -> Any:
    return tf.data.experimental.make_csv_dataset(
        str(path),
        _BATCH,
        column_defaults=[tf.float32, *[tf.string] * raw_rows.NUM_COLUMNS],
        label_name="label",
        num_epochs=1,
        shuffle=False,
        compression_type="GZIP" if path.suffix == ".gz" else None,
        num_parallel_reads=2,
    )


if __name__ == "__main__":
    main()
