import csv
import gzip
import json
import re
import shutil
import subprocess
import sys
import time

import fastavro
import numpy as np
import pyarrow.csv as pyarrow_csv
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from cli_runs import COLUMNS, MODEL, NUM_TEST, NUM_TRAIN, command, done, ended, process_of, write_csv
from sklearn.metrics import log_loss, roc_auc_score

from keras_rafm.cli.measuring import _auc, _metrics
from keras_rafm.cli.run_directory import RunDirectory
from keras_rafm.data import write_tfrecord
from keras_rafm.serving import load_model_card

pytestmark = pytest.mark.one_tensorflow


def predictions(run, data, *more):
    result = done("predict", run, "--data", data, *more)
    return np.array([line.split(",") for line in result.out.splitlines()[1:]], np.float32)


@pytest.fixture(scope="module")
def scores(trained, data):
    return predictions(trained[0], data / "test.csv")


@pytest.fixture(scope="module")
def labels(data):
    with (data / "test.csv").open(encoding="utf-8") as file:
        return np.array([int(row["clicked"]) for row in csv.DictReader(file)])


def test_help_answers_at_once_without_tensorflow():
    began = time.monotonic()
    code = "import sys; sys.argv = ['keras-rafm', '--help']\ntry:\n from keras_rafm.cli.main import main; main()\n"
    code += "finally:\n print([name for name in ('tensorflow', 'keras', 'numpy') if name in sys.modules])"
    own = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.monotonic() - began < 1
    assert own.stdout.splitlines()[-1] == "[]"
    began = time.monotonic()
    as_module = subprocess.run([sys.executable, "-m", "keras_rafm", "--help"], capture_output=True, text=True, check=True)
    assert time.monotonic() - began < 1
    assert as_module.stderr == ""
    for name in ("count", "plan", "train", "evaluate", "predict", "export", "describe", "examples:"):
        assert name in as_module.stdout


@pytest.mark.parametrize("name", ["count", "plan", "train", "evaluate", "predict", "export", "describe"])
def test_each_command_has_help_with_an_example(name):
    result = command(name, "--help")
    assert (result.code, "example:\n  keras-rafm " + name in result.out) == (0, True)


def test_without_a_command_the_help_is_shown():
    assert command().code == 2
    assert "TensorFlow" in done("--version").out


def test_count_plan_and_describe_of_a_schema(data, tmp_path):
    schema = tmp_path / "schema"
    result = done("count", "--train", data / "train.csv", *COLUMNS, "--output", schema, "--top", 2)
    assert "genres: " in result.out
    assert done("describe", schema).out in result.out
    planned = done("plan", "--schema", schema, "--ranks", "2,4", "--thresholds", 30, "--try", 10, "--try", 100)
    assert [line.split()[0] for line in planned.out.splitlines()[-3:]] == ["30", "10", "100"]
    again = done("plan", "--train", data / "train.csv", *COLUMNS, "--ranks", "2,4", "--thresholds", 30)
    assert planned.out.startswith(again.out)
    wrong = command("plan", "--schema", schema, "--ranks", "2,4", "--try", "1,2")
    assert (wrong.code, "error of the program" in wrong.err) == (2, False)


def test_counting_needs_no_labels(data):
    words = ("--train", data / "train.csv", "--column", "user=string_categorical")
    assert "user: u0 " in done("count", *words).out
    assert "RaFM" in done("plan", *words, "--ranks", "2,4").out


def test_plan_of_a_run(trained):
    planned = done("plan", "--schema", trained[0], "--ranks", "2,4", "--thresholds", 30)
    assert planned.out.strip() in done("describe", trained[0]).out
    result = command("plan", "--schema", trained[0] / "best")
    assert (result.code, "error of the program" in result.err) == (2, False)


