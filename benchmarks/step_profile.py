"""Core milliseconds per training step by kind of operation.

    python -m benchmarks.step_profile [--case large] [--contender "RaFM 32+512, LazyAdam"] [--threads default]
                                      [--data ../shared/data] [--single]

TensorFlow's profiler records steps of a case of `python -m benchmarks`, with 16 steps per execution. It slows the step down
by a few per cent. TensorFlow 2.17 records all operations, 2.21 few of those that take only microseconds.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

import keras_rafm as kr
from benchmarks.speed import cases, models, repetitions
from benchmarks.speed.runtime import set_threads
from benchmarks.speed.specs import THREADS, TensorFlowContender
from benchmarks.speed.workloads import frappe

_STEPS_PER_EXECUTION, _EXECUTIONS = 16, 4
_ON_DRAWN_SAMPLES = {**cases.DRAWN, **cases.HIDDEN}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", default="large", choices=[*cases.ON_FRAPPE, *_ON_DRAWN_SAMPLES])
    parser.add_argument("--contender", default="RaFM 32+512, SparseAdagrad", help="its name in the report of the case")
    parser.add_argument("--threads", default="one-per-op", choices=THREADS)
    parser.add_argument("--data", type=Path, help="folder with the Frappe data, for the cases that use them")
    parser.add_argument("--single", action="store_true", help="list individual operations instead of totals per kind")
    options = parser.parse_args()
    set_threads(options.threads)
    contender = _contender(parser, options)
    samples = repetitions.load(contender)
    model = models.build(contender, kr.count_features(samples, contender.workload.num_features), _STEPS_PER_EXECUTION)
    feed = repetitions.CachedBatches(contender, samples, _STEPS_PER_EXECUTION)
    times = repetitions.EpochTimes()
    feed.plan(model, seconds=2.0)
    feed.train(model, 3, times)
    step = 1000 * repetitions.seconds_of(times) / feed.steps
    with tempfile.TemporaryDirectory() as folder:
        feed.steps = _EXECUTIONS * _STEPS_PER_EXECUTION
        with tf.profiler.experimental.Profile(folder, tf.profiler.experimental.ProfilerOptions(host_tracer_level=3)):
            feed.train(model, 1, times)
        (file,) = Path(folder).rglob("*.xplane.pb")
        milliseconds, numbers = _operations(file, options.single)
    busy = sum(milliseconds.values()) / feed.steps
    print(f"{contender.name}: {step:.2f} ms a step without the profiler; {busy:.1f} core milliseconds in operations")
    print("| operation | core ms per step | times per step |\n|---|---:|---:|")
    for name, total in milliseconds.most_common(40):
        print(f"| {name} | {total / feed.steps:.2f} | {numbers[name] / feed.steps:.1f} |")


def _contender(parser: argparse.ArgumentParser, options: argparse.Namespace) -> TensorFlowContender:
    if options.case in _ON_DRAWN_SAMPLES:
        case = _ON_DRAWN_SAMPLES[options.case]()
    elif options.data is None:
        parser.error(f"--data is needed for {options.case}")
    else:
        case = cases.ON_FRAPPE[options.case](frappe(options.data))
    contenders = {each.name: each for each in case.contenders if isinstance(each, TensorFlowContender)}
    if options.contender not in contenders:
        expected = ", ".join(map(repr, contenders))
        parser.error(f"--contender of {options.case} must be one of {expected}, not {options.contender!r}")
    return contenders[options.contender]


def _operations(file: Path, single: bool) -> tuple[Counter[str], Counter[str]]:
    """Return the core milliseconds and the number of runs of each operation."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space: Any = xplane_pb2.XSpace()
    space.ParseFromString(file.read_bytes())
    milliseconds: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                name = plane.event_metadata[event.metadata_id].name
                path, _, kind = name.rpartition(":")
                # The thread of an operation records it as `path/to/its/name:Kind`.
                if not path or not kind.isidentifier() or " " in path or "::" in name:
                    continue
                key = f"{path.rpartition('StatefulPartitionedCall/')[2]}:{kind}" if single else kind
                milliseconds[key] += event.duration_ps / 1e9
                numbers[key] += 1
    return milliseconds, numbers


if __name__ == "__main__":
    main()
