"""Counting of Parquet files by DuckDB: exactly the counts of this package's readers, or an error."""

import numpy as np
import pyarrow as pa
import pytest
from duckdb_checks import CSV, TEXT, check, parquet_file

from keras_rafm.data import Schema
from keras_rafm.data.counting.duckdb import DuckDBCountError, count_files_with_duckdb

pytestmark = pytest.mark.one_tensorflow


def test_parquet_of_every_type(folder):
    strings = ["a", "", None, "å", "a\0b", "a", " a", "b\n"]
    columns: dict = {
        "s": pa.array(strings),
        "b": pa.array([None if s is None else s.encode() for s in strings], pa.binary()),
    }
    columns["d"] = pa.array(strings).dictionary_encode()
    columns["l"] = pa.array(strings, pa.large_string())
    small = [1, 0, None, 1, 100, 7, 0, 1]
    integers = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
    columns |= {name: pa.array(small, name) for name in integers}
    columns["bool"] = pa.array([True, False, None] * 2 + [True, True])
    columns["int64"] = pa.array([-(2**63), 2**63 - 1, None, -1, -(2**63), 2**62 + 1, 0, 0])
    columns["half"] = pa.array(np.array([0.1, -0.0, 0.0, np.nan, 1, 2, 2, 6e4], np.float16))
    columns["float"] = pa.array([0.1, -0.0, 0.0, np.nan, None, 1e-45, 0.1, 3e38], pa.float32())
    columns["double"] = pa.array([0.1, -0.0, 0.0, np.nan, None, 1e-46, 0.1 + 1e-12, 3.40282356e38])
    path = parquet_file(folder, **columns)
    schema = Schema(
        dict.fromkeys("sbdl", "string_categorical")
        | dict.fromkeys([*integers, "bool"], "integer_categorical")
        | dict.fromkeys(["half", "float", "double"], "float")
    )
    check(schema, [path], "parquet")
    check(Schema(dict.fromkeys([*integers, "bool"], "float")), [path, path], "parquet")


def test_doubles_are_rounded_like_in_numpy(folder):
    draw = np.random.default_rng(1)
    doubles = draw.normal(size=20_000) * 10.0 ** draw.integers(-50, 38, 20_000)
    halves = (draw.integers(0, 2**31 - 2**24, 20_000).astype(np.uint32).view(np.float32)).astype(np.float64)
    halfway = (halves + np.nextafter(halves.astype(np.float32), np.float32(np.inf)).astype(np.float64)) / 2
    big = draw.integers(-(2**63), 2**63 - 1, 40_000, np.int64)
    both = np.concatenate([doubles, halfway[np.isfinite(halfway) & (halfway < 3.4e38)]])
    path = parquet_file(folder, x=np.resize(both, 40_000), i=big)
    check(Schema({"x": "float", "i": "float"}), [path], "parquet")


def test_parquet_lists(folder):
    path = parquet_file(
        folder,
        words=pa.array([["a", "b", "a"], [], None, ["", None], ["a", ""], ["c"]]),
        ids=pa.array([[1, 2], [], None, [None], [-5, None], [3]], pa.list_(pa.int32())),
        weighted=pa.array([["a", "b"], [], None, ["a"], ["b", "c"], ["c"]], pa.large_list(pa.string())),
        w=pa.array([[1.0, 2.0], [], None, [0.0], [-1.0, 1.0], [3.0]]),
    )
    schema = Schema(
        {
            "words": Schema.string_categorical(multivalued=True),
            "ids": Schema.integer_identity(9, multivalued=True),
            "weighted": Schema.string_hashed(4, multivalued=True, weights="w"),
        }
    )
    counted = check(schema, [path, path], "parquet")
    assert counted["words"].num_missing == 6
    separated = Schema({"words": Schema.string_categorical(separator="|", weight_separator=":")})
    check(separated, [parquet_file(folder, "tags.parquet", words=pa.array(["a:2|b", None, "", "|", ":3", "a"]))], "parquet")


@pytest.mark.parametrize("weights", [[[1.0], [1.0]], [None, [1.0]], [[1.0, None], [1.0]], [[1.0, np.inf], [1.0]]])
def test_illegal_weights(folder, weights):
    path = parquet_file(folder, v=pa.array([["a", "b"], ["a"]]), w=pa.array(weights))
    schema = Schema({"v": Schema.string_categorical(multivalued=True, weights="w")})
    with pytest.raises(DuckDBCountError, match="column 'w' must have one finite weight for each value of column 'v'"):
        count_files_with_duckdb(schema.columns, [path], "parquet")


