"""Validation losses behind the defaults of `RaFMLayer` and `LazyAdam`, as in the tables of `benchmarks/README.md`.

    python -m benchmarks.validation dependent-loss-weight --data ../shared/data [--cases frappe,yelp] [--seeds 3]
    python -m benchmarks.validation idle-decay --data ../shared/data
    python -m benchmarks.validation learning-rate --data ../shared/data

Each line has the mean and standard deviation over the seeds of the validation log-loss (Frappe) or RMSE (MovieLens 100K,
Yelp) of the full model and of its lowest level, at the best epoch. Test samples are not used.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_rafm as kr
from benchmarks import datasets, options
from benchmarks.training import Settings, level_scores, train


@dataclass(frozen=True)
class Case:
    """A data set and how RaFM is trained on it.

    Attributes:
        read: Reads the samples from the folder of all data.
        ranks: Ranks of RaFM.
        thresholds: Thresholds of the feature counts between the levels.
        reference: Keras Adam with L2 over whole tables. The L2 of the rating data was chosen on validation samples.
        weights: Values of `dependent_loss_weight` to compare.
        decays: Values of `idle_decay` to compare, where `max_dense_rows` is at its default.
        decays_by_rows: Values of `idle_decay` to compare where all tables are read by rows.
    """

    read: Callable[[Path], datasets.Split]
    ranks: tuple[int, ...]
    thresholds: tuple[int, ...]
    reference: Settings
    weights: tuple[float, ...] = (0.25, 0.5, 1, 2, 4)
    decays: tuple[float, ...] = (0, 0.3, 1, 3, 10)
    decays_by_rows: tuple[float, ...] = ()

    @property
    def lazy(self) -> Settings:
        """The same with `LazyAdam` and without L2."""
        return replace(self.reference, optimizer=kr.optimizers.LazyAdam, factors_l2=0.0)


class Run(NamedTuple):
    """A line of a table: its label, how to train, and the rank of a plain FM if it isn't RaFM that is trained."""

    label: str
    settings: Settings
    plain_rank: int | None = None


_DENSE = Settings(optimizer=keras.optimizers.Adam, factors_l2=2.5e-6)
_RATINGS = replace(_DENSE, task="regression", factors_l2=5e-5, patience=10)
CASES = {
    "frappe": Case(
        datasets.frappe,
        ranks=(64, 256),
        thresholds=(256,),
        reference=_DENSE,
        weights=(1, 2, 4, 8, 16),
        decays=(0.1, 0.2, 0.3, 0.4, 0.5),
        decays_by_rows=(0, 0.1, 0.3, 0.5, 1),
    ),
    "ml-100k": Case(datasets.ml_100k, ranks=(4, 16), thresholds=(100,), reference=_RATINGS),
    "yelp": Case(datasets.yelp, ranks=(4, 16), thresholds=(20,), reference=replace(_RATINGS, factors_l2=5e-4)),
}
#: Learning rates and values of `idle_decay` on Frappe, for RaFM (`None`) and for plain FMs of a rank.
_RATES_AND_DECAYS: dict[int | None, tuple[tuple[float, float], ...]] = {
    None: (
        *((0.004, 0.3), (0.008, 0.3), (0.016, 0.3), (0.016, 0.15), (0.02, 0.15), (0.02, 0.1)),
        *((0.03, 0.15), (0.03, 0.08), (0.03, 0.3), (0.06, 0.1), (0.1, 0.05)),
    ),
    64: ((0.016, 0.15), (0.03, 0.15)),
    256: ((0.016, 0.15), (0.03, 0.15)),
    512: ((0.03, 0.15),),
}


def dependent_loss_weight(case: Case) -> Iterator[Run]:
    """Yield plain FMs of the lowest and the highest rank, then RaFM with each weight."""
    for rank in case.ranks:
        yield Run(f"FM {rank}", case.reference, rank)
    for weight in case.weights:
        yield Run(f"RaFM, weight {weight:g}", replace(case.reference, dependent_loss_weight=weight))


