"""Public datasets that papers on factorization machines use, by name."""

from keras_rafm.data.known.entry import KnownDataset, known_dataset

__all__ = ["KnownDataset", "known_dataset"]
