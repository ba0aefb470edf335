"""Damaged, missing and unsuitable files and runs."""

import gzip
import re
import shutil

import pytest
from cli_runs import COLUMNS, MODEL, NUM_TEST, done, refused, write_csv

from keras_rafm.cli.commands.run import Run
from keras_rafm.data import write_tfrecord

pytestmark = pytest.mark.one_tensorflow


def damaged(data, tmp_path):
    """Write the files of `DAMAGE` and return their folder."""
    text = (data / "test.csv").read_bytes()
    lines = text.split(b"\n")

    def with_row(name, row):
        (tmp_path / name).write_bytes(b"\n".join([*lines[:10], row, *lines[10:]]))

    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(text)[:-200])
    with_row("fields.csv", b"a,b")
    with_row("utf8.csv", b"\xff\xfe,1,a,2,1")
    with_row("number.csv", b"u1,1,a,abc,1")
    with_row("integer.csv", b"u1,x,a,1,1")
    with_row("label.csv", b"u1,1,a,1,7")
    (tmp_path / "empty.csv").write_bytes(b"")
    (tmp_path / "header.csv").write_bytes(lines[0] + b"\n")
    (tmp_path / "columns.csv").write_bytes(text.replace(b"price", b"prize", 1))
    (tmp_path / "no.parquet").write_bytes(text)
    (tmp_path / "no.tfrecord").write_bytes(text)
    (tmp_path / "folder").mkdir()
    return tmp_path


DAMAGE = {
    "cut.csv.gz": "damaged or truncated gzip file",
    "fields.csv": "line 11: expected 5 fields",
    "utf8.csv": "line 11, column 'user': expected UTF-8",
    "number.csv": "line 11, column 'price': expected a number, received 'abc'",
    "integer.csv": "line 11, column 'item': expected an integer, received 'x'",
    "label.csv": "line 11, column 'clicked': expected one of the labels 0 and 1, or -1 and 1, received '7'",
    "empty.csv": "expected at least one row, found none",
    "header.csv": "expected at least one row, found none",
    "columns.csv": "expected a column 'price'",
    "no.parquet": "not a readable Parquet file",
    "no.tfrecord": "record 1: damaged, truncated or not a TFRecord",
    "folder": "contains no files",
    "absent.csv": "file not found",
    "absent*.csv": "no file matches the pattern",
    "x.xyz": "file not found",
}


@pytest.mark.parametrize(
    ("verb", "name"),
    [
        (verb, name)
        for verb in ("count", "evaluate")
        for name in DAMAGE
        if (verb, name) != ("count", "label.csv")  # `count` doesn't read labels
    ],
)
def test_damage_is_located(trained, data, tmp_path, verb, name):
    file = damaged(data, tmp_path) / name
    words = ("count", "--train", file, *COLUMNS) if verb == "count" else ("evaluate", trained[0], "--data", file)
    error = refused(*words).lines()[-1]
    assert DAMAGE[name] in error
    assert name in error


def test_a_damaged_file_leaves_no_incomplete_predictions(trained, data, tmp_path):
    folder = damaged(data, tmp_path)
    refused("predict", trained[0], "--data", folder / "number.csv", "--output", tmp_path / "p.csv")
    assert not list(tmp_path.glob("*p.csv*"))
    for output in (tmp_path / "absent" / "p.csv", tmp_path / "folder"):
        result = refused("predict", trained[0], "--data", data / "test.csv", "--output", output)
        assert "--output must be a file" in result.err
    result = done("predict", trained[0], "--data", folder / "number.csv", "--on-error", "skip")
    assert len(result.out.splitlines()) == NUM_TEST + 1
    assert "skipped rows: 1 (" in result.err


def test_damage_found_in_training_is_located(trained, data, tmp_path):
    """The validation data are not held in memory, so they are not read to the end before."""
    schema = Run(trained[0]).schema()
    raw = next(iter(schema.raw_dataset(data / "train.csv")))
    good, damaged = tmp_path / "good.tfrecord", tmp_path / "damaged.tfrecord"
    write_tfrecord(good, raw, schema)
    write_tfrecord(damaged, [raw] * 45, schema)
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1000] + bytes([whole[-1000] ^ 4]) + whole[-999:])
    files = ("--train", good, "--validation", damaged)
    result = refused("train", *files, *COLUMNS, *MODEL, "--memory-limit-mb", 1, "--output", tmp_path / "run")
    assert re.search(r"damaged\.tfrecord, record 2\d{4}: damaged, truncated or not a TFRecord", result.lines()[-1])


def test_skipped_rows_and_empty_files_are_reported(data, tmp_path):
    text = (data / "train.csv").read_text().splitlines()
    text[5:5] = ["u1,1,a,1,7", "u1,1,a,1,"]
    full, empty = tmp_path / "a.csv", tmp_path / "b.csv"
    full.write_text("\n".join(text) + "\n")
    empty.write_text("")
    words = ("train", "--train", tmp_path / "*.csv", *COLUMNS, *MODEL, "--epochs", 1)
    result = refused(*words, "--train", data / "train.csv", empty, "--output", tmp_path / "one")
    assert f"{empty}: expected at least one row, found none" in result.lines()[-1]
    err = done(*words, "--output", tmp_path / "two", "--on-error", "skip").err
    expected = "column 'clicked': expected one of the labels 0 and 1, or -1 and 1, received"
    lines = (
        f"empty files: {empty}",
        f"skipped rows: 2 ({full}: 2)",
        *(f"{full}, line {n}, {expected}" for n in (6, 7)),
    )
    for line in lines:
        assert err.count(line) == 1


def test_missing_and_damaged_runs(trained, data, tmp_path):
    for verb in (["evaluate"], ["predict", "--data", "x"], ["describe"]):
        assert "holds no run" in refused(verb[0], tmp_path, *verb[1:]).err
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    other = write_csv(tmp_path / "other.csv", 50, 9)
    done("count", "--train", other, *COLUMNS, "--output", tmp_path / "schema")
    shutil.copy(tmp_path / "schema" / "vocabulary" / "0.txt", run / "schema" / "vocabulary" / "0.txt")
    assert "damaged or belongs to another schema" in refused("evaluate", run).err
    shutil.copytree(trained[0] / "schema", run / "schema", dirs_exist_ok=True)
    for file in run.glob("best/*.keras"):
        file.write_bytes(b"PK")
    assert "can't be read" in refused("evaluate", run).err
    (run / "settings.json").write_text("{")
    assert "is damaged" in refused("describe", run).err