def test_options_of_text_are_those_of_training_unless_others_are_given(data, tmp_path):
    """The run is of files without a header and with semicolons."""
    names = "user,item,genres,price,clicked"
    train, csv_lines = tmp_path / "train.csv", (data / "train.csv").read_text().splitlines()
    train.write_text("\n".join(csv_lines[1:]).replace(",", ";") + "\n")
    run = tmp_path / "run"
    words = ("--delimiter", ";", "--quote", "", "--column-names", names)
    done("train", "--train", train, *words, *COLUMNS, *MODEL, "--epochs", 1, "--output", run)
    schema = RunDirectory(run).schema()
    expected = predictions(run, train)
    assert len(expected) == NUM_TRAIN

    unlabelled = tmp_path / "unlabelled.csv"
    unlabelled.write_text("\n".join(line.rpartition(",")[0] for line in csv_lines[1:]).replace(",", ";") + "\n")
    np.testing.assert_array_equal(predictions(run, unlabelled, "--column-names", "user,item,genres,price"), expected)
    with_header = ("--column-names", "", "--delimiter", ",", "--quote", '"')
    np.testing.assert_array_equal(predictions(run, data / "train.csv", *with_header), expected)
    told = done("evaluate", run, "--data", train).out
    assert done("evaluate", run, "--data", data / "train.csv", *with_header).out == told

    (tmp_path / "t.tsv").write_text("\n".join(csv_lines).replace(",", "\t") + "\n")
    np.testing.assert_array_equal(predictions(run, tmp_path / "t.tsv", "--column-names", ""), expected)
    raw = schema.raw_dataset(data / "train.csv")
    write_tfrecord(tmp_path / "t.tfrecord", raw, schema)
    np.testing.assert_array_equal(predictions(run, tmp_path / "t.tfrecord"), expected)
    write_avro(tmp_path / "t.avro", csv_lines)
    np.testing.assert_array_equal(predictions(run, tmp_path / "t.avro"), expected)
    (tmp_path / "t.avro").rename(tmp_path / "renamed")
    np.testing.assert_array_equal(predictions(run, tmp_path / "renamed", "--format", "avro"), expected)
    result = command("predict", run, "--data", tmp_path / "t.tfrecord", "--delimiter", ";")
    assert (result.code, "are for csv and tsv" in result.err) == (2, True)


def test_marks_of_missing_values(data, tmp_path):
    """Those that the run was told of hold for what is predicted later, too."""
    lines = (data / "train.csv").read_text().splitlines()
    rows = [line.split(",") for line in lines]
    assert sum(row[3] == "" for row in rows) > 20
    marked = tmp_path / "marked.csv"
    marked.write_text("\n".join(",".join([*row[:3], row[3] or "NaN", row[4]]) for row in rows) + "\n")
    runs = tmp_path / "plain", tmp_path / "marked"
    words = (*COLUMNS, *MODEL, "--epochs", 1)
    refused = command("train", "--train", marked, *words, "--output", runs[1])
    assert (refused.code, "expected a number, received 'NaN'" in refused.err) == (2, True)
    told = ("--missing-values", r"NaN,\N")
    done("train", "--train", marked, *words, *told, "--output", runs[1])
    done("train", "--train", data / "train.csv", *words, "--output", runs[0])
    assert RunDirectory(runs[1]).schema().feature_names() == RunDirectory(runs[0]).schema().feature_names()
    np.testing.assert_array_equal(predictions(runs[1], marked), predictions(runs[1], data / "train.csv"))
    np.testing.assert_array_equal(predictions(runs[0], marked, *told), predictions(runs[0], data / "train.csv"))


def write_avro(path, csv_lines):
    kinds = {"user": "string", "item": "long", "genres": "string", "price": ["null", "double"], "clicked": "long"}
    read = {"string": str, "long": int}
    records = [
        {
            name: (float(text) if text else None) if name == "price" else read[kinds[name]](text)
            for name, text in zip(kinds, line.split(","), strict=True)
        }
        for line in csv_lines[1:]
    ]
    fields = [{"name": name, "type": kind} for name, kind in kinds.items()]
    with path.open("wb") as file:
        fastavro.writer(file, fastavro.parse_schema({"type": "record", "name": "row", "fields": fields}), records)


def test_avro_is_a_format_of_all_commands(data, tmp_path):
    write_avro(tmp_path / "train", (data / "train.csv").read_text().splitlines())
    own = done("count", "--train", tmp_path / "train", "--format", "avro", *COLUMNS)
    assert own.out == done("count", "--train", data / "train.csv", *COLUMNS).out


def test_what_help_says_of_patience_and_of_predictions():
    assert "needs --validation" in " ".join(command("train", "--help").out.split())
    said = " ".join(command("predict", "--help").out.split())
    assert "Rows that are skipped have no line in the output" in said
    assert "told by --format or --dataset, else as the names of the files tell" in said


