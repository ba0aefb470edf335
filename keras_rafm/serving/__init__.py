"""Serving: what `keras_rafm.export` writes, and what goes with it."""

from keras_rafm.serving.model_card import load_model_card

__all__ = ["load_model_card"]
