"""A bar chart of the samples per second of every contender."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from benchmarks.speed.results import CaseResult
from benchmarks.speed.spreads import Spread

_OURS, _PEERS = "#0072b2", "#b0b0b0"
_INCHES_PER_BAR, _INCHES_BETWEEN_CASES, _WIDTH = 0.27, 0.55, 9.0


def require_matplotlib() -> None:
    """Check that matplotlib is installed, before anything is measured.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ModuleNotFoundError(
            "The plot needs matplotlib: install the extra `benchmark` (keras_rafm[benchmark]) or use --no-plot"
        )


def write_plot(results: Sequence[CaseResult], path: Path) -> None:
    """Draw a bar with its lowest and highest value for each contender, grouped by case. Each case has its own scale."""
    require_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    cases = [result for result in results if result.bars]
    if not cases:
        return
    sizes = [len(result.bars) for result in cases]
    height = sum(sizes) * _INCHES_PER_BAR + len(cases) * _INCHES_BETWEEN_CASES + 0.6
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    grid = figure.subplots(len(cases), 1, squeeze=False, gridspec_kw={"height_ratios": [size + 1.4 for size in sizes]})
    for axes, result in zip(grid[:, 0], cases, strict=True):
        spreads = [Spread.of(bar.samples_per_second) for bar in result.bars]
        medians = [spread.median for spread in spreads]
        errors = [[spread.median - spread.low for spread in spreads], [spread.high - spread.median for spread in spreads]]
        colours = [_OURS if bar.is_ours else _PEERS for bar in result.bars]
        drawn_bars = axes.barh(
            [bar.name for bar in result.bars], medians, xerr=errors, color=colours, error_kw={"elinewidth": 0.8}
        )
        axes.bar_label(drawn_bars, [f"{number:,.0f}" for number in medians], padding=4, fontsize=8)
        axes.set_title(result.title, loc="left", fontsize=9)
        axes.invert_yaxis()
        axes.margins(x=0.14)
        axes.tick_params(labelsize=8)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.spines[["top", "right"]].set_visible(False)
    grid[-1, 0].set_xlabel("samples per second", fontsize=9)
    handles = [Patch(color=_OURS, label="this package"), Patch(color=_PEERS, label="others")]
    figure.legend(handles=handles, loc="outside upper right", ncols=2, fontsize=8, frameon=False)
    figure.savefig(path, dpi=150)
