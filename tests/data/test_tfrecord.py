"""TFRecord files: reading what was written, and the errors of malformed records and damaged files."""

import gzip
import math
import random
import re

import numpy as np
import pytest
import tensorflow as tf

from keras_rafm.data import Schema, SkippedRows, TFRecordFormat, write_tfrecord

pytestmark = pytest.mark.one_tensorflow

MISSING_INTEGER = -(2**63)
NUM_ROWS = 4100  # more rows than are parsed at once


def schema(**options):
    columns = {
        "name": Schema.string_categorical(missing="ignore"),
        "n": "integer_categorical",
        "x": "float",
        "tags": Schema.string_categorical(multivalued=True, weights="w"),
        "ids": Schema.integer_categorical(multivalued=True),
    }
    return Schema(columns, label="y", task="regression", **options)


def raw_rows(num_rows=NUM_ROWS):
    rng = random.Random(0)
    lengths = [rng.randrange(4) for _ in range(num_rows)]
    return {
        "name": [rng.choice(["", "a", "ü\x00\n", "b" * 300]) for _ in range(num_rows)],
        "n": [rng.choice([MISSING_INTEGER, -1, 0, 2**63 - 1]) for _ in range(num_rows)],
        "x": [rng.choice([math.nan, 0.0, -1.5, 3e38, 1e-45]) for _ in range(num_rows)],
        "tags": [[rng.choice("abc") for _ in range(length)] for length in lengths],
        "w": [[rng.choice([0.5, -2.0, 0.0]) for _ in range(length)] for length in lengths],
        "ids": [[rng.choice([-5, 0, 2**40]) for _ in range(rng.randrange(3))] for _ in range(num_rows)],
        "y": [float(number) for number in range(num_rows)],
    }


def plain(values):
    """Return Python values, with None for NaN."""
    values = values.to_list() if isinstance(values, tf.RaggedTensor) else values.numpy().tolist()
    return [None if value != value else value for value in values]


def as_read(value):
    """Return a written value, or a list of them, as a reader yields it: bytes, float32 numbers, and None for NaN."""
    if isinstance(value, list):
        return [as_read(item) for item in value]
    if isinstance(value, str):
        return value.encode()
    return None if value != value else float(np.float32(value)) if isinstance(value, float) else value


@pytest.mark.parametrize("suffix", ["tfrecord", "tfrecords.gz"])
def test_reading_returns_what_was_written(tmp_path, suffix):
    path, rows = tmp_path / f"some.{suffix}", raw_rows()
    assert write_tfrecord(path, rows, schema()) == NUM_ROWS
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes().startswith(b"\x1f\x8b") == suffix.endswith("gz")
    blocks = list(schema().raw_dataset(path))
    assert set(blocks[0]) == set(rows)
    for name, expected in rows.items():
        assert [value for block in blocks for value in plain(block[name])] == as_read(expected), name
    again = tmp_path / "again.tfrecord"
    assert write_tfrecord(str(again), schema().raw_dataset(path), schema()) == NUM_ROWS
    both = [tf.data.TFRecordDataset(str(p), "GZIP" if str(p).endswith("gz") else "") for p in (path, again)]
    assert list(both[0].as_numpy_iterator()) == list(both[1].as_numpy_iterator())
    TFRecordFormat().explain(str(path), schema().raw_columns(training=True))


def test_missing_values_are_not_in_the_examples(tmp_path):
    path = tmp_path / "some.tfrecord"
    nothing = {"name": [""], "n": [MISSING_INTEGER], "x": [math.nan], "tags": [[]], "w": [[]], "ids": [[]], "y": [1.0]}
    assert write_tfrecord(path, nothing, schema(), training=False) == 1
    (record,) = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    assert not tf.train.Example.FromString(record).features.feature
    some = {"name": ["a"], "n": [7], "x": [0.5], "tags": [["b", "c"]], "w": [[1.0, 2.0]], "ids": [[]], "y": [1.0]}
    write_tfrecord(path, some, schema())
    (record,) = tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    feature = tf.train.Example.FromString(record).features.feature
    assert set(feature) == {"name", "n", "x", "tags", "w", "y"}
    assert list(feature["tags"].bytes_list.value) == [b"b", b"c"]
    assert list(feature["n"].int64_list.value) == [7]
    assert list(feature["w"].float_list.value) == [1.0, 2.0]


