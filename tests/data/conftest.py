import pytest


@pytest.fixture(autouse=True)
def _fresh_keras_state() -> None:
    """Nothing here makes Keras objects: leave out the clearing, which takes longer than these tests do."""
