"""The factors of the most frequent features of each level, as files for TensorBoard's embedding projector."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorboard.plugins.projector import ProjectorConfig

from keras_rafm.callbacks.shown_layer import ShownLayer, name_of_run
from keras_rafm.rows.access import read_rows

_FEATURES_AT_ONCE = 2**22


class _Embedded(NamedTuple):
    """Ids of the features, int64, of which the projector shows dependent and free factors of a level."""

    dependent: npt.NDArray[np.int64]
    free: npt.NDArray[np.int64]


class Projector:
    """Tensors, metadata and configuration for the projector, which looks for them in the directory of a run.

    Args:
        directory: That of the run.
        layers: The layers of the model.
        at_most: So many features of each level are written at most.
    """

    def __init__(self, directory: str, layers: list[ShownLayer], at_most: int) -> None:
        self._directory = directory
        self._layers = layers
        self._at_most = at_most

    def write(self) -> None:
        """Write the factors as they are now, over those that were written before."""
        tf.io.gfile.makedirs(self._directory)
        config = ProjectorConfig()
        for shown, of_levels in zip(self._layers, self._embedded, strict=True):
            for level, (embedded, rank) in enumerate(zip(of_levels, shown.layer.ranks, strict=True), start=1):
                number = embedded.dependent.size + embedded.free.size
                if number == 0:
                    continue
                name = f"{shown.prefix}{name_of_run(level, rank)}"
                file = f"projector_{name.replace('/', '_')}"
                self._write_tsv(f"{file}_tensor.tsv", _rows_of_tensor(shown, level, embedded))
                self._write_tsv(f"{file}_metadata.tsv", _rows_of_metadata(shown, embedded))
                embedding = config.embeddings.add()
                embedding.tensor_name = name
                embedding.tensor_path = f"{file}_tensor.tsv"
                embedding.metadata_path = f"{file}_metadata.tsv"
                embedding.tensor_shape.extend([number, rank])
        with tf.io.gfile.GFile(os.path.join(self._directory, "projector_config.pbtxt"), "w") as file:
            file.write(str(config))

    @functools.cached_property
    def _embedded(self) -> list[list[_Embedded]]:
        """Per layer and level; levels and counts do not change in training."""
        return [_embedded_features(shown, self._at_most) for shown in self._layers]

    def _write_tsv(self, name: str, rows: Iterable[Sequence[str]]) -> None:
        with tf.io.gfile.GFile(os.path.join(self._directory, name), "w") as file:
            file.write("".join("\t".join(row) + "\n" for row in rows))


def _rows_of_tensor(shown: ShownLayer, level: int, embedded: _Embedded) -> Iterable[list[str]]:
    layer = shown.layer
    _, _, above = shown.sizes.levels_with_next()[level - 1]
    parts = [read_rows(layer.free_tables[level - 1].value, shown.slots_of(embedded.free) - above)]
    if level < layer.num_levels:
        parts.insert(0, read_rows(layer.dependent_tables[level - 1].value, shown.slots_of(embedded.dependent)))
    return ([f"{x:.6g}" for x in row] for row in tf.concat(parts, axis=0).numpy().tolist())


def _rows_of_metadata(shown: ShownLayer, embedded: _Embedded) -> list[list[str]]:
    rows = [["name", "level", "factors"] if shown.counts is None else ["name", "count", "level", "factors"]]
    for kind, features in embedded._asdict().items():
        levels = shown.sizes.levels_of_slots(shown.slots_of(features))
        for feature, level in zip(features.tolist(), levels.tolist(), strict=True):
            count = [] if shown.counts is None else [f"{shown.counts[feature]:g}"]
            rows.append([shown.name_of(feature), *count, str(level), kind])
    return rows


def _embedded_features(shown: ShownLayer, at_most: int) -> list[_Embedded]:
    """The features that the projector shows, per level."""
    found = []
    for _, size, above in shown.sizes.levels_with_next():
        free = min(size - above, max(at_most - above, (at_most + 1) // 2))
        found.append(_Embedded(_most_frequent(shown, 0, above, at_most - free), _most_frequent(shown, above, size, free)))
    return found


def _most_frequent(shown: ShownLayer, start: int, end: int, number: int) -> npt.NDArray[np.int64]:
    """Ids of the most frequent features in a range of slots, in falling order; those of low slots without counts."""
    best = np.zeros(0, np.int64)
    if min(number, end - start) == 0:
        return best
    slots = shown.layer.slots.numpy()
    for first in range(0, slots.size, _FEATURES_AT_ONCE):
        part = slots[first : first + _FEATURES_AT_ONCE]
        features = np.concatenate([best, first + np.flatnonzero((part >= start) & (part < end))])
        values = -slots[features] if shown.counts is None else shown.counts[features].astype(np.float64)
        if features.size > number:
            kept = values >= np.partition(values, features.size - number)[features.size - number]
            features, values = features[kept], values[kept]
        best = features[np.lexsort((slots[features], -values))[:number]]
    return best
