"""The output of `predict`."""

import os
import threading

import pytest
from cli_runs import NUM_TEST, command, done, refused

pytestmark = pytest.mark.one_tensorflow


@pytest.fixture(scope="module")
def expected(trained, data):
    return done("predict", trained[0], "--data", data / "test.csv").out


def test_a_hyphen_is_stdout(trained, data, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert done("predict", trained[0], "--data", data / "test.csv", "--output", "-").out == expected
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_data_is_not_overwritten(trained, data, tmp_path):
    file, link = tmp_path / "new.csv", tmp_path / "link.csv"
    text = (data / "test.csv").read_text()
    file.write_text(text)
    link.symlink_to(file)
    for output in (file, link):
        result = refused("predict", trained[0], "--data", tmp_path, "--output", output)
        assert "--output must not be one of the files of --data" in result.err
    assert file.read_text() == text


def test_a_symbolic_link_is_followed(trained, data, expected, tmp_path):
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "p.csv", tmp_path / "link.csv"
    link.symlink_to(target)
    for _ in range(2):  # a new file, then an existing one
        done("predict", trained[0], "--data", data / "test.csv", "--output", link)
        assert link.is_symlink()
        assert target.read_text() == expected
        assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("name", ["test.csv", "bad.csv"])
def test_a_pipe_is_written_to_and_kept(trained, data, expected, tmp_path, name):
    """Even if the command fails."""
    (tmp_path / "test.csv").write_text((data / "test.csv").read_text())
    (tmp_path / "bad.csv").write_text("user,item,genres,price\nu1,x,a,1\n")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    code = command("predict", trained[0], "--data", tmp_path / name, "--output", pipe).code
    reader.join(timeout=60)
    assert pipe.is_fifo()
    assert (code, len(read[0].splitlines())) == ((0, NUM_TEST + 1) if name == "test.csv" else (2, 1))
    if code == 0:
        assert read == [expected]
