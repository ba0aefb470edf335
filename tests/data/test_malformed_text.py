"""Malformed text through `Schema`: the same errors from counting and from datasets, and skipped rows."""

import gzip
import random

import numpy as np
import pytest
import tensorflow as tf
from table_files import libfm_schema, listed

from keras_rafm.data import LibFMFormat, MalformedRowError, Schema, SkippedRows
from keras_rafm.data.raw import lines as raw_lines

pytestmark = pytest.mark.one_tensorflow


def assert_same_error(schema, path, message, **options):
    """Assert that counting raises a ValueError with this message, and a dataset an error that contains it."""
    with pytest.raises(ValueError, match=r".") as error:
        schema.count_values(path, **options)
    assert str(error.value) == message
    with pytest.raises(tf.errors.OpError) as from_graph:
        list(schema.raw_dataset(path, **options))
    assert message in str(from_graph.value)


def typed_schema():
    return Schema({"u": "string_categorical", "n": "integer_categorical", "x": "float"}, label="y")


HEAD = b"u,n,x,y\na,1,2.5,0\n"
FULL = 2**63


@pytest.mark.parametrize(
    ("row", "where", "problem"),
    [
        (b"b,x,1,1", ", line 3, column 'n'", "expected an integer, received 'x'"),
        (b"b,1.0,1,1", ", line 3, column 'n'", "expected an integer, received '1.0'"),
        (
            b"b,%d,1,1" % FULL,
            ", line 3, column 'n'",
            f"expected an integer from {1 - FULL} to {FULL - 1}, received '{FULL}'",
        ),
        (b"b,1,nan,1", ", line 3, column 'x'", "expected a number, received 'nan'"),
        (b"b,1,-inf,1", ", line 3, column 'x'", "expected a number, received '-inf'"),
        (b"b,1,1e39,1", ", line 3, column 'x'", "expected a number that is finite as float32, received '1e39'"),
        (b"\xff,1,1,1", ", line 3, column 'u'", r"expected UTF-8, received '\xff'"),
        (b"b,1,1", ", line 3", "expected 4 fields, as in the first row, received 3"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_malformed_rows_of_text(tmp_path, row, where, problem, packed):
    path = tmp_path / "some.csv"
    text = HEAD + row + b"\nc,3,4,1\n"
    path.write_bytes(gzip.compress(text) if packed else text)
    assert_same_error(typed_schema(), path, f"{path}{where}: {problem}")


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_files_without_rows_or_columns(tmp_path, suffix):
    path = tmp_path / f"some.{suffix}"
    for text in (b"", HEAD[:8].replace(b",", b"," if suffix == "csv" else b"\t")):
        path.write_bytes(text)
        assert_same_error(typed_schema(), path, f"{path}: expected at least one row, found none")
    path.write_bytes((b"u,x,y\na,1,1\n").replace(b",", b"," if suffix == "csv" else b"\t"))
    assert_same_error(typed_schema(), path, f"{path}: expected a column 'n', the first row has 'u', 'x', 'y'")
    lists = Schema({"u": Schema.string_categorical(multivalued=True)}, label="y")
    with pytest.raises(ValueError, match=r"some\..sv: text has no lists. Received: column 'u' with is_list=True"):
        lists.adapt(path)


@pytest.mark.parametrize("suffix", ["csv.gz", "libfm.gz"])
@pytest.mark.parametrize("damage", ["cut off", "contents"])
def test_damaged_gzip(tmp_path, suffix, damage):
    rng = random.Random(0)
    if suffix == "csv.gz":
        text = HEAD + b"".join(b"%d,%d,1,0\n" % (rng.randrange(10**6), rng.randrange(10**6)) for _ in range(9000))
        schema = typed_schema()
    else:
        text = b"".join(b"1 %d:1\n" % rng.randrange(10**6) for _ in range(9000))
        schema = libfm_schema()
    packed = gzip.compress(text)
    packed = packed[:-2000] if damage == "cut off" else packed[:9000] + bytes(50) + packed[9050:]
    path = tmp_path / f"some.{suffix}"
    path.write_bytes(packed)
    message = rf"some\.{suffix}: damaged or truncated gzip file \("
    with pytest.raises(ValueError, match=message):
        schema.adapt(path)
    with pytest.raises(tf.errors.OpError, match=message):
        list(schema.raw_dataset(path))


def test_lines_that_are_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(raw_lines, "_MAX_LINE_BYTES", 1000)
    path = tmp_path / "some.libfm"
    message = f"{path}, line 3: expected a line of at most 1,000 bytes, received a longer one"
    for block_bytes in (7, 100, 999, 1 << 19):
        for rest in (b" ", b"\n1 2:1\n"):
            path.write_bytes(b"1 1:1\n\n1 1:1" + b" " * 994 + b"#" + rest)
            schema, file_format = libfm_schema(), LibFMFormat(block_bytes=block_bytes)
            if block_bytes < 1000:
                assert_same_error(schema, path, message, file_format=file_format)
        path.write_bytes(b"1 1:1\n\n1 1:1" + b" " * 994 + b"\n1 2:1")
        schema.adapt(path, file_format=file_format)
        assert schema.counts.tolist() == [2, 1]


LIBFM_WRONG = {
    "1 2:x": "expected a finite float32 value after the colon, received '2:x'",
    "1 2:1e39": "expected a finite float32 value after the colon, received '2:1e39'",
    f"1 {FULL}:1": f"expected an integer id from 0 to {FULL - 1}, received '{FULL}:1'",
    "1 -2:1": f"expected an integer id from 0 to {FULL - 1}, received '-2:1'",
}


@pytest.mark.parametrize("line", LIBFM_WRONG)
def test_malformed_lines_of_libfm(tmp_path, line):
    path = tmp_path / "some.libfm"
    path.write_text(f"1 1:1\n{line}\n0 2:1\n")
    assert_same_error(libfm_schema(), path, f"{path}, line 2: {LIBFM_WRONG[line]}")


def test_labels_of_libfm(tmp_path):
    """The labels of classification are checked, unless no labels are read."""
    path = tmp_path / "some.libfm"
    path.write_text("1 1:1\n2 1:1\n-1 2:1\n0 1:1\n")
    libfm_schema().adapt(path)
    (block,) = libfm_schema(task="regression").raw_dataset(path)
    assert block["label"].numpy().tolist() == [1, 2, -1, 0]
    with pytest.raises(tf.errors.OpError, match="line 2: expected one of the labels -1, 0 and 1, received '2'"):
        list(libfm_schema().raw_dataset(path))
    skipped = SkippedRows()
    blocks = list(libfm_schema().raw_dataset(path, on_error=skipped))
    assert np.concatenate([block["label"] for block in blocks]).tolist() == [1, 0]
    assert [line.partition(": ")[0] for line in skipped.summary().splitlines()[1:]] == [f"{path}, line {n}" for n in (2, 4)]


def test_skipped_rows_of_text(tmp_path):
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    good.write_bytes(HEAD)
    bad.write_bytes(HEAD + b"b,x,1,1\nc,3,4,1\nd\n\xff,1,1,1\ne,5,nan,0\nf,6,0.5,1\n")
    schema, skipped = typed_schema(), SkippedRows()
    schema.adapt([good, bad], on_error=skipped)
    assert schema.vocabulary("u") == ["[UNSEEN]", "[MISSING]", "a", "c", "f"]
    assert len(skipped) == 4
    assert skipped.per_file == {str(bad): 4}
    lines = skipped.summary().splitlines()
    assert lines[0] == f"skipped rows: 4 ({bad}: 4)"
    assert lines[1] == f"{bad}, line 3, column 'n': expected an integer, received 'x'"
    assert len(lines) == 5

    from_dataset = SkippedRows()
    dataset = schema.dataset([good, bad], 2, on_error=from_dataset)
    kept = schema.training_batch({"u": [*"aacf"], "n": [1, 1, 3, 6], "x": [2.5, 2.5, 4, 0.5], "y": [0.0, 0, 1, 1]})
    assert sorted(listed(dataset)) == sorted(listed([kept]))
    assert from_dataset.per_file == skipped.per_file
    assert sorted(from_dataset.summary()) == sorted(skipped.summary())
    assert len(list(dataset)) == 2
    assert len(from_dataset) == 8
    raw = SkippedRows()
    assert sum(len(block["u"]) for block in schema.raw_dataset([good, bad], on_error=raw)) == 4
    assert len(raw) == 4
    with pytest.raises(MalformedRowError) as error:
        schema.adapt([good, bad])
    assert (error.value.path, error.value.line, error.value.column) == (str(bad), 3, "n")


@pytest.mark.parametrize("block_bytes", [1, 20, 1 << 19])
def test_skipped_rows_of_libfm(tmp_path, block_bytes):
    path = tmp_path / "some.libfm"
    path.write_text("1 1:1\n" + "".join(f"{line}\n1 7:2\n" for line in LIBFM_WRONG) + "nonsense")
    schema, skipped, file_format = libfm_schema(), SkippedRows(), LibFMFormat(block_bytes=block_bytes)
    schema.adapt(path, file_format=file_format, on_error=skipped)
    assert schema.vocabulary("ids") == ["7", "1"]
    assert schema.counts.tolist() == [4, 1]
    expected = [f"{path}, line {2 * n}: {problem}" for n, problem in enumerate(LIBFM_WRONG.values(), start=1)]
    assert skipped.summary().splitlines()[1:-1] == expected
    assert len(skipped) == 5
    rows = listed(schema.dataset(path, 4, file_format=file_format, on_error=skipped))
    assert rows == [([(1, 1.0)], 1.0)] + [([(0, 2.0)], 1.0)] * 4
    assert len(skipped) == 10


def test_rows_of_data_in_memory_are_not_skipped():
    with pytest.raises(ValueError, match=r"`file_format` and `on_error` are for files\. Received data of type dict"):
        typed_schema().adapt({"u": ["a"]}, on_error=SkippedRows())


def test_summary_of_skipped_rows():
    skipped = SkippedRows()
    assert skipped.summary() == "no rows were skipped"
    for line in range(1200):
        skipped(MalformedRowError("a.csv" if line % 3 else "b.csv", line, None, "wrong"))
    lines = skipped.summary().splitlines()
    assert lines[0] == "skipped rows: 1,200 (b.csv: 400, a.csv: 800)"
    assert len(lines) == 12
    assert lines[-1] == "…"


def test_files_of_malformed_rows_only(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"u,n,x,y\na,b,1,1\n")
    skipped = SkippedRows()
    with pytest.raises(ValueError, match="column 'u' has no rows to learn from"):
        typed_schema().adapt(tmp_path / "a.csv", on_error=skipped)
    assert len(skipped) == 1
    schema = typed_schema()
    schema.adapt({"u": ["a"], "n": [1], "x": [1.0]})
    assert list(schema.dataset(tmp_path / "a.csv", 2, on_error=skipped)) == []
