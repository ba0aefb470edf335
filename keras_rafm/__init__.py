"""Rank-Aware Factorization Machines (RaFM, Chen et al., ICML 2019) as TensorFlow/Keras layers.

Public names are loaded when they are first used: `import keras_rafm` alone imports neither TensorFlow nor Keras.
"""

import importlib
from typing import TYPE_CHECKING, Any

from keras_rafm import lazy_imports

if TYPE_CHECKING:
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

_MODULE_OF_NAME = {
    "RaFMLayer": "keras_rafm.layer",
    "RaFMModel": "keras_rafm.model",
    "RankPlan": "keras_rafm.rank_plan",
    "count_features": "keras_rafm.data",
    "export": "keras_rafm.serving.export",
}

lazy_imports.arrange()


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'keras_rafm' has no attribute {name!r}")
    if name in _MODULE_OF_NAME:
        value = getattr(importlib.import_module(_MODULE_OF_NAME[name]), name)
    else:
        value = importlib.import_module(f"keras_rafm.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
