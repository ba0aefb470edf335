"""Validation loss by `dependent_loss_weight`: where the defaults of `RaFMLayer` come from.

    python -m benchmarks.dependent_loss_weight --data ../shared/data [--seeds 3] [--weights 0.5,1,2,4,8]

Test data is not read for it. One line a data set and weight: mean and standard deviation over seeds of the validation
log-loss (Frappe) or RMSE (MovieLens 100K, Yelp) at the best epoch; the plain FMs of the lowest and the highest rank first.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from keras.optimizers import Adam

import keras_rafm as kr
from benchmarks import datasets
from examples.comparison import Settings, Split, level_scores, train

#: name -> (reader, ranks, thresholds, settings). The L2 of the rating sets was chosen on their validation data.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds frappe, ml-100k and yelp")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--weights", default="0.5,1,2,4,8,16")
    parser.add_argument("--cases", default=",".join(CASES))
    arguments = parser.parse_args()

    print("| data | model | validation | lowest level |\n|---|---|---|---|")
    for name in arguments.cases.split(","):
        read, ranks, thresholds, settings = CASES[name]
        split = read(arguments.data)
        num_features = 1 + max(int(samples.ids.max()) for samples in (split.train, split.validation, split.test))
        counts = kr.count_features(split.train, num_features)
        for rank in ranks:
            plan = kr.RankPlan.from_counts(counts, [rank], [])
            report(name, f"FM {rank}", plan, split, settings, arguments.seeds)
        plan = kr.RankPlan.from_counts(counts, ranks, thresholds)
        for weight in map(float, arguments.weights.split(",")):
            weighted = replace(settings, dependent_loss_weight=weight)
            report(name, f"RaFM {'+'.join(map(str, ranks))}, weight {weight:g}", plan, split, weighted, arguments.seeds)


def report(name: str, model: str, plan: kr.RankPlan, split: Split, settings: Settings, seeds: int) -> None:
    losses = []
    for seed in range(seeds):
        _, layer, _ = train(plan, split, settings, seed, f"{name} {model} seed {seed}")
        scores = level_scores(layer, split.validation).astype(np.float64)
        losses.append([loss(settings.task, split.validation.labels, scores[:, level]) for level in (-1, 0)])
    mean, spread = np.mean(losses, axis=0), np.std(losses, axis=0, ddof=1) if seeds > 1 else np.zeros(2)
    print(f"| {name} | {model} | {mean[0]:.4f} ± {spread[0]:.4f} | {mean[1]:.4f} ± {spread[1]:.4f} |", flush=True)


def loss(task: str, labels: np.ndarray, scores: np.ndarray) -> float:
    if task == "classification":
        return float(np.mean(np.logaddexp(0, scores) - labels * scores))
    return float(np.sqrt(np.mean((scores - labels) ** 2)))


if __name__ == "__main__":
    main()
