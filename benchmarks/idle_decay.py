"""Validation loss by optimizer, learning rate and decay: where the default of `LazyAdam(idle_decay=…)` comes from.

    python -m benchmarks.idle_decay --data ../shared/data [--seeds 3] [--cases frappe] [--decays 0,0.1,0.3,1] [--others]
                                    [--learning-rates 0.004,0.03] [--plain 64,256]

Test data is not read for it. One line a data set and optimizer: mean and standard deviation over seeds of the validation
log-loss (Frappe) or RMSE (MovieLens 100K, Yelp) at the best epoch, of the full model and of its lowest level; Keras Adam
with L2 over whole tables, which passes over every row in every step, is what the others are held against.
"""

from __future__ import annotations

from dataclasses import replace

import keras

import keras_rafm as kr
from benchmarks.validation import cases, parser
from examples.comparison import Settings


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--decays", default="0,0.1,0.2,0.3,0.5,1")
    options.add_argument("--learning-rates", default=f"{Settings.learning_rate}")
    options.add_argument("--plain", default="", help="ranks of plain FMs to train as well")
    options.add_argument("--others", action="store_true", help="also the other optimizers")
    arguments = options.parse_args()
    for case in cases(arguments):
        lazy = replace(case.settings, optimizer=kr.optimizers.LazyAdam, factors_l2=0.0)
        runs = {
            f"LazyAdam, rate {rate:g}, idle_decay {decay:g}": replace(
                lazy, learning_rate=rate, optimizer_options={"idle_decay": decay}
            )
            for rate in map(float, arguments.learning_rates.split(","))
            for decay in map(float, arguments.decays.split(","))
        }
        if arguments.others:
            runs.update(others(case.settings))
        plain = {f"FM {rank}, ": case.plain(int(rank)) for rank in arguments.plain.split(",") if rank}
        for model, plan in {"": case.plan, **plain}.items():
            for label, settings in runs.items():
                case.report(model + label, plan, settings)


def others(dense: Settings) -> dict[str, Settings]:
    """What is held against `LazyAdam`; the reference first."""
    none = replace(dense, factors_l2=0.0)
    adagrad = replace(none, optimizer=kr.optimizers.SparseAdagrad, learning_rate=0.1)
    ftrl = replace(none, optimizer=kr.optimizers.SparseFtrl, learning_rate=0.1)
    adamw = replace(none, optimizer=keras.optimizers.AdamW)
    return {
        f"Adam, L2 {dense.factors_l2:g} over tables": dense,
        "Adam, no L2": none,
        "Keras AdamW, weight_decay 0.3": replace(adamw, optimizer_options={"weight_decay": 0.3}),
        "SparseAdagrad, rate 0.1": adagrad,
        "SparseFtrl, rate 0.1, L2 0.01": replace(ftrl, optimizer_options={"l2_regularization_strength": 0.01}),
    }


if __name__ == "__main__":
    main()