def test_evaluate_tells_what_scikit_learn_does(trained, data, scores, labels):
    run, _ = trained
    reported = json.loads((run / "report.json").read_text())["splits"]["test"]["RaFM"]
    assert reported["rows"] == NUM_TEST
    assert reported["log_loss"] == pytest.approx(log_loss(labels, scores[:, 1].astype(np.float64)), abs=1e-6)
    assert reported["auc"] == pytest.approx(roc_auc_score(labels, scores[:, 0]), abs=1e-12)
    without, named = done("evaluate", run), done("evaluate", run, "--data", data / "test.csv", "--batch-size", 50)
    assert without.out == named.out.replace("data:", "test:")
    assert f"test: RaFM: log_loss {reported['log_loss']:.5f}, auc {reported['auc']:.5f} ({NUM_TEST} rows)" in without.out


def test_metrics_with_weights_and_ties_equal_scikit_learns():
    rng = np.random.default_rng(0)
    y, s, w = rng.integers(0, 2, 200).astype(float), rng.integers(-5, 5, 200) / 2, rng.random(200)
    probabilities = 1 / (1 + np.exp(-s))
    own = _metrics("classification", y, s, w)
    assert own["auc"] == pytest.approx(roc_auc_score(y, s, sample_weight=w))
    assert own["log_loss"] == pytest.approx(log_loss(y, probabilities, sample_weight=w))
    assert _metrics("regression", y, s, w)["rmse"] == pytest.approx(np.sqrt(np.average((y - s) ** 2, weights=w)))
    assert _auc(np.ones(3), np.arange(3.0), np.ones(3)) is None
    assert "auc" not in _metrics("classification", y, np.full(200, np.nan), w)


def test_rows_are_scored_alike_everywhere(trained, data, scores, tmp_path):
    """Through the command line from CSV, TSV, Parquet and TFRecord, in Python, and by the exported graph."""
    run = RunDirectory(trained[0])
    schema, model = run.schema(), run.model()
    raw = next(iter(schema.raw_dataset(data / "test.csv", training=False)))
    in_python = model.predict(schema(raw), batch_size=8192, verbose=0)[:, 0]
    np.testing.assert_array_equal(scores[:, 0], in_python)
    tsv, record, parquet = tmp_path / "t.tsv", tmp_path / "t.tfrecord", tmp_path / "t.parquet"
    tsv.write_text((data / "test.csv").read_text().replace(",", "\t"))
    write_tfrecord(record, schema.raw_dataset(data / "test.csv"), schema)
    pq.write_table(pyarrow_csv.read_csv(data / "test.csv"), parquet)
    for file, name in ((record, "tfrecord"), (parquet, "parquet"), (tsv, "tsv")):
        np.testing.assert_array_equal(predictions(run.path, file, "--format", name), scores)
    result = done("predict", run.path, "--data", data / "test.csv", "--output", tmp_path / "p.csv", "--batch-size", 7)
    assert result.out == ""
    lines = (tmp_path / "p.csv").read_text().splitlines()
    assert (lines[0], len(lines)) == ("score,probability", NUM_TEST + 1)
    # TensorFlow's sums over rows of factors round by how many rows there are.
    np.testing.assert_allclose(np.array([line.split(",") for line in lines[1:]], np.float32), scores, atol=1e-6)

    assert "exported to" in done("export", run.path, tmp_path / "model").out
    signatures = tf.saved_model.load(str(tmp_path / "model" / "1")).signatures
    served = signatures["raw"](**raw)
    # It sums up in another order than the model.
    np.testing.assert_allclose(served["probability"].numpy()[:, 0], scores[:, 1], rtol=0, atol=1e-6)
    np.testing.assert_allclose(served["score"].numpy()[:, 0], scores[:, 0], rtol=1e-5, atol=1e-5)
    records = tf.data.TFRecordDataset(str(record)).batch(8192)
    np.testing.assert_array_equal(signatures["examples"](examples=next(iter(records)))["score"], served["score"])
    for path in (tmp_path / "model", tmp_path / "model" / "1"):
        assert "genres  vocabulary" in done("describe", path).out
    assert done("describe", run.path).out.count("RaFM: log_loss") == 2


