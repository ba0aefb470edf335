"""Samples in memory, readers, feature counts and synthetic data."""

from keras_rafm.data.counting import count_features
from keras_rafm.data.libfm import libfm_dataset, read_libfm, write_libfm
from keras_rafm.data.samples import Samples
from keras_rafm.data.synthetic import Synthetic, synthetic

__all__ = [
    "Samples",
    "Synthetic",
    "count_features",
    "libfm_dataset",
    "read_libfm",
    "synthetic",
    "write_libfm",
]
