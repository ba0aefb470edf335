"""Models for tests of `keras_rafm.callbacks.TensorBoard`, runs of it, and what it should write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from oracle import Oracle
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.projector import ProjectorConfig

import keras_rafm as kr
from keras_rafm import callbacks

RNG = np.random.default_rng(0)
NUM_FEATURES = 30
COUNTS = np.array([0, 2, 3, 5, 9, 14, 17, 40, 63, 64, *range(65, 85)])
PLAN = kr.RankPlan.from_counts(COUNTS, ranks=(2, 3, 5), thresholds=(10, 70))
IDS = RNG.integers(0, NUM_FEATURES, (60, 4)).astype(np.int32)
IDS[:9, 2:] = -1
IDS[0] = -1
LABELS = RNG.integers(0, 2, 60).astype(np.float32)
#: Names of the frequency buckets -> the counts in them (the end is exclusive).
BUCKETS = {"0": (0, 1), "1-3": (1, 4), "4-15": (4, 16), "16-63": (16, 64), "64-255": (64, 256)}
RUNS = ("level_1_rank_2", "level_2_rank_3", "level_3_rank_5")


def make_layer(plan: kr.RankPlan = PLAN, **options: Any) -> kr.RaFMLayer:
    options = {"linear_initializer": keras.initializers.RandomNormal(stddev=0.5), **options}
    return kr.RaFMLayer(plan, factors_initializer=keras.initializers.RandomNormal(stddev=0.5), **options)


def make_model(optimizer: Any = None, loss: Any = None, **options: Any) -> kr.RaFMModel:
    ids = keras.Input((4,), dtype="int32", name="ids")
    model = kr.RaFMModel(ids, make_layer()(ids))
    model.compile(
        optimizer or kr.optimizers.LazyAdam(0.02), loss or keras.losses.BinaryCrossentropy(from_logits=True), **options
    )
    return model


def wide_and_deep(kind: type[keras.Model]) -> tuple[keras.Model, list[kr.RaFMLayer]]:
    """Return a model with the outputs `click`, a normalised score with dropout, and `price`, which has no score in it."""
    ids = keras.Input((4,), dtype="int32", name="ids")
    wide = keras.Input((2,), name="wide")
    layer = make_layer()
    hidden = keras.layers.Dense(1, kernel_initializer="ones")(wide)
    total = keras.layers.Add()([layer(ids), hidden])
    total = keras.layers.BatchNormalization(momentum=0.0)(keras.layers.Dropout(0.5)(total))
    click = keras.layers.Activation("sigmoid", name="click")(total)
    price = keras.layers.Dense(1, name="price")(wide)
    return kind({"ids": ids, "wide": wide}, {"click": click, "price": price}), [layer]


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.score = make_layer()

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.score(inputs, training=training)


def fit(model: keras.Model, directory: Path, x: Any = IDS, y: Any = LABELS, epochs: int = 1, **options: Any) -> Any:
    board = callbacks.TensorBoard(directory, **options)
    return model.fit(x, y, batch_size=20, epochs=epochs, verbose=0, callbacks=[board])


def analyse(model: keras.Model, directory: Path, **options: Any) -> None:
    """Run the callback as `fit` does, in an epoch without steps. Graphs of steps would take most of the time."""
    events = keras.callbacks.CallbackList([callbacks.TensorBoard(directory, **options)], model=model, epochs=1)
    events.on_train_begin()
    events.on_epoch_begin(0)
    events.on_epoch_end(0, {})
    events.on_train_end()


class Run:
    """The summaries of one run of TensorBoard."""

    def __init__(self, directory: Path) -> None:
        self.events = EventAccumulator(str(directory), size_guidance={"tensors": 0})
        self.events.Reload()
        self.tags = self.events.Tags()["tensors"]

    def all(self, tag: str) -> dict[int, Any]:
        return {event.step: tf.make_ndarray(event.tensor_proto) for event in self.events.Tensors(tag)}

    def last(self, tag: str) -> Any:
        return list(self.all(tag).values())[-1]

    def description(self, tag: str) -> str:
        return self.events.SummaryMetadata(tag).summary_description


def read_projector(directory: Path) -> dict[str, tuple[np.ndarray, list[list[str]]]]:
    """Return the tensor and the metadata of each embedding by its name."""
    config = text_format.Parse((directory / "projector_config.pbtxt").read_text(), ProjectorConfig())
    embeddings = {}
    for embedding in config.embeddings:
        tensor = np.loadtxt(directory / embedding.tensor_path, delimiter="\t", ndmin=2)
        assert list(tensor.shape) == list(embedding.tensor_shape)
        lines = (directory / embedding.metadata_path).read_text(encoding="utf-8").split("\n")
        assert lines.pop() == ""
        embeddings[embedding.tensor_name] = tensor, [line.split("\t") for line in lines]
    return embeddings


def occurrences(ids: np.ndarray) -> list[list[tuple[int, float]]]:
    return [[(int(i), 1.0) for i in row if i >= 0] for row in ids]


def level_scores(layer: kr.RaFMLayer, plan: kr.RankPlan = PLAN, ids: np.ndarray = IDS) -> np.ndarray:
    return Oracle(layer, plan).level_scores(occurrences(ids))


def rarest(ids: np.ndarray, counts: np.ndarray = COUNTS) -> np.ndarray:
    return np.array([min((counts[i] for i in row if i >= 0), default=-1) for row in ids])


def check_by_frequency(run: Run, tag: str, values: np.ndarray, root: bool = False, ids: np.ndarray = IDS) -> None:
    """The summaries of a tag are the means of some values in each frequency bucket, or the roots of these means."""
    counts = rarest(ids)
    for name, (low, high) in BUCKETS.items():
        expected = values[(counts >= low) & (counts < high)].mean()
        assert run.last(f"{tag}/{name}") == pytest.approx(np.sqrt(expected) if root else expected, rel=2e-4)
