"""A small plan of three levels, and layers and models that tests make of it."""

import keras
import numpy as np

import keras_rafm as kr

RANKS = (2, 3, 4)
LEVELS = [2, 1, 3, 1, 2, 3]  # |F_1|, |F_2|, |F_3| = 6, 4, 2
IDS = np.array([[0, 1, 2, 3], [2, 5, -1, -1], [4, 4, 1, 0]], np.int32)
#: The distinct features of IDS, all six; and of its second row.
SECOND_ROW = IDS[1:2]


def make_plan() -> kr.RankPlan:
    return kr.RankPlan(LEVELS, RANKS)


def other_plan() -> kr.RankPlan:
    """The same ranks and level sizes as `make_plan`, other features in them."""
    return kr.RankPlan(LEVELS[::-1], RANKS)


def built(layer: kr.RaFMLayer) -> dict[str, np.ndarray]:
    """The layer's variables by name."""
    layer.build()
    return {variable.name: variable.numpy() for variable in layer.variables}


def plain_model(layer: kr.RaFMLayer, width: int | None = 4) -> keras.Model:
    ids = keras.Input((width,), dtype="int32", name="ids")
    return keras.Model(ids, layer(ids))
