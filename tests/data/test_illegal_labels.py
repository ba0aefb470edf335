"""Illegal labels and sample weights in files of every format: errors name their place, or their rows are skipped."""

import math
import time

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from keras_rafm import RaFMLayer, RaFMModel, RankPlan
from keras_rafm.data import Schema, SkippedRows, write_tfrecord

pytestmark = pytest.mark.one_tensorflow

#: The unit in which errors count rows in each format, and the number of the first row.
UNITS = {"csv": ("line", 2), "parquet": ("row", 1), "avro": ("record", 1), "tfrecord": ("record", 1)}
BINARY = "expected one of the labels 0 and 1, or -1 and 1"
WEIGHT = "expected a finite sample weight of at least 0"

CASES = {
    "class": ({}, "y", [1, 0, 2, 1, None, 0], [2, 4], BINARY),
    "number": ({"task": "regression"}, "y", [0.5, None, -3, 7, 1, 2], [1], "expected a label that is a finite number"),
    "name": (
        {"positive_label": "yes"},
        "y",
        ["yes", "", "no", None, "yes", "no"],
        [1, 3],
        "expected a label, which must not",
    ),
    "named number": ({"positive_label": 3}, "y", [3, 1, None, 3, 1, 2], [2], "expected a label, which must not be missing"),
    "weight": ({"sample_weight": "w"}, "w", [1, 0.5, -0.25, 0, None, 3], [2, 4], WEIGHT),
}


def write(path, columns, schema):
    suffix = path.suffix[1:]
    if suffix == "csv":
        rows = zip(*columns.values(), strict=True)
        lines = [",".join("" if value is None else str(value) for value in row) for row in rows]
        path.write_text("\n".join([",".join(columns), *lines]) + "\n")
    elif suffix == "parquet":
        pq.write_table(pa.table({name: pa.array(values) for name, values in columns.items()}), path)
    elif suffix == "avro":
        kinds = {
            name: "string" if any(isinstance(v, str) for v in values) else "double" for name, values in columns.items()
        }
        fields = [{"name": name, "type": ["null", kind]} for name, kind in kinds.items()]
        with path.open("wb") as file:
            rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
            fastavro.writer(file, {"type": "record", "name": "row", "fields": fields}, rows)
    else:
        missing_and_type = {"string": ("", str), "float32": (math.nan, np.float32)}
        raw = {}
        for column in schema.raw_columns(training=True):
            missing, kind = missing_and_type[column.dtype]
            raw[column.name] = [missing if value is None else kind(value) for value in columns[column.name]]
        write_tfrecord(path, raw, schema)


@pytest.fixture(params=UNITS)
def suffix(request):
    return request.param


# Avro and Parquet share the checks of numbers and of strings for all kinds of columns.
SOME = [("csv", case) for case in CASES] + [("tfrecord", case) for case in CASES]
SOME += [("avro", "class"), ("avro", "name"), ("parquet", "name")]


@pytest.mark.parametrize(("suffix", "case"), SOME)
def test_illegal_rows_are_reported_with_their_place_or_skipped(tmp_path, case, suffix):
    options, name, values, wrong, problem = CASES[case]
    schema = Schema({"user": "string_categorical"}, label="y", **options)
    columns = {"user": [*"abcabc"], "y": [0, 1] * 3, **({"w": [1] * 6} if "sample_weight" in options else {}), name: values}
    path = tmp_path / f"some.{suffix}"
    write(path, columns, schema)
    schema.adapt(path)  # reads neither labels nor weights
    assert len(list(schema.dataset(path, 6, training=False))) == 1

    unit, first = UNITS[suffix]
    with pytest.raises(tf.errors.OpError) as raised:
        list(schema.dataset(path, 6))
    assert problem in str(raised.value)
    assert str(path) in str(raised.value)
    place = f"{unit} {first + wrong[0]}"
    assert f"{place}, column '{name}'" in str(raised.value) or f"column {name} in {place} of" in str(raised.value)

    skipped = SkippedRows()
    ((inputs, labels, *weights),) = schema.dataset(path, 6, on_error=skipped)
    kept = [number for number in range(6) if number not in wrong]
    np.testing.assert_array_equal(inputs["ids"], schema({"user": [[*"abcabc"][number] for number in kept]})["ids"])
    weights_by_name = dict(zip(["w"], weights, strict=False))
    assert len(labels) == 6 - len(wrong)
    assert weights_by_name == {} or weights_by_name["w"][:, 0].numpy().tolist() == [values[number] for number in kept]
    summary = skipped.summary().splitlines()
    assert summary[0] == f"skipped rows: {len(wrong)} ({path}: {len(wrong)})"
    assert len(summary) == 1 + len(wrong)
    for line, number in zip(summary[1:], wrong, strict=True):
        assert line.startswith(f"{path}, {unit} {first + number}, column '{name}': {problem}")


