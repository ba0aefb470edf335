"""`keras_rafm.callbacks.TensorBoard`: the table of the plan and the histograms of norms."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from tensorboard_runs import (
    COUNTS,
    IDS,
    LABELS,
    NUM_FEATURES,
    PLAN,
    RUNS,
    Run,
    analyse,
    fit,
    make_layer,
    make_model,
    read_projector,
)

import keras_rafm as kr
from keras_rafm import callbacks

pytestmark = pytest.mark.one_tensorflow


def test_the_plan_as_a_table(tmp_path: Path) -> None:
    model = make_model()
    for _ in range(2):
        analyse(model, tmp_path, counts=PLAN)
    (text,) = Run(tmp_path / "train").last("plan").reshape(-1)
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.decode().splitlines() if line.startswith("|")
    ]
    printed: list[str] = []
    PLAN.summary(printed.append)
    assert lines[0] == ["level", "rank", "features", "occurrences", "free factors", "dependent factors", "MB"]
    for row in lines[2:5]:
        assert " ".join(row).split() in [line.split() for line in printed[0].splitlines()]
    assert lines[5][0] == "**RaFM**"
    assert "RaFM " + " ".join(lines[5][1:]).strip() in [" ".join(line.split()) for line in printed[0].splitlines()]
    assert [row[0] for row in lines[6:]] == ["plain FM of rank 5", "plain FM of rank 2"]


def test_the_plan_without_counts(tmp_path: Path) -> None:
    analyse(make_model(), tmp_path, analysis_data=(IDS, LABELS))
    train = Run(tmp_path / "train")
    assert "| 1 | 2 | 5 | ? | 10 | 50 | 0.00 |" in train.last("plan").item().decode()
    assert "samples_by_frequency" not in train.tags
    assert not [tag for tag in Run(tmp_path / RUNS[0]).tags if "by_frequency" in tag]


def test_histograms_of_norms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A plain Keras model does not settle idle rows itself. Half of the features are idle here.
    ids = keras.Input((4,), dtype="int32")
    layer = make_layer(linear_initializer="random_normal", max_dense_rows=0)
    model = keras.Model(ids, layer(ids))
    model.compile(kr.optimizers.LazyAdam(0.02, idle_decay=5.0), "mse")
    fit(model, tmp_path / "whole", x=IDS % 15, epochs=2)
    monkeypatch.setattr(callbacks.summaries, "_BYTES_AT_ONCE", 40)
    analyse(model, tmp_path / "blocks")
    tables = {("train", "linear_weights"): layer.linear()}
    for level, name in enumerate(RUNS, start=1):
        features, matrix = layer.factors(level)
        norms = np.linalg.norm(matrix, axis=1)
        tables[name, "norms/free_factors"] = norms[PLAN.levels[features] == level]
        tables[name, "norms/dependent_factors"] = norms[PLAN.levels[features] > level]
    del tables[RUNS[2], "norms/dependent_factors"]
    for directory in (tmp_path / "whole", tmp_path / "blocks"):
        for (run, tag), numbers in tables.items():
            histogram = Run(directory / run).last(tag)
            counts, edges = np.histogram(numbers, 30)
            np.testing.assert_allclose(histogram[:, 0], edges[:-1], rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(histogram[:, 1], edges[1:], rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(histogram[:, 2], counts)
        assert "norms/dependent_factors" not in Run(directory / RUNS[2]).tags


def test_histograms_of_equal_numbers_and_of_nan(tmp_path: Path) -> None:
    model = make_model()
    layer = model.layers[-1]
    layer.assign_linear(np.arange(NUM_FEATURES), np.ones(NUM_FEATURES))
    layer.free_tables[0].assign(np.full((5, 2), np.nan))
    layer.dependent_tables[1].assign(np.full((14, 3), [3.0, 4.0, 0.0]))
    layer.free_tables[1].assign(np.where(np.arange(11)[:, None] < 4, np.nan, layer.free_tables[1].numpy()))
    analyse(model, tmp_path)
    ones = Run(tmp_path / "train").last("linear_weights")
    np.testing.assert_array_equal(ones, [[1, 1, 0]] * 29 + [[1, 1, NUM_FEATURES]])
    np.testing.assert_array_equal(Run(tmp_path / RUNS[1]).last("norms/dependent_factors")[-1], [5, 5, 14])
    assert Run(tmp_path / RUNS[1]).last("norms/free_factors")[:, 2].sum() == 7
    assert "norms/free_factors" not in Run(tmp_path / RUNS[0]).tags


def test_one_level(tmp_path: Path) -> None:
    ids = keras.Input((4,), dtype="int32")
    model = kr.RaFMModel(ids, make_layer(kr.RankPlan(np.ones(NUM_FEATURES, int), (3,)), use_linear=False)(ids))
    model.compile("sgd", "mse", run_eagerly=True)
    fit(model, tmp_path, analysis_data=(IDS, LABELS))
    run = Run(tmp_path / "level_1_rank_3")
    assert set(run.tags) == {"levels/loss", "norms/free_factors"}


def test_a_level_without_features(tmp_path: Path) -> None:
    plan = kr.RankPlan(np.full(NUM_FEATURES, 2), (2, 3, 5))
    ids = keras.Input((4,), dtype="int32")
    model = kr.RaFMModel(ids, make_layer(plan)(ids))
    model.compile("sgd", "mse")
    analyse(model, tmp_path, analysis_data=(IDS, LABELS), counts=COUNTS)
    assert list(read_projector(tmp_path / "train")) == ["level_1_rank_2", "level_2_rank_3"]
    assert not [tag for tag in Run(tmp_path / RUNS[2]).tags if tag.startswith("norms")]
    assert "norms/free_factors" not in Run(tmp_path / RUNS[0]).tags
