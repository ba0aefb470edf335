"""A layer as TensorBoard shows it: the prefix of its tags, and the counts and names of its features."""

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
    """A layer, the prefix of its tags, and the counts and names of its features.

    Args:
        layer: The layer. It is built if it has not been built yet.
        prefix: The beginning of its tags.
        counts: Counts, a `RankPlan` made from counts, or `None`.
        names: A sequence with one name per feature, or a function from ids to names. `None`: the names are the ids.

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
        layer.build()  # a subclassed model would build it only in the first step
        self.layer = layer
        self.prefix = prefix
        self.sizes = PlanSizes(layer.ranks, layer.level_sizes, fingerprint="")
        self._names: Callable[[int], Any] = names if callable(names) else str if names is None else names.__getitem__

    def slots_of(self, features: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """Return the slots of some features, without copying those of all features."""
        return read_rows(self.layer.slots.value, tf.constant(features, tf.int64)).numpy()

    def name_of(self, feature: int) -> str:
        """Return the name of a feature on one line, without tabs."""
        return " ".join(str(self._names(feature)).split())


def shown_layers(model: keras.Model, counts: Any, names: Any) -> list[ShownLayer]:
    """Return every `RaFMLayer` of a model. If there are several, the prefixes of tags are their names.

    Args:
        model: The model.
        counts: The counts for all layers, or a mapping from the layers' names to counts.
        names: The names of features for all layers, or a mapping from the layers' names to such names.

    Raises:
        TypeError: Counts or names have the wrong type (see `ShownLayer`).
        ValueError: The model has no `RaFMLayer`, a mapping names another layer, or counts or names do not fit a layer.
    """
    layers = rafm_layers_of(model)
    if not layers:
        raise ValueError(
            f"keras_rafm.callbacks.TensorBoard needs a model with a RaFMLayer. Received: {model.name}, which has none"
        )
    counts_of = _per_layer(counts, layers, "counts")
    names_of = _per_layer(names, layers, "feature_names")
    return [
        ShownLayer(layer, f"{layer.name}/" if len(layers) > 1 else "", counts_of[layer.name], names_of[layer.name])
        for layer in layers
    ]


def name_of_run(level: int, rank: int) -> str:
    """Return the name of the run that shows a level."""
    return f"level_{level}_rank_{rank}"


def _per_layer(value: Any, layers: list[RaFMLayer], argument: str) -> dict[str, Any]:
    """Return the value for each layer by the layer's name, from one value for all or a mapping."""
    names = [layer.name for layer in layers]
    if not isinstance(value, Mapping):
        return dict.fromkeys(names, value)
    unknown = set(value) - set(names)
    if unknown:
        raise ValueError(
            f"the keys of `{argument}` must be names of RaFMLayers of the model, {names}. "
            f"Received: {sorted(map(str, unknown))}"
        )
    return {name: value.get(name) for name in names}
