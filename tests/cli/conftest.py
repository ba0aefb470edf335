import pytest
from cli_runs import COLUMNS, MODEL, done, predictions, write_splits


@pytest.fixture(autouse=True)
def _fresh_keras_state() -> None:
    """Override the fixture that clears the state of Keras: each command makes a new model and sets its seed."""


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A folder with train.csv, validation.csv and test.csv."""
    folder = tmp_path_factory.mktemp("cli_data")
    write_splits(folder)
    return folder


@pytest.fixture(scope="session")
def files(data):
    """Flags that name the files of all splits."""
    return [word for split in ("train", "validation", "test") for word in (f"--{split}", str(data / f"{split}.csv"))]


@pytest.fixture(scope="session")
def trained(files, tmp_path_factory):
    """The directory of a finished run, and the result of the command."""
    run = tmp_path_factory.mktemp("cli_run") / "run"
    result = done("train", *files, *COLUMNS, *MODEL, "--epochs", 3, "--learning-rate", 0.02, "--output", run)
    return run, result


@pytest.fixture(scope="session")
def scores(trained, data):
    """Scores and probabilities of the test data, `[NUM_TEST, 2]`."""
    return predictions(trained[0], data / "test.csv")
