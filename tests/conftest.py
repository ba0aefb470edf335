"""Set-up that every test runs under."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import hypothesis
import keras
import pytest
import tensorflow as tf

# Two devices on one CPU, so that distribution strategies have something to distribute over. Must come before any operation.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration() for _ in range(2)]
)

# The same examples in every run: a failure can be repeated, a pass is not luck.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, max_examples=25)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _fresh_keras_state() -> None:
    """Names, seeds and graphs of one test don't depend on the tests before it."""
    keras.backend.clear_session(free_memory=False)  # collecting garbage would take most of the time of a short test
    keras.utils.set_random_seed(0)
