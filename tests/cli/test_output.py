"""Where `predict` writes to."""

import os
import threading

import pytest
from cli_runs import NUM_TEST, command, done

pytestmark = pytest.mark.one_tensorflow


@pytest.fixture(scope="module")
def expected(trained, data):
    return done("predict", trained[0], "--data", data / "test.csv").out


def test_a_hyphen_is_stdout(trained, data, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert done("predict", trained[0], "--data", data / "test.csv", "--output", "-").out == expected
    assert list(tmp_path.iterdir()) == []


def test_an_input_is_not_overwritten(trained, data, tmp_path):
    file, link = tmp_path / "new.csv", tmp_path / "link.csv"
    text = (data / "test.csv").read_text()
    file.write_text(text)
    link.symlink_to(file)
    for output in (file, link):
        result = command("predict", trained[0], "--data", tmp_path, "--output", output)
        assert (result.code, "--output must be another file than those of --data" in result.err) == (2, True)
    assert file.read_text() == text


def test_a_link_is_followed(trained, data, expected, tmp_path):
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "p.csv", tmp_path / "link.csv"
    link.symlink_to(target)
    for _ in range(2):  # absent, and there
        done("predict", trained[0], "--data", data / "test.csv", "--output", link)
        assert link.is_symlink()
        assert target.read_text() == expected
        assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("name", ["test.csv", "bad.csv"])
def test_a_pipe_is_written_to_and_stays(trained, data, expected, tmp_path, name):
    """Also if the command fails."""
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
