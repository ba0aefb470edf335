"""`keras_rafm.callbacks.TensorBoard`: scores and losses of the levels, compared with NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pytest
from losses import log_losses
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard_runs import (
    BUCKETS,
    COUNTS,
    IDS,
    LABELS,
    NUM_FEATURES,
    PLAN,
    RNG,
    RUNS,
    Run,
    analyse,
    check_by_frequency,
    fit,
    level_scores,
    make_layer,
    make_model,
    rarest,
    read_projector,
    wide_and_deep,
)

import keras_rafm as kr

pytestmark = pytest.mark.one_tensorflow


class Trained(NamedTuple):
    """A trained model, which tests must not change, and the directory of its summaries."""

    model: kr.RaFMModel
    directory: Path
    history: dict[str, list[float]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    keras.utils.set_random_seed(0)
    directory = tmp_path_factory.mktemp("trained")
    model = make_model()
    history = fit(model, directory, epochs=3, analysis_data=(IDS, LABELS), analysis_freq=2, counts=PLAN).history
    return Trained(model, directory, history)


def test_scores_of_the_levels(trained: Trained) -> None:
    scores = level_scores(trained.model.layers[-1])
    for level, name in enumerate(RUNS):
        run = Run(trained.directory / name)
        losses = log_losses(LABELS, scores[:, level])
        assert run.last("levels/loss") == pytest.approx(losses.mean(), rel=1e-4)
        check_by_frequency(run, "log_loss_by_frequency", losses)
        assert run.last("log_loss_by_frequency/no_features") == pytest.approx(losses[0], rel=1e-4)
        tags = {tag for tag in run.tags if tag.startswith("log_loss_by_frequency/")}
        assert tags == {f"log_loss_by_frequency/{bucket}" for bucket in (*BUCKETS, "no_features")}
        assert "rows of the analysis data whose rarest feature occurs 4-15 times" in run.description(
            "log_loss_by_frequency/4-15"
        )
        if level == 2:
            assert not [tag for tag in run.tags if "next_level" in tag or "dependent" in tag]
            continue
        score, next_score = scores[:, level], scores[:, level + 1]
        assert run.last("levels/correlation_with_next_level") == pytest.approx(
            np.corrcoef(score, next_score)[0, 1], rel=1e-4
        )
        assert run.last("levels/mean_absolute_difference_to_next_level") == pytest.approx(
            np.abs(score - next_score).mean(), rel=1e-4
        )
    assert run.last("levels/loss") == pytest.approx(trained.model.evaluate(IDS, LABELS, verbose=0), rel=1e-5)


def test_dependent_losses_are_in_the_runs_of_their_levels(trained: Trained) -> None:
    train = Run(trained.directory / "train")
    for level in (1, 2):
        logged = Run(trained.directory / RUNS[level - 1]).all("levels/dependent_loss")
        assert list(logged) == [0, 1, 2]
        np.testing.assert_allclose(list(logged.values()), trained.history[f"dependent_loss_{level}"], rtol=1e-6)
        assert train.all(f"epoch_dependent_loss_{level}") == logged
    layout = layout_pb2.Layout.FromString(train.last("custom_scalars__config__").item())
    (category,) = layout.category
    assert [list(chart.multiline.tag) for chart in category.chart] == [
        [r"^epoch_loss$", r"^(.*/)?levels/dependent_loss$"],
        [r"^(.*/)?levels/loss$"],
    ]


def test_samples_by_frequency(trained: Trained) -> None:
    text = Run(trained.directory / "train").last("samples_by_frequency").item().decode()
    counts = rarest(IDS)
    for name, (low, high) in BUCKETS.items():
        number = ((counts >= low) & (counts < high)).sum()
        assert f"| {name} | {number} | {number / 60:.1%} |" in text
    assert "| no_features | 1 | 1.7% |" in text


@pytest.mark.parametrize("kind", [kr.RaFMModel, keras.Model])
def test_wide_models(tmp_path: Path, kind: type[keras.Model]) -> None:
    model, (layer,) = wide_and_deep(kind)
    model.compile(
        keras.optimizers.SGD(0.01),
        {"click": "binary_crossentropy", "price": "mse"},
        loss_weights={"click": 1.0, "price": 2.0},
        run_eagerly=True,
    )
    wide = RNG.normal(size=(60, 2)).astype(np.float32)
    x, y = {"ids": IDS, "wide": wide}, {"click": LABELS, "price": wide[:, 0]}
    logs = fit(model, tmp_path, x, y, analysis_data=(x, y), counts=COUNTS).history
    for name, value in model.get_metrics_result().items():  # the analysis does not change the means of the epoch
        assert float(value) == pytest.approx(logs[name][0])
    dense, price = (part for part in model.layers if isinstance(part, keras.layers.Dense))
    (norm,) = (part for part in model.layers if isinstance(part, keras.layers.BatchNormalization))
    squares = np.square((wide @ price.kernel.numpy() + price.bias.numpy())[:, 0] - wide[:, 0])
    for level, name in enumerate(RUNS):
        total = level_scores(layer)[:, level] + (wide @ dense.kernel.numpy() + dense.bias.numpy())[:, 0]
        gamma, beta, mean, variance = (weights.numpy()[0] for weights in norm.weights)
        losses = log_losses(LABELS, gamma * (total - mean) / np.sqrt(variance + norm.epsilon) + beta)
        run = Run(tmp_path / name)
        assert run.last("levels/loss") == pytest.approx(losses.mean() + 2 * squares.mean(), rel=1e-4)
        check_by_frequency(run, "log_loss_by_frequency", losses)
    assert run.last("levels/loss") == pytest.approx(model.evaluate(x, y, verbose=0, return_dict=True)["loss"], rel=1e-4)


def test_rmse_of_models_without_a_cross_entropy(tmp_path: Path) -> None:
    model = make_model(loss="mse")
    analyse(model, tmp_path, analysis_data=(IDS, LABELS), counts=COUNTS)
    scores = level_scores(model.layers[-1])
    for level, name in enumerate(RUNS):
        run = Run(tmp_path / name)
        squares = np.square(scores[:, level] - LABELS)
        assert run.last("levels/loss") == pytest.approx(squares.mean(), rel=1e-4)
        check_by_frequency(run, "rmse_by_frequency", squares, root=True)


def test_several_layers(tmp_path: Path) -> None:
    ids = keras.Input((4,), dtype="int32")
    small = kr.RankPlan.from_counts(COUNTS, ranks=(2, 4), thresholds=(70,))
    one, other = make_layer(name="one"), make_layer(small, name="other")
    model = kr.RaFMModel(ids, keras.layers.Add()([one(ids), other(ids)]))
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True), run_eagerly=True)
    names = {"other": [f"f{i}" for i in range(NUM_FEATURES)]}
    logs = fit(
        model, tmp_path, analysis_data=(IDS, LABELS), counts={"one": PLAN, "other": None}, feature_names=names
    ).history
    first, second = level_scores(one), level_scores(other, small)
    for level, name in enumerate(RUNS):
        run = Run(tmp_path / name)
        losses = log_losses(LABELS, first[:, level] + second[:, 1])
        assert run.last("one/levels/loss") == pytest.approx(losses.mean(), rel=1e-4)
        check_by_frequency(run, "one/log_loss_by_frequency", losses)
        assert "one/norms/free_factors" in run.tags
    for level, name in enumerate(("level_1_rank_2", "level_2_rank_4")):
        run = Run(tmp_path / name)
        losses = log_losses(LABELS, first[:, 2] + second[:, level])
        assert run.last("other/levels/loss") == pytest.approx(losses.mean(), rel=1e-4)
        assert not [tag for tag in run.tags if tag.startswith("other/log_loss")]
    dependent = Run(tmp_path / "level_1_rank_2").last("other/levels/dependent_loss")
    assert dependent == pytest.approx(logs["other_dependent_loss_1"][0])
    assert {"one/plan", "other/plan", "one/linear_weights"} <= set(Run(tmp_path / "train").tags)
    projector = read_projector(tmp_path / "train")
    assert list(projector) == [f"one/{name}" for name in RUNS] + ["other/level_1_rank_2", "other/level_2_rank_4"]
    assert projector["other/level_2_rank_4"][1][:2] == [["name", "level", "factors"], ["f29", "2", "free"]]


def test_a_sequential_model(tmp_path: Path) -> None:
    layer = make_layer()
    model = keras.Sequential([keras.Input((4,), dtype="int32"), layer, keras.layers.Activation("sigmoid")])
    model.compile(keras.optimizers.SGD(0.01), "binary_crossentropy")
    analyse(model, tmp_path, analysis_data=(IDS, LABELS), counts=COUNTS)
    for level, name in enumerate(RUNS):
        losses = log_losses(LABELS, level_scores(layer)[:, level])
        run = Run(tmp_path / name)
        assert run.last("levels/loss") == pytest.approx(losses.mean(), rel=1e-4)
        check_by_frequency(run, "log_loss_by_frequency", losses)


def test_half_precision(tmp_path: Path) -> None:
    ids = keras.Input((4,), dtype="int32")
    model = kr.RaFMModel(ids, make_layer(dtype="mixed_float16")(ids))
    model.compile(keras.optimizers.SGD(0.01), keras.losses.BinaryCrossentropy(from_logits=True))
    analyse(model, tmp_path, analysis_data=(IDS, LABELS), counts=COUNTS)
    losses = log_losses(LABELS, level_scores(model.layers[-1])[:, 0])
    assert Run(tmp_path / RUNS[0]).last("levels/loss") == pytest.approx(losses.mean(), rel=1e-2)


def test_a_model_without_a_compiled_loss(tmp_path: Path) -> None:
    ids = keras.Input((4,), dtype="int32")
    model = kr.RaFMModel(ids, make_layer(factors_l2=0.1)(ids))
    model.compile("sgd")
    analyse(model, tmp_path, analysis_data=(IDS, LABELS))
    run = Run(tmp_path / RUNS[0])
    assert "levels/loss" not in run.tags
    assert "levels/correlation_with_next_level" in run.tags


def test_scores_that_are_all_equal_have_no_correlation(tmp_path: Path) -> None:
    model = make_model()
    analyse(model, tmp_path, analysis_data=(np.zeros_like(IDS), LABELS))
    run = Run(tmp_path / RUNS[0])
    assert "levels/correlation_with_next_level" not in run.tags
    assert run.last("levels/mean_absolute_difference_to_next_level") == pytest.approx(0, abs=1e-6)
