"""Counting of raw values (for `Schema.adapt`) and of feature ids (for `RankPlan.from_counts`)."""

from keras_rafm.data.counting.features import count_features

__all__ = ["count_features"]
