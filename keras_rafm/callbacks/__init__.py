"""Callbacks for training."""

from keras_rafm.callbacks.tensorboard import TensorBoard

__all__ = ["TensorBoard"]
