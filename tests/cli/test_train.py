"""The command `train`."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cli_runs import COLUMNS, MODEL, NUM_TEST, NUM_TRAIN, NUM_VALIDATION, command, done, refused, rows, state_of
from pyarrow import csv
from real_data import CRITEO, FRAPPE, ML_100K, YELP, needs

from keras_rafm.cli.run_directory import RunDirectory
from keras_rafm.data import Schema, write_tfrecord

pytestmark = pytest.mark.one_tensorflow

DATASETS = {
    "frappe": (FRAPPE, []),
    "movielens-100k": (ML_100K, []),
    "yelp": (YELP, []),
    "criteo": (CRITEO, ["--min-count", 2]),
}


def test_a_run_prints_and_saves_its_metrics(trained):
    run, result = trained
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert set(report["splits"]) == {"validation", "test"}
    assert [metrics["rows"] for metrics in report["splits"]["test"].values()] == [NUM_TEST] * 2
    assert report["splits"]["validation"]["RaFM"]["rows"] == NUM_VALIDATION
    assert report["splits"]["test"]["RaFM"]["auc"] > 0.6
    state = state_of(run)
    assert (state["epoch"], state["ended"]) == (3, True)
    assert report["epoch"] == state["best_epoch"]
    for line in (
        "user    vocabulary",
        "RaFM-low (rank 2)",
        f"test: RaFM: log_loss {report['splits']['test']['RaFM']['log_loss']:.5f}",
    ):
        assert line in result.out
    assert "epoch 3/3" in result.err
    assert result.lines() == []


@pytest.mark.parametrize("ending", ["parquet", "tfrecord.gz"])
def test_other_formats_give_the_same_model(data, trained, tmp_path, ending):
    schema = Schema(
        {
            "user": "string_categorical",
            "item": "integer_categorical",
            "genres": Schema.string_categorical(separator="|", combiner="mean"),
            "price": "float",
        },
        label="clicked",
    )
    flags = []
    for split in ("train", "validation", "test"):
        path = tmp_path / f"{split}.{ending}"
        if ending == "parquet":
            pq.write_table(csv.read_csv(data / f"{split}.csv"), path)
        else:
            write_tfrecord(path, schema.raw_dataset(data / f"{split}.csv"), schema)
        flags += [f"--{split}", path]
    done("train", *flags, *COLUMNS, *MODEL, "--epochs", 3, "--learning-rate", 0.02, "--output", tmp_path / "run")
    splits, expected = (RunDirectory(run).report()["splits"] for run in (tmp_path / "run", trained[0]))
    for split in expected:
        assert splits[split]["RaFM"] == pytest.approx(expected[split]["RaFM"], abs=1e-4)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_libfm_files(tmp_path, task):
    for seed, split in enumerate(("train", "validation")):
        lines = [f"{2 * label - 1} {user[1:]}:1 {20 + item}:0.5" for user, item, _, _, label in rows(200, seed)]
        (tmp_path / f"{split}.libfm").write_text("\n".join(lines) + "\n")
    files = [word for split in ("train", "validation") for word in (f"--{split}", tmp_path / f"{split}.libfm")]
    done("train", *files, *MODEL, "--task", task, "--epochs", 2, "--output", tmp_path / "run")
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert set(report["splits"]["validation"]["RaFM"]) == {
        "rows",
        *(["rmse"] if task == "regression" else ["log_loss", "auc"]),
    }
    result = refused("train", *files, "--label", "y", "--output", tmp_path / "other")
    assert "libFM files have fixed columns" in result.err


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs(folder)) for name, (folder, _) in DATASETS.items()])
def test_known_datasets_train_in_one_command(tmp_path_factory, tmp_path, name):
    folder, more = DATASETS[name]
    words = ("--dataset", name, "--path", folder, "--cache-dir", tmp_path / "cache", *more)
    result = done(
        "train", *words, "--ranks", "2,4", "--epochs", 1, "--steps-per-execution", 16, "--output", tmp_path / "run"
    )
    assert "test: RaFM:" in result.out
    assert state_of(tmp_path / "run")["epoch"] == 1


def test_without_validation_the_last_epoch_is_the_best(data, tmp_path):
    words = ("--train", data / "train.csv", *COLUMNS, *MODEL, "--epochs", 2, "--patience", 1)
    result = done("train", *words, "--output", tmp_path / "run")
    assert "the model of epoch 2" in result.out
    assert not list((tmp_path / "run").glob("best/*"))
    assert "name the files with --data" in refused("evaluate", tmp_path / "run").err


def test_tensorboard_writes_events(data, tmp_path):
    lines = (data / "train.csv").read_text().splitlines()
    weighted = tmp_path / "weighted.csv"
    weighted.write_text("\n".join([lines[0] + ",w", *(line + ",0.5" for line in lines[1:])]) + "\n")
    words = ("--train", weighted, "--validation", weighted, *COLUMNS, *MODEL, "--sample-weight", "w")
    done("train", *words, "--epochs", 1, "--tensorboard", "--output", tmp_path / "run")
    assert list((tmp_path / "run" / "logs").rglob("events.out.tfevents*"))


def test_skipped_rows_are_counted_once(data, tmp_path):
    lines = (data / "train.csv").read_text().splitlines()
    bad = tmp_path / "bad.csv"
    bad.write_text("\n".join([*lines[:5], "a,b", "u1,1,a,0.5,yes", *lines[5:]]) + "\n")
    words = ("--train", bad, *COLUMNS, *MODEL, "--epochs", 1, "--on-error", "skip", "--output", tmp_path / "run")
    result = done("train", *words)
    err = "\n".join(result.lines())
    assert err.count("skipped rows") == 1
    assert f"skipped rows: 2 ({bad}: 2)" in err
    assert f"{bad}, line 6: expected 5 fields" in err
    assert re.search(rf"{bad}, line 7, column 'clicked': expected .*, received 'yes'", err)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name the data: --train with files, or --dataset"),
        (["--train", "x.csv"], "x.csv"),
        (["--dataset", "frape"], "did you mean 'frappe'?"),
        (["--dataset", "frappe", "--label", "x"], "leave out --label"),
        (["--dataset", "frappe", "--column", "x=float"], "leave out --column"),
        (["--dataset", "frappe", "--quote", "x"], "leave out --quote"),
        (["--train", "TRAIN"], "declare the columns"),
        (["--train", "TRAIN", "--column", "user=string_categorical"], "name the column of labels: --label"),
        (["--train", "TRAIN", "--min-count", "3"], "--min-count is for a known dataset"),
        (["--train", "TRAIN", *COLUMNS, "--column", "x=string"], "column 'x': the kind must be one of"),
        (
            ["--train", "TRAIN", *COLUMNS, "--column", "x=float,b=3"],
            "column 'x': float has no option 'b'. Its options",
        ),
        (["--train", "TRAIN", *COLUMNS, "--column", "x=string_hashed"], "string_hashed requires the option 'num_bins'"),
        (["--train", "TRAIN", *COLUMNS, "--column", "x=float"], "expected a column 'x'"),
        (["--train", "TRAIN", *COLUMNS, "--deterministic"], "start the command in a process of its own"),
    ],
)
def test_a_refused_command_leaves_nothing(data, tmp_path, words, message):
    words = [data / "train.csv" if word == "TRAIN" else word for word in words]
    assert message in refused("train", *words, "--output", tmp_path / "run").err
    assert not (tmp_path / "run").exists()


def test_an_error_of_the_program(data, tmp_path, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("broken")

    monkeypatch.setattr("keras_rafm.cli.commands.train.source_of", broken)
    result = command("train", "--train", data / "train.csv", *COLUMNS, "--output", tmp_path / "run")
    assert (result.code, result.lines()[-1]) == (1, "error: broken")
    assert "--debug" in result.err
    assert "Traceback" in command("train", "--debug", "--train", "x", "--output", tmp_path / "run").err


def test_labels_that_are_strings_of_digits(data, tmp_path):
    as_text = csv.ConvertOptions(column_types={"clicked": pa.string()})
    pq.write_table(csv.read_csv(data / "train.csv", convert_options=as_text), tmp_path / "train.parquet")
    words = ("train", "--train", tmp_path / "train.parquet", *COLUMNS, *MODEL, "--epochs", 1, "--output", tmp_path / "run")
    result = refused(*words, "--positive-label", "1")
    assert "column 'clicked': expected float32, found the type string" in result.err
    done(*words, "--positive-label", '"1"')
    out = done("evaluate", tmp_path / "run", "--data", tmp_path / "train.parquet").out
    assert f"({NUM_TRAIN} rows)" in out
    assert "auc nan" not in out
    assert "auc" in out
