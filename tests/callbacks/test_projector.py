"""`keras_rafm.callbacks.TensorBoard`: the files for the embedding projector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from tensorboard_runs import (
    COUNTS,
    NUM_FEATURES,
    PLAN,
    RUNS,
    analyse,
    make_layer,
    make_model,
    read_projector,
)

import keras_rafm as kr
from keras_rafm import callbacks

pytestmark = pytest.mark.one_tensorflow

NAMES = [f"n{i}" for i in range(NUM_FEATURES - 3)] + ["a\tb", "two\nlines\r\n", "Käse\u2028 = 'x'"]


@pytest.mark.parametrize(("num_embedded", "names"), [(1000, None), (20, NAMES), (7, NAMES.__getitem__)])
def test_projector(tmp_path: Path, num_embedded: int, names: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks.projector, "_FEATURES_AT_ONCE", 4)
    model = make_model()
    analyse(model, tmp_path, counts=COUNTS, feature_names=names, num_embedded=num_embedded)
    projector = read_projector(tmp_path / "train")
    assert list(projector) == list(RUNS)
    for level, name in enumerate(RUNS, start=1):
        tensor, (header, *metadata) = projector[name]
        assert header == ["name", "count", "level", "factors"]
        features, matrix = model.layers[-1].factors(level)
        rows = dict(zip(features.tolist(), matrix, strict=True))
        higher = [i for i in np.argsort(-COUNTS, kind="stable") if PLAN.levels[i] > level]
        of_level = [i for i in np.argsort(-COUNTS, kind="stable") if PLAN.levels[i] == level]
        num_free = min(len(of_level), max(num_embedded - len(higher), (num_embedded + 1) // 2))
        assert len(tensor) == min(num_embedded, len(higher) + len(of_level))
        expected = [*higher[: num_embedded - num_free], *of_level[:num_free]]
        np.testing.assert_allclose(tensor, [rows[i] for i in expected], rtol=1e-5)
        for feature, line in zip(expected, metadata, strict=True):
            written = str(feature) if names is None else " ".join(NAMES[feature].split())
            kind = "free" if PLAN.levels[feature] == level else "dependent"
            assert line == [written, str(COUNTS[feature]), str(PLAN.levels[feature]), kind]


def test_counts_take_precedence_over_the_order_of_slots(tmp_path: Path) -> None:
    ids = keras.Input((4,), dtype="int32")
    model = kr.RaFMModel(ids, make_layer(kr.RankPlan(PLAN.levels, PLAN.ranks))(ids))
    model.compile("sgd", "mse")
    analyse(model, tmp_path, counts=COUNTS, num_embedded=4)
    names = [line[0] for line in read_projector(tmp_path / "train")[RUNS[2]][1][1:]]
    assert names == ["29", "28", "27", "26"]


def test_no_projector(tmp_path: Path) -> None:
    analyse(make_model(), tmp_path, num_embedded=0)
    assert not list(tmp_path.rglob("*projector*"))