@pytest.mark.parametrize("suffix", ["parquet", "tfrecord"])
def test_errors_of_fit_name_the_place(tmp_path, suffix):
    schema = Schema({"user": "string_categorical"}, label="y")
    path = tmp_path / f"some.{suffix}"
    write(path, {"user": [*"abcabc"], "y": [0, 1, 1, 0, 3, 1]}, schema)
    schema.adapt(path)
    inputs = schema.inputs()
    model = RaFMModel(inputs, RaFMLayer(RankPlan.from_counts(schema.counts, (2, 4), (2,)))(inputs))
    model.compile("sgd", "mse")
    unit, first = UNITS[suffix]
    with pytest.raises(tf.errors.OpError, match=f"{unit} {first + 4}"):
        model.fit(schema.dataset(path, 2), verbose=0, shuffle=False)
    skipped = SkippedRows()
    model.fit(schema.dataset(path, 2, num_rows=5, on_error=skipped), verbose=0, shuffle=False)
    assert skipped.per_file == {str(path): 1}


MIXED = {
    "csv": b"user,y\na,1\nb,3\nc,inf\nd,\n\xff,1\nf,0\n",
    "parquet": {"user": [b"a", b"b", b"c", b"d", b"\xff", b"f"], "y": [1.0, 3.0, math.inf, None, 1.0, 0.0]},
}


@pytest.mark.parametrize("suffix", ["csv", "parquet", "avro"])
def test_several_kinds_of_illegal_rows_in_one_block(tmp_path, suffix):
    schema = Schema({"user": "string_categorical"}, label="y")
    schema.adapt({"user": [*"af"]})
    path = tmp_path / f"some.{suffix}"
    if suffix == "csv":
        path.write_bytes(MIXED["csv"])
    elif suffix == "parquet":
        pq.write_table(pa.table(MIXED["parquet"]), path)
    else:
        fields = [{"name": "user", "type": "bytes"}, {"name": "y", "type": ["null", "double"]}]
        rows = [dict(zip(MIXED["parquet"], row, strict=True)) for row in zip(*MIXED["parquet"].values(), strict=True)]
        with path.open("wb") as file:
            fastavro.writer(file, {"type": "record", "name": "row", "fields": fields}, rows)
    errors = []
    ((inputs, labels),) = schema.dataset(path, 9, on_error=errors.append)
    assert inputs["ids"].numpy().tolist() == [[2], [3]]
    assert labels.numpy().tolist() == [[1.0], [0.0]]
    unit, first = UNITS[suffix]
    expected = [(first + row, column) for row, column in ((1, "y"), (2, "y"), (3, "y"), (4, "user"))]
    assert [(error.line, error.column, error.unit) for error in errors] == [(*place, unit) for place in expected]
    with pytest.raises(tf.errors.OpError, match=f"{unit} {first + 1}, column 'y': {BINARY}, received"):
        list(schema.dataset(path, 9))


def test_many_illegal_rows_take_linear_time(tmp_path):
    """A block must not be parsed again for each illegal row."""
    path = tmp_path / "some.avro"
    schema = Schema({"user": "string_categorical"}, label="y")
    write(path, {"user": ["a"] * 8000, "y": [2] * 7999 + [1]}, schema)
    schema.adapt({"user": ["a"]})
    skipped = SkippedRows()
    began = time.monotonic()
    assert [len(labels) for _, labels in schema.dataset(path, 9, on_error=skipped)] == [1]
    assert skipped.per_file == {str(path): 7999}
    assert time.monotonic() - began < 4


