"""The commands `evaluate` and `predict`."""

import csv

import numpy as np
import pytest
from cli_runs import COLUMNS, MODEL, NUM_TEST, NUM_TRAIN, done, ended, predictions, process_of, refused, write_avro
from sklearn.metrics import log_loss, roc_auc_score

from keras_rafm.cli.commands.measuring import auc, metrics_of
from keras_rafm.cli.commands.run import Run
from keras_rafm.data import write_tfrecord

pytestmark = pytest.mark.one_tensorflow


def test_options_of_text_files_are_those_of_training_by_default(data, tmp_path):
    """The training data have no header and are delimited by semicolons."""
    names = "user,item,genres,price,clicked"
    train, csv_lines = tmp_path / "train.csv", (data / "train.csv").read_text().splitlines()
    train.write_text("\n".join(csv_lines[1:]).replace(",", ";") + "\n")
    run = tmp_path / "run"
    words = ("--delimiter", ";", "--quote", "", "--column-names", names)
    done("train", "--train", train, *words, *COLUMNS, *MODEL, "--epochs", 1, "--output", run)
    schema = Run(run).schema()
    expected = predictions(run, train)
    assert len(expected) == NUM_TRAIN

    unlabelled = tmp_path / "unlabelled.csv"
    unlabelled.write_text("\n".join(line.rpartition(",")[0] for line in csv_lines[1:]).replace(",", ";") + "\n")
    np.testing.assert_array_equal(predictions(run, unlabelled, "--column-names", "user,item,genres,price"), expected)
    with_header = ("--column-names", "", "--delimiter", ",", "--quote", '"')
    np.testing.assert_array_equal(predictions(run, data / "train.csv", *with_header), expected)
    evaluated = done("evaluate", run, "--data", train).out
    assert done("evaluate", run, "--data", data / "train.csv", *with_header).out == evaluated

    (tmp_path / "t.tsv").write_text("\n".join(csv_lines).replace(",", "\t") + "\n")
    np.testing.assert_array_equal(predictions(run, tmp_path / "t.tsv", "--column-names", ""), expected)
    raw = schema.raw_dataset(data / "train.csv")
    write_tfrecord(tmp_path / "t.tfrecord", raw, schema)
    np.testing.assert_array_equal(predictions(run, tmp_path / "t.tfrecord"), expected)
    write_avro(tmp_path / "t.avro", csv_lines)
    np.testing.assert_array_equal(predictions(run, tmp_path / "t.avro"), expected)
    (tmp_path / "t.avro").rename(tmp_path / "renamed")
    np.testing.assert_array_equal(predictions(run, tmp_path / "renamed", "--format", "avro"), expected)
    result = refused("predict", run, "--data", tmp_path / "t.tfrecord", "--delimiter", ";")
    assert "are for the formats csv and tsv" in result.err


def test_missing_values_of_training_apply_to_predictions(data, tmp_path):
    lines = (data / "train.csv").read_text().splitlines()
    rows = [line.split(",") for line in lines]
    assert sum(row[3] == "" for row in rows) > 20
    marked = tmp_path / "marked.csv"
    marked.write_text("\n".join(",".join([*row[:3], row[3] or "NaN", row[4]]) for row in rows) + "\n")
    runs = tmp_path / "plain", tmp_path / "marked"
    words = (*COLUMNS, *MODEL, "--epochs", 1)
    result = refused("train", "--train", marked, *words, "--output", runs[1])
    assert "expected a number, received 'NaN'" in result.err
    flags = ("--missing-values", r"NaN,\N")
    done("train", "--train", marked, *words, *flags, "--output", runs[1])
    done("train", "--train", data / "train.csv", *words, "--output", runs[0])
    assert Run(runs[1]).schema().feature_names() == Run(runs[0]).schema().feature_names()
    np.testing.assert_array_equal(predictions(runs[1], marked), predictions(runs[1], data / "train.csv"))
    np.testing.assert_array_equal(predictions(runs[0], marked, *flags), predictions(runs[0], data / "train.csv"))


def test_metrics_equal_those_of_scikit_learn(trained, data, scores):
    with (data / "test.csv").open(encoding="utf-8") as file:
        labels = np.array([int(row["clicked"]) for row in csv.DictReader(file)])
    run, _ = trained
    reported = Run(run).report()["splits"]["test"]["RaFM"]
    assert reported["rows"] == NUM_TEST
    assert reported["log_loss"] == pytest.approx(log_loss(labels, scores[:, 1].astype(np.float64)), abs=1e-6)
    assert reported["auc"] == pytest.approx(roc_auc_score(labels, scores[:, 0]), abs=1e-12)
    by_default, named = done("evaluate", run), done("evaluate", run, "--data", data / "test.csv", "--batch-size", 50)
    assert by_default.out == named.out.replace("data:", "test:")
    assert f"test: RaFM: log_loss {reported['log_loss']:.5f}, auc {reported['auc']:.5f} ({NUM_TEST} rows)" in by_default.out


def test_metrics_with_weights_and_ties_equal_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    y, s, w = rng.integers(0, 2, 200).astype(float), rng.integers(-5, 5, 200) / 2, rng.random(200)
    probabilities = 1 / (1 + np.exp(-s))
    metrics = metrics_of("classification", y, s, w)
    assert metrics["auc"] == pytest.approx(roc_auc_score(y, s, sample_weight=w))
    assert metrics["log_loss"] == pytest.approx(log_loss(y, probabilities, sample_weight=w))
    assert metrics_of("regression", y, s, w)["rmse"] == pytest.approx(np.sqrt(np.average((y - s) ** 2, weights=w)))
    assert auc(np.ones(3), np.arange(3.0), np.ones(3)) is None
    assert "auc" not in metrics_of("classification", y, np.full(200, np.nan), w)


def test_rows_to_predict_need_no_labels(trained, data, scores, tmp_path):
    lines = (data / "test.csv").read_text().splitlines()
    (tmp_path / "new.csv").write_text("\n".join(line.rpartition(",")[0] for line in lines) + "\n")
    np.testing.assert_array_equal(predictions(trained[0], tmp_path / "new.csv"), scores)


def test_a_process_prints_only_bars_to_stderr(trained, data):
    result = ended(process_of("evaluate", trained[0]))
    assert result.code == 0
    assert result.lines() == []
    assert result.out == done("evaluate", trained[0]).out