def test_export_options(trained, data, tmp_path):
    run, model = trained[0], tmp_path / "model"
    rows = ["--warm-up", data / "test.csv", "--warm-up-batch-sizes", "1,8"]
    options = ["--signatures", "raw,classify", "--precision", "int8", "--as-version", 7, "--keep", 2, *rows]
    assert f"exported to {model / '7'}" in done("export", run, model, *options).out
    card = load_model_card(model / "7")
    assert set(card["signatures"]) == {"serving_default", "raw", "classify"}
    assert card["precision"]["factors"] == "int8"
    report = RunDirectory(run).report()["splits"]
    assert card["metrics"]["test_log_loss"] == report["test"]["RaFM"]["log_loss"]
    requests = model / "7" / "assets.extra" / "tf_serving_warmup_requests"
    assert sum(1 for _ in tf.data.TFRecordDataset(str(requests))) == 6
    for _ in range(2):
        done("export", run, model, "--level", 1, "--signatures", "raw", "--keep", 2)
    assert sorted(path.name for path in model.iterdir()) == ["8", "9"]
    card = load_model_card(model / "9")
    assert (len(card["layers"][0]["ranks"]), set(card["signatures"])) == (1, {"serving_default", "raw"})
    (low,) = (values for name, values in report["test"].items() if name.startswith("RaFM-low"))
    assert card["metrics"]["test_log_loss"] == low["log_loss"]
    for wrong, message in (
        (["--as-version", "9"], "9 exists"),
        (["--signatures", "row"], "`signatures` must be among"),
        (["--level", "5"], "`level` must be in 1 … 2"),
        (["--warm-up", tmp_path / "no.csv"], "file not found: "),
    ):
        refused = command("export", run, model, *wrong)
        assert refused.code == 2
        assert message in refused.err
    assert sorted(path.name for path in model.iterdir()) == ["8", "9"]


def damaged(data, tmp_path):
    text = (data / "test.csv").read_bytes()
    lines = text.split(b"\n")

    def with_row(name, row):
        (tmp_path / name).write_bytes(b"\n".join([*lines[:10], row, *lines[10:]]))

    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(text)[:-200])
    with_row("fields.csv", b"a,b")
    with_row("utf8.csv", b"\xff\xfe,1,a,2,1")
    with_row("number.csv", b"u1,1,a,abc,1")
    with_row("integer.csv", b"u1,x,a,1,1")
    with_row("label.csv", b"u1,1,a,1,7")
    (tmp_path / "empty.csv").write_bytes(b"")
    (tmp_path / "header.csv").write_bytes(lines[0] + b"\n")
    (tmp_path / "columns.csv").write_bytes(text.replace(b"price", b"prize", 1))
    (tmp_path / "no.parquet").write_bytes(text)
    (tmp_path / "no.tfrecord").write_bytes(text)
    (tmp_path / "folder").mkdir()
    return tmp_path


DAMAGE = {
    "cut.csv.gz": "damaged or truncated gzip file",
    "fields.csv": "line 11: expected 5 fields",
    "utf8.csv": "line 11, column 'user': expected UTF-8",
    "number.csv": "line 11, column 'price': expected a number, received 'abc'",
    "integer.csv": "line 11, column 'item': expected an integer, received 'x'",
    "label.csv": "line 11, column 'clicked': expected one of the labels 0 and 1, or -1 and 1, received '7'",
    "empty.csv": "expected at least one row, found none",
    "header.csv": "expected at least one row, found none",
    "columns.csv": "expected a column 'price'",
    "no.parquet": "not a readable Parquet file",
    "no.tfrecord": "record 1: damaged, truncated or not a TFRecord",
    "folder": "contains no files",
    "absent.csv": "file not found: ",
    "absent*.csv": "no file matches the pattern",
    "x.xyz": "file not found: ",
}


@pytest.mark.parametrize(
    ("verb", "name"),
    [
        (verb, name) for verb in ("count", "evaluate") for name in DAMAGE if (verb, name) != ("count", "label.csv")
    ],  # not read
)
def test_damage_is_named_and_ends_with_2(trained, data, tmp_path, verb, name):
    file = damaged(data, tmp_path) / name
    words = ("count", "--train", file, *COLUMNS) if verb == "count" else ("evaluate", trained[0], "--data", file)
    result = command(*words)
    assert result.code == 2
    assert DAMAGE[name] in result.lines()[-1]
    assert name in result.lines()[-1]
    assert "error of the program" not in result.err


