import pytest
from cli_runs import COLUMNS, MODEL, done, files_of_splits


@pytest.fixture(autouse=True)
def _fresh_keras_state() -> None:
    """Commands make a model each and set its seed: leave out the clearing."""


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A folder with train.csv, validation.csv and test.csv."""
    folder = tmp_path_factory.mktemp("cli_data")
    files_of_splits(folder)
    return folder


@pytest.fixture(scope="session")
def files(data):
    return [word for split in ("train", "validation", "test") for word in (f"--{split}", str(data / f"{split}.csv"))]


@pytest.fixture(scope="session")
def trained(files, tmp_path_factory):
    """A run that ended, and what the command said."""
    run = tmp_path_factory.mktemp("cli_run") / "run"
    result = done("train", *files, *COLUMNS, *MODEL, "--epochs", 3, "--learning-rate", 0.02, "--output", run)
    return run, result
