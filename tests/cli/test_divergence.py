"""Training that diverges, and numbers that are not finite."""

import json
import math
import shutil

import keras
import numpy as np
import pytest
from cli_runs import COLUMNS, MODEL, command, done, state_of

from keras_rafm.cli.commands import train
from keras_rafm.cli.run_directory import RunDirectory

pytestmark = pytest.mark.one_tensorflow


def test_training_that_diverges_at_once(files, tmp_path):
    run = tmp_path / "run"
    result = command("train", *files, *COLUMNS, *MODEL, "--learning-rate", "1e30", "--idle-decay", 0, "--output", run)
    error = result.lines()[-1]
    assert result.code == 1
    assert "error of the program" not in result.err
    assert error.startswith("error: training diverged in epoch 1: ")
    assert f"; {run} has no checkpoint of a trained model. " in error
    assert "--learning-rate" in error
    assert (state_of(run)["epoch"], state_of(run)["step"]) == (0, 0)
    assert not (run / "report.json").exists()
    assert not (run / "best").exists()


@pytest.mark.parametrize("when", ["before", "after"])
def test_training_that_diverges_later_keeps_the_finite_checkpoint(trained, tmp_path, monkeypatch, when):
    """The weights become NaN before the first step, or in the last step of an epoch, whose losses are finite."""
    run, fit = tmp_path / "run", train.fit
    shutil.copytree(trained[0], run)

    def fit_and_diverge(run, model, *others):
        def spoil(**options):
            model.get_layer("rafm").bias_weight.assign(math.nan)
            return {"log_loss": 0.1}

        if when == "before":
            spoil()
        else:
            model.evaluate = spoil
        fit(run, model, *others)

    monkeypatch.setattr(train, "fit", fit_and_diverge)
    result = command("train", "--resume", "--epochs", 4, "--output", run)
    error = result.lines()[-1]
    assert result.code == 1
    assert error.startswith(
        "error: training diverged in epoch 4: " + ("`loss` is nan" if when == "before" else "weights of ")
    )
    assert f"the last checkpoint before it, after 3 epochs, is kept in {run}" in error
    assert state_of(run)["epoch"] == 3
    done("evaluate", run)
    for path in (*run.glob("checkpoints/*/model.keras"), *run.glob("best/*.keras")):
        assert all(np.isfinite(weight).all() for weight in keras.saving.load_model(path).get_weights())


def test_a_report_with_numbers_that_are_not_finite(tmp_path):
    run = RunDirectory(tmp_path)
    run.write_report({"splits": {"test": {"RaFM": {"rows": 3, "log_loss": float("nan"), "auc": 0.5}}}})
    assert json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail) == {
        "splits": {"test": {"RaFM": {"rows": 3, "log_loss": None, "auc": 0.5}}}
    }
