"""`find_files`, with the local file system of Python and with TensorFlow's."""

import re

import pytest
import tensorflow as tf

from keras_rafm.files.paths import LocalFileSystem, find_files

pytestmark = [
    pytest.mark.one_tensorflow,
    pytest.mark.parametrize("file_system", [LocalFileSystem(), tf.io.gfile], ids=["Python", "TensorFlow"]),
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "data" / "inner").mkdir(parents=True)
    for name in ("b.csv", "a.csv", ".hidden.csv", "_hidden.csv", "c.parquet"):
        (tmp_path / "data" / name).touch()
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("", ["a.csv", "b.csv", "c.parquet"]),
        ("b.csv", ["b.csv"]),
        (".hidden.csv", [".hidden.csv"]),
        ("*.csv", ["a.csv", "b.csv"]),
        ("?.csv", ["a.csv", "b.csv"]),
        ("_*", ["_hidden.csv"]),
        (".*.csv", [".hidden.csv"]),
        ("*", ["a.csv", "b.csv", "c.parquet"]),
        ("../*/a.csv", ["a.csv"]),
    ],
)
def test_files_of_folders_and_patterns(folder, file_system, pattern, names):
    files = find_files(f"{folder}/{pattern}" if pattern else str(folder), file_system)
    assert [file.rpartition("/")[2] for file in files] == names


def test_hidden_folders_match_wildcards(folder, file_system):
    folder.rename(folder.with_name(".data"))
    assert len(find_files(f"{folder.parent}/*/a.csv", file_system)) == 1


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("absent.csv", r"^file not found: .*/absent\.csv$"),
        ("*.avro", r"^no file matches the pattern .*/\*\.avro$"),
        ("inn*", "no file matches the pattern"),
        ("inner", "^the folder .*/inner contains no files$"),
    ],
)
def test_nothing_found(folder, file_system, pattern, message):
    error = ValueError if pattern == "inner" else FileNotFoundError
    with pytest.raises(error, match=message):
        find_files(f"{folder}/{pattern}", file_system)


def test_a_folder_in_a_folder(folder, file_system):
    (folder / "inner" / "d.csv").touch()
    message = f"{folder} contains the folder {folder}/inner: specify its files by a pattern such as {folder}/*/*"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        find_files(str(folder), file_system)
