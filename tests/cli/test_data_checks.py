"""Errors and warnings of `train` before it counts and trains."""

import pytest
from cli_runs import COLUMNS, MODEL, done, refused

from keras_rafm.cli.commands import count, train

pytestmark = pytest.mark.one_tensorflow


def warnings_of(result):
    """Return the warnings that a command printed."""
    return [line.removeprefix("warning: ") for line in result.lines() if line.startswith("warning: ")]


@pytest.fixture
def never_counting(monkeypatch):
    """Fail if a command counts."""

    def adapt(*arguments):
        raise AssertionError("the command counts")

    monkeypatch.setattr(count, "adapt", adapt)
    monkeypatch.setattr(train, "adapt", adapt)


@pytest.mark.usefixtures("never_counting")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--thresholds", "-3"], "--thresholds must be non-negative and increasing. Received: -3"),
        (["--learning-rate", 4], "`idle_decay` times `learning_rate` must be less than 1"),
        (["--idle-decay", -1], "--idle-decay must be a finite number of at least 0. Received: -1.0"),
        (["--optimizer", "SparseFtrl", "--idle-decay", 1], "SparseFtrl has no `idle_decay`"),
        (["--factors-l2", -1], "--factors-l2 must be a finite number of at least 0"),
        (["--dependent-loss-weight", -1], "--dependent-loss-weight must be"),
        (["--label", "klicked"], "expected a column 'klicked'"),
        (["--sample-weight", "w"], "expected a column 'w'"),
        (["--column", "x=float"], "expected a column 'x'"),
        (["--validation", "HEADER"], "expected a column 'clicked'"),
        (["--on-error", "skip", "--validation", "HEADER"], "expected a column 'clicked'"),
    ],
)
def test_mistakes_are_found_before_counting(data, tmp_path, words, message):
    (tmp_path / "header.csv").write_text("user,item,genres,price\nu1,1,a,1\n")
    words = [tmp_path / "header.csv" if word == "HEADER" else word for word in words]
    result = refused("train", "--train", data / "train.csv", *COLUMNS, *MODEL, *words, "--output", tmp_path / "a" / "run")
    assert result.lines()[-1].startswith("error: ")
    assert message in result.lines()[-1]
    assert not (tmp_path / "a").exists()


@pytest.mark.usefixtures("never_counting")
def test_thresholds_to_compare_are_checked_before_counting(data):
    result = refused("plan", "--train", data / "train.csv", *COLUMNS, "--ranks", "2,4", "--try", 5, "--try", -5)
    assert result.lines() == ["error: --try must be non-negative and increasing. Received: -5"]


def test_warnings(data, tmp_path):
    """Of a name that `export` refuses, columns without values, labels of one class, and weights of 0."""
    users = [line.split(",")[0] for line in (data / "train.csv").read_text().splitlines()[1:]]
    file, run = tmp_path / "data.csv", tmp_path / "run"
    file.write_text("\n".join(["user-id,item,genres,price,clicked,w", *(f"{user},,,,1,0" for user in users)]) + "\n")
    columns = [word.replace("user=", "user-id=") for word in COLUMNS]
    result = done("train", "--train", file, *columns, *MODEL, "--sample-weight", "w", "--epochs", 1, "--output", run)
    expected = [
        "the model can be trained but not exported. ",
        *(f"column '{name}' has no value in any row of the training data" for name in ("item", "genres", "price")),
        "all labels of the training data are 1",
        "the sample weights of the train data are all 0",
    ]
    warned = warnings_of(result)
    assert [line.startswith(start) for line, start in zip(warned, expected, strict=True)] == [True] * len(expected)
    assert warned[0].endswith("Received: ['user-id']")
    assert refused("export", run, tmp_path / "model").lines()[-1].endswith("Received: ['user-id']")
