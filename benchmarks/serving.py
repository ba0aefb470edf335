"""Serving of exported models: latency, throughput, size, and the loss of lower precisions.

    python -m benchmarks.serving --data ../shared/data [--other-python PATH] [--seeds 0 1 2] [--profile]

The command compares RaFM 64+256 on Frappe with a plain FM-256, both exported in the same way, through the C API
(`examples/serving/c`), the runtime inside TF Serving. The C program sends batches of test samples one after the other. The
models alternate for several rounds, and ratios compare times of the same round. With `--other-python`, an interpreter with
another version of TensorFlow, that version serves the same models too.

Sizes are those of the files in `variables` and of the whole version directory. Losses are those of the trained and of the
exported model on the test samples, for every seed. `--profile` prints the time of each kind of operation in a request.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np

import keras_rafm as kr
from benchmarks import options
from benchmarks.datasets import Split, frappe
from benchmarks.machine import load_averages, machine
from benchmarks.speed.spreads import Spread, pairwise_ratios
from benchmarks.training import Settings, train

_SOURCE = Path(__file__).resolve().parents[1] / "examples" / "serving" / "c" / "score.c"
_RANKS, _THRESHOLDS = (64, 256), (256,)
_PRECISIONS = ("trained", "bfloat16", "int8")
#: Samples of a round by batch size, and the number of different samples among them.
_BATCHES = {1: 8192, 32: 65_536, 512: 262_144}
_SAMPLES, _ROUNDS = 8192, 5
_LIBRARY = "import tensorflow as tf; print(tf.__version__, tf.sysconfig.get_include(), tf.sysconfig.get_lib(), sep='\\n')"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="folder that holds frappe")
    parser.add_argument("--other-python", help="an interpreter with another TensorFlow version")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--max-epochs", type=options.integer(), default=Settings.max_epochs)
    parser.add_argument("--rounds", type=options.integer(), default=_ROUNDS)
    parser.add_argument("--threads", type=options.integer(), help="of the server; default: TensorFlow's choice")
    parser.add_argument("--profile", action="store_true", help="print the time of each kind of operation")
    arguments = parser.parse_args()

    about = machine()
    print(f"{about['processor']}, {about['cores']} processors, loads before: {load_averages()}\n")
    split = frappe(arguments.data)
    with tempfile.TemporaryDirectory(prefix="keras_rafm_serving_") as name:
        folder = Path(name)
        versions = _exported(split, folder, arguments.seeds, arguments.max_epochs)
        requests = _requests(split.test)
        for python in filter(None, (sys.executable, arguments.other_python)):
            tensorflow, program = _compiled(python, folder)
            latencies = _latencies(program, versions, requests, arguments.rounds, arguments.threads)
            print(f"## TensorFlow {tensorflow}{f', {arguments.threads} threads' if arguments.threads else ''}\n")
            _print_latencies(latencies)
        if arguments.profile:
            for model in ("FM-256", "RaFM 64+256"):
                for batch in _BATCHES:
                    _print_profile(model, versions[model], requests, batch)
    print(f"Loads after: {load_averages()}")


def _exported(split: Split, folder: Path, seeds: list[int], max_epochs: int) -> dict[str, Path]:
    """Train and export the models, print sizes and losses, and return version directories by name."""
    counts = split.counts()
    fm, rafm = kr.RankPlan.from_counts(counts, _RANKS[-1:], ()), kr.RankPlan.from_counts(counts, _RANKS, _THRESHOLDS)
    plain, _ = train(fm, split, Settings(max_epochs=1), seed=0)  # only its size and speed are measured
    versions = {"FM-256": kr.export(plain, folder / "fm")}
    ratios: dict[str, list[float]] = {precision: [] for precision in _PRECISIONS}
    losses: dict[str, list[float]] = {precision: [] for precision in ("model", *_PRECISIONS)}
    evaluation = ({"ids": split.test.ids}, split.test.labels[:, np.newaxis])
    for seed in seeds:
        model, _ = train(rafm, split, Settings(max_epochs=max_epochs), seed)
        for precision in _PRECISIONS:
            name = "RaFM 64+256" + ("" if precision == "trained" else f", {precision}")
            versions[name] = kr.export(model, folder / precision, precision=precision, evaluation=evaluation, keep=1)
            loss = kr.serving.load_model_card(versions[name])["precision"]["loss"]
            losses["model"].append(loss["trained"])
            losses[precision].append(loss["exported"])
            ratios[precision].append(loss["exported"] / loss["trained"] - 1)
        versions["RaFM-low 64"] = kr.export(model, folder / "low", level=1, keep=1)
    print(f"\nTest log-loss of the model, {len(seeds)} seeds: {Spread.of(losses['model']).text('{:.5f}')}\n")
    print(
        "| exported as | test log-loss | difference to the model | variables, bytes | of FM-256's | whole version, bytes |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    largest = kr.serving.load_model_card(versions["FM-256"])["bytes"]["variables"]
    for name, path in versions.items():
        sizes = kr.serving.load_model_card(path)["bytes"]
        precision = name.rpartition(", ")[2] if "," in name else "trained"
        cells = ["", ""]
        if name.startswith("RaFM 64+256"):
            worst = max(ratios[precision], key=abs)
            cells = [Spread.of(losses[precision]).text("{:.5f}"), f"at most {worst:+.4%}"]
        share = sizes["variables"] / largest
        print(f"| {name} | {' | '.join(cells)} | {sizes['variables']:,} | {share:.1%} | {sizes['total']:,} |")
    print(flush=True)
    return versions


def _requests(samples: kr.data.Samples) -> str:
    chosen = np.random.default_rng(0).permutation(len(samples))[:_SAMPLES]
    return "\n".join(" ".join(str(i) for i in row if i >= 0) for row in samples.ids[chosen].tolist()) + "\n"


def _compiled(python: str, folder: Path) -> tuple[str, Path]:
    """Compile the C client against the TensorFlow of `python`. Return that version and the path of the program."""
    finished = subprocess.run([python, "-c", _LIBRARY], capture_output=True, text=True, check=True)
    version, include, library = finished.stdout.splitlines()[-3:]
    program = folder / f"score-{version}"
    libraries = ["-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2", f"-Wl,-rpath,{library}"]
    command = ["gcc", "-O2", "-std=c99", str(_SOURCE), "-o", str(program), f"-I{include}", f"-L{library}", *libraries]
    subprocess.run(command, check=True)
    return version, program


def _latencies(
    program: Path, versions: dict[str, Path], requests: str, rounds: int, threads: int | None
) -> dict[str, dict[int, list[dict[str, float]]]]:
    """Return the measurements of each round by model and batch size."""
    latencies: dict[str, dict[int, list[dict[str, float]]]] = {name: {batch: [] for batch in _BATCHES} for name in versions}
    for _ in range(rounds):
        for batch, number in _BATCHES.items():
            for name, path in versions.items():
                repeat = 1 + max(1, number // _SAMPLES)
                more = ["--threads", str(threads)] if threads else []
                command = [str(program), "--batch", str(batch), "--repeat", str(repeat), *more, str(path)]
                finished = subprocess.run(command, input=requests, capture_output=True, text=True, check=True)
                words = finished.stderr.splitlines()[-1].split()
                measured = {key: float(value) for key, value in zip(words[::2], words[1::2], strict=True)}
                latencies[name][batch].append(measured)
    return latencies


def _print_latencies(latencies: dict[str, dict[int, list[dict[str, float]]]]) -> None:
    print("| model | batch | p50 µs | p99 µs | samples/s | p50, of FM-256's |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, by_batch in latencies.items():
        for batch, measured in by_batch.items():
            p50, p99, speed = ([each[key] for each in measured] for key in ("p50_us", "p99_us", "samples_per_second"))
            ratios = pairwise_ratios(p50, [each["p50_us"] for each in latencies["FM-256"][batch]])
            ratio = "" if name == "FM-256" else Spread.of(ratios).text("{:.2f}")
            numbers = f"{Spread.of(p50).text('{:.0f}')} | {statistics.median(p99):.0f} | {statistics.median(speed):,.0f}"
            print(f"| {name} | {batch} | {numbers} | {ratio} |")
    print(flush=True)


def _print_profile(model: str, path: Path, requests: str, batch: int) -> None:
    """Print how many microseconds of a request each kind of operation takes, as traced in a TensorFlow session."""
    import tensorflow as tf

    tf1 = tf.compat.v1
    ids = np.array([[int(word) for word in line.split()] for line in requests.splitlines()[:batch]], np.int32)
    microseconds: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    runs = 200
    with tf1.Session(graph=tf.Graph()) as session:
        with session.graph.as_default():
            signature = tf1.saved_model.load(session, ["serve"], str(path)).signature_def["serving_default"]
        fetched = [output.name for output in signature.outputs.values()]
        for run in range(2 * runs):
            traced: Any = tf1.RunMetadata()
            options = tf1.RunOptions(trace_level=tf1.RunOptions.FULL_TRACE)
            session.run(fetched, {signature.inputs["ids"].name: ids}, options=options, run_metadata=traced)
            if run >= runs:
                for node in (node for device in traced.step_stats.dev_stats for node in device.node_stats):
                    kind = node.timeline_label.partition(" = ")[2].partition("(")[0]
                    microseconds[kind] += (node.op_end_rel_nanos - node.op_start_rel_nanos) / 1000
                    numbers[kind] += 1
    total = sum(microseconds.values()) / runs
    print(f"### {model}, batch {batch}: {total:.0f} µs in {sum(numbers.values()) / runs:.0f} operations\n")
    print("| operation | µs | number |\n|---|---:|---:|")
    for kind, time_of_kind in microseconds.most_common(12):
        print(f"| {kind} | {time_of_kind / runs:.1f} | {numbers[kind] / runs:.0f} |")
    print(flush=True)


if __name__ == "__main__":
    keras.utils.disable_interactive_logging()
    main()
