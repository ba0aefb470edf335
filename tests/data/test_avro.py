"""Avro files: every type that fits a raw column, nulls and lists, and the errors of other types and of damaged files."""

import datetime
import decimal
import math
import re
import uuid

import fastavro
import numpy as np
import pytest
import tensorflow as tf

from keras_rafm.data import AvroFormat, Schema, SkippedRows

pytestmark = pytest.mark.one_tensorflow

MISSING_INTEGER = -(2**63)
COLUMN_OF_DTYPE = {"string": Schema.string_categorical, "int64": Schema.integer_categorical}
LATE = 8192 + 5  # a row number beyond the first block


@pytest.fixture
def write(tmp_path):
    def write(kind, values, codec="null"):
        path = tmp_path / "some.avro"
        schema = {"type": "record", "name": "row", "fields": [{"name": "c", "type": kind}]}
        with open(path, "wb") as file:
            fastavro.writer(file, schema, [{"c": value} for value in values], codec=codec)
        return path

    return write


def schema_of(dtype, lists=False):
    return Schema({"c": Schema.float() if dtype == "float32" else COLUMN_OF_DTYPE[dtype](multivalued=lists)})


def read(path, dtype, lists=False):
    """Return the values of all rows, with None for missing values."""
    missing = {"string": b"", "int64": MISSING_INTEGER}.get(dtype)
    rows = []
    for block in schema_of(dtype, lists).raw_dataset(path, training=False):
        assert block["c"].dtype == dtype
        rows += block["c"].to_list() if lists else block["c"].numpy().tolist()

    def plain(value):
        if isinstance(value, list):
            return [plain(item) for item in value]
        return None if value == missing or value != value else value

    return [plain(row) for row in rows]


def logical(kind, meaning, **more):
    return {"type": kind, "logicalType": meaning, **more}


ENUM = {"type": "enum", "name": "letter", "symbols": ["A", "B"]}
FIXED = {"type": "fixed", "name": "pair", "size": 2}
ID = uuid.UUID(int=7)


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("string", ["ab", "", "ü€", "a\x00"], [b"ab", None, "ü€".encode(), b"a\x00"]),
        ({"type": "string", "avro.java.string": "String"}, ["ab"], [b"ab"]),
        ({"type": "string"}, ["ab"], [b"ab"]),
        ("bytes", [b"ab", "ü".encode()], [b"ab", "ü".encode()]),
        (ENUM, ["A", "B"], [b"A", b"B"]),
        (FIXED, [b"ab"], [b"ab"]),
        (logical("string", "uuid"), [ID], [str(ID).encode()]),
        (logical("string", "colour"), ["red"], [b"red"]),
        (["null", "string", "bytes"], ["a", None, b"b"], [b"a", None, b"b"]),
    ],
    ids=str,
)  # fmt: skip
def test_strings(write, kind, values, expected):
    assert read(write(kind, values), "string") == expected


@pytest.mark.parametrize("codec", ["null", "deflate", "bzip2", "xz"])
def test_integers(write, codec):
    extremes = [0, -1, 2**63 - 1, -(2**63) + 1]
    assert read(write("long", extremes, codec), "int64") == extremes
    assert read(write("int", [0, -(2**31)], codec), "int64") == [0, -(2**31)]
    assert read(write(["null", "int", "long"], [None, 2**40], codec), "int64") == [None, 2**40]
    assert read(write(["null", "boolean"], [True, None, False], codec), "int64") == [1, None, 0]


def test_numbers(write):
    assert read(write("double", [0.5, math.nan, 3e38, 1e-300]), "float32") == [0.5, None, np.float32(3e38), 0.0]
    assert read(write("float", [0.5, -0.25]), "float32") == [0.5, -0.25]
    assert read(write(["double", "null"], [None, 2.0]), "float32") == [None, 2.0]
    assert read(write(["null", "long", "boolean"], [2**40, None, True]), "float32") == [2.0**40, None, 1.0]
    amounts = logical("bytes", "decimal", precision=5, scale=2)
    assert read(write(["null", amounts], [decimal.Decimal("1.5"), None]), "float32") == [1.5, None]


