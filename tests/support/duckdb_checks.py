"""Checks that DuckDB counts the same as this package's readers."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from keras_rafm.data import Schema
from keras_rafm.data.columns.value_counts import ValueCounts
from keras_rafm.data.counting.duckdb import count_files_with_duckdb
from keras_rafm.data.formats.csv_grammar import CSVDialect
from keras_rafm.data.formats.csv_parser import csv_blocks
from keras_rafm.data.formats.parquet import parquet_blocks
from keras_rafm.data.raw.blocks import ListValues, Strings

CSV = CSVDialect()
MIXED = Schema(
    {
        "s": Schema.string_categorical(),
        "i": Schema.integer_categorical(),
        "x": Schema.float_discretized(num_bins=4),
        "tags": Schema.string_categorical(separator="|", weight_separator=":"),
    }
)
TEXT = Schema({"s": "string_categorical"})


def read(schema, paths, file_format):
    """Return the rows of files, read by this package's readers, as plain arrays."""
    columns = schema.raw_columns(training=False)
    rows = {column.name: [] for column in columns}
    for path in paths:
        blocks = parquet_blocks(path, columns)
        if file_format != "parquet":
            blocks = csv_blocks(path, file_format, columns, block_bytes=1 << 16)
        for _, block in blocks:
            for name, column_values in block.items():
                is_list = isinstance(column_values, ListValues)
                values = as_list(column_values.values if is_list else column_values)
                if is_list:
                    ends = np.cumsum(column_values.row_lengths)
                    values = [values[end - n : end] for end, n in zip(ends, column_values.row_lengths, strict=True)]
                rows[name].extend(values)
    return {c.name: rows[c.name] if c.is_list else as_array(rows[c.name], c.dtype) for c in columns}


def as_list(values):
    if not isinstance(values, Strings):
        return values.tolist()
    return [values.text[s : s + n] for s, n in zip(values.starts, values.lengths, strict=True)]


def as_array(values, dtype):
    return np.array(values, object if dtype == "string" else dtype)


def check(schema, paths, file_format, **options):
    """Assert that DuckDB's counts equal those of this package, and return them."""
    rows = read(schema, paths, file_format)
    expected = schema.count_values(rows)
    for name, column in schema.columns.items():
        if column.dtype == "float32":  # TensorFlow treats numbers below 1.2e-38 as 0.
            known = rows[name][~np.isnan(rows[name])]
            expected[name] = ValueCounts.of("float32", *np.unique(known, return_counts=True), rows[name].size - known.size)
    counted = count_files_with_duckdb(schema.columns, paths, file_format, **options)
    assert list(counted) == list(expected)
    for name, counts in counted.items():
        check_equal(counts, expected[name])
    return counted


def check_equal(counts: ValueCounts, expected: ValueCounts):
    assert (counts.values.dtype, counts.counts.dtype) == (expected.values.dtype, expected.counts.dtype)
    assert counts.values.tolist() == expected.values.tolist()
    assert counts.counts.tolist() == expected.counts.tolist()
    assert counts.num_missing == expected.num_missing
    assert type(counts.num_missing) is int
    if counts.values.dtype == np.float32:
        assert not np.signbit(counts.values[counts.values == 0]).any()


def parquet_file(folder, name="rows.parquet", **columns):
    path = str(folder / name)
    pq.write_table(pa.table(columns), path, row_group_size=7)
    return path
