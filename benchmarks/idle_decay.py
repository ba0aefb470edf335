"""Validation loss by optimizer and decay: where the default of `LazyAdam(idle_decay=…)` comes from.

    python -m benchmarks.idle_decay --data ../shared/data [--seeds 3] [--cases frappe] [--decays 0,0.1,0.3,1]

Test data is not read for it. One line a data set and optimizer: mean and standard deviation over seeds of the validation
log-loss (Frappe) or RMSE (MovieLens 100K, Yelp) at the best epoch, of the full model and of its lowest level; Keras Adam
with L2 over whole tables, which passes over every row in every step, is what the others are held against.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import keras

import keras_rafm as kr
from benchmarks.dependent_loss_weight import CASES, report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds frappe, ml-100k and yelp")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--decays", default="0,0.1,0.2,0.3,0.5,1")
    parser.add_argument("--others", action="store_true", help="also the other optimizers")
    arguments = parser.parse_args()

    print("| data | optimizer | validation | lowest level |\n|---|---|---|---|")
    for name in arguments.cases.split(","):
        read, ranks, thresholds, dense = CASES[name]
        split = read(arguments.data)
        num_features = 1 + max(int(samples.ids.max()) for samples in (split.train, split.validation, split.test))
        plan = kr.RankPlan.from_counts(kr.count_features(split.train, num_features), ranks, thresholds)
        lazy = replace(dense, optimizer=kr.optimizers.LazyAdam, factors_l2=0.0)
        runs = {
            f"LazyAdam, idle_decay {d:g}": replace(lazy, optimizer_options={"idle_decay": d}) for d in decays(arguments)
        }
        if arguments.others:
            adagrad = replace(lazy, optimizer=kr.optimizers.SparseAdagrad, learning_rate=0.1)
            runs = {
                f"Adam, L2 {dense.factors_l2:g} over tables": dense,
                "Adam, no L2": replace(dense, factors_l2=0.0),
                **runs,
                "Keras AdamW, weight_decay 0.3": replace(
                    dense, optimizer=keras.optimizers.AdamW, factors_l2=0.0, optimizer_options={"weight_decay": 0.3}
                ),
                "SparseAdagrad": adagrad,
                "SparseAdagrad, idle_decay 0.01": replace(adagrad, optimizer_options={"idle_decay": 0.01}),
                "SparseFtrl, L2 0.01": replace(
                    lazy,
                    optimizer=kr.optimizers.SparseFtrl,
                    learning_rate=0.1,
                    optimizer_options={"l2_regularization_strength": 0.01},
                ),
            }
        for label, settings in runs.items():
            report(name, label, plan, split, settings, arguments.seeds)


def decays(arguments: argparse.Namespace) -> list[float]:
    return [float(decay) for decay in arguments.decays.split(",")]


if __name__ == "__main__":
    main()
