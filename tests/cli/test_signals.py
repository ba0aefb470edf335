"""Signals that end a command. For Ctrl-C in the middle of an epoch, see `test_resume.py`."""

import os
import signal
import time

import pytest
from cli_runs import COLUMNS, MODEL, command, ended, process_of

from keras_rafm.cli.commands import evaluate, train

pytestmark = pytest.mark.one_tensorflow


@pytest.fixture(autouse=True)
def _signals_as_in_a_terminal():
    """Don't ignore SIGHUP, even if the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def raising(number):
    """Return a progress bar that raises a signal at the second batch."""

    def counted(batches, *arguments):
        for index, batch in enumerate(batches):
            if index == 1:
                signal.raise_signal(number)
            yield batch

    return counted


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_incomplete_predictions_are_removed(trained, data, tmp_path, monkeypatch, name, code):
    number = getattr(signal, name)
    monkeypatch.setattr(evaluate, "counted", raising(number))
    words = ("predict", trained[0], "--data", data / "test.csv", "--batch-size", 50, "--output", tmp_path / "p.csv")
    result = command(*words)
    assert (result.code, result.lines()) == (code, [f"ended by {name}"])
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(number) is signal.SIG_DFL


def test_training_prints_how_to_continue(data, tmp_path, monkeypatch):
    def fit(*arguments):
        signal.raise_signal(signal.SIGHUP)

    run = tmp_path / "a run"
    monkeypatch.setattr(train, "fit", fit)
    result = command("train", "--train", data / "train.csv", *COLUMNS, *MODEL, "--output", run)
    hint = f"continue from the last checkpoint with: keras-rafm train --resume --output '{run}'"
    assert (result.code, result.lines()[-1]) == (129, f"ended by SIGHUP; {hint}")
    assert not (run / ".lock").exists()


def test_ignored_signals_stay_ignored(trained, data, monkeypatch):
    """Such as SIGHUP under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr(evaluate, "counted", raising(signal.SIGHUP))
        assert command("predict", trained[0], "--data", data / "test.csv", "--batch-size", 50).code == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_terminating_a_process(trained, data, tmp_path):
    header, *rows = (data / "train.csv").read_text().splitlines(keepends=True)
    many = tmp_path / "many.csv"
    many.write_text("".join([header, *rows * 50]))  # so many that the process is still busy when the signal comes
    words = ("--data", many, "--batch-size", 1, "--output", tmp_path / "p.csv")
    process = process_of("predict", trained[0], *words)
    end = time.monotonic() + 100
    while not list(tmp_path.glob(".p.csv.*")) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGTERM)
    result = ended(process)
    assert (result.code, result.lines()) == (143, ["ended by SIGTERM"])
    assert list(tmp_path.iterdir()) == [many]
