"""Checks of tensors, which also run inside a graph."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf


def require(condition: tf.Tensor, message: str, offending: Callable[[], tf.Tensor]) -> list[tf.Tensor]:
    """Raise `tf.errors.InvalidArgumentError` with the message and the offending value unless the condition holds.

    Args:
        condition: A bool scalar.
        message: Says what was expected and where. The offending value is appended to it.
        offending: Computes the value to name. It runs only if the condition fails.

    Returns:
        The checks to give to `after_checks` or `tf.control_dependencies`. Without these, the rest of the graph could run
        first: it could raise a less clear error, or update weights from a batch that is about to be refused.
    """
    if tf.executing_eagerly():
        if not condition:
            raise tf.errors.InvalidArgumentError(None, None, f"{message} {offending().numpy()}")
        return []

    def fail() -> tf.Tensor:
        with tf.control_dependencies([tf.debugging.Assert(False, [message, offending()])]):
            return tf.constant(False)

    return [tf.cond(condition, lambda: tf.constant(True), fail)]


def after_checks(checks: list[tf.Tensor], tensor: tf.Tensor) -> tf.Tensor:
    """Return the tensor, such that the graph uses it only after the checks have passed.

    Args:
        checks: The results of `require`.
        tensor: Any tensor.
    """
    with tf.control_dependencies(checks):
        return tf.identity(tensor)
