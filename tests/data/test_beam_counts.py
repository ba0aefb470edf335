"""Counting by Apache Beam equals `Schema.count_values` on the same rows."""

import gzip
import importlib
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from keras_rafm.data import Schema

beam = pytest.importorskip("apache_beam", reason="needs Apache Beam: pip install 'keras_rafm[beam]'")

pickler = importlib.import_module("apache_beam.internal.pickler")
FnApiRunner = importlib.import_module("apache_beam.runners.portability.fn_api_runner").FnApiRunner
beam_counts = importlib.import_module("keras_rafm.data.beam_counts")
CountValues, WriteCounts, read_counts = beam_counts.CountValues, beam_counts.WriteCounts, beam_counts.read_counts

# The warnings are Beam's own, on Python 3.11 and later.
pytestmark = [
    pytest.mark.one_tensorflow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"),
]

SCHEMA = Schema(
    {
        "s": Schema.string_categorical(),
        "i": Schema.integer_hashed(4),
        "x": Schema.float_discretized(num_bins=2),
        "tags": Schema.string_categorical(separator="|", weight_separator=":"),
        "ids": Schema.integer_identity(9, multivalued=True),
        "words": Schema.string_categorical(multivalued=True, weights="w"),
    }
)
NO_INTEGER = -(2**63)


def random_rows(number, seed=0):
    draw = np.random.default_rng(seed)

    def some(values, size):
        return [values[i] for i in draw.integers(0, len(values), size)]

    rows = []
    for _ in range(number):
        words = some(["a", "b", "", "é"], draw.integers(0, 4))
        rows.append(
            {
                "s": some(["a", "b", "", "å", "line\nbreak", '"'], 1)[0],
                "i": some([1, 2, -5, 2**62 + 1, NO_INTEGER], 1)[0],
                "x": some([0.1, -0.0, 0.0, 1e-3, float("nan"), 7.0], 1)[0],
                "tags": some(["a|b:2", "", "|", ":1|a:0.5", "a:b:3", "é|é"], 1)[0],
                "ids": some([1, 2, 3, NO_INTEGER], draw.integers(0, 4)),
                "words": words,
                "w": draw.normal(size=len(words)).tolist(),
            }
        )
    return rows


def as_columns(rows):
    """Return rows as the columns that `Schema.count_values` takes."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    dtypes = {"i": np.int64, "x": np.float32}
    return {name: np.array(column, dtypes[name]) if name in dtypes else column for name, column in columns.items()}


def counted(schema, rows, path, num_shards=0):
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        pipeline | beam.Create(rows) | CountValues(schema) | WriteCounts(path, num_shards)
    return read_counts(path, schema)


def check_equal(actual, expected):
    assert list(actual) == list(expected)
    for name, counts in actual.items():
        assert counts.values.dtype == expected[name].values.dtype
        assert counts.values.tolist() == expected[name].values.tolist()
        assert counts.counts.tolist() == expected[name].counts.tolist()
        assert counts.num_missing == expected[name].num_missing


@pytest.mark.parametrize("num_shards", [0, 3])
def test_equals_the_schema(tmp_path, num_shards):
    rows = random_rows(300)
    counts = counted(SCHEMA, rows, tmp_path / "counts", num_shards)
    check_equal(counts, SCHEMA.count_values(as_columns(rows)))
    assert len(list(tmp_path.glob("counts-*-of-*.jsonl.gz"))) == (num_shards or 1)
    schema = Schema(SCHEMA.columns)
    schema.adapt(counts)
    assert schema.num_features > 20


def test_missing_values_may_be_none_or_absent(tmp_path):
    rows = [
        {"s": None, "i": None, "x": None, "tags": None, "ids": None, "words": None, "w": None},
        {},
        {
            "s": b"a",
            "i": np.int8(3),
            "x": np.float64(0.1),
            "tags": b"a:1",
            "ids": np.array([1, 2]),
            "words": [None],
            "w": [None],
        },
        {"s": "a", "i": True, "x": 3, "tags": "b", "ids": [None, 1], "words": ("a", None), "w": [1, None]},
    ]
    counts = counted(SCHEMA, rows, tmp_path / "counts")
    assert {name: of_column.num_missing for name, of_column in counts.items()} == {
        "s": 2, "i": 2, "x": 2, "tags": 2, "ids": 2, "words": 3,
    }  # fmt: skip
    assert counts["s"].values.tolist() == [b"a"]
    assert counts["i"].values.tolist() == [1, 3]
    assert counts["x"].values.tolist() == [np.float32(0.1), 3.0]
    assert counts["ids"].values.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        ({"s": 1}, TypeError, "column 's' must hold strings. Received: 1 of type int"),
        ({"s": b"\xff"}, ValueError, "column 's': expected UTF-8"),
        ({"s": "\ud800"}, ValueError, "column 's': expected text"),
        ({"i": 1.0}, TypeError, "column 'i' must hold integers. Received: 1.0 of type float"),
        ({"i": 2**63}, ValueError, "column 'i' must hold integers of 64 bits"),
        ({"x": "1"}, TypeError, "column 'x' must hold numbers. Received: '1' of type str"),
        ({"x": 1e39}, ValueError, "column 'x' must hold numbers that are finite in float32"),
        ({"tags": "a:x"}, ValueError, "column 'tags': weights must be finite numbers. Received: 'a:x'"),
        ({"tags": "a:1e999"}, ValueError, "column 'tags': weights must be finite numbers"),
        ({"ids": 3}, TypeError, "column 'ids' must hold lists. Received: 3 of type int"),
        ({"words": "ab"}, TypeError, "column 'words' must hold lists"),
        ({"words": ["a"], "w": []}, ValueError, "column 'w' must have as many weights in each row as column 'words'"),
        ({"words": ["a"], "w": [float("nan")]}, ValueError, "column 'w': weights must be finite"),
    ],
)
def test_rows_that_do_not_match_the_declaration(row, kind, message):
    from keras_rafm.data.beam_counts import declared_columns, value_reader

    with pytest.raises(kind) as caught:
        list(value_reader([tuple(column) for column in declared_columns(SCHEMA)])(row))
    assert message in str(caught.value)


def test_workers_need_neither_this_package_nor_tensorflow(tmp_path):
    from keras_rafm.data import beam_counts

    values_of = beam_counts.value_reader([tuple(column) for column in beam_counts.declared_columns(SCHEMA)])
    parts = [values_of, beam_counts.column_namer(list(SCHEMA.columns)), beam_counts.line_formatter()]
    pickled = tmp_path / "pickled"
    pickled.write_bytes(pickler.dumps(parts))
    row = random_rows(1)[0]
    program = f"""
