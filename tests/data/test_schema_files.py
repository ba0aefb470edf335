"""The directory of a saved `Schema`: its files, damage, overwriting and failures."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from keras_rafm.data.schema import Schema

pytestmark = pytest.mark.one_tensorflow

FILES = ["schema.json", "counts.npy", "vocabulary/0.txt", "vocabulary/1.txt"]


def schema_of(letters="abca", num_bins=2):
    schema = Schema(
        {
            "text": "string_categorical",
            "number": "integer_categorical",
            "price": Schema.float("standard"),
            "age": Schema.float_discretized(num_bins),
            "hash": Schema.string_hashed(3),
        },
        label="clicked",
    )
    rows = range(len(letters))
    numbers = [float(row) / 3 for row in rows]
    schema.adapt({"text": list(letters), "number": [*rows], "price": numbers, "age": numbers, "hash": list(letters)})
    return schema


@pytest.fixture
def saved(tmp_path):
    schema_of().save(tmp_path / "schema")
    return tmp_path / "schema"


def contents(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def error_of_loading(path, kind=ValueError):
    with pytest.raises(kind) as error:
        Schema.load(path)
    return str(error.value)


def edit(directory, change):
    head = json.loads((directory / "schema.json").read_text())
    change(head)
    (directory / "schema.json").write_text(json.dumps(head))


def test_names_and_content_of_the_files(saved):
    assert sorted(contents(saved)) == sorted(FILES)
    assert (saved / "vocabulary/0.txt").read_text() == "a\nb\nc\n"
    assert (saved / "vocabulary/1.txt").read_text() == "0\n1\n2\n3\n"
    assert [path.name for path in saved.parent.iterdir()] == ["schema"]
    np.testing.assert_array_equal(np.load(saved / "counts.npy"), schema_of().counts)


def test_the_same_schema_gives_the_same_files(saved):
    schema_of().save(saved.parent / "again")
    Schema.load(saved).save(saved.parent / "copy")
    assert contents(saved) == contents(saved.parent / "again") == contents(saved.parent / "copy")


def test_unusual_values_and_numbers_are_restored(tmp_path):
    values = ["é", "日本", "a\0b", " ", "\t", '"', "\\n", "\u2028", "\x85", "a\rb"]
    schema = Schema({"a b/é": "string_categorical", "x": Schema.float("standard")}, label="ja", positive_label="日")
    schema.adapt({"a b/é": values, "x": np.linspace(0.1, 1e6, len(values)).astype(np.float32)})
    schema.save(str(tmp_path / "a b é"))
    loaded = Schema.load(tmp_path / "a b é")
    assert loaded.feature_names() == schema.feature_names()
    assert loaded.get_config() == schema.get_config()
    raw = {"a b/é": values, "x": [0.1 * row for row in range(len(values))]}
    for name, tensor in loaded(raw).items():
        np.testing.assert_array_equal(tensor, schema(raw)[name])


@pytest.mark.parametrize("file", FILES)
def test_absent_files(saved, file):
    (saved / file).unlink()
    assert str(saved / file) in error_of_loading(saved, FileNotFoundError)


def test_absent_directory(tmp_path):
    assert error_of_loading(tmp_path / "no", FileNotFoundError) == f"schema directory not found: {tmp_path / 'no'}"


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("keep", [0, 0.3, 0.9, -2])
def test_truncated_files(saved, file, keep):
    content = (saved / file).read_bytes()
    (saved / file).write_bytes(content[: int(keep * len(content)) if keep >= 0 else keep])
    assert str(saved / file) in error_of_loading(saved)


@pytest.mark.parametrize("file", FILES)
def test_every_edited_byte_is_detected(saved, file):
    content = (saved / file).read_bytes()
    for place in range(0, len(content), 1 + len(content) // 60):
        changed = bytes([content[place] ^ 1])
        if file == "schema.json" and content[place : place + 1].isspace() and changed.isspace():
            continue  # the layout of JSON has no meaning
        (saved / file).write_bytes(content[:place] + changed + content[place + 1 :])
        loaded, refusal = None, ""
        try:
            loaded = Schema.load(saved)
        except (ValueError, FileNotFoundError) as error:
            refusal = str(error)
        if loaded is None:
            assert str(saved / file) in refusal
        else:
            # The header of a NumPy file has unused bytes.
            assert file == "counts.npy"
            assert loaded.counts.tolist() == schema_of().counts.tolist()


@pytest.mark.parametrize(
    "change",
    [
        lambda head: head["learnt"]["columns"]["age"]["boundaries"].append(9.0),
        lambda head: head["learnt"]["columns"]["age"].update(boundaries=[0.25]),
        lambda head: head["learnt"]["columns"]["price"].update(scale=2.0),
        lambda head: head["learnt"]["columns"]["text"].update(num_ids=4),
        lambda head: head["learnt"]["columns"].pop("text"),
        lambda head: head["learnt"].pop("counts"),
        lambda head: head["config"].update(label="other"),
        lambda head: head["config"].update(features=[]),
        lambda head: head["config"]["features"]["text"].update(kind="unknown"),
        lambda head: head["config"]["features"]["text"].update(missing="unknown"),
        lambda head: head["config"].update(new_option=1),
        lambda head: head.pop("config"),
        lambda head: head.pop("learnt"),
        lambda head: head.pop("digest"),
        lambda head: head.pop("format_version"),
        lambda head: head.update(format="other"),
        lambda head: head.update(format_version="one"),
    ],
)
def test_edited_declarations(saved, change):
    edit(saved, change)
    assert str(saved / "schema.json") in error_of_loading(saved)


@pytest.mark.parametrize("text", ["", "[]", "null", "1", "{}", '{"format": 1}', "\ufeff{}", "nonsense"])
def test_other_json(saved, text):
    (saved / "schema.json").write_text(text, encoding="utf-8")
    assert str(saved / "schema.json") in error_of_loading(saved)


def test_the_layout_of_json_does_not_matter(saved):
    edit(saved, lambda head: None)
    assert Schema.load(saved).feature_names() == schema_of().feature_names()


def test_columns_in_another_order_are_refused(saved):
    edit(saved, lambda head: head["config"].update(features=dict(sorted(head["config"]["features"].items()))))
    assert str(saved / "schema.json") in error_of_loading(saved)


def test_a_newer_format(saved):
    edit(saved, lambda head: head.update(format_version=2))
    expected = f"{saved / 'schema.json'} has schema format 2; this version reads up to 1"
    assert error_of_loading(saved) == expected


@pytest.mark.parametrize("file", FILES)
def test_files_of_another_schema(saved, file):
    other = saved.parent / "other"
    schema_of("xyzzy", num_bins=3).save(other)
    shutil.copy(other / file, saved / file)
    message = error_of_loading(saved)
    assert str(saved) in message
    assert "is damaged or belongs to another schema" in message
    if file != "schema.json":
        assert str(saved / file) in message


def test_exchanged_vocabularies_of_one_schema(saved):
    first, second = (saved / "vocabulary" / name for name in ("0.txt", "1.txt"))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)
    assert f"{first} is damaged or belongs to another schema" in error_of_loading(saved)


def test_saving_over_a_schema(saved):
    schema = Schema({"only": "float"})
    schema.adapt({"only": [1.0]})
    schema.save(saved)
    assert sorted(contents(saved)) == ["counts.npy", "schema.json"]
    assert Schema.load(saved).feature_names() == ["only"]
    assert [path.name for path in saved.parent.iterdir()] == ["schema"]


def test_new_and_empty_directories(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "in" / "a" / "new" / "one"):
        schema_of().save(path)
        assert Schema.load(path).counts.tolist() == schema_of().counts.tolist()
    monkeypatch.chdir(tmp_path)
    schema_of().save("relative")
    assert Schema.load("relative").is_adapted


def make_other_file(directory):
    (directory / "notes.txt").write_text("mine")


def make_project(directory):
    (directory / "schema.json").write_text('{"title": "of some other tool"}')


def make_schema_among_others(directory):
    directory.rmdir()
    schema_of().save(directory)
    (directory / "src").mkdir()
    (directory / "src" / "work.py").write_text("mine")


@pytest.mark.parametrize("make", [make_other_file, make_project, make_schema_among_others])
def test_other_content_is_not_replaced(tmp_path, make):
    directory = tmp_path / "project"
    directory.mkdir()
    make(directory)
    before = contents(directory)
    with pytest.raises(ValueError, match="must be a new or empty directory, or one that holds a schema and nothing else"):
        schema_of().save(directory)
    assert contents(directory) == before


def test_a_file_is_not_replaced(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="must be a new or empty directory"):
        schema_of().save(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("broken", ["write_text", "write_bytes", "first rename", "last rename"])
def test_a_failed_save_leaves_the_old_schema_whole(saved, monkeypatch, broken):
    before, names = contents(saved), ["schema"]

    def fail(path, *args, **kwargs):
        raise OSError("the disk is full")

    rename = Path.rename

    def rename_or_fail(path, target):
        fails = "new" if broken == "last rename" else "schema"
        return fail(path) if path.name == fails else rename(path, target)

    if "rename" in broken:
        monkeypatch.setattr(Path, "rename", rename_or_fail)
    else:
        monkeypatch.setattr(Path, broken, fail)
    with pytest.raises(OSError, match="the disk is full"):
        schema_of("xyz").save(saved)
    monkeypatch.undo()
    assert contents(saved) == before
    assert sorted(os.listdir(saved.parent)) == names
    assert Schema.load(saved).feature_names() == schema_of().feature_names()
