"""Files and directories that are written atomically."""

import pytest

from keras_rafm.files.atomic import folder_beside, new_file, replace_directory, write_text

pytestmark = pytest.mark.one_tensorflow


def test_a_new_file_replaces_the_old_one(tmp_path):
    target = tmp_path / "a.txt"
    for text in ("old", "new"):
        write_text(target, text)
        assert target.read_text() == text
    with new_file(target) as path:
        assert path.name == target.name
        path.write_text("newer")
        assert target.read_text() == "new"
    assert target.read_text() == "newer"
    assert list(tmp_path.iterdir()) == [target]


def test_a_failed_file_leaves_the_old_one(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def write_half():
        with new_file(target) as path:
            path.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("exists", [True, False])
def test_a_directory_is_replaced(tmp_path, exists):
    target = tmp_path / "target"
    if exists:
        target.mkdir()
        (target / "old").touch()
    with folder_beside(target) as folder:
        (folder / "new").mkdir()
        (folder / "new" / "file").touch()
        replace_directory(folder / "new", target)
    assert [path.name for path in target.iterdir()] == ["file"]
    assert list(tmp_path.iterdir()) == [target]


def test_a_directory_that_can_not_be_replaced_stays(tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    (target / "old").touch()
    with folder_beside(target) as folder, pytest.raises(FileNotFoundError):
        replace_directory(folder / "absent", target)
    assert [path.name for path in target.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [target]
