"""Paths, folders, patterns and remote file systems: which files a dataset reads; wrong paths and options."""

import gzip
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from numbered_rows import Numbered, numbered_schema, numbers_in
from table_files import SUFFIXES, TABLE, in_python, libfm_schema, many_samples, table_schema, write_text

from keras_rafm.data import write_libfm, write_tfrecord

pytestmark = pytest.mark.one_tensorflow


@pytest.fixture
def parts(tmp_path):
    """A folder with three files, hidden files and an empty folder."""
    Numbered(tmp_path, (3, 4, 5))
    for hidden in (".part-00.csv.crc", "_SUCCESS", ".hidden.csv", "_temporary.csv"):
        (tmp_path / hidden).write_bytes(b"\xff not CSV")
    (tmp_path / "more.csv").mkdir()
    return tmp_path


def rows_in(paths, **options):
    schema = numbered_schema(12, lists=False)
    return sorted(numbers_in(schema.dataset(paths, 5, **options))[0])


def test_files_folders_and_patterns(parts, monkeypatch):
    part = parts / "part-01.csv"
    assert rows_in(part) == rows_in(str(part)) == rows_in([part]) == rows_in((str(part),)) == [3, 4, 5, 6]
    everything = list(range(12))
    assert rows_in(parts) == rows_in(f"{parts}/") == everything
    assert rows_in(str(parts / "*.csv")) == rows_in(parts / "part-0[0-9].csv") == rows_in(parts / "*") == everything
    assert rows_in([parts / "part-0[01].csv", parts / "part-02.csv"]) == everything
    assert rows_in(parts / "?art-00.csv") == [0, 1, 2]
    (parts / "odd[1].csv").write_bytes((parts / "part-00.csv").read_bytes())
    assert rows_in(parts / "odd[1].csv") == [0, 1, 2]
    for name in ("PART-03.CSV", "part-04.Csv.GZ"):
        content = part.read_bytes()
        (parts / name).write_bytes(gzip.compress(content) if name.endswith("GZ") else content)
        assert rows_in(parts / name) == [3, 4, 5, 6]
    monkeypatch.setenv("HOME", str(parts))
    assert rows_in("~/part-01.csv") == rows_in(Path("~") / "part-01.csv") == [3, 4, 5, 6]
    (parts / ".hidden.csv").write_bytes(part.read_bytes())
    assert rows_in(parts / ".hidden.csv") == rows_in(parts / ".*.csv") == [3, 4, 5, 6]


def test_wrong_paths(parts):
    schema = numbered_schema(12, lists=False)

    def both(paths, kind, message, **options):
        with pytest.raises(kind, match=message):
            schema.dataset(paths, 5, **options)
        with pytest.raises(kind, match=message):
            schema.adapt(paths, **options)

    both(parts / "absent.csv", FileNotFoundError, r"file not found: .*absent\.csv")
    both([parts / "part-00.csv", parts / "absent.csv"], FileNotFoundError, r"file not found: .*absent\.csv")
    both(parts / "*.parquet", FileNotFoundError, r"no file matches the pattern .*\*\.parquet")
    both(parts / "more.csv", ValueError, r"the folder .*more\.csv contains no files")
    (parts / "more.csv" / "part-00.csv").write_bytes((parts / "part-00.csv").read_bytes())
    for parent in (parts, parts.parent):
        both(parent, ValueError, r"contains the folder .*: specify its files by a pattern such as .*/\*/\*")
    assert rows_in(parts / "*" / "*.csv") == [0, 1, 2]
    (parts / "more.csv" / "part-00.csv").unlink()
    both([], ValueError, "at least one file. Received an empty sequence")
    both(
        parts / "_SUCCESS",
        ValueError,
        r"_SUCCESS: cannot infer the file format from the name; expected one that ends with .csv, .* `file_format`",
    )
    both(
        parts / "part-00.csv",
        TypeError,
        r"`file_format` must be a file format such as CSVFormat\(\)\. Received: 'csv'",
        file_format="csv",
    )
    (parts / "z.parquet").write_bytes(b"")
    both(parts, ValueError, r"files must be of one format; .*part-00\.csv and .*z\.parquet differ")
    write_text(parts / "z.tsv", {"row": [1]}, "\t")
    both(parts / "*sv", ValueError, r"files must be of one format; .*part-00\.csv and .*z\.tsv differ")


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1. Received: batch_size=0"),
        ({"batch_size": 2.0}, TypeError, "`batch_size` must be an integer. Received: batch_size=2.0 of type float"),
        ({"num_shards": 0}, ValueError, "`num_shards` must be at least 1. Received: num_shards=0"),
        ({"num_shards": 2, "shard_index": 2}, ValueError, "`shard_index` must be from 0 to 1. Received: shard_index=2"),
        ({"shard_index": -1}, ValueError, "`shard_index` must be from 0 to 0. Received: shard_index=-1"),
        ({"shuffled_rows": 0}, ValueError, "`shuffled_rows` must be at least 1. Received: shuffled_rows=0"),
        ({"num_rows": 0}, ValueError, "`num_rows` must be at least 1. Received: num_rows=0"),
    ],
)
def test_wrong_options(parts, options, kind, message):
    with pytest.raises(kind) as error:
        numbered_schema(12, lists=False).dataset(parts, **{"batch_size": 5, **options})
    assert str(error.value) == message


