"""Validation loss by `dependent_loss_weight`: where the defaults of `RaFMLayer` come from.

    python -m benchmarks.dependent_loss_weight --data ../shared/data [--seeds 3] [--weights 0.5,1,2,4,8]

Test data is not read for it. One line a data set and weight: mean and standard deviation over seeds of the validation
log-loss (Frappe) or RMSE (MovieLens 100K, Yelp) at the best epoch; the plain FMs of the lowest and the highest rank first.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.validation import cases, parser


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--weights", default="0.5,1,2,4,8,16")
    arguments = options.parse_args()
    for case in cases(arguments):
        for rank in case.plan.ranks:
            case.report(f"FM {rank}", case.plain(rank), case.settings)
        for weight in map(float, arguments.weights.split(",")):
            label = f"RaFM {'+'.join(map(str, case.plan.ranks))}, weight {weight:g}"
            case.report(label, case.plan, replace(case.settings, dependent_loss_weight=weight))


if __name__ == "__main__":
    main()
