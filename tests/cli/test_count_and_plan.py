"""The commands `count` and `plan`."""

import pytest
from cli_runs import COLUMNS, done, refused, write_avro

pytestmark = pytest.mark.one_tensorflow


def test_count_plan_and_describe_agree_on_a_schema(data, tmp_path):
    schema = tmp_path / "schema"
    result = done("count", "--train", data / "train.csv", *COLUMNS, "--output", schema, "--top", 2)
    assert "genres: " in result.out
    assert done("describe", schema).out in result.out
    planned = done("plan", "--schema", schema, "--ranks", "2,4", "--thresholds", 30, "--try", 10, "--try", 100)
    assert [line.split()[0] for line in planned.out.splitlines()[-3:]] == ["30", "10", "100"]
    again = done("plan", "--train", data / "train.csv", *COLUMNS, "--ranks", "2,4", "--thresholds", 30)
    assert planned.out.startswith(again.out)
    refused("plan", "--schema", schema, "--ranks", "2,4", "--try", "1,2")


def test_counting_needs_no_labels(data):
    words = ("--train", data / "train.csv", "--column", "user=string_categorical")
    assert "user: u0 " in done("count", *words).out
    assert "RaFM" in done("plan", *words, "--ranks", "2,4").out


def test_plan_of_a_run(trained):
    planned = done("plan", "--schema", trained[0], "--ranks", "2,4", "--thresholds", 30)
    assert planned.out.strip() in done("describe", trained[0]).out
    refused("plan", "--schema", trained[0] / "best")


def test_counting_avro(data, tmp_path):
    write_avro(tmp_path / "train", (data / "train.csv").read_text().splitlines())
    counted = done("count", "--train", tmp_path / "train", "--format", "avro", *COLUMNS)
    assert counted.out == done("count", "--train", data / "train.csv", *COLUMNS).out
