"""Samples in memory as NumPy arrays, and batches of them for training."""

from keras_rafm.data.samples.samples import FloatArray, IdArray, Samples

__all__ = ["FloatArray", "IdArray", "Samples"]
