"""Columns of a `Schema`: what each kind learns from training data, and how it maps raw values to feature ids and values."""

from keras_rafm.data.columns.column import MISSING_NAME, Column, Encoding, Learnt, Missing, Parts, is_missing

__all__ = ["MISSING_NAME", "Column", "Encoding", "Learnt", "Missing", "Parts", "is_missing"]
