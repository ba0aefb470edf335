"""Frequency buckets, and the content of figures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from losses import log_losses
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import keras_rafm as kr
from keras_rafm import frequency_buckets, plots

pytestmark = pytest.mark.one_tensorflow

COUNTS = np.array([5, 0, 100, 7, 1000, 16, 3, 0, 64, 10])
PLAN = kr.RankPlan.from_counts(COUNTS, ranks=(4, 16, 32), thresholds=(6, 50))
RNG = np.random.default_rng(0)
IDS = RNG.integers(-1, 10, (200, 3))
LABELS = RNG.integers(0, 2, 200).astype(np.float32)
SCORES = {"FM 4": RNG.normal(size=200), "RaFM": RNG.normal(size=(200, 1))}
RAREST = np.array([min((COUNTS[i] for i in row if i >= 0), default=-1) for row in IDS])


@pytest.mark.parametrize("dtype", [np.int64, np.uint32, np.float32])
def test_count_of_the_rarest_feature(dtype: Any) -> None:
    counts = frequency_buckets.rarest_counts(IDS, COUNTS.astype(dtype))
    np.testing.assert_array_equal(counts, RAREST)
    assert frequency_buckets.rarest_counts(np.zeros((2, 0), int), COUNTS.astype(dtype)).tolist() == [-1, -1]
    assert frequency_buckets.rarest_counts(np.zeros((0, 3), int), COUNTS.astype(dtype)).shape == (0,)


def test_bucket_of_each_count_and_its_name() -> None:
    counts = [-1, 0, 0.5, 1, 3, 3.9, 4, 15, 16, 63, 64, 4**15 - 1, 4**15]
    buckets = frequency_buckets.bucket_of_counts(counts)
    assert buckets.tolist() == [-1, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 15, 16]
    names = [frequency_buckets.bucket_name(bucket) for bucket in (-1, 0, 1, 2, 3, 4)]
    assert names == ["no_features", "0", "1-3", "4-15", "16-63", "64-255"]


@pytest.mark.parametrize("loss", ["log_loss", "rmse"])
def test_loss_by_bucket(loss: Any) -> None:
    buckets = frequency_buckets.bucket_of_counts(RAREST)
    losses = frequency_buckets.loss_by_bucket(LABELS, SCORES["RaFM"], buckets, loss)
    scores = SCORES["RaFM"][:, 0]
    values = log_losses(LABELS, scores) if loss == "log_loss" else np.square(LABELS - scores)
    assert [bucket.bucket for bucket in losses] == sorted(set(buckets.tolist()))
    for bucket in losses:
        inside = buckets == bucket.bucket
        expected = values[inside].mean()
        assert bucket.loss == pytest.approx(expected if loss == "log_loss" else np.sqrt(expected))
        assert bucket.num_samples == inside.sum()
        assert bucket.name == frequency_buckets.bucket_name(bucket.bucket)


def test_log_losses_of_probabilities_and_of_extreme_scores() -> None:
    labels, logits = np.array([0.0, 1, 1, 0.3]), np.array([-1.0, 2, 0, 1])
    p = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(
        frequency_buckets.log_losses(labels, p, from_logits=False), frequency_buckets.log_losses(labels, logits)
    )
    np.testing.assert_allclose(frequency_buckets.log_losses([1, 0], [-1e4, 1e4]), [1e4, 1e4])
    np.testing.assert_allclose(
        frequency_buckets.log_losses([1, 0], [0, 1], from_logits=False), -np.log([1e-7, 1e-7]), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("ids", "counts", "error", "message"),
    [
        ([1, 2], COUNTS, ValueError, r"`ids` must be of shape \[N, F\]"),
        ([[1.0]], COUNTS, TypeError, "`ids` must be integers"),
        ([[0, 10]], COUNTS, ValueError, r"in \[0, 10\). Received: 10"),
        ([[-2]], COUNTS, ValueError, "Received: -2"),
        ([[0]], [[1]], ValueError, r"`counts` must be of shape \[num_features\]"),
        ([[0]], [1, np.nan], ValueError, "must be non-negative and finite"),
        ([[0]], [1, -3], ValueError, r"Received: counts\[1\]=-3"),
        ([[0]], ["a"], TypeError, "`counts` must be numbers"),
    ],
)
def test_rarest_counts_refuses_wrong_ids_and_counts(ids: Any, counts: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        frequency_buckets.rarest_counts(ids, counts)


def bands(ax: Axes) -> list[tuple[float, float, str]]:
    """Return the start, the end and the label of each band."""
    return [(patch.get_x(), patch.get_x() + patch.get_width(), patch.get_label()) for patch in ax.patches]


def test_frequencies_of_a_plan(tmp_path: Path) -> None:
    ax = plots.plot_frequencies(PLAN, thresholds=(6, 50))
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    x, y = ax.lines[0].get_data()
    assert x.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert y.tolist() == [1000, 100, 64, 16, 10, 7, 5, 3]
    total = COUNTS.sum()
    assert bands(ax) == [
        (0.5, 3.5, f"level 3, rank 32: 30% of features, {100 * 1164 / total:.3g}% of occurrences"),
        (3.5, 6.5, f"level 2, rank 16: 30% of features, {100 * 33 / total:.3g}% of occurrences"),
        (6.5, 10.5, f"level 1, rank 4: 40% of features, {100 * 8 / total:.3g}% of occurrences (2 never occur)"),
    ]
    assert [line.get_ydata()[0] for line in ax.lines[1:]] == [6, 50]
    assert [text.get_text() for text in ax.texts] == ["threshold 6", "threshold 50"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [label for *_, label in bands(ax)]
    ax.figure.savefig(tmp_path / "figure.png")


def test_frequencies_of_counts() -> None:
    ax = plots.plot_frequencies(COUNTS, thresholds=(6, 50))
    assert [band[:2] for band in bands(ax)] == [(0.5, 3.5), (3.5, 6.5), (6.5, 10.5)]
    assert bands(ax)[0][2].startswith("level 3: 30% of features")
    ((start, end, label),) = bands(plots.plot_frequencies(COUNTS))
    assert (start, end) == (0.5, 10.5)
    assert label == "all features: 100% of features, 100% of occurrences (2 never occur)"


def test_count_equal_to_a_threshold_is_in_the_lower_level() -> None:
    ax = plots.plot_frequencies(COUNTS, thresholds=(7,))
    assert [band[:2] for band in bands(ax)] == [(0.5, 5.5), (5.5, 10.5)]
    assert kr.RankPlan.from_counts(COUNTS, (2, 3), (7,)).level_sizes == (10, 5)


def test_empty_level_and_levels_that_do_not_follow_the_counts() -> None:
    ax = plots.plot_frequencies(kr.RankPlan([1, 3, 1, 3], (2, 3, 4), counts=[9, 2, 5, 4]))
    assert ax.lines[0].get_ydata().tolist() == [4, 2, 9, 5]
    assert [label.split(":")[0] for *_, label in bands(ax)] == ["level 3, rank 4", "level 1, rank 2"]


def test_a_long_curve_has_few_points() -> None:
    counts = np.arange(300_000)
    x, y = plots.plot_frequencies(counts).lines[0].get_data()
    assert 1000 < len(x) <= 2000
    assert (x[0], y[0]) == (1, 299_999)
    assert y[-1] >= 1
    np.testing.assert_array_equal(y, 300_000 - x)


@pytest.mark.parametrize("counts", [COUNTS, PLAN])
def test_loss_by_frequency(counts: Any, tmp_path: Path) -> None:
    ax = plots.plot_loss_by_frequency(SCORES, LABELS[:, None], IDS, counts, min_samples=1)
    buckets = frequency_buckets.bucket_of_counts(RAREST)
    present = sorted(set(buckets.tolist()))
    assert [line.get_label() for line in ax.lines] == ["FM 4", "RaFM"]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["FM 4", "RaFM"]
    for line, scores in zip(ax.lines, SCORES.values(), strict=True):
        values = log_losses(LABELS, scores.reshape(-1))
        np.testing.assert_allclose(line.get_ydata(), [values[buckets == bucket].mean() for bucket in present])
    ticks = [label.get_text() for label in ax.get_xticklabels()]
    names = [frequency_buckets.bucket_name(bucket).replace("_", " ") for bucket in present]
    assert ticks == [f"{name}\n({(buckets == bucket).sum()})" for name, bucket in zip(names, present, strict=True)]
    assert ax.get_ylabel() == "log-loss"
    assert "left out" not in ax.get_xlabel()
    ax.figure.savefig(tmp_path / "figure.png")


def test_small_buckets_are_left_out_and_counted_in_the_label() -> None:
    buckets, sizes = np.unique(frequency_buckets.bucket_of_counts(RAREST), return_counts=True)
    ax = plots.plot_loss_by_frequency(SCORES, LABELS, IDS, COUNTS, loss="rmse")
    assert 0 < (sizes < 30).sum() < len(buckets)
    assert len(ax.get_xticklabels()) == (sizes >= 30).sum()
    assert ax.get_xlabel().endswith(f"\nbuckets of fewer than 30 samples left out: {(sizes < 30).sum()}")
    assert ax.get_ylabel() == "root of the mean squared error"


def test_given_axes_are_used() -> None:
    left, right = Figure().subplots(1, 2)
    assert plots.plot_frequencies(PLAN, ax=left) is left
    assert plots.plot_loss_by_frequency(SCORES, LABELS, IDS, COUNTS, ax=right) is right
    assert left.lines
    assert right.lines


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((kr.RankPlan([1, 2], (2, 3)),), r"a RankPlan made from counts. Received: RankPlan\("),
        (([0, 0],), "at least one feature that occurs"),
        (([1, -1],), "non-negative and finite"),
        (([1, 2], (3, 2)), r"`thresholds` must be non-negative and increasing. Received: \(3, 2\)"),
        (([1, 2], (-1,)), "`thresholds`"),
    ],
)
def test_frequencies_that_cannot_be_drawn(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plots.plot_frequencies(*arguments)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"scores": SCORES["RaFM"]}, TypeError, "`scores` must map names to scores. Received: ndarray"),
        ({"scores": {}}, ValueError, "`scores` must have at least one model"),
        ({"scores": {"a": np.ones(199)}}, ValueError, r"scores\['a'\]: .*scores of shape \(199,\)"),
        ({"labels": np.ones(3)}, ValueError, r"scores\['FM 4'\]: .*labels of shape \(3,\)"),
        ({"counts": kr.RankPlan(np.ones(10, int), (2,))}, ValueError, "`counts` must be counts or a RankPlan made from"),
        ({"loss": "mse"}, ValueError, "`loss` must be one of 'log_loss', 'rmse'. Received: loss='mse'"),
        (
            {"min_samples": 1000},
            ValueError,
            "at least one bucket must have `min_samples`=1000 samples. Received: `ids` of 200 samples",
        ),
        (
            {"ids": IDS[:0], "labels": LABELS[:0], "scores": {"a": LABELS[:0]}},
            ValueError,
            "Received: `ids` of 0 samples, 0 in the largest",
        ),
    ],
)
def test_losses_that_cannot_be_drawn(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"scores": SCORES, "labels": LABELS, "ids": IDS, "counts": COUNTS, **changed}
    with pytest.raises(error, match=message):
        plots.plot_loss_by_frequency(**arguments)


def test_matplotlib_is_not_needed_for_the_rest() -> None:
    program = """
import sys
sys.modules["matplotlib"] = None  # Keras imports matplotlib if it is installed
import keras_rafm
try:
    keras_rafm.plots.plot_frequencies([3, 2])
except ImportError as error:
    assert "pip install 'keras_rafm[plots]'" in str(error), error
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=120)


def test_figures_leave_pyplot_and_its_styles_alone() -> None:
    figures, styles = pyplot.get_fignums(), dict(matplotlib.rcParams)
    plots.plot_frequencies(PLAN)
    plots.plot_loss_by_frequency(SCORES, LABELS, IDS, COUNTS)
    assert pyplot.get_fignums() == figures
    assert dict(matplotlib.rcParams) == styles


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'keras_rafm\[plots\]'"):
        plots.plot_frequencies(PLAN)
