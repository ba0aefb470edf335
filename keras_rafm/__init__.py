"""Rank-Aware Factorization Machines (RaFM, Chen et al., ICML 2019) as TensorFlow/Keras layers."""

from typing import TYPE_CHECKING

from keras_rafm._command import runs_as_command

if TYPE_CHECKING or not runs_as_command():
    from keras_rafm import callbacks, data, optimizers, plots, retrieval, serving
    from keras_rafm.data import count_features
    from keras_rafm.layer import RaFMLayer
    from keras_rafm.model import RaFMModel
    from keras_rafm.rank_plan import RankPlan
    from keras_rafm.serving.export import export

__all__ = [
    "RaFMLayer",
    "RaFMModel",
    "RankPlan",
    "callbacks",
    "count_features",
    "data",
    "export",
    "optimizers",
    "plots",
    "retrieval",
    "serving",
]
__version__ = "0.1.0"