def idle_decay(case: Case) -> Iterator[Run]:
    """Yield RaFM with the reference, with `LazyAdam` and each decay, and with other optimizers."""
    yield Run(f"Adam, L2 {case.reference.factors_l2:g} over tables: the reference", case.reference)
    without_l2 = replace(case.reference, factors_l2=0.0)
    yield Run("Adam, no L2", without_l2)
    by_rows = replace(case.lazy, max_dense_rows=0)
    for decay in case.decays_by_rows:
        yield Run(f"LazyAdam, idle_decay {decay:g}, tables by rows", _with_options(by_rows, idle_decay=decay))
    for decay in case.decays:
        yield Run(f"LazyAdam, idle_decay {decay:g}", _with_options(case.lazy, idle_decay=decay))
    if case is CASES["frappe"]:
        slower = _with_options(replace(case.lazy, learning_rate=0.003), idle_decay=0.4)
        yield Run("LazyAdam, idle_decay 0.4, learning rate 0.003", slower)
    adamw = replace(without_l2, optimizer=keras.optimizers.AdamW)
    yield Run("Keras AdamW, weight_decay 0.3", _with_options(adamw, weight_decay=0.3))
    yield Run("SparseAdagrad", replace(without_l2, optimizer=kr.optimizers.SparseAdagrad, learning_rate=0.1))
    ftrl = replace(without_l2, optimizer=kr.optimizers.SparseFtrl, learning_rate=0.1)
    yield Run("SparseFtrl, L2 0.01", _with_options(ftrl, l2_regularization_strength=0.01))


def learning_rate(case: Case) -> Iterator[Run]:
    """Yield RaFM and plain FMs with `LazyAdam` at several learning rates and decays."""
    for rank, pairs in _RATES_AND_DECAYS.items():
        for rate, decay in pairs:
            settings = _with_options(replace(case.lazy, learning_rate=rate), idle_decay=decay)
            yield Run(f"{'RaFM' if rank is None else f'FM {rank}'}, {rate:g}, {decay:g}", settings, rank)


TABLES = {
    "dependent-loss-weight": dependent_loss_weight,
    "idle-decay": idle_decay,
    "learning-rate": learning_rate,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=tuple(TABLES))
    parser.add_argument("--data", type=Path, required=True, help="folder that holds frappe, ml-100k and yelp")
    parser.add_argument(
        "--cases", type=options.names(tuple(CASES)), help="separated by commas; default: those of the table"
    )
    parser.add_argument("--seeds", type=options.integer(), default=3, help="how many seeds, 0 first (%(default)s)")
    arguments = parser.parse_args()
    default_cases = ["frappe"] if arguments.table == "learning-rate" else list(CASES)
    print("| data | training | validation | lowest level |\n|---|---|---|---|")
    for name in arguments.cases or default_cases:
        case = CASES[name]
        split = case.read(arguments.data)
        counts = split.counts()
        for run in TABLES[arguments.table](case):
            ranks, thresholds = (case.ranks, case.thresholds) if run.plain_rank is None else ((run.plain_rank,), ())
            plan = kr.RankPlan.from_counts(counts, ranks, thresholds)
            print(f"| {name} | {run.label} | {_losses(plan, split, run.settings, arguments.seeds)} |", flush=True)


def _losses(plan: kr.RankPlan, split: datasets.Split, settings: Settings, seeds: int) -> str:
    """Train with every seed, and return the cells of the full model and of its lowest level."""
    losses = []
    for seed in range(seeds):
        print(f"seed {seed}", file=sys.stderr, flush=True)
        _, layer = train(plan, split, settings, seed)
        scores = level_scores(layer, split.validation).astype(np.float64)
        losses.append([_loss(settings.task, split.validation.labels, scores[:, level]) for level in (-1, 0)])
    means = np.mean(losses, axis=0)
    deviations = np.std(losses, axis=0, ddof=1) if seeds > 1 else np.zeros(2)
    return " | ".join(f"{mean:.4f} ± {deviation:.4f}" for mean, deviation in zip(means, deviations, strict=True))


def _loss(task: str, labels: np.ndarray, scores: np.ndarray) -> float:
    if task == "classification":
        return float(np.mean(np.logaddexp(0, scores) - labels * scores))
    return float(np.sqrt(np.mean((scores - labels) ** 2)))


def _with_options(settings: Settings, **optimizer_options: Any) -> Settings:
    return replace(settings, optimizer_options=optimizer_options)


if __name__ == "__main__":
    main()
