"""Runs that are ended from outside, and go on. `deterministic_runs.py` is what one process of equal kernels does."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import deterministic_runs
import pytest
from cli_runs import (
    COLUMNS,
    MODEL,
    assert_equal_runs,
    command,
    done,
    ended,
    process_of,
    state_of,
    wait_for_checkpoint,
    write_csv,
)
from deterministic_runs import flags, killed_at

from keras_rafm.cli.run_directory import RunDirectory

pytestmark = pytest.mark.one_tensorflow


@pytest.fixture(scope="module")
def deterministic(tmp_path_factory):
    """Undisturbed and killed runs of a process of its own."""
    folder = tmp_path_factory.mktemp("deterministic")
    script = Path(deterministic_runs.__file__)
    own = subprocess.run([sys.executable, script, folder], capture_output=True, text=True, check=False)
    assert own.returncode == 0, own.stderr[-3000:]
    return folder


@pytest.mark.parametrize("kind", ["memory", "streaming"])
def test_killed_runs_end_bit_by_bit_as_others(deterministic, kind):
    for killed in sorted(deterministic.glob(f"{kind}_killed*")):
        assert_equal_runs(deterministic / kind, killed)
    assert len(list(deterministic.glob(f"{kind}_killed*"))) == 1


def test_sigkill_in_the_middle_of_an_epoch(deterministic, tmp_path):
    words = [str(word) for word in flags(deterministic, "memory")]
    process = process_of("train", *words, "--output", tmp_path / "run")
    wait_for_checkpoint(tmp_path / "run", 1, process)
    process.kill()
    assert ended(process).code == -signal.SIGKILL
    result = ended(process_of("train", "--resume", "--output", "run", cwd=tmp_path))
    assert result.code == 0, result.err
    assert len([line for line in result.lines() if not line.startswith("going on after ")]) == 0
    assert_equal_runs(deterministic / "memory", tmp_path / "run")


def test_ctrl_c_says_how_to_go_on(files, tmp_path):
    words = (*files, *COLUMNS, *MODEL, "--epochs", 3, "--patience", 3, "--checkpoint-steps", 2)
    run = tmp_path / "a run"
    process = process_of("train", *words, "--output", run)
    wait_for_checkpoint(run, 0, process)
    os.kill(process.pid, signal.SIGINT)
    result = ended(process)
    assert result.code == 130
    assert "Traceback" not in result.err
    assert result.err.rstrip().endswith(f"keras-rafm train --resume --output '{run}'")
    assert RunDirectory(run).has_checkpoint
    done("train", *words, "--output", tmp_path / "undisturbed")
    done("train", "--resume", "--output", run)
    assert_equal_runs(tmp_path / "undisturbed", run, 1e-4)


def test_interrupted_before_there_is_anything(data, tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("keras_rafm.cli.commands.adapt", interrupted)
    result = command("train", "--train", data / "train.csv", *COLUMNS, *MODEL, "--output", tmp_path / "run")
    assert (result.code, result.lines()) == (130, ["interrupted before there was a checkpoint to go on from: train anew"])


def test_more_epochs_are_as_if_told_at_once_and_a_killed_beginning_begins_anew(data, trained, files, tmp_path):
    """`trained` had 3 epochs."""
    words = (*files, *COLUMNS, *MODEL, "--learning-rate", 0.02, "--output", tmp_path / "run")
    with killed_at(1, tmp_path / "run"):
        assert command("train", *words, "--epochs", 2).code == "killed"
    assert not RunDirectory(tmp_path / "run").has_checkpoint
    for verb in ("evaluate", "describe"):
        result = command(verb, tmp_path / "run")
        assert (result.code == 0) == (verb == "describe")
        assert "Traceback" not in result.err
    done("train", "--resume", "--output", tmp_path / "run")
    assert state_of(tmp_path / "run")["ended"]
    done("train", "--resume", "--epochs", 3, "--output", tmp_path / "run")
    assert_equal_runs(trained[0], tmp_path / "run", 1e-4)
    assert RunDirectory(tmp_path / "run").settings().epochs == 3


def test_resuming_what_ended_reports_again(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "run")
    result = done("train", "--resume", "--output", tmp_path / "run")
    assert result.lines() == ["the run has ended after 3 epochs"]
    assert result.out.splitlines()[:-1] == trained[1].out.splitlines()[-len(result.out.splitlines()) : -1]
    assert_equal_runs(trained[0], tmp_path / "run")


def test_another_schema_than_the_runs_is_noticed(trained, data, tmp_path):
    run, model = tmp_path / "run", tmp_path / "model"
    shutil.copytree(trained[0], run)
    done("count", "--train", data / "validation.csv", *COLUMNS, "--output", run / "schema")
    words = (["evaluate", run], ["predict", run, "--data", data / "test.csv"], ["export", run, model], ["describe", run])
    for own in (*words, ["train", "--resume", "--epochs", 4, "--output", run]):
        result = command(*own)
        assert (result.code, f"{run / 'schema'} is another schema than the run was trained with" in result.err) == (2, True)
    assert not model.exists()
    (run / "begun.json").unlink()  # as older versions left it
    done("describe", run)


def test_other_files_than_the_runs_are_noticed(tmp_path):
    (tmp_path / "train").mkdir()
    train, validation = write_csv(tmp_path / "train" / "a.csv", 20, 0), write_csv(tmp_path / "validation.csv", 150, 1)
    run, text = tmp_path / "run", validation.read_text()
    files = ("--train", tmp_path / "train", "--validation", validation)
    done("train", *files, *COLUMNS, *MODEL, "--epochs", 1, "--output", run)

    def assert_refused(said):
        result = command("train", "--resume", "--epochs", 2, "--output", run)
        assert (result.code, said in result.err) == (2, True)

    validation.write_text(text + "u1,1,a,1,1\n")
    sizes = f"{len(text):,} bytes when the run began and has {len(text) + 11:,} now"
    assert_refused(f"the validation data changed: {validation} had {sizes}")
    validation.write_text(text)
    other = write_csv(train.with_name("b.csv"), 20, 1)
    assert_refused(f"the train data changed: {other} was none of its files when the run began and is one now")
    train.unlink()
    assert_refused(f"the train data changed: {train} was one of its files when the run began and is none now")
    (run / "begun.json").unlink()  # as older versions left it
    done("train", "--resume", "--epochs", 2, "--output", run)


def test_two_do_not_train_in_one_directory(trained, files, tmp_path):
    run, words = tmp_path / "run", (*files, *COLUMNS, *MODEL, "--output", tmp_path / "run")
    with RunDirectory(run).locked():
        result = command("train", *words)
        assert (result.code, f"another process trains in {run}" in result.err) == (2, True)
    assert not run.exists()
    shutil.copytree(trained[0], run)
    with RunDirectory(run).locked():
        result = command("train", "--resume", "--epochs", 9, "--output", run)
        assert (result.code, f"another process trains in {run}" in result.err) == (2, True)
    assert RunDirectory(run).settings().epochs == 3
    assert not (run / ".lock").exists()


def test_a_lock_that_a_killed_process_left_does_not_matter(tmp_path):
    (tmp_path / ".lock").write_text("")
    run = RunDirectory(tmp_path)
    run.refuse_if_used()
    with run.locked():
        assert (tmp_path / ".lock").exists()
    assert list(tmp_path.iterdir()) == []


def test_where_there_are_no_locks_training_needs_none(tmp_path, monkeypatch):
    """As on Windows."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with RunDirectory(tmp_path).locked(), RunDirectory(tmp_path).locked():
        assert list(tmp_path.iterdir()) == []


def test_what_can_not_be_resumed(trained, files, tmp_path):
    run, _ = trained
    result = command("train", "--resume", "--output", tmp_path / "absent")
    assert (result.code, "holds no run" in result.err) == (2, True)
    assert not (tmp_path / "absent").exists()
    same = ("--ranks", "2,4")
    result = command("train", "--resume", *same, "--seed", 3, "--learning-rate", 1, "--output", run)
    assert result.code == 2
    assert "Leave out --learning-rate, --seed" in result.err.replace("--seed, --learning-rate", "--learning-rate, --seed")
    result = command("train", *files, *COLUMNS, *MODEL, "--output", run)
    assert (result.code, "is not empty: go on with it by --resume" in result.err) == (2, True)
    (tmp_path / "file").write_text("")
    result = command("train", *files, *COLUMNS, *MODEL, "--output", tmp_path)
    assert (result.code, "is not empty: name another directory" in result.err) == (2, True)
