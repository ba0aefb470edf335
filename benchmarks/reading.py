"""Reading raw columns from files: `python -m benchmarks.reading`.

It writes the same rows, a label and ten string columns of log-uniform values (2 to 1,000,000 of them), to a temporary
directory as CSV, CSV with quotes, gzip CSV, Parquet, TFRecord, Avro and, as ids, libFM text. Of each file it takes the rows
per second that are read as raw columns, that are mapped by an adapted `Schema`, and that go through `RaFMModel.fit`. The
start of an iteration, some tenths of a second for the graph, is in all of them.

Peers, where they are installed, read or map the same files in turn with it in the same process; the ratios are of rows per
second of one run: above 1, this package is faster.
"""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np

_ROWS, _COLUMNS, _BATCH, _STEPS_PER_EXECUTION, _RANKS = 1_000_000, 10, 4096, 16, (8, 32)
_ROWS_AT_ONCE = 100_000
_KINDS = ("csv", "quoted.csv", "csv.gz", "parquet", "tfrecord", "avro", "libfm")
_NAMES = [f"c{number}" for number in range(_COLUMNS)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=_ROWS)
    parser.add_argument("--kinds", nargs="+", choices=_KINDS, default=_KINDS, help="of files; default: all")
    parser.add_argument("--runs", type=int, default=1)
    options = parser.parse_args()

    import tensorflow as tf

    loads = " ".join(f"{load:.1f}" for load in os.getloadavg())
    print(f"{options.rows:,} rows, TensorFlow {tf.__version__}, {os.cpu_count()} processors, loads before: {loads}\n")
    print("| file | MB | what | rows/s | peer | its rows/s | ratio |")
    print("|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="keras_rafm_reading_") as folder:
        paths = write_files(Path(folder), options.rows, options.kinds)
        for kind, path in paths.items():
            _print_rows(kind, path, options.rows, options.runs)
    print(f"\nLoads after: {' '.join(f'{load:.1f}' for load in os.getloadavg())}")


def write_files(folder: Path, num_rows: int, kinds: list[str]) -> dict[str, Path]:
    """The same rows in a file of each kind."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    from keras_rafm.data import Samples, write_libfm, write_tfrecord

    draw = np.random.default_rng(0)
    sizes = np.geomspace(2, 1_000_000, _COLUMNS).astype(np.int64)
    ids = np.stack([np.exp(draw.random(num_rows) * np.log(size + 1)).astype(np.int64) - 1 for size in sizes], axis=1)
    labels = draw.integers(0, 2, num_rows)
    names = ["label", *_NAMES]
    paths = {kind: folder / f"rows.{kind}" for kind in kinds}
    fields = pa.schema([("label", pa.int64()), *((name, pa.string()) for name in _NAMES)])

    def tables() -> Iterator[Any]:
        for start in range(0, num_rows, _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            columns = [np.char.add("v", column.astype(str)) for column in ids[part].T]
            yield pa.table([pa.array(labels[part]), *map(pa.array, columns)], names).cast(fields)

    plain, quoted, whole = folder / "plain", folder / "quoted", folder / "whole"
    unquoted = csv.WriteOptions(quoting_style="none")
    with (
        parquet.ParquetWriter(whole, fields) as of_parquet,
        csv.CSVWriter(plain, fields, write_options=unquoted) as of_text,
        csv.CSVWriter(quoted, fields, write_options=csv.WriteOptions(quoting_style="all_valid")) as of_quoted,
    ):
        for table in tables():
            of_parquet.write_table(table)
            of_text.write(table)
            of_quoted.write(table)
    if "csv.gz" in paths:
        with open(plain, "rb") as source, gzip.open(paths["csv.gz"], "wb", compresslevel=1) as target:
            shutil.copyfileobj(source, target, 1 << 20)
    if "tfrecord" in paths:
        batches = ({name: table[name].to_numpy() for name in names} for table in tables())
        write_tfrecord(paths["tfrecord"], ({**b, "label": b["label"].astype(np.float32)} for b in batches), _schema())
    if "avro" in paths:
        _write_avro(paths["avro"], (row for table in tables() for row in table.to_pylist()))
    if "libfm" in paths:
        first_ids = np.cumsum(sizes + 1) - sizes - 1
        write_libfm(paths["libfm"], Samples(ids + first_ids, np.ones(ids.shape, np.float32), labels.astype(np.float32)))
    for kind, path in (("csv", plain), ("quoted.csv", quoted), ("parquet", whole)):
        if kind in paths:
            path.rename(paths[kind])
        else:
            path.unlink()
    return paths


def _write_avro(path: Path, rows: Iterable[Any]) -> None:
    import fastavro

    fields = [{"name": "label", "type": "long"}, *({"name": name, "type": ["null", "string"]} for name in _NAMES)]
    with path.open("wb") as file:
        fastavro.writer(file, {"type": "record", "name": "row", "fields": fields}, rows)


def _schema(kind: str = "csv") -> Any:
    from keras_rafm.data import Schema

    if kind == "libfm":
        ids = Schema.integer_categorical(multivalued=True, weights="values", missing="ignore")
        return Schema({"ids": ids}, label="label")
    return Schema(dict.fromkeys(_NAMES, "string_categorical"), label="label")


def _print_rows(kind: str, path: Path, num_rows: int, runs: int) -> None:
    schema = _schema(kind)
    schema.adapt(path)
    raw, mapped = schema.raw_dataset(path), schema.dataset(path, _BATCH, num_rows=num_rows)
    jobs: list[tuple[str, Callable[[], object], str, Callable[[], object] | None]] = [
        ("raw columns", lambda: _read(raw), *_raw_peer(kind, path)),
        ("mapped", lambda: _read(mapped), *_mapping_peer(kind, path, schema)),
        ("fit", _fitting(schema, mapped), "", None),
    ]
    for what, ours, peer, theirs in jobs:
        speeds: dict[str, list[float]] = {"ours": [], "theirs": []}
        for _ in range(runs):
            speeds["ours"].append(num_rows / _seconds(ours))
            if theirs is not None:
                speeds["theirs"].append(num_rows / _seconds(theirs))
        own = statistics.median(speeds["ours"])
        cells = [f"rows.{kind}", f"{path.stat().st_size / 1e6:,.0f}", what, f"{own:,.0f}", peer, "", ""]
        if theirs is not None:
            pairs = zip(speeds["ours"], speeds["theirs"], strict=True)
            cells[5] = f"{statistics.median(speeds['theirs']):,.0f}"
            cells[6] = f"{statistics.median(a / b for a, b in pairs):.1f}"
        print(f"| {' | '.join(cells)} |", flush=True)


def _seconds(job: Callable[[], object]) -> float:
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def _read(dataset: Iterable[Any]) -> None:
    for _ in dataset:
        pass


def compiled_model(schema: Any, steps_per_execution: int = 1) -> Any:
    """A RaFM of two levels."""
    import keras

    from keras_rafm import RaFMLayer, RaFMModel, RankPlan
    from keras_rafm.optimizers import SparseAdagrad

    plan = RankPlan.from_counts(schema.counts, ranks=_RANKS, thresholds=(100,))
    inputs = schema.inputs()
    model = RaFMModel(inputs, RaFMLayer(plan)(inputs))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(SparseAdagrad(0.05), loss, steps_per_execution=steps_per_execution)
    return model


def _fitting(schema: Any, dataset: Any) -> Callable[[], object]:
    """One epoch of a compiled model, its graphs made before."""
    model = compiled_model(schema, _STEPS_PER_EXECUTION)

    def fit(data: Any = dataset) -> None:
        model.fit(data, epochs=1, verbose=0, shuffle=False)

    fit(dataset.take(_STEPS_PER_EXECUTION))
    return fit


def _raw_peer(kind: str, path: Path) -> tuple[str, Callable[[], object] | None]:
    import tensorflow as tf

    if kind in ("csv", "quoted.csv", "csv.gz"):
        return "make_csv_dataset", lambda: _read(_csv_dataset(path))
    if kind == "parquet" and util.find_spec("tensorflow_io"):
        import tensorflow_io as tfio

        fields = {"label": tf.TensorSpec([], tf.int64), **{name: tf.TensorSpec([], tf.string) for name in _NAMES}}
        return "tfio from_parquet", lambda: _read(tfio.IODataset.from_parquet(str(path), fields).batch(_BATCH))
    if kind == "avro":
        return "fastavro alone", lambda: _read_avro(path)
    if kind == "tfrecord":
        features = {name: tf.io.FixedLenFeature([], tf.string, "") for name in _NAMES}
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
    """Keras's StringLookup per column, on what `make_csv_dataset` reads."""
    if kind != "csv":
        return "", None
    import keras
    import tensorflow as tf

    lookups = {name: keras.layers.StringLookup(vocabulary=schema.vocabulary(name)[2:]) for name in _NAMES}

    def encode(raw: dict[str, Any], labels: Any) -> tuple[Any, Any]:
        return tf.stack([lookups[name](raw[name]) for name in _NAMES], axis=1), labels

    return "make_csv_dataset + StringLookup", lambda: _read(_csv_dataset(path).map(encode, tf.data.AUTOTUNE))


def _csv_dataset(path: Path) -> Any:
    import tensorflow as tf

    return tf.data.experimental.make_csv_dataset(
        str(path),
        _BATCH,
        column_defaults=[tf.float32, *[tf.string] * _COLUMNS],
        label_name="label",
        num_epochs=1,
        shuffle=False,
        compression_type="GZIP" if path.suffix == ".gz" else None,
        num_parallel_reads=2,
    )


if __name__ == "__main__":
    main()
