"""What `train` says before it counts and trains, and where numbers end that are not finite."""

import json
import math
import shutil

import keras
import numpy as np
import pytest
from cli_runs import COLUMNS, MODEL, command, done, state_of

from keras_rafm.cli import commands
from keras_rafm.cli.run_directory import RunDirectory

pytestmark = pytest.mark.one_tensorflow

LARGE = ("--learning-rate", "1e30", "--idle-decay", 0)


def warnings_of(result):
    return [line.removeprefix("warning: ") for line in result.lines() if line.startswith("warning: ")]


@pytest.fixture
def never_counting(monkeypatch):
    def adapt(*arguments):
        raise AssertionError("it counts")

    monkeypatch.setattr(commands, "adapt", adapt)


@pytest.mark.usefixtures("never_counting")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--thresholds", "-3"], "--thresholds must be 0 or more and increasing. Received: -3"),
        (["--learning-rate", 4], "`idle_decay` times `learning_rate` must be less than 1"),
        (["--idle-decay", -1], "`idle_decay` must be a finite number of at least 0"),
        (["--optimizer", "SparseFtrl", "--idle-decay", 1], "SparseFtrl has no `idle_decay`"),
        (["--factors-l2", -1], "factors_l2"),
        (["--dependent-loss-weight", -1], "dependent_loss_weight"),
        (["--label", "klicked"], "expected a column 'klicked'"),
        (["--sample-weight", "w"], "expected a column 'w'"),
        (["--column", "x=float"], "expected a column 'x'"),
        (["--validation", "HEADER"], "expected a column 'clicked'"),
        (["--on-error", "skip", "--validation", "HEADER"], "expected a column 'clicked'"),
    ],
)
def test_cheap_mistakes_are_found_before_counting(data, tmp_path, words, said):
    (tmp_path / "header.csv").write_text("user,item,genres,price\nu1,1,a,1\n")
    words = [tmp_path / "header.csv" if word == "HEADER" else word for word in words]
    result = command("train", "--train", data / "train.csv", *COLUMNS, *MODEL, *words, "--output", tmp_path / "a" / "run")
    assert (result.code, result.lines()[-1].startswith("error: ")) == (2, True)
    assert said in result.lines()[-1]
    assert not (tmp_path / "a").exists()


@pytest.mark.usefixtures("never_counting")
def test_thresholds_to_compare_are_looked_at_before_counting(data):
    result = command("plan", "--train", data / "train.csv", *COLUMNS, "--ranks", "2,4", "--try", 5, "--try", -5)
    assert (result.code, result.lines()) == (2, ["error: --try must be 0 or more and increasing. Received: -5"])


def test_what_will_be_of_no_use_is_told(data, tmp_path):
    """A name that `export` refuses, columns without values, labels of one class, rows without weight."""
    users = [line.split(",")[0] for line in (data / "train.csv").read_text().splitlines()[1:]]
    file, run = tmp_path / "data.csv", tmp_path / "run"
    file.write_text("\n".join(["user-id,item,genres,price,clicked,w", *(f"{user},,,,1,0" for user in users)]) + "\n")
    columns = [word.replace("user=", "user-id=") for word in COLUMNS]
    result = done("train", "--train", file, *columns, *MODEL, "--sample-weight", "w", "--epochs", 1, "--output", run)
    expected = [
        "the model can be trained but not exported: ",
        *(f"column '{name}' has no value in any row of the training data" for name in ("item", "genres", "price")),
        "all labels of the training data are 1",
        "the sample weights of the train data are all 0",
    ]
    warned = warnings_of(result)
    assert [line.startswith(start) for line, start in zip(warned, expected, strict=True)] == [True] * len(expected)
    assert warned[0].endswith("Received: ['user-id']")
    refused = command("export", run, tmp_path / "model")
    assert (refused.code, refused.lines()[-1].endswith("Received: ['user-id']")) == (2, True)


def test_training_that_diverges_at_once(files, tmp_path):
    run = tmp_path / "run"
    result = command("train", *files, *COLUMNS, *MODEL, *LARGE, "--output", run)
    said = result.lines()[-1]
    assert result.code == 1
    assert "error of the program" not in result.err
    assert said.startswith("error: training diverged in epoch 1: ")
    assert f"there was no checkpoint of a trained model before it in {run}" in said
    assert "--learning-rate" in said
    assert (state_of(run)["epoch"], state_of(run)["step"]) == (0, 0)
    assert not (run / "report.json").exists()
    assert not (run / "best").exists()


@pytest.mark.parametrize("when", ["before", "after"])
def test_training_that_diverges_later_keeps_what_was_finite(trained, tmp_path, monkeypatch, when):
    """In the first step, or in the last one of an epoch, whose losses were finite."""
    run, keep = tmp_path / "run", commands.train
    shutil.copytree(trained[0], run)

    def train(run, model, *others):
        def spoil(**options):
            model.get_layer("rafm").bias_weight.assign(math.nan)
            return {"log_loss": 0.1}

        if when == "before":
            spoil()
        else:
            model.evaluate = spoil
        keep(run, model, *others)

    monkeypatch.setattr(commands, "train", train)
    result = command("train", "--resume", "--epochs", 4, "--output", run)
    said = result.lines()[-1]
    assert result.code == 1
    assert said.startswith(
        "error: training diverged in epoch 4: " + ("`loss` is nan" if when == "before" else "weights of ")
    )
    assert f"the last checkpoint before it, of 3 epochs, is kept in {run}" in said
    assert state_of(run)["epoch"] == 3
    done("evaluate", run)
    for path in (*run.glob("checkpoints/*/model.keras"), *run.glob("best/*.keras")):
        assert all(np.isfinite(weight).all() for weight in keras.saving.load_model(path).get_weights())


def test_a_report_of_scores_that_are_not_finite(tmp_path):
    run = RunDirectory(tmp_path)
    run.write_report({"splits": {"test": {"RaFM": {"rows": 3, "log_loss": float("nan"), "auc": 0.5}}}})
    assert json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail) == {
        "splits": {"test": {"RaFM": {"rows": 3, "log_loss": None, "auc": 0.5}}}
    }