def test_damage_leaves_no_half_predictions(trained, data, tmp_path):
    folder = damaged(data, tmp_path)
    result = command("predict", trained[0], "--data", folder / "number.csv", "--output", tmp_path / "p.csv")
    assert result.code == 2
    assert not list(tmp_path.glob("*p.csv*"))
    for place in (tmp_path / "absent" / "p.csv", tmp_path / "folder"):
        result = command("predict", trained[0], "--data", data / "test.csv", "--output", place)
        assert (result.code, "--output must be a file" in result.err) == (2, True)
    result = done("predict", trained[0], "--data", folder / "number.csv", "--on-error", "skip")
    assert len(result.out.splitlines()) == NUM_TEST + 1
    assert "skipped rows: 1 (" in result.err


def test_damage_found_while_training_is_named(trained, data, tmp_path):
    """In validation data that are not held in memory: nobody reads them to their end before."""
    schema = RunDirectory(trained[0]).schema()
    raw = next(iter(schema.raw_dataset(data / "train.csv")))
    good, damaged = tmp_path / "good.tfrecord", tmp_path / "damaged.tfrecord"
    write_tfrecord(good, raw, schema)
    write_tfrecord(damaged, [raw] * 45, schema)
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1000] + bytes([whole[-1000] ^ 4]) + whole[-999:])
    files = ("--train", good, "--validation", damaged)
    result = command("train", *files, *COLUMNS, *MODEL, "--memory-limit-mb", 1, "--output", tmp_path / "run")
    assert result.code == 2
    assert re.search(r"damaged\.tfrecord, record 2\d{4}: damaged, truncated or not a TFRecord", result.lines()[-1])


def test_rows_and_files_left_out_are_told(data, tmp_path):
    text = (data / "train.csv").read_text().splitlines()
    text[5:5] = ["u1,1,a,1,7", "u1,1,a,1,"]
    full, empty = tmp_path / "a.csv", tmp_path / "b.csv"
    full.write_text("\n".join(text) + "\n")
    empty.write_text("")
    words = ("train", "--train", tmp_path / "*.csv", *COLUMNS, *MODEL, "--epochs", 1)
    refused = command(*words, "--train", data / "train.csv", empty, "--output", tmp_path / "one")
    assert (refused.code, f"{empty}: expected at least one row, found none" in refused.lines()[-1]) == (2, True)
    told = done(*words, "--output", tmp_path / "two", "--on-error", "skip").err
    expected = "column 'clicked': expected one of the labels 0 and 1, or -1 and 1, received"
    lines = (
        f"empty files: {empty}",
        f"skipped rows: 2 ({full}: 2)",
        *(f"{full}, line {n}, {expected}" for n in (6, 7)),
    )
    for line in lines:
        assert told.count(line) == 1


def test_rows_to_predict_need_no_labels(trained, data, scores, tmp_path):
    lines = (data / "test.csv").read_text().splitlines()
    (tmp_path / "new.csv").write_text("\n".join(line.rpartition(",")[0] for line in lines) + "\n")
    np.testing.assert_array_equal(predictions(trained[0], tmp_path / "new.csv"), scores)


def test_runs_that_are_none_or_damaged(trained, data, tmp_path):
    for verb in (["evaluate"], ["predict", "--data", "x"], ["describe"]):
        result = command(verb[0], tmp_path, *verb[1:])
        assert (result.code, "holds no run" in result.err) == (2, True)
    run = tmp_path / "run"
    shutil.copytree(trained[0], run)
    other = write_csv(tmp_path / "other.csv", 50, 9)
    done("count", "--train", other, *COLUMNS, "--output", tmp_path / "schema")
    shutil.copy(tmp_path / "schema" / "vocabulary" / "0.txt", run / "schema" / "vocabulary" / "0.txt")
    result = command("evaluate", run)
    assert (result.code, "damaged or belongs to another schema" in result.err) == (2, True)
    shutil.copytree(trained[0] / "schema", run / "schema", dirs_exist_ok=True)
    for file in run.glob("best/*.keras"):
        file.write_bytes(b"PK")
    result = command("evaluate", run)
    assert (result.code, "can't be read" in result.err) == (2, True)
    (run / "settings.json").write_text("{")
    result = command("describe", run)
    assert (result.code, "is damaged" in result.err) == (2, True)


def test_a_process_keeps_stderr_to_bars(trained, data):
    result = ended(process_of("evaluate", trained[0]))
    assert result.code == 0
    assert result.lines() == []
    assert result.out == done("evaluate", trained[0]).out


def test_a_reader_that_goes_away_is_no_error(trained):
    own = process_of("describe", trained[0])
    own.stdout.close()
    assert own.wait(timeout=120) == 0
    assert "Traceback" not in own.stderr.read()
    own.stderr.close()
