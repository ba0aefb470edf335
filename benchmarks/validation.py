"""Validation loss of a way of training on Frappe, MovieLens 100K and Yelp, over seeds. Test data is not read."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from keras.optimizers import Adam

import keras_rafm as kr
from benchmarks import datasets
from examples.comparison import Settings, Split, level_scores, train

#: name -> (reader, ranks, thresholds, settings). Keras Adam with L2 over whole tables; that of the rating sets was chosen
#: on their validation data.
CASES: dict[str, tuple[Callable[[Path], Split], tuple[int, ...], tuple[int, ...], Settings]] = {
    "frappe": (datasets.frappe, (64, 256), (256,), Settings(optimizer=Adam, factors_l2=2.5e-6)),
    "ml-100k": (
        datasets.ml_100k,
        (4, 16),
        (100,),
        Settings(task="regression", optimizer=Adam, factors_l2=5e-5, patience=10),
    ),
    "yelp": (
        datasets.yelp,
        (4, 16),
        (20,),
        Settings(task="regression", optimizer=Adam, factors_l2=5e-4, patience=10),
    ),
}


@dataclass(frozen=True)
class Case:
    """A data set to train on, with the settings that all runs on it start from."""

    name: str
    split: Split
    settings: Settings
    plan: kr.RankPlan
    seeds: int

    def plain(self, rank: int) -> kr.RankPlan:
        """A plain FM for the same features."""
        return kr.RankPlan.from_counts(self.plan.counts, [rank], [])

    def report(self, label: str, plan: kr.RankPlan, settings: Settings) -> None:
        """Train with every seed and print a line: loss of the full model and of its lowest level, at the best epoch."""
        losses = []
        for seed in range(self.seeds):
            _, layer, _ = train(plan, self.split, settings, seed, f"{self.name} {label} seed {seed}")
            scores = level_scores(layer, self.split.validation).astype(np.float64)
            losses.append([_loss(settings.task, self.split.validation.labels, scores[:, level]) for level in (-1, 0)])
        mean = np.mean(losses, axis=0)
        spread = np.std(losses, axis=0, ddof=1) if self.seeds > 1 else np.zeros(2)
        cells = [f"{m:.4f} ± {s:.4f}" for m, s in zip(mean, spread, strict=True)]
        print(f"| {self.name} | {label} | {cells[0]} | {cells[1]} |", flush=True)


def parser(description: str | None) -> argparse.ArgumentParser:
    """With the options that `cases` reads."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--data", type=Path, required=True, help="folder that holds frappe, ml-100k and yelp")
    result.add_argument("--seeds", type=int, default=3)
    result.add_argument("--cases", default=",".join(CASES))
    return result


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """The data sets asked for, read one after the other, under the head of a table of their lines."""
    print("| data | training | validation | lowest level |\n|---|---|---|---|")
    for name in arguments.cases.split(","):
        read, ranks, thresholds, settings = CASES[name]
        split = read(arguments.data)
        num_features = 1 + max(int(samples.ids.max()) for samples in (split.train, split.validation, split.test))
        plan = kr.RankPlan.from_counts(kr.count_features(split.train, num_features), ranks, thresholds)
        yield Case(name, split, settings, plan, arguments.seeds)


def _loss(task: str, labels: np.ndarray, scores: np.ndarray) -> float:
    if task == "classification":
        return float(np.mean(np.logaddexp(0, scores) - labels * scores))
    return float(np.sqrt(np.mean((scores - labels) ** 2)))