def test_lists(write):
    of_strings = ["null", {"type": "array", "items": ["null", "string"]}]
    assert read(write(of_strings, [["a", None], [], None, ["b"]]), "string", True) == [[b"a", None], [], [], [b"b"]]
    of_integers = {"type": "array", "items": "int"}
    assert read(write(of_integers, [[1, 2], [3]] * 5000), "int64", True) == [[1, 2], [3]] * 5000
    assert read(write(of_integers, [[], []]), "int64", True) == [[], []]


@pytest.mark.parametrize("dtype", ["string", "int64", "float32"])
def test_nulls_everywhere(write, dtype):
    assert read(write("null", [None] * 3), dtype) == [None] * 3
    if dtype != "float32":
        assert read(write("null", [None] * 3), dtype, True) == [[]] * 3


def test_types_referenced_by_name(tmp_path):
    path = tmp_path / "some.avro"
    fields = [{"name": "a", "type": ENUM}, {"name": "c", "type": ["null", "letter"]}]
    with open(path, "wb") as file:
        fastavro.writer(file, {"type": "record", "name": "row", "fields": fields}, [{"a": "A", "c": "B"}])
    assert read(path, "string") == [b"B"]


def test_a_schema_learns_and_trains_from_files(tmp_path):
    rows = {"tags": [["a", "b"], [], ["b"]], "w": [[0.5, 2.0], [], [1.0]], "n": [1, 2, 1], "y": [1.0, 0.0, 1.0]}
    kinds = {
        "tags": {"type": "array", "items": "string"}, "w": {"type": "array", "items": "double"}, "n": "long", "y": "double"
    }  # fmt: skip
    fields = [{"name": name, "type": kind} for name, kind in kinds.items()]
    path = tmp_path / "some.avro"
    with open(path, "wb") as file:
        records = [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)]
        fastavro.writer(file, {"type": "record", "name": "row", "fields": fields}, records)
    columns = {"tags": Schema.string_categorical(multivalued=True, weights="w"), "n": "integer_categorical"}
    schema, other = Schema(columns, label="y"), Schema(columns, label="y")
    schema.adapt(path)
    other.adapt({**rows, "w": tf.ragged.constant(rows["w"], ragged_rank=1)})
    np.testing.assert_array_equal(schema.counts, other.counts)
    ((inputs, labels),) = schema.dataset(path, 3)
    expected, _ = schema.training_batch(rows)
    np.testing.assert_array_equal(inputs["ids"], expected["ids"])
    np.testing.assert_array_equal(inputs["values"], expected["values"])
    assert labels.numpy().tolist() == [[1], [0], [1]]


# --- what is wrong


def assert_same_error(path, schema, message, **options):
    with pytest.raises(ValueError, match=message):
        schema.count_values(path, **options)
    with pytest.raises(tf.errors.OpError, match=message):
        list(schema.raw_dataset(path, training=False, **options))


@pytest.mark.parametrize(
    ("kind", "value", "dtype", "lists", "problem"),
    [
        ("long", 1, "string", False, 'expected string, found the type "long"'),
        ("double", 1.0, "int64", False, 'expected int64, found the type "double"'),
        ("string", "1", "float32", False, 'expected float32, found the type "string"'),
        (["long", "string"], 1, "int64", False, 'expected int64, found the type ["long", "string"]'),
        (logical("long", "timestamp-micros"), datetime.datetime(2020, 1, 1), "int64", False,
         'expected int64, found the type {"logicalType": "timestamp-micros", "type": "long"}'),
        ({"type": "map", "values": "long"}, {}, "int64", False, 'expected int64, found the type {"type": "map"'),
        ({"type": "array", "items": "string"}, [], "string", False, 'expected string, found the type {"type": "array"'),
        ("string", "a", "string", True, 'expected lists of string, found the type "string"'),
        ({"type": "array", "items": "long"}, [], "string", True, 'expected lists of string, found the type {"type":'),
    ],
    ids=str,
)  # fmt: skip
def test_columns_of_another_type(write, kind, value, dtype, lists, problem):
    path = write(kind, [value])
    assert_same_error(path, schema_of(dtype, lists), re.escape(f"{path}, column 'c': {problem}"))


