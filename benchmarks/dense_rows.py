"""Milliseconds per step by batch size, with tables read whole and by rows: the basis of `max_dense_rows="auto"`.

    python -m benchmarks.dense_rows --data ../shared/data [--batch-sizes 32,256,4096]

The samples are Frappe's training data, the optimizer is `LazyAdam`, with one thread per operation. The table has medians of
seven turns, in which both ways alternate.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import keras_rafm as kr
from benchmarks import datasets, options
from benchmarks.speed.runtime import set_threads

#: Ranks and thresholds by model.
MODELS = {"FM 64": ((64,), ()), "FM 256": ((256,), ()), "RaFM 64+256": ((64, 256), (256,))}
#: Values of `max_dense_rows`.
WAYS = {"whole": 8192, "by rows": 0}
TURNS, STEPS, MOST_BATCHES = 7, 60, 48


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds frappe")
    parser.add_argument("--batch-sizes", type=options.integers(), default=[32, 256, 512, 1024, 2048, 4096])
    arguments = parser.parse_args()
    set_threads("one-per-op")
    split = datasets.frappe(arguments.data)
    counts = split.counts()
    samples = split.train[np.random.default_rng(0).permutation(len(split.train))]
    print("| batch | occurrences per row | model | whole | by rows |\n|---|---|---|---|---|")
    for batch_size in arguments.batch_sizes:
        per_row = batch_size * samples.num_fields / counts.size
        for name, (ranks, thresholds) in MODELS.items():
            plan = kr.RankPlan.from_counts(counts, ranks, thresholds)
            steps = {way: steps_of(plan, rows, samples, batch_size) for way, rows in WAYS.items()}
            turns = [{way: milliseconds(step) for way, step in steps.items()} for _ in range(TURNS)]
            cells = " | ".join(f"{statistics.median(turn[way] for turn in turns):.2f}" for way in WAYS)
            print(f"| {batch_size:,} | {per_row:.2f} | {name} | {cells} |", flush=True)


def steps_of(
    plan: kr.RankPlan, max_dense_rows: int, samples: kr.data.Samples, batch_size: int
) -> Callable[[tf.Tensor], object]:
    """Return a graph that runs as many training steps as its argument says."""
    number = min(MOST_BATCHES, len(samples) // batch_size)
    chosen = samples[: number * batch_size]
    ids = tf.constant(chosen.ids.reshape(number, batch_size, -1))
    labels = tf.constant(chosen.labels.reshape(number, batch_size, 1))
    inputs = keras.Input((samples.num_fields,), dtype="int32")
    model = kr.RaFMModel(inputs, kr.RaFMLayer(plan, max_dense_rows=max_dense_rows)(inputs))
    model.compile(kr.optimizers.LazyAdam(4e-3), keras.losses.BinaryCrossentropy(from_logits=True))
    model.optimizer.build(model.trainable_variables)

    def body(step: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([step]):
            model.train_step((ids[step % number], labels[step % number]))
        return step + 1

    def run(steps: tf.Tensor) -> tf.Tensor:
        return tf.while_loop(lambda step: step < steps, body, [tf.constant(0)], parallel_iterations=1)

    return tf.function(run, autograph=False)


def milliseconds(run: Callable[[tf.Tensor], object]) -> float:
    """Return the milliseconds per step."""
    run(tf.constant(3))
    start = time.perf_counter()
    run(tf.constant(STEPS))
    return (time.perf_counter() - start) / STEPS * 1000


if __name__ == "__main__":
    main()
