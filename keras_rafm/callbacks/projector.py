"""Files for TensorBoard's embedding projector, with the factors of each level's most frequent features."""

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
    """The features that the projector shows for a level.

    Attributes:
        dependent: The ids of features with dependent factors: int64.
        free: The ids of features with free factors: int64.
    """

    dependent: npt.NDArray[np.int64]
    free: npt.NDArray[np.int64]


class Projector:
    """The files of the projector in the directory of a run: tensors, metadata and configuration.

    Args:
        directory: The directory of the run.
        layers: The layers of the model.
        max_features: The number of features to write for each level, if there are as many.
    """

    def __init__(self, directory: str, layers: list[ShownLayer], max_features: int) -> None:
        self._directory = directory
        self._layers = layers
        self._max_features = max_features

    def write(self) -> None:
        """Write the current factors, replacing those of an earlier call."""
        tf.io.gfile.makedirs(self._directory)
        config = ProjectorConfig()
        for shown, embedded_by_level in zip(self._layers, self._embedded, strict=True):
            for level, (embedded, rank) in enumerate(zip(embedded_by_level, shown.layer.ranks, strict=True), start=1):
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
        """The features of each level of each layer. They are chosen once: training changes neither levels nor counts."""
        return [_embedded_features(shown, self._max_features) for shown in self._layers]

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


def _embedded_features(shown: ShownLayer, max_features: int) -> list[_Embedded]:
    """Return the features that the projector shows for each level."""
    embedded = []
    for _, size, above in shown.sizes.levels_with_next():
        num_free = min(size - above, max(max_features - above, (max_features + 1) // 2))
        embedded.append(
            _Embedded(
                dependent=_most_frequent(shown, 0, above, max_features - num_free),
                free=_most_frequent(shown, above, size, num_free),
            )
        )
    return embedded


def _most_frequent(shown: ShownLayer, start: int, end: int, number: int) -> npt.NDArray[np.int64]:
    """Return the ids of the most frequent features in a range of slots, or, without counts, those of the lowest slots."""
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
