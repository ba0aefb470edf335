"""The examples, run as a user runs them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from real_data import FRAPPE, needs_frappe

import keras_rafm as kr

pytestmark = pytest.mark.one_tensorflow

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    folder = tmp_path_factory.mktemp("libfm")
    samples = kr.data.synthetic(3000, num_fields=4, features_per_field=50, seed=1).samples
    arguments: list[object] = []
    for name, part in (("train", slice(0, 2000)), ("validation", slice(2000, 2500)), ("test", slice(2500, 3000))):
        kr.data.write_libfm(folder / f"{name}.libfm.gz", samples[part])
        arguments += [f"--{name}", folder / f"{name}.libfm.gz"]
    return arguments


def test_train_libfm_reports_and_exports(files: list[object], tmp_path: Path) -> None:
    report, exported = tmp_path / "report.json", tmp_path / "model"
    result = run(
        "examples/train_libfm.py", *files, "--ranks", "2,4,8", "--thresholds", "20,100", "--compare", "--seeds", 2,
        "--epochs", 2, "--batch-size", 500, "--report", report, "--export", exported,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    rows = json.loads(report.read_text())
    assert [(row["model"], row["seed"]) for row in rows] == [
        (model, seed) for seed in (0, 1) for model in ("fm-2", "fm-8", "rafm", "rafm-low")
    ]
    by_model = {row["model"]: row for row in rows if row["seed"] == 0}
    assert by_model["fm-2"]["parameters"] == by_model["rafm-low"]["parameters"] == 200 * 2 + 200 + 1
    assert by_model["fm-8"]["parameters"] == 200 * 8 + 200 + 1
    for row in rows:
        assert set(row) == {"model", "seed", "test_log_loss", "test_auc", "parameters", "seconds_per_epoch"}
        assert 0 < row["test_log_loss"] < 1
        assert 0 < row["test_auc"] < 1
        assert row["seconds_per_epoch"] > 0
    assert [path.name for path in exported.iterdir()] == ["1"]
    for row in rows:
        assert row["model"] in result.stdout


def test_train_libfm_takes_samples_of_different_length_with_values(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arguments: list[object] = []
    for name, width in (("train", 5), ("validation", 3), ("test", 7)):
        path = tmp_path / name
        path.write_text(
            "".join(
                f"{rng.integers(0, 2)} " + " ".join(f"{i}:{rng.random():.3f}" for i in rng.integers(0, 30, width)) + "\n"
                for _ in range(50)
            )
        )
        arguments += [f"--{name}", path]
    result = run("examples/train_libfm.py", *arguments, "--ranks", "2,4", "--thresholds", 5, "--epochs", 1)
    assert result.returncode == 0, result.stderr
    assert "rafm-low" in result.stdout


def test_train_libfm_names_file_and_line_of_bad_input(files: list[object], tmp_path: Path) -> None:
    bad = tmp_path / "bad.libfm"
    bad.write_text("1 3:1 4:1\n0 3:1 x:1\n")
    result = run("examples/train_libfm.py", "--train", bad, *files[2:])
    assert result.returncode == 1
    assert "bad.libfm" in result.stderr
    assert "line 2" in result.stderr or ":2" in result.stderr
    assert "Traceback" not in result.stderr


@needs_frappe
def test_frappe_short_run_is_better_than_a_plain_fm_trained_to_the_end(tmp_path: Path) -> None:
    """Train for 25 epochs with the defaults. The README has the full run with three seeds, whose report CI checks."""
    report = tmp_path / "report.json"
    arguments: list[object] = []
    for name, file in (("train", "train.reconstructed"), ("validation", "validation"), ("test", "test")):
        arguments += [f"--{name}", FRAPPE / f"frappe.{file}.libfm.gz"]
    result = run(
        "examples/train_libfm.py", *arguments, "--ranks", "64,256", "--thresholds", 256, "--epochs", 25, "--report", report
    )
    assert result.returncode == 0, result.stderr
    by_model = {row["model"]: row for row in json.loads(report.read_text())}
    assert by_model["rafm"]["test_log_loss"] < 0.146  # the final loss of FM-256 with the same settings
    assert by_model["rafm-low"]["test_log_loss"] < 0.158  # the final loss of FM-64 with the same settings
    assert by_model["rafm"]["parameters"] == 456_832 + 5_382 + 1
