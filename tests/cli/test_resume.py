"""Runs that are interrupted and resumed, and what keeps a run from being resumed."""

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
    refused,
    state_of,
    wait_for_checkpoint,
    write_csv,
)
from deterministic_runs import flags, killed_at

from keras_rafm.cli.run_directory import RunDirectory

pytestmark = pytest.mark.one_tensorflow


@pytest.fixture(scope="module")
def deterministic(tmp_path_factory):
    """The runs of `deterministic_runs.py`, which needs a process of its own."""
    folder = tmp_path_factory.mktemp("deterministic")
    script = Path(deterministic_runs.__file__)
    process = subprocess.run([sys.executable, script, folder], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
    return folder


@pytest.mark.parametrize("kind", ["memory", "streaming"])
def test_killed_runs_end_with_exactly_the_same_weights(deterministic, kind):
    for killed in sorted(deterministic.glob(f"{kind}_killed*")):
        assert_equal_runs(killed, deterministic / kind)
    assert len(list(deterministic.glob(f"{kind}_killed*"))) == 1


def test_sigkill_in_the_middle_of_an_epoch(deterministic, tmp_path):
    words = [str(word) for word in flags(deterministic, "memory")]
    process = process_of("train", *words, "--output", tmp_path / "run")
    wait_for_checkpoint(tmp_path / "run", 1, process)
    process.kill()
    assert ended(process).code == -signal.SIGKILL
    result = ended(process_of("train", "--resume", "--output", "run", cwd=tmp_path))
    assert result.code == 0, result.err
    assert len([line for line in result.lines() if not line.startswith("continuing after ")]) == 0
    assert_equal_runs(tmp_path / "run", deterministic / "memory")


def test_ctrl_c_prints_how_to_continue(files, tmp_path):
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
    assert_equal_runs(run, tmp_path / "undisturbed", 1e-4)


def test_interrupted_before_the_first_checkpoint(data, tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("keras_rafm.cli.commands.train.adapt", interrupted)
    result = command("train", "--train", data / "train.csv", *COLUMNS, *MODEL, "--output", tmp_path / "run")
    assert (result.code, result.lines()) == (130, ["interrupted before the first checkpoint: start the training again"])


def test_a_run_killed_at_its_beginning_starts_again_and_more_epochs_can_follow(trained, files, tmp_path):
    """The result is that of `trained`, which had 3 epochs from the beginning."""
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
    assert_equal_runs(tmp_path / "run", trained[0], 1e-4)
    assert RunDirectory(tmp_path / "run").settings().epochs == 3


def test_resuming_a_finished_run_reports_again(trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "run")
    result = done("train", "--resume", "--output", tmp_path / "run")
    assert result.lines() == ["the run has ended after 3 epochs"]
    assert result.out.splitlines()[:-1] == trained[1].out.splitlines()[-len(result.out.splitlines()) : -1]
    assert_equal_runs(tmp_path / "run", trained[0])


def test_a_changed_schema_is_noticed(trained, data, tmp_path):
    run, model = tmp_path / "run", tmp_path / "model"
    shutil.copytree(trained[0], run)
    done("count", "--train", data / "validation.csv", *COLUMNS, "--output", run / "schema")
    words = (["evaluate", run], ["predict", run, "--data", data / "test.csv"], ["export", run, model], ["describe", run])
    for command_words in (*words, ["train", "--resume", "--epochs", 4, "--output", run]):
        error = refused(*command_words).err
        assert f"{run / 'schema'} is not the schema that the run was trained with" in error
    assert not model.exists()
    (run / "begun.json").unlink()  # as in runs of older versions
    done("describe", run)


def test_changed_files_are_noticed(tmp_path):
    (tmp_path / "train").mkdir()
    train, validation = write_csv(tmp_path / "train" / "a.csv", 20, 0), write_csv(tmp_path / "validation.csv", 150, 1)
    run, text = tmp_path / "run", validation.read_text()
    files = ("--train", tmp_path / "train", "--validation", validation)
    done("train", *files, *COLUMNS, *MODEL, "--epochs", 1, "--output", run)

    def assert_refused(message):
        assert message in refused("train", "--resume", "--epochs", 2, "--output", run).err

    validation.write_text(text + "u1,1,a,1,1\n")
    sizes = f"{len(text):,} bytes when the run began and has {len(text) + 11:,} now"
    assert_refused(f"the validation data changed: {validation} had {sizes}")
    validation.write_text(text)
    other = write_csv(train.with_name("b.csv"), 20, 1)
    assert_refused(f"the train data changed: {other} was not one of its files when the run began and is one now")
    train.unlink()
    assert_refused(f"the train data changed: {train} was one of its files when the run began and is not any more")
    (run / "begun.json").unlink()  # as in runs of older versions
    done("train", "--resume", "--epochs", 2, "--output", run)


def test_two_processes_can_not_train_in_one_directory(trained, files, tmp_path):
    run, words = tmp_path / "run", (*files, *COLUMNS, *MODEL, "--output", tmp_path / "run")
    with RunDirectory(run).locked():
        assert f"another process is training in {run}" in refused("train", *words).err
    assert not run.exists()
    shutil.copytree(trained[0], run)
    with RunDirectory(run).locked():
        assert f"another process is training in {run}" in refused("train", "--resume", "--epochs", 9, "--output", run).err
    assert RunDirectory(run).settings().epochs == 3
    assert not (run / ".lock").exists()


def test_the_lock_file_of_a_killed_process_is_ignored(tmp_path):
    (tmp_path / ".lock").write_text("")
    run = RunDirectory(tmp_path)
    run.check_unused()
    with run.locked():
        assert (tmp_path / ".lock").exists()
    assert list(tmp_path.iterdir()) == []


def test_without_file_locks_training_is_not_locked(tmp_path, monkeypatch):
    """Such as on Windows."""
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with RunDirectory(tmp_path).locked(), RunDirectory(tmp_path).locked():
        assert list(tmp_path.iterdir()) == []


def test_runs_that_can_not_be_resumed_or_begun(trained, files, tmp_path):
    run, _ = trained
    assert "holds no run" in refused("train", "--resume", "--output", tmp_path / "absent").err
    assert not (tmp_path / "absent").exists()
    same = ("--ranks", "2,4")
    result = refused("train", "--resume", *same, "--seed", 3, "--learning-rate", 1, "--output", run)
    assert "Leave out --learning-rate, --seed\n" in result.err
    result = refused("train", *files, *COLUMNS, *MODEL, "--output", run)
    assert "is not empty: continue the run with --resume, or choose another directory" in result.err
    (tmp_path / "file").write_text("")
    result = refused("train", *files, *COLUMNS, *MODEL, "--output", tmp_path)
    assert "is not empty: choose another directory" in result.err
