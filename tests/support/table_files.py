"""One table in files of every format, and samples as libFM text, with the schemas that read them."""

from __future__ import annotations

import csv
import gzip
import math
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from keras_rafm.data import Samples, Schema, write_tfrecord

MISSING_INTEGER = -(2**63)
SUFFIXES = ["csv", "csv.gz", "tsv", "tsv.gz", "parquet", "tfrecord", "tfrecord.gz"]
RNG = random.Random(7)
NUM_ROWS = 157
#: The columns of a table; `None` is a missing value.
TABLE = {
    "user": [RNG.choice(["ann", "bob", "Åsa, the 2nd", 'say "hi"', "two\nlines", " x ", None]) for _ in range(NUM_ROWS)],
    "tags": [
        "|".join(f"{t}:{w}" for t, w in zip(RNG.sample("abcdef", n), [0.5, 2, -1.25, 3], strict=False)) or None
        for n in (RNG.choice([0, 1, 2, 4]) for _ in range(NUM_ROWS))
    ],
    "city": [RNG.choice(["Rome", "Oslo", "東京", None]) for _ in range(NUM_ROWS)],
    "shop": [RNG.choice([5, -5, 2**63 - 1, -(2**63) + 1, 0, None]) for _ in range(NUM_ROWS)],
    "price": [RNG.choice([float(np.float32(RNG.gauss(0, 10))), None]) for _ in range(NUM_ROWS)],
    "age": [RNG.choice([float(RNG.randrange(90)), None]) for _ in range(NUM_ROWS)],
    "weight": [float(RNG.randrange(1, 4)) for _ in range(NUM_ROWS)],
    "clicked": [RNG.randrange(2) for _ in range(NUM_ROWS)],
}
MISSING = {"user": "", "tags": "", "city": "", "shop": MISSING_INTEGER, "price": math.nan, "age": math.nan}


def table_schema(lists=True):
    columns = {
        "user": Schema.string_categorical(min_count=3),
        "tags": Schema.string_categorical(separator="|", weight_separator=":", combiner="sqrtn"),
        "city": Schema.string_hashed(4),
        "shop": Schema.integer_categorical(missing="ignore"),
        "price": Schema.float("standard"),
        "age": Schema.float_discretized(4, missing="category"),
    }
    if not lists:
        del columns["tags"]
    return Schema(columns, label="clicked", sample_weight="weight")


def in_python(table, start=0, stop=None):
    """Return a raw batch of Python values."""
    return {name: [MISSING.get(name) if v is None else v for v in values[start:stop]] for name, values in table.items()}


def write_text(path, table, delimiter=","):
    opener = gzip.open if str(path).endswith(".gz") else open
    with opener(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow(table)
        writer.writerows(zip(*([("" if v is None else v) for v in values] for values in table.values()), strict=True))


def write_table(path, table, schema):
    name = str(path)
    if ".tfrecord" in name:
        assert write_tfrecord(path, in_python(table), schema) == len(table["clicked"])
    elif name.endswith(".parquet"):
        pq.write_table(pa.table(table), path, row_group_size=50)
    else:
        write_text(path, table, "\t" if ".tsv" in name else ",")


def rows_of(inputs):
    """Return the pairs `(id, value)` of each row without padding, which depends on the other rows of a block."""
    ids = np.array(inputs["ids"])
    values = np.array(inputs["values"]) if "values" in inputs else np.ones(ids.shape)
    return [
        [(i, x) for i, x in zip(*row, strict=True) if i >= 0] for row in zip(ids.tolist(), values.tolist(), strict=True)
    ]


def listed(batches):
    """Return the rows of batches `(inputs, labels, …)`."""
    rows = []
    for inputs, *others in batches:
        rows += zip(rows_of(inputs), *(np.array(other)[:, 0].tolist() for other in others), strict=True)
    return rows


def many_samples(num_samples=300, seed=0, num_features=50):
    rng = np.random.default_rng(seed)
    occupied = np.arange(5) < rng.integers(0, 6, num_samples)[:, np.newaxis]
    ids = np.where(occupied, rng.integers(0, num_features, occupied.shape), -1).astype(np.int32)
    values = np.where(occupied, rng.normal(size=occupied.shape), 0).astype(np.float32)
    return Samples(ids, values, rng.integers(0, 2, num_samples).astype(np.float32))


def libfm_schema(task="classification"):
    ids = Schema.integer_categorical(multivalued=True, weights="values", missing="ignore", num_oov_indices=0)
    return Schema({"ids": ids}, label="label", task=task)