@pytest.fixture
def remote():
    name = "ram://keras_rafm_test"
    if tf.io.gfile.exists(name):
        tf.io.gfile.rmtree(name)
    tf.io.gfile.makedirs(name)
    return name


@pytest.mark.parametrize("suffix", [*SUFFIXES, "libfm", "libfm.gz"])
def test_remote_files(files, remote, tmp_path, suffix):
    """Files in a file system that only TensorFlow has."""
    local = tmp_path / f"some.{suffix}"
    if suffix in files:
        schema, local = table_schema(), files[suffix]
    else:
        schema = libfm_schema()
        write_libfm(local, many_samples())
    path = f"{remote}/folder/some.{suffix}"
    tf.io.gfile.makedirs(f"{remote}/folder")
    if "tfrecord" in suffix:
        write_tfrecord(path, in_python(TABLE), schema)
    else:
        with tf.io.gfile.GFile(path, "wb") as file, open(local, "rb") as local_file:
            file.write(local_file.read())
    schema.adapt(path)
    counts = schema.counts
    schema.adapt(local)
    np.testing.assert_array_equal(schema.counts, counts)
    expected = sum(len(block) for block in schema.raw_dataset(local).map(lambda raw: raw[schema.label]))
    for paths in (path, f"{remote}/folder", f"{remote}/folder/*.{suffix}"):
        assert sum(len(block) for block in schema.raw_dataset(paths).map(lambda raw: raw[schema.label])) == expected
    for absent in (f"{remote}/absent.{suffix}", f"{remote}/folder/*.absent"):
        with pytest.raises(FileNotFoundError, match="absent"):
            schema.adapt(absent)
    dataset = schema.raw_dataset(path)
    tf.io.gfile.remove(path)
    # TensorFlow's reader of TFRecord files does not name missing files of `ram://`.
    with pytest.raises(tf.errors.OpError, match=None if "tfrecord" in suffix else re.escape(path)):
        list(dataset)


@pytest.mark.parametrize("suffix", ["csv.gz", "libfm.gz", "parquet", "tfrecord.gz"])
def test_damaged_remote_files(files, remote, tmp_path, suffix):
    if suffix == "libfm.gz":
        write_libfm(tmp_path / "a.libfm.gz", many_samples())
    whole = Path(files.get(suffix, tmp_path / "a.libfm.gz")).read_bytes()
    with tf.io.gfile.GFile(f"{remote}/some.{suffix}", "wb") as file:
        file.write(whole[: len(whole) * 2 // 3])
    schema = libfm_schema() if suffix == "libfm.gz" else table_schema()
    with pytest.raises(ValueError, match=rf"^{remote}/some\.{suffix}.*(damaged|not a readable)"):
        schema.adapt(f"{remote}/some.{suffix}")