def test_parquet_files_of_different_types(folder):
    paths = [
        parquet_file(folder, "0.parquet", i=pa.array([1, 2], pa.int8()), x=pa.array([1, 2], pa.int8())),
        parquet_file(folder, "1.parquet", x=pa.array([0.5, 2.0]), other=pa.array([1, 2]), i=pa.array([2**40, 2])),
        parquet_file(folder, "2.parquet", i=pa.array([None, 1], pa.uint64()), x=pa.array([0.5, None], pa.float32())),
    ]
    counted = check(Schema({"i": "integer_categorical", "x": "float"}), paths, "parquet")
    assert counted["i"].values.tolist() == [1, 2, 2**40]
    assert counted["x"].values.tolist() == [0.5, 2.0, 1.0]


@pytest.mark.parametrize(
    "name", ["filename", "file_row_number", "rowid", 'a"b', "a'b", "a.b", "v", "n", "x", "select", "é", "*"]
)
def test_column_names_have_no_special_meaning(folder, written, name):
    schema = Schema({name: "string_categorical"})
    check(schema, [parquet_file(folder, **{name: pa.array(["a", "b", "a"])})], "parquet")
    quoted = name.replace('"', '""')
    check(schema, [written(f'"{quoted}",other\na,b\n'.encode())], CSV)


def test_folder_names_like_partitions_have_no_special_meaning(folder):
    partition = folder / "s=9" / "x[1]"
    partition.mkdir(parents=True)
    check(TEXT, [parquet_file(partition, s=pa.array(["a"]))], "parquet")


def test_columns_that_differ_in_case(folder, written):
    check(Schema({"A": "string_categorical", "a": "string_categorical"}), [written(b"a,A\n1,2\n")], CSV)
    with pytest.raises(DuckDBCountError, match="DuckDB cannot tell columns apart that differ in case, as 'a'"):
        count_files_with_duckdb(
            {"a": TEXT.columns["s"]}, [parquet_file(folder, a=pa.array(["x"]), A=pa.array(["y"]))], "parquet"
        )
    with pytest.raises(DuckDBCountError, match="expected a column 's' among"):
        count_files_with_duckdb(TEXT.columns, [parquet_file(folder, S=pa.array(["x"]))], "parquet")


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array([1, 2]), "string_categorical"),
        (pa.array([1.0]), "integer_categorical"),
        (pa.array(["1"]), "integer_categorical"),
        (pa.array(["1"]), "float"),
        (pa.array([["a"]]), "string_categorical"),
        (pa.array([1, 2], pa.timestamp("us")), "integer_categorical"),
        (pa.array([1], pa.decimal128(5)), "float"),
        (pa.array([{"a": 1}]), "float"),
        (pa.array([2**63], pa.uint64()), "integer_categorical"),
        (pa.array([b"\xff"], pa.binary()), "string_categorical"),
        (pa.array([np.inf]), "float"),
        (pa.array([1e39]), "float"),
        (pa.array([-np.inf], pa.float32()), "float"),
        (pa.array([], pa.string()), "string_categorical"),
    ],
)
def test_parquet_columns_of_other_types(folder, column, kind):
    with pytest.raises(DuckDBCountError, match=r"rows\.parquet|column 'c'"):
        count_files_with_duckdb(Schema({"c": kind}).columns, [parquet_file(folder, c=column)], "parquet")


def test_damaged_parquet(folder, written):
    path = parquet_file(folder, s=pa.array([str(i) for i in range(1000)]))
    with open(path, "rb") as file:
        content = file.read()
    with pytest.raises(DuckDBCountError, match=r"cut\.parquet: not a readable Parquet file"):
        count_files_with_duckdb(TEXT.columns, [path, written(content[:-20], "cut.parquet")], "parquet")
    with pytest.raises(DuckDBCountError, match=r"DuckDB could not count .*holed\.parquet"):
        count_files_with_duckdb(
            TEXT.columns, [written(content[:40] + b"\xff" * 200 + content[240:], "holed.parquet")], "parquet"
        )
