"""Distribution strategies on the devices that `conftest.py` makes of one CPU."""

import functools

import tensorflow as tf


@functools.cache
def strategy_of(devices: int) -> tf.distribute.Strategy:
    """One per number of devices: a second one on the same devices meets the collective operations of the first."""
    strategy = tf.distribute.MirroredStrategy([f"CPU:{index}" for index in range(devices)])
    assert strategy.num_replicas_in_sync == devices
    return strategy
