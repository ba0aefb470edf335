"""Counting by DuckDB in files of any format: memory, progress, adapting to the counts, and missing files and columns."""

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from duckdb_checks import CSV, MIXED, TEXT, parquet_file

from keras_rafm.data import Schema
from keras_rafm.data.counting.duckdb import DuckDBCountError, count_files_with_duckdb

pytestmark = pytest.mark.one_tensorflow


def test_more_data_than_memory(folder):
    number = 2_000_000
    values = pa.array(np.random.default_rng(0).permutation(number) + number)
    path = str(folder / "rows.parquet")
    pq.write_table(pa.table({"s": values.cast(pa.string())}), path, row_group_size=50_000)
    # Older versions need more memory to spill to disk.
    limit = "120MB" if int(duckdb.__version__.split(".")[0]) >= 2 else "300MB"
    counted = count_files_with_duckdb(TEXT.columns, [path], "parquet", memory_limit=limit, threads=2)["s"]
    assert counted.counts.size == number
    assert counted.total == number
    assert counted.values[[0, 1, -1]].tolist() == [b"2000000", b"2000001", b"3999999"]
    with pytest.raises(DuckDBCountError, match="Out of Memory"):
        count_files_with_duckdb(TEXT.columns, [path], "parquet", memory_limit="1MB", threads=2)


def test_progress(folder, written):
    steps: list = []
    count_files_with_duckdb(
        MIXED.columns, [written(b"s,i,x,tags\na,1,2,3\n")], CSV, progress=lambda *step: steps.append(step)
    )
    assert steps == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    steps.clear()
    path = parquet_file(folder, s=pa.array(["a"]))
    count_files_with_duckdb(TEXT.columns, [path], "parquet", progress=lambda *step: steps.append(step))
    assert steps == [(1, 1)]


def test_a_schema_adapts_to_the_counts(written):
    path = written(b"s,i,x,tags\na,1,0.5,p|q\nb,2,1.5,\na,1,,q\n")
    schema = Schema(MIXED.columns)
    schema.adapt(count_files_with_duckdb(schema.columns, [path], CSV))
    assert schema.vocabulary("s") == ["[UNSEEN]", "[MISSING]", "a", "b"]
    assert schema.vocabulary("tags") == ["[UNSEEN]", "[MISSING]", "q", "p"]


def test_missing_files(written):
    with pytest.raises(FileNotFoundError, match=r"file not found: nowhere\.csv"):
        count_files_with_duckdb(TEXT.columns, [written(b"s\na\n"), "nowhere.csv"], CSV)
    with pytest.raises(ValueError, match=r"at least one file\. Received: \[\]"):
        count_files_with_duckdb(TEXT.columns, [], CSV)
    with pytest.raises(DuckDBCountError, match=r"s3://bucket/a\.csv: DuckDB counts local files only"):
        count_files_with_duckdb(TEXT.columns, ["s3://bucket/a.csv"], CSV)


def test_missing_columns(written):
    with pytest.raises(ValueError, match="expected a column 's', the first row has 't'"):
        count_files_with_duckdb(TEXT.columns, [written(b"t\na\n")], CSV)
    with pytest.raises(ValueError, match="expected one column 's', the first row has 2 of that name"):
        count_files_with_duckdb(TEXT.columns, [written(b"s,s\na,b\n")], CSV)
    schema = Schema({"s": Schema.string_categorical(multivalued=True)})
    with pytest.raises(DuckDBCountError, match="text has no lists"):
        count_files_with_duckdb(schema.columns, [written(b"s\na\n")], CSV)


def test_without_duckdb(written, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "duckdb", None)
    with pytest.raises(ImportError, match=r"pip install 'keras_rafm\[data\]'"):
        count_files_with_duckdb(TEXT.columns, [written(b"s\na\n")], CSV)