def test_batches_with_lists_equal_those_of_a_mapping(tmp_path):
    path, rows = tmp_path / "some.tfrecord", raw_rows(100)
    write_tfrecord(path, rows, schema())
    adapted, other = schema(), schema()
    adapted.adapt(rows)
    other.adapt(path)
    np.testing.assert_array_equal(adapted.counts, other.counts)
    assert adapted.feature_names() == other.feature_names()
    (inputs, labels), (expected, expected_labels) = (
        next(iter(adapted.dataset(path, 100))),
        adapted.training_batch(rows),
    )
    np.testing.assert_array_equal(labels, expected_labels)
    for name in ("ids", "values"):
        np.testing.assert_array_equal(inputs[name], expected[name])


def test_a_failed_write_leaves_no_file(tmp_path):
    def batches():
        yield raw_rows(3)
        yield {"name": ["a"]}

    with pytest.raises(ValueError, match="there is no column 'n'"):
        write_tfrecord(tmp_path / "some.tfrecord", batches(), schema())
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(TypeError, match="column 'n' must be of dtype int64"):
        write_tfrecord(tmp_path / "some.tfrecord", {**raw_rows(1), "n": ["x"]}, schema())


def test_empty_files(tmp_path):
    path = tmp_path / "some.tfrecord"
    assert write_tfrecord(path, [], schema()) == 0
    assert list(schema().raw_dataset(path)) == []
    with pytest.raises(ValueError, match=r"^.*some\.tfrecord: expected at least one row, found none$"):
        schema().adapt(path)


# --- what is wrong

LISTS = {"bytes": "bytes_list", "int64": "int64_list", "float": "float_list"}


def serialized(**features):
    """Return a serialised example of features such as `name=("float", 1.5)`."""
    example = tf.train.Example()
    for name, (kind, *values) in features.items():
        getattr(example.features.feature[name], LISTS[kind]).value.extend(values)
    return example.SerializeToString()


def small_schema():
    columns = {"n": "integer_categorical", "x": "float", "tags": Schema.string_categorical(multivalued=True)}
    return Schema(columns, label="y")


GOOD = {"n": ("int64", 1), "x": ("float", 0.5), "tags": ("bytes", b"a", b"b"), "y": ("float", 1.0)}


def write_records(path, records):
    options = tf.io.TFRecordOptions(compression_type="GZIP" if str(path).lower().endswith(".gz") else "")
    with tf.io.TFRecordWriter(str(path), options) as writer:
        for record in records:
            writer.write(record)


