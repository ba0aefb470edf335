"""Callbacks for training: `TensorBoard`, which shows each level of every `RaFMLayer`."""

from keras_rafm.callbacks.tensorboard import TensorBoard

__all__ = ["TensorBoard"]
