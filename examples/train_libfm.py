"""Train RaFM on libFM or LIBSVM text, with early stopping on validation data, a report on test data, and an export.

    python examples/train_libfm.py --train train.libfm.gz --validation validation.libfm.gz --test test.libfm.gz \
        --ranks 64,256 --thresholds 256 --compare --seeds 3 --export saved_models/mine --report report.json
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from comparison import Settings, Split, as_json, compare, print_table

import keras_rafm as kr


def main() -> None:
    arguments = parse_arguments()
    split = Split(*(kr.data.read_libfm(path) for path in (arguments.train, arguments.validation, arguments.test)))
    split = with_equal_width(split)
    num_features = 1 + max(int(samples.ids.max()) for samples in (split.train, split.validation, split.test))
    counts = kr.count_features(split.train, num_features)
    plan = kr.RankPlan.from_counts(counts, arguments.ranks, arguments.thresholds)
    print(f"{len(split.train):,} training, {len(split.validation):,} validation, {len(split.test):,} test samples\n")
    plan.summary()
    print()

    settings = Settings(
        learning_rate=arguments.learning_rate,
        batch_size=arguments.batch_size,
        max_epochs=arguments.epochs,
        patience=arguments.patience,
        optimizer_options={} if arguments.idle_decay is None else {"idle_decay": arguments.idle_decay},
        factors_l2=arguments.factors_l2,
        dependent_loss_weight=arguments.dependent_loss_weight,
    )
    rows, model = compare(split, plan, settings, range(arguments.seeds), arguments.compare)
    print()
    print_table(rows)
    if arguments.report:
        Path(arguments.report).write_text(json.dumps(as_json(rows), indent=2) + "\n")
    if arguments.export:
        print(f"\nexported to {kr.export(model, arguments.export)}")


def with_equal_width(split: Split) -> Split:
    """Pad all samples to the number of occurrences of the longest one."""
    width = max(samples.num_fields for samples in (split.train, split.validation, split.test))
    return Split(*(samples.padded(width) for samples in (split.train, split.validation, split.test)))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("train", "validation", "test"):
        parser.add_argument(f"--{name}", required=True, help="libFM text, plain or gzip")
    parser.add_argument(
        "--ranks",
        type=comma_separated(int),
        default=(64, 256),
        help="ranks of the levels in increasing order, separated by commas: 64,256",
    )
    parser.add_argument(
        "--thresholds",
        type=comma_separated(float),
        default=(256.0,),
        help="one fewer than ranks: features that occur more often in training get the next rank",
    )
    parser.add_argument("--compare", action="store_true", help="also train plain FMs of the lowest and highest rank")
    parser.add_argument("--seeds", type=int, default=1, help="the number of seeds, from 0")
    parser.add_argument("--export", metavar="DIR", help="export RaFM of the first seed as the next version")
    parser.add_argument("--report", metavar="FILE", help="write the table as JSON")
    defaults = Settings()
    parser.add_argument("--learning-rate", type=float, default=defaults.learning_rate)
    parser.add_argument("--batch-size", type=int, default=defaults.batch_size)
    parser.add_argument("--epochs", type=int, default=defaults.max_epochs, help="the maximum")
    parser.add_argument(
        "--patience", type=int, default=defaults.patience, help="stop after this number of epochs without improvement"
    )
    parser.add_argument("--idle-decay", type=float, help="idle_decay of LazyAdam")
    parser.add_argument("--factors-l2", type=float, default=defaults.factors_l2, help="L2 over whole factor tables")
    parser.add_argument("--dependent-loss-weight", type=number_or_auto, default=defaults.dependent_loss_weight)
    return parser.parse_args()


def comma_separated(kind: type) -> object:
    def parse(text: str) -> tuple:
        return tuple(kind(part) for part in text.split(",") if part)

    return parse


def number_or_auto(text: str) -> float | str:
    return text if text == "auto" else float(text)


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
