"""Checks that run inside a graph."""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf


def require(condition: tf.Tensor, message: str, offending: Callable[[], tf.Tensor]) -> list[tf.Tensor]:
    """Raise `tf.errors.InvalidArgumentError` with the message and the offending value unless the condition holds.

    Args:
        condition: Bool scalar.
        message: What was expected and where; the offending value is put behind it.
        offending: Makes the value to name. It is only computed when the condition fails.

    Returns:
        What the rest of the graph has to wait for (`tf.control_dependencies`): otherwise it could run first, raise
        something less clear, or even update weights from a batch that is about to be refused.
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
    """The same tensor, which the graph computes only after the checks have passed.

    Args:
        checks: What `require` returned.
        tensor: Any tensor.
    """
    with tf.control_dependencies(checks):
        return tf.identity(tensor)