WRONG = {
    "type": (
        {"n": ("float", 1.0)},
        "column 'n': expected int64_list, received float_list [1.0]",
        r"Name: {path}, records from 1, Key: n, Index: 5\..*Expected type: int64, Actual type: float",
    ),
    "bytes": (
        {"x": ("bytes", b"0.5")},
        "column 'x': expected float_list, received bytes_list [b'0.5']",
        r"Name: {path}, records from 1, Key: x, Index: 5\..*Expected type: float, Actual type: string",
    ),
    "in a list": (
        {"tags": ("int64", 1, 2)},
        "column 'tags': expected bytes_list, received int64_list [1, 2]",
        r"Name: {path}, records from 1, Key: tags, Index: 5\.",
    ),
    "two values": (
        {"n": ("int64", 1, 2)},
        "column 'n': expected at most one value, received 2",
        r"expected at most one value in each tf\.train\.Example\. Received.*2 of column n in record 6 of {path}",
    ),
    "infinite": (
        {"x": ("float", math.inf)},
        "column 'x': expected numbers that are finite, received inf",
        r"expected numbers that are finite\. Received.*inf of column x in record 6 of {path}",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_features(tmp_path, wrong):
    features, problem, from_graph = WRONG[wrong]
    path = tmp_path / "some.tfrecord"
    write_records(path, [serialized(**GOOD)] * 5 + [serialized(**{**GOOD, **features})] + [serialized(**GOOD)])
    with pytest.raises(ValueError, match=r".") as error:
        small_schema().adapt([path, path])
    assert str(error.value) == f"{path}, record 6, {problem}"
    with pytest.raises(ValueError, match=re.escape(f"{path}, record 6, {problem}")):
        TFRecordFormat().explain(str(path), small_schema().raw_columns(training=False))
    with pytest.raises(tf.errors.OpError, match="(?s)" + from_graph.format(path=re.escape(str(path)))):
        list(small_schema().raw_dataset(path))


def test_errors_beyond_the_first_block_name_the_record(tmp_path):
    path = tmp_path / "some.tfrecord"
    write_records(path, [serialized(**GOOD)] * 5000 + [serialized(**{**GOOD, "y": ("float", 1.0, -math.inf)})])
    columns = small_schema().raw_columns(training=True)
    with pytest.raises(ValueError, match=r"record 5001, column 'y': expected at most one value, received 2$"):
        TFRecordFormat().explain(str(path), columns)
    with pytest.raises(tf.errors.OpError, match=r"2 of column y in record 5001 of .*some\.tfrecord"):
        list(small_schema().raw_dataset(path))


def test_records_that_are_not_examples(tmp_path):
    path = tmp_path / "some.tfrecord"
    write_records(path, [serialized(**GOOD), b"\xff\xff\xff"])
    with pytest.raises(ValueError, match=r"some\.tfrecord, record 2: expected a tf\.train\.Example \("):
        small_schema().adapt(path)


def test_empty_examples_are_rows_without_values(tmp_path):
    path = tmp_path / "some.tfrecord"
    write_records(path, [b"", serialized(), serialized(n=("int64",)), serialized(**GOOD)])
    (block,) = small_schema().raw_dataset(path, training=False)
    assert block["n"].numpy().tolist() == [MISSING_INTEGER] * 3 + [1]
    assert block["tags"].to_list() == [[], [], [], [b"a", b"b"]]


@pytest.mark.parametrize("suffix", ["tfrecord", "tfrecord.gz"])
def test_damaged_files(tmp_path, suffix):
    path = tmp_path / f"some.{suffix}"
    rng = random.Random(0)
    write_records(path, [serialized(**{**GOOD, "n": ("int64", rng.randrange(2**60))}) for _ in range(300)])
    whole = path.read_bytes()
    for at in (20, len(whole) // 3, len(whole) * 2 // 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(ValueError, match=rf"some\.{suffix}, record \d+: damaged, truncated or not a TFRecord \("):
            small_schema().adapt(path)
        with pytest.raises(tf.errors.OpError):
            list(small_schema().raw_dataset(path))
    path.write_bytes(b"n,x,y\n1,2,3\n" * 10)
    with pytest.raises(ValueError, match=rf"some\.{suffix}, record 1: damaged, truncated or not a TFRecord \("):
        small_schema().adapt(path)


def test_errors_name_the_damaged_record(tmp_path):
    path = tmp_path / "some.tfrecord"
    write_records(path, [serialized(**GOOD)] * 5000)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 5000 * 4321 + 20] ^= 1
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"record 4322: damaged"):
        small_schema().adapt(path)


def test_truncated_files(tmp_path):
    path = tmp_path / "some.tfrecord"
    write_records(path, [serialized(**GOOD)] * 10)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"record 10: damaged, truncated"):
        small_schema().adapt(path)


def test_truncated_gzip_is_always_detected(tmp_path):
    """TensorFlow reads some truncated files as complete: those cut between two records, or inside the trailer of gzip."""
    path = tmp_path / "some.tfrecord.gz"
    rng = random.Random(0)
    write_records(path, [serialized(n=("int64", rng.randrange(2**60))) for _ in range(60)])
    packed = path.read_bytes()
    only_n = Schema({"n": "integer_categorical"})
    for size in (*range(0, 40, 3), *range(40, len(packed) - 30, 97), *range(len(packed) - 30, len(packed), 3)):
        path.write_bytes(packed[:size])
        with pytest.raises(ValueError, match=r"some\.tfrecord\.gz"):
            TFRecordFormat().explain(str(path), only_n.raw_columns(training=False))
    path.write_bytes(packed[:-3])
    with pytest.raises(ValueError, match=r"some\.tfrecord\.gz: damaged or truncated gzip file \("):
        only_n.adapt(path)
    path.write_bytes(gzip.compress(gzip.decompress(packed)))
    only_n.adapt(path)


