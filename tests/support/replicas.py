"""Distribution strategies on the logical devices that `conftest.py` creates on one CPU."""

import functools

import tensorflow as tf


@functools.cache
def strategy_of(devices: int) -> tf.distribute.Strategy:
    """Return one strategy per number of devices. Two strategies on the same devices would disturb each other."""
    strategy = tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(devices)])
    assert strategy.num_replicas_in_sync == devices
    return strategy
