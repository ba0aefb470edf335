"""Set-up of every test."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import hypothesis
import keras
import pytest
import tensorflow as tf

# Two devices on one CPU, for tests of distribution strategies. This must come before the first operation.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration() for _ in range(2)]
)

# Shows the values in failed asserts of tests that two files share. This must come before they are imported.
pytest.register_assert_rewrite("client_tests")

# Every run uses the same examples, so that failures can be reproduced.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=25)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _fresh_keras_state() -> None:
    """Reset Keras, so that names, seeds and graphs of a test don't depend on earlier tests."""
    keras.backend.clear_session(free_memory=False)  # collecting garbage takes longer than a short test
    keras.utils.set_random_seed(0)
