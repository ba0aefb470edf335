"""The commands of `keras-rafm`. These modules import TensorFlow."""