@pytest.mark.parametrize(
    ("kind", "values", "dtype", "problem"),
    [
        ("double", [1.0] * LATE + [math.inf], "float32", "expected a number that is finite as float32, received inf"),
        ("double", [1.0] * LATE + [-1e39], "float32", "expected a number that is finite as float32, received -1e+39"),
        ("bytes", [b"a"] * LATE + [b"\xff\xfe"], "string", r"expected a string that is UTF-8, received b'\xff\xfe'"),
    ],
    ids=["infinite", "too large", "not UTF-8"],
)  # fmt: skip
def test_illegal_values(write, kind, values, dtype, problem):
    path = write(kind, values)
    assert_same_error(path, schema_of(dtype), re.escape(f"{path}, record {LATE + 1}, column 'c': {problem}"))
    skipped = SkippedRows()
    assert sum(len(block["c"]) for block in schema_of(dtype).raw_dataset(path, training=False, on_error=skipped)) == LATE
    assert skipped.summary().splitlines()[1:] == [f"{path}, record {LATE + 1}, column 'c': {problem}"]


def test_illegal_values_in_lists(write):
    path = write({"type": "array", "items": "bytes"}, [[b"a", b"b"], [], [b"d", b"\xff"], [b"e"]])
    assert_same_error(
        path, schema_of("string", True), r"record 3, column 'c': expected a string that is UTF-8, received b'\\xff'"
    )


def test_strings_that_are_not_utf8(write):
    path = write("string", ["good", "evil", "good"])
    path.write_bytes(path.read_bytes().replace(b"evil", b"e\xffil"))
    assert_same_error(
        path, schema_of("string"), r"record 2, column 'c': expected a string that is UTF-8, received b'e\\xffil'"
    )


def test_missing_columns(write, tmp_path):
    path = write("long", [1])
    assert_same_error(path, Schema({"d": "integer_categorical"}), r"some\.avro: expected a column 'd', found \['c'\]")
    with open(path, "wb") as file:
        fastavro.writer(file, "long", [1, 2])
    assert_same_error(path, schema_of("int64"), r'some\.avro: expected records, found the type .*"long"')
    with pytest.raises(FileNotFoundError, match="file not found: "):
        schema_of("int64").adapt(tmp_path / "absent.avro")


def test_empty_files(write):
    path = write("long", [])
    assert_same_error(path, schema_of("int64"), f"{re.escape(str(path))}: expected at least one row, found none")


@pytest.mark.parametrize("damage", ["empty", "text", "head", "cut off", "contents"])
def test_damaged_files(write, damage):
    path = write("string", [str(number) for number in range(20000)])
    whole = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "text": b"a,b\n1,2\n",
            "head": whole[100:],
            "cut off": whole[:-100],
            "contents": whole[:60000] + bytes([255] * 2000) + whole[62000:],
        }[damage]
    )
    where = r", record [1-9]\d*" if damage in ("cut off", "contents") else ""
    assert_same_error(path, schema_of("string"), rf"{re.escape(str(path))}{where}: not a readable Avro file \(")


def test_without_fastavro(write, monkeypatch):
    path = write("long", [1])
    monkeypatch.setitem(__import__("sys").modules, "fastavro", None)
    with pytest.raises(ImportError, match=r"fastavro is needed here: pip install 'keras_rafm\[data\]'"):
        schema_of("int64").count_values(path, file_format=AvroFormat())
