"""The commands `export` and `describe`."""

import numpy as np
import pyarrow.csv as pyarrow_csv
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from cli_runs import NUM_TEST, done, predictions, process_of, refused

from keras_rafm.cli.commands.run import Run
from keras_rafm.data import write_tfrecord
from keras_rafm.serving import load_model_card

pytestmark = pytest.mark.one_tensorflow


def test_scores_are_the_same_everywhere(trained, data, scores, tmp_path):
    """On the command line from CSV, TSV, Parquet and TFRecord, in Python, and from the exported model."""
    run = Run(trained[0])
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
    # The rounding of TensorFlow's sums over factors depends on the number of rows.
    np.testing.assert_allclose(np.array([line.split(",") for line in lines[1:]], np.float32), scores, atol=1e-6)

    assert "exported to" in done("export", run.path, tmp_path / "model").out
    signatures = tf.saved_model.load(str(tmp_path / "model" / "1")).signatures
    served = signatures["raw"](**raw)
    # The exported model sums in another order than the model.
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
    report = Run(run).report()["splits"]
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
        (["--signatures", "row"], "--signatures must be among"),
        (["--level", "5"], "--level must be in 1 … 2"),
        (["--warm-up", tmp_path / "no.csv"], "file not found"),
    ):
        assert message in refused("export", run, model, *wrong).err
    assert sorted(path.name for path in model.iterdir()) == ["8", "9"]


def test_a_closed_pipe_is_not_an_error(trained):
    process = process_of("describe", trained[0])
    process.stdout.close()
    assert process.wait(timeout=120) == 0
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()


def test_describing_a_run(trained):
    out = done("describe", trained[0]).out
    assert out.startswith("settings: train (")
    assert "\nstopped after 3 epochs; best: epoch " in out
