import contextlib
import tempfile

import pytest
from csv_files import parsed_without_pyarrow
from table_files import SUFFIXES, TABLE, table_schema, write_table

from keras_rafm.data.known import known_dataset


@pytest.fixture(autouse=True)
def _fresh_keras_state() -> None:
    """Nothing here makes Keras objects: leave out the clearing, which takes longer than these tests do."""


@pytest.fixture
def source(tmp_path):
    return tmp_path / "source"


@pytest.fixture
def load(tmp_path):
    def load(name, path=None, **options):
        return known_dataset(name, path, cache_dir=tmp_path / "cache", **options)

    return load


@pytest.fixture
def write(tmp_path):
    """A function that writes text or bytes to a file and returns its path."""

    def write(content, name="some.txt"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """The path of a file that all examples of a property-based test overwrite."""
    return str(tmp_path_factory.mktemp("scratch") / "file.csv")


@pytest.fixture
def without_pyarrow():
    """The package's own parser reads all CSV."""
    with parsed_without_pyarrow():
        yield


@pytest.fixture(scope="module", params=["with pyarrow", "without pyarrow"])
def with_and_without_pyarrow(request):
    """A test runs twice: CSV is read by pyarrow where it can be, and by the package's own parser alone."""
    with contextlib.nullcontext() if request.param == "with pyarrow" else parsed_without_pyarrow():
        yield


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """The paths of the same table in every format, by the ends of their names."""
    folder = tmp_path_factory.mktemp("table")
    paths = {suffix: str(folder / f"table.{suffix}") for suffix in SUFFIXES}
    for path in paths.values():
        write_table(path, TABLE, table_schema())
    return paths


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder for files. The directory for temporary files is inside it, and must be empty after the test."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    yield tmp_path
    assert not list(temporary.iterdir())


@pytest.fixture
def written(folder):
    """A function that writes bytes to a new file in `folder` and returns its path."""
    numbers = iter(range(10_000))

    def write(content, name=None):
        path = folder / (name or f"rows{next(numbers)}.csv")
        path.write_bytes(content)
        return str(path)

    return write