import sys
sys.modules.update({{"keras_rafm": None, "tensorflow": None, "keras": None}})
from apache_beam.internal import pickler
values_of, named, line = pickler.loads(open(sys.argv[1], "rb").read())
for value in values_of({row!r}):
    print(line(named((value, 1))))
""".replace("nan", "float('nan')")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program, str(pickled)], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {name for name, _, _ in lines} == set(SCHEMA.columns)


def write_lines(path, lines):
    path.write_bytes(gzip.compress("".join(f"{json.dumps(line)}\n" for line in lines).encode()))


def test_counts_of_several_runs_are_added_up(tmp_path):
    schema = Schema({"s": "string_categorical", "x": "float"})
    write_lines(tmp_path / "day-1-00000-of-00001.jsonl.gz", [("s", "a", 2), ("s", None, 1), ("x", 0.5, 3), ("other", 1, 1)])
    write_lines(tmp_path / "day-2-00000-of-00002.jsonl.gz", [("s", "b", 3)])
    write_lines(tmp_path / "day-2-00001-of-00002.jsonl.gz", [("s", "a", 2), ("x", None, 1), ("s", None, 1)])
    counts = read_counts(tmp_path / "day-*", schema)
    assert (counts["s"].values.tolist(), counts["s"].counts.tolist(), counts["s"].num_missing) == ([b"a", b"b"], [4, 3], 2)
    assert (counts["x"].values.tolist(), counts["x"].counts.tolist(), counts["x"].num_missing) == ([0.5], [3], 1)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["c-00000-of-00002"], "c: expected 2 files, but file number 1 is missing"),
        (
            ["c-00000-of-00001", "c-00000-of-00002", "c-00001-of-00002"],
            "c: expected the files of one run, received files of runs with 00001, 00002 files",
        ),
    ],
)
def test_files_that_do_not_belong_together(tmp_path, names, message):
    for name in names:
        write_lines(tmp_path / f"{name}.jsonl.gz", [("s", "a", 1)])
    with pytest.raises(ValueError, match=message):
        read_counts(tmp_path / "c", Schema({"s": "string_categorical"}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b'["s", "a", 1]\n' * 99, mtime=0)[:-9], "damaged or truncated gzip file"),
        (b"text", "damaged or truncated gzip file"),
        (gzip.compress(b"s a\n", mtime=0), "line 1: expected column, value and count"),
        (gzip.compress(b'["s", "a", 1]\n["s", "a"]\n', mtime=0), "line 2: expected column, value and count"),
        (gzip.compress(b'["s", "a", 0]\n', mtime=0), "line 1: expected column, value and count"),
        (gzip.compress(b"7\n", mtime=0), "line 1: expected column, value and count"),
        (gzip.compress(b'["s", 1, 1]\n', mtime=0), "line 1, column 's': expected a value of dtype string, received 1"),
        (gzip.compress(b'["t", "a", 1]\n', mtime=0), r"there are no counts of the columns \['s'\]"),
    ],
)
def test_damaged_files(tmp_path, content, message):
    (tmp_path / "c-00000-of-00001.jsonl.gz").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_counts(tmp_path / "c", Schema({"s": "string_categorical"}))


def test_other_arguments(tmp_path):
    with pytest.raises(TypeError, match=r"`schema` must be a Schema. Received: dict"):
        CountValues({})
    with pytest.raises(FileNotFoundError, match="no file matches"):
        read_counts(tmp_path / "nothing", SCHEMA)


def test_separators_as_in_the_schema(tmp_path):
    for number, (separator, weight_separator) in enumerate([("|", "z"), ("|", "\\"), ("aa", "·"), (", ", None)]):
        column = Schema.string_categorical(separator=separator, weight_separator=weight_separator)
        schema = Schema({"tags": column})
        tags = [f"x{separator}y", "xaaaay", separator, "é", f"{separator}é{separator * 2}", ""]
        tags += [] if weight_separator is None else [f"v{weight_separator}2{separator}v{weight_separator * 2}0.5"]
        counts = counted(schema, [{"tags": tag} for tag in tags], tmp_path / str(number))
        check_equal(counts, schema.count_values({"tags": tf.constant(tags)}))
