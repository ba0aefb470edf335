"""What the pages know about a layer: how its tags begin, the counts and the names of its features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_rafm.frequency_buckets import checked_counts
from keras_rafm.layer import RaFMLayer
from keras_rafm.rank_plan import PlanSizes
from keras_rafm.rows.access import read_rows
from keras_rafm.training.functional_graph import rafm_layers_of


class ShownLayer:
    """A layer, how its tags begin, and what is known about its features.

    Args:
        layer: The layer; it is built.
        prefix: How its tags begin.
        counts: Counts, a `RankPlan` made from them, or `None`.
        names: A sequence with one name per feature, a function of an id, or `None`: the ids.

    Raises:
        TypeError: Counts are not numbers, or names are neither a sequence nor a function.
        ValueError: Counts or names do not fit the layer.
    """

    def __init__(self, layer: RaFMLayer, prefix: str, counts: Any, names: Any) -> None:
        where = f"{layer.name}: "
        self.counts = None if counts is None else checked_counts(counts, layer.num_features, where)
        if not (names is None or callable(names)):
            if isinstance(names, str) or not isinstance(names, (Sequence, np.ndarray)):
                raise TypeError(
                    f"{where}`feature_names` must be a sequence or a function. Received: {type(names).__name__}"
                )
            if len(names) != layer.num_features:
                raise ValueError(
                    f"{where}`feature_names` must have one name per feature ({layer.num_features}). Received: {len(names)}"
                )
        layer.build()  # a subclassed model calls it in its first step only
        self.layer = layer
        self.prefix = prefix
        self.sizes = PlanSizes(layer.ranks, layer.level_sizes, fingerprint="")
        self._names: Callable[[int], Any] = names if callable(names) else str if names is None else names.__getitem__

    def slots_of(self, features: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """Slots of some features: a copy of all of them may be large."""
        return read_rows(self.layer.slots.value, tf.constant(features, tf.int64)).numpy()

    def name_of(self, feature: int) -> str:
        """Its name, on one line and without tabs."""
        return " ".join(str(self._names(feature)).split())


def shown_layers(model: keras.Model, counts: Any, names: Any) -> list[ShownLayer]:
    """Every `RaFMLayer` of a model; with several of them their names are prefixes.

    Args:
        model: The model.
        counts: For all layers, or a mapping from their names.
        names: Of features, for all layers, or a mapping from the layers' names.

    Raises:
        TypeError: As `ShownLayer`.
        ValueError: There is none, a mapping names others, or as `ShownLayer`.
    """
    found = rafm_layers_of(model)
    if not found:
        raise ValueError(f"keras_rafm.callbacks.TensorBoard needs a model with a RaFMLayer. {model.name} has none")
    counts_of = _per_layer(counts, found, "counts")
    names_of = _per_layer(names, found, "feature_names")
    return [
        ShownLayer(layer, f"{layer.name}/" if len(found) > 1 else "", counts_of[layer.name], names_of[layer.name])
        for layer in found
    ]


def name_of_run(level: int, rank: int) -> str:
    """The run that shows a level."""
    return f"level_{level}_rank_{rank}"


def _per_layer(given: Any, layers: list[RaFMLayer], argument: str) -> dict[str, Any]:
    """What is given for each layer, by its name."""
    names = [layer.name for layer in layers]
    if not isinstance(given, Mapping):
        return dict.fromkeys(names, given)
    unknown = set(given) - set(names)
    if unknown:
        raise ValueError(f"`{argument}` must name RaFMLayers of the model ({names}). Received: {sorted(map(str, unknown))}")
    return {name: given.get(name) for name in names}
