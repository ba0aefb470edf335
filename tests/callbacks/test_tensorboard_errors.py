"""`keras_rafm.callbacks.TensorBoard`: options and models that it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard_runs import (
    COUNTS,
    IDS,
    LABELS,
    PLAN,
    Subclassed,
    fit,
    make_layer,
    make_model,
    wide_and_deep,
)

import keras_rafm as kr
from keras_rafm import callbacks

pytestmark = pytest.mark.one_tensorflow


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"analysis_data": IDS}, TypeError, "`analysis_data` must be .*Received: ndarray"),
        ({"analysis_data": (IDS, LABELS, LABELS)}, TypeError, "`analysis_data` must be .*Received: tuple of 3"),
        ({"analysis_samples": 0}, ValueError, "`analysis_samples` must be at least 1"),
        ({"analysis_freq": 1.5}, TypeError, "`analysis_freq` must be an integer"),
        ({"num_embedded": -1}, ValueError, "`num_embedded` must be at least 0"),
        ({"unknown": 1}, TypeError, "unknown"),
    ],
)
def test_wrong_arguments(tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        callbacks.TensorBoard(tmp_path, **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"counts": COUNTS[1:]},
            ValueError,
            r"layer: `counts` must be of shape \[num_features=30\] with at least one feature. Received: shape \(29,\)",
        ),
        ({"counts": -COUNTS}, ValueError, r"`counts` must be non-negative and finite. Received: counts\[1\]=-2"),
        ({"counts": ["a"] * 30}, TypeError, "`counts` must be numbers"),
        (
            {"counts": kr.RankPlan(PLAN.levels, PLAN.ranks)},
            ValueError,
            "`counts` must be counts or a RankPlan made from counts",
        ),
        (
            {"counts": {"other": COUNTS}},
            ValueError,
            r"keys of `counts` must be names of RaFMLayers of the model, .*Received: \['other'\]",
        ),
        ({"feature_names": ["a"]}, ValueError, r"`feature_names` must have one name per feature \(30\). Received: 1"),
        ({"feature_names": "a" * 30}, TypeError, "`feature_names` must be a sequence or a function. Received: str"),
        ({"analysis_data": (IDS, LABELS[1:])}, ValueError, r"equally many in every array. Received: \[59, 60\] rows"),
        ({"analysis_data": (IDS[:0], LABELS[:0])}, ValueError, "at least one row"),
        ({"analysis_data": (IDS.astype(float), LABELS)}, ValueError, "does not fit .*must be integers"),
        ({"analysis_data": (IDS[:, :3], LABELS)}, ValueError, "`analysis_data` does not fit .*shape"),
        (
            {"analysis_data": (IDS + 100, LABELS)},
            ValueError,
            r"(?s)`analysis_data` does not fit .*ids must be in \[0, 30\)",
        ),
        ({"analysis_data": tf.data.Dataset.range(3)}, TypeError, r"dataset of \(inputs, labels\)"),
        (
            {"analysis_data": tf.data.Dataset.from_tensors((IDS, LABELS)).take(0)},
            ValueError,
            "must have at least one row. Received: none",
        ),
    ],
)
def test_options_that_do_not_fit_the_model_are_refused_before_training(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    model = make_model()
    with pytest.raises(error, match=message):
        fit(model, tmp_path, **options)
    assert model.optimizer.iterations.numpy() == 0


def test_models_that_do_not_fit(tmp_path: Path) -> None:
    ids = keras.Input((4,), dtype="int32", name="ids")
    none = keras.Model(ids, keras.layers.Dense(1)(keras.ops.cast(ids, "float32")))
    none.compile("sgd", "mse")
    with pytest.raises(ValueError, match="needs a model with a RaFMLayer"):
        fit(none, tmp_path)
    subclassed = Subclassed()
    subclassed.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"needs a functional or sequential model.*Subclassed"):
        fit(subclassed, tmp_path, analysis_data=(IDS, LABELS))
    layer = make_layer()
    twice = keras.Model(ids, layer(ids) + layer(ids))
    twice.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"`analysis_data` can't be used with .*Received: 2 calls"):
        fit(twice, tmp_path, analysis_data=(IDS, LABELS))
    wide, _ = wide_and_deep(kr.RaFMModel)
    wide.compile("sgd", "mse")
    samples = kr.data.Samples(IDS, (IDS >= 0).astype(np.float32), LABELS)
    x = {"ids": IDS, "wide": np.ones((60, 2), np.float32)}
    with pytest.raises(ValueError, match=r"also takes \['wide'\]"):
        fit(wide, tmp_path, x, {"click": LABELS, "price": LABELS}, analysis_data=samples)