def test_all_rows_skipped(tmp_path, suffix):
    schema = Schema({"user": "string_categorical"}, label="y")
    good, bad = tmp_path / f"good.{suffix}", tmp_path / f"bad.{suffix}"
    write(good, {"user": ["a", "b"], "y": [0, 1]}, schema)
    write(bad, {"user": ["c"] * 3, "y": [2, 3, 4]}, schema)
    schema.adapt(good)
    skipped = SkippedRows()
    for shuffle in (False, True):
        rows = sum(len(labels) for _, labels in schema.dataset([bad, good, bad], 2, shuffle=shuffle, on_error=skipped))
        assert rows == 2
    assert skipped.per_file == {str(bad): 12}
    assert list(schema.dataset(bad, 2, on_error=skipped)) == []


def test_empty_files_beside_others(tmp_path, suffix):
    """Spark writes empty files. The error names the file, or the file is skipped."""
    schema = Schema({"user": "string_categorical"}, label="y")
    full, empty = tmp_path / f"full.{suffix}", tmp_path / f"empty.{suffix}"
    write(full, {"user": ["a", "b"], "y": [0, 1]}, schema)
    if suffix == "parquet":
        pq.write_table(pq.read_table(full).slice(0, 0), empty)
    else:
        write(empty, {"user": [], "y": []}, schema)
    if suffix == "avro":
        write(empty, {"user": ["a"], "y": [0.0]}, schema)
        with full.open("rb") as source:
            avro_schema = fastavro.reader(source).writer_schema
        with empty.open("wb") as target:
            fastavro.writer(target, avro_schema, [])
    with pytest.raises(ValueError, match=rf"empty\.{suffix}: expected at least one row, found none"):
        schema.adapt([full, empty])
    skipped = SkippedRows()
    schema.adapt([empty, full], on_error=skipped)
    assert schema.vocabulary("user") == ["[UNSEEN]", "[MISSING]", "a", "b"]
    assert skipped.summary() == f"empty files: {empty}"
    assert (len(skipped), skipped.empty_files, skipped.per_file) == (1, [str(empty)], {})
    assert [len(labels) for _, labels in schema.dataset([empty, full], 8, on_error=skipped)] == [2]


@pytest.mark.parametrize(("suffix", "good"), [("csv", 0), ("csv", 1), ("csv", 2), ("csv", 70), ("tfrecord", 5)])
def test_illegal_weights_in_strings_are_reported_with_file_and_row(tmp_path, suffix, good):
    """The graph refuses these weights, not the reader."""
    schema = Schema({"tags": Schema.string_categorical(separator="|", weight_separator=":")}, label="y")
    fine, path = tmp_path / f"fine.{suffix}", tmp_path / f"some.{suffix}"
    tags = ["a:1|b:2"] * good + ["a:x|b:1", "a:y"] + ["a"] * 30
    write(fine, {"tags": ["a:1"], "y": [0]}, schema)
    write(path, {"tags": tags, "y": [0, 1] * (len(tags) // 2) + [0] * (len(tags) % 2)}, schema)
    message = f"{path}, row {good + 1}: column 'tags': weights must be numbers. Received b'a:x'"
    with pytest.raises(ValueError, match=r".") as raised:
        schema.adapt([fine, path])
    assert str(raised.value) == message
    schema.adapt(fine)
    with pytest.raises(tf.errors.OpError, match="weights must be numbers"):
        list(schema.dataset([fine, path], 8))
    with pytest.raises(ValueError, match=r".") as raised:
        schema.explain([fine, path], training=good % 2 == 0)
    assert str(raised.value) == message
    schema.explain(fine)
    with path.open("ab") as file:
        file.write(b"nonsense\n" if suffix == "csv" else b"")
    skipped = SkippedRows()
    with pytest.raises(ValueError, match=rf"row {good + 1}, not counting skipped rows: column 'tags'"):
        Schema.from_config(schema.get_config()).adapt([fine, path], on_error=skipped)
    assert len(skipped) == (suffix == "csv")


def test_illegal_weights_of_lists_are_reported_with_file_and_row(tmp_path):
    schema = Schema({"tags": Schema.string_categorical(multivalued=True, weights="w")})
    path = tmp_path / "some.parquet"
    pq.write_table(pa.table({"tags": [["a"]] * 20000 + [["a", "b"]], "w": [[1.0]] * 20000 + [[0.5]]}), path)
    message = "column 'w' must have as many weights in each row as column 'tags' has values"
    with pytest.raises(ValueError, match=rf"row 20001: {message}. Received numbers of weights and of values \[1 2\]"):
        schema.adapt(path)