def test_absent_features_are_missing_values(tmp_path):
    path = tmp_path / "some.tfrecord"
    write_records(path, [serialized(**GOOD)] * 3)
    other = Schema({"n": "integer_categorical", "absent": "string_categorical"})
    other.adapt(path)
    assert other.vocabulary("absent") == ["[UNSEEN]", "[MISSING]"]
    with pytest.raises(FileNotFoundError, match="file not found: "):
        TFRecordFormat().explain(str(tmp_path / "absent.tfrecord"), other.raw_columns(training=False))


def test_gzip_is_recognised_by_the_name(tmp_path):
    write_records(tmp_path / "some.tfrecord.gz", [serialized(**GOOD)])
    (tmp_path / "some.tfrecord.gz").rename(tmp_path / "some.tfrecord")
    with pytest.raises(ValueError, match=r"some\.tfrecord, record 1: damaged, truncated or not a TFRecord"):
        small_schema().adapt(tmp_path / "some.tfrecord")


@pytest.mark.parametrize("suffix", ["tfrecord", "TFRECORD.GZ"])
def test_numbers_stored_as_integers(tmp_path, suffix):
    """Labels are often stored as integers. The first file decides how a column is read."""
    path, other = tmp_path / f"some.{suffix}", tmp_path / f"other.{suffix}"
    write_records(
        path, [serialized(x=("float", 2.5)), serialized(x=("float",), y=("int64", 1)), serialized(y=("int64", 0))]
    )
    write_records(other, [serialized(x=("float", 1.0), y=("float", 1.0))])
    schema = Schema({"x": "float"}, label="y")
    schema.adapt([path, other])
    with pytest.raises(tf.errors.OpError, match="column y in record 1 of"):
        list(schema.raw_dataset(path))
    skipped = SkippedRows()
    (block,) = schema.raw_dataset(path, on_error=skipped)
    assert block["y"].numpy().tolist() == [1.0, 0.0]
    assert block["y"].dtype == tf.float32
    assert len(skipped) == 1
    schema.explain(path, on_error=skipped)
    assert len(skipped) == 1
    for files, problem in [
        (path, rf"some\.{suffix}, record 1, column 'y': expected one of the labels 0 and 1, or -1 and 1, received none"),
        ([other, path], rf"some\.{suffix}, record 1, column 'y': expected one of the labels"),
        ([other, path][::-1], rf"some\.{suffix}, record 1, column 'y': expected one of the labels"),
    ]:
        with pytest.raises(ValueError, match=problem):
            schema.explain(files)
    write_records(path, [serialized(y=("int64", 1))])
    expected = "record 1, column 'y': expected"
    for files, file_format, problem in [
        ([path, other], None, rf"other\.{suffix}, {expected} int64_list, received float_list"),
        ([other, path], None, rf"some\.{suffix}, {expected} float_list, received int64_list"),
        ([other, path], TFRecordFormat(frozenset({"y"})), rf"other\.{suffix}, {expected} int64_list"),
    ]:
        with pytest.raises(ValueError, match=problem):
            schema.explain(files, file_format=file_format)


def test_the_first_record_with_a_number_decides_how_it_is_stored(tmp_path):
    empty, path = tmp_path / "empty.tfrecord", tmp_path / "some.tfrecord"
    write_records(empty, [])
    write_records(path, [serialized(n=("int64", 1))] * 150 + [serialized(n=("int64", 1), x=("int64", 3))])
    schema, skipped = Schema({"n": "integer_categorical", "x": "float"}), SkippedRows()
    schema.adapt([empty, path], on_error=skipped)
    assert (len(skipped), skipped.empty_files) == (1, [str(empty)])
    assert schema.counts.tolist() == [0, 0, 151, 1]
    assert sum(len(block["x"]) for block in schema.raw_dataset([empty, path], on_error=skipped)) == 151


def test_messages_about_damage_do_not_name_operations(tmp_path):
    path = tmp_path / "some.tfrecord"
    write_records(path, [serialized(**GOOD)])
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(ValueError, match=r"record 1: damaged, truncated or not a TFRecord \([^{}\[\]]*\)$"):
        small_schema().adapt(path)
