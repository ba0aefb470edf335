import pytest

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
