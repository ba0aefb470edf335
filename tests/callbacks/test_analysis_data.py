"""`keras_rafm.callbacks.TensorBoard`: every kind of analysis data gives the same losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from losses import log_losses
from tensorboard_runs import (
    COUNTS,
    LABELS,
    NUM_FEATURES,
    RNG,
    RUNS,
    Run,
    analyse,
    level_scores,
    make_layer,
    rarest,
)

import keras_rafm as kr
from keras_rafm import callbacks

pytestmark = pytest.mark.one_tensorflow

DISTINCT_IDS = np.stack([RNG.permutation(NUM_FEATURES)[:4] for _ in range(60)]).astype(np.int32)
VALUES = np.ones(DISTINCT_IDS.shape, np.float32)
KINDS = (
    "samples for ids",
    "samples for a dict of ids",
    "samples for ids and values",
    "arrays",
    "tensors",
    "dict of arrays",
    "dataset",
    "endless dataset",
    "dataset of samples",
    "ragged",
    "dataset of sparse",
    "sparse",
)


def ragged(ids: np.ndarray) -> tf.RaggedTensor:
    return tf.RaggedTensor.from_tensor(ids, padding=-1)


def sparse(ids: np.ndarray) -> tf.SparseTensor:
    dense = np.zeros((len(ids), NUM_FEATURES), np.float32)
    for row, features in enumerate(ids):
        dense[row, features[features >= 0]] = 1
    return tf.sparse.from_dense(dense)


def models_and_data() -> dict[str, Any]:
    def dense_input() -> Any:
        return keras.Input((4,), dtype="int32", name="ids")

    def dict_input() -> Any:
        return {"ids": dense_input(), "values": keras.Input((4,), name="values")}

    samples = kr.data.Samples(DISTINCT_IDS, VALUES, LABELS)
    x = {"ids": DISTINCT_IDS, "values": VALUES}
    dataset = tf.data.Dataset.from_tensor_slices((DISTINCT_IDS, LABELS)).batch(7)
    sparse_ids = sparse(DISTINCT_IDS)
    return {
        "samples for ids": (dense_input, samples),
        "samples for a dict of ids": (lambda: {"ids": dense_input()}, samples),
        "samples for ids and values": (dict_input, samples),
        "arrays": (dense_input, (DISTINCT_IDS, LABELS[:, None])),
        "tensors": (dense_input, (tf.constant(DISTINCT_IDS), tf.constant(LABELS))),
        "dict of arrays": (dict_input, (x, LABELS)),
        "dataset": (dense_input, dataset),
        "endless dataset": (dense_input, dataset.repeat()),
        "dataset of samples": (dict_input, samples.dataset(16)),
        "ragged": (lambda: keras.Input((None,), dtype="int32", ragged=True), (ragged(DISTINCT_IDS), LABELS)),
        "dataset of sparse": (
            lambda: keras.Input((NUM_FEATURES,), sparse=True),
            tf.data.Dataset.from_tensor_slices((sparse_ids, LABELS)).batch(7),
        ),
        "sparse": (lambda: keras.Input((NUM_FEATURES,), sparse=True), (sparse_ids, LABELS)),
    }


@pytest.mark.parametrize(("kind", "max_rows"), [("arrays", 60), ("dataset", 60), *((kind, 23) for kind in KINDS)])
def test_kinds_of_data(tmp_path: Path, kind: str, max_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks.analysis_data, "_ROWS_AT_ONCE", 10)
    make_input, data = models_and_data()[kind]
    inputs = make_input()
    layer = make_layer()
    model = kr.RaFMModel(inputs, layer(inputs))
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    analyse(model, tmp_path, analysis_data=data, analysis_samples=max_rows, counts=COUNTS)
    is_array = kind not in ("dataset", "endless dataset", "dataset of samples", "dataset of sparse", "sparse")
    rows = np.linspace(0, 59, max_rows).astype(int) if is_array else np.arange(max_rows)
    ids, labels = DISTINCT_IDS[rows], LABELS[rows]
    scores = level_scores(layer, ids=ids)
    counts = rarest(ids)
    for level, name in enumerate(RUNS):
        run = Run(tmp_path / name)
        losses = log_losses(labels, scores[:, level])
        assert run.last("levels/loss") == pytest.approx(losses.mean(), rel=1e-4)
        expected = losses[(counts >= 4) & (counts < 16)].mean()
        assert run.last("log_loss_by_frequency/4-15") == pytest.approx(expected, rel=1e-4)
