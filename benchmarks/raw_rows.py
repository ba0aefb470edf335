"""Rows of a label and ten string columns with 2 to 1,000,000 values each, as files and as a model that learns from them."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_rafm as kr

KINDS = ("csv", "quoted.csv", "csv.gz", "parquet", "tfrecord", "avro", "libfm")
NUM_COLUMNS = 10
NAMES = [f"c{number}" for number in range(NUM_COLUMNS)]
_SIZES = np.geomspace(2, 1_000_000, NUM_COLUMNS).astype(np.int64)
_ROWS_AT_ONCE = 100_000
_RANKS, _THRESHOLDS = (8, 32), (100,)


def draw(num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the values `[N, 10]`, log-uniform in each column, and labels `[N]`, with a fixed seed."""
    rng = np.random.default_rng(0)
    ids = np.stack([np.exp(rng.random(num_rows) * np.log(size + 1)).astype(np.int64) - 1 for size in _SIZES], axis=1)
    return ids, rng.integers(0, 2, num_rows)


def schema(kind: str = "csv") -> kr.data.Schema:
    """Return the schema of a kind of file. A libFM file has ids and values in place of the string columns."""
    if kind == "libfm":
        ids = kr.data.Schema.integer_categorical(multivalued=True, weights="values", missing="ignore")
        return kr.data.Schema({"ids": ids}, label="label")
    return kr.data.Schema(dict.fromkeys(NAMES, "string_categorical"), label="label")


def compiled_model(adapted: kr.data.Schema, steps_per_execution: int = 1) -> kr.RaFMModel:
    """Return a RaFM with ranks 8 and 32 for the features of an adapted schema."""
    plan = kr.RankPlan.from_counts(adapted.counts, _RANKS, _THRESHOLDS)
    inputs = adapted.inputs()
    model = kr.RaFMModel(inputs, kr.RaFMLayer(plan)(inputs))
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(kr.optimizers.SparseAdagrad(0.05), loss, steps_per_execution=steps_per_execution)
    return model


def write_files(folder: Path, num_rows: int, kinds: Sequence[str]) -> dict[str, Path]:
    """Write the same rows to a file of each kind, and return the files by kind. Needs pyarrow."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    ids, labels = draw(num_rows)
    paths = {kind: folder / f"rows.{kind}" for kind in kinds}
    plain_path, quoted_path, parquet_path = (folder / name for name in ("plain", "quoted", "parquet"))
    fields = pa.schema([("label", pa.int64()), *((name, pa.string()) for name in NAMES)])
    with (
        parquet.ParquetWriter(parquet_path, fields) as parquet_writer,
        csv.CSVWriter(plain_path, fields, write_options=csv.WriteOptions(quoting_style="none")) as plain_writer,
        csv.CSVWriter(quoted_path, fields, write_options=csv.WriteOptions(quoting_style="all_valid")) as quoted_writer,
    ):
        for table in _tables(ids, labels, fields):
            for writer in (parquet_writer, plain_writer, quoted_writer):
                writer.write(table)
    if "csv.gz" in paths:
        with open(plain_path, "rb") as source, gzip.open(paths["csv.gz"], "wb", compresslevel=1) as target:
            shutil.copyfileobj(source, target, 1 << 20)
    if "tfrecord" in paths:
        batches = ({name: table[name].to_numpy() for name in fields.names} for table in _tables(ids, labels, fields))
        float_labels = ({**batch, "label": batch["label"].astype(np.float32)} for batch in batches)
        kr.data.write_tfrecord(paths["tfrecord"], float_labels, schema())
    if "avro" in paths:
        _write_avro(paths["avro"], (row for table in _tables(ids, labels, fields) for row in table.to_pylist()))
    if "libfm" in paths:
        first_ids = np.cumsum(_SIZES + 1) - _SIZES - 1
        samples = kr.data.Samples(ids + first_ids, np.ones(ids.shape, np.float32), labels.astype(np.float32))
        kr.data.write_libfm(paths["libfm"], samples)
    for kind, path in (("csv", plain_path), ("quoted.csv", quoted_path), ("parquet", parquet_path)):
        if kind in paths:
            path.rename(paths[kind])
        else:
            path.unlink()
    return paths


def _tables(ids: np.ndarray, labels: np.ndarray, fields: Any) -> Iterator[Any]:
    import pyarrow as pa

    for start in range(0, len(labels), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        columns = [np.char.add("v", column.astype(str)) for column in ids[part].T]
        yield pa.table([pa.array(labels[part]), *map(pa.array, columns)], fields.names).cast(fields)


def _write_avro(path: Path, rows: Iterable[Any]) -> None:
    import fastavro

    fields = [{"name": "label", "type": "long"}, *({"name": name, "type": ["null", "string"]} for name in NAMES)]
    with path.open("wb") as file:
        fastavro.writer(file, {"type": "record", "name": "row", "fields": fields}, rows)
