"""Serving of exported models: latency, throughput, size and what fewer bits cost.

    python -m benchmarks.serving --data ../shared/data [--other-python PATH] [--seeds 0 1 2] [--profile]

RaFM 64+256 on Frappe against a plain FM-256 that is exported in the same way, through the C API (`examples/serving/c`),
which is the runtime inside TF Serving: the C program sends batches of test samples one after the other. All models take
turns, for several rounds; ratios are of the same round. With `--other-python`, an interpreter with another version of
TensorFlow, the same models are served by that version too.

Sizes are of the files in `variables`, and of the whole version directory. Losses are those of the test samples: of the
model as it was trained and as it is exported, for every seed. `--profile` prints what one request spends its time on.
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
from benchmarks.datasets import frappe
from benchmarks.speed.report import machine
from benchmarks.speed.spreads import Spread, pairwise_ratios
from examples.comparison import Settings, Split, train

_SOURCE = Path(__file__).resolve().parents[1] / "examples" / "serving" / "c" / "score.c"
_RANKS, _THRESHOLDS = (64, 256), (256,)
_PRECISIONS = ("trained", "bfloat16", "int8")
#: Requests of a round by batch size, and how many samples they are drawn from.
_BATCHES = {1: 8192, 32: 65_536, 512: 262_144}
_SAMPLES, _ROUNDS = 8192, 5
_LIBRARY = "import tensorflow as tf; print(tf.__version__, tf.sysconfig.get_include(), tf.sysconfig.get_lib(), sep='\\n')"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path, help="folder that holds frappe")
    parser.add_argument("--other-python", help="an interpreter with another TensorFlow version")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--max-epochs", type=int, default=Settings.max_epochs)
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    parser.add_argument("--threads", type=int, help="of the server; default: TensorFlow's choice")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()

    about = machine()
    print(f"{about['processor']}, {about['cores']} processors, loads before: {_loads()}\n")
    split = frappe(options.data)
    with tempfile.TemporaryDirectory(prefix="keras_rafm_serving_") as name:
        folder = Path(name)
        versions = _exported(split, folder, options.seeds, options.max_epochs)
        requests = _requests(split.test)
        for python in filter(None, (sys.executable, options.other_python)):
            tensorflow, program = _compiled(python, folder)
            found = _latencies(program, versions, requests, options.rounds, options.threads)
            print(f"## TensorFlow {tensorflow}{f', {options.threads} threads' if options.threads else ''}\n")
            _print_latencies(found)
        if options.profile:
            for model in ("FM-256", "RaFM 64+256"):
                for batch in _BATCHES:
                    _print_profile(model, versions[model], requests, batch)
    print(f"Loads after: {_loads()}")


def _exported(split: Split, folder: Path, seeds: list[int], max_epochs: int) -> dict[str, Path]:
    """Version directories by name. Prints sizes and losses."""
    num_features = 1 + max(int(samples.ids.max()) for samples in (split.train, split.validation, split.test))
    counts = kr.count_features(split.train, num_features)
    fm, rafm = kr.RankPlan.from_counts(counts, _RANKS[-1:], ()), kr.RankPlan.from_counts(counts, _RANKS, _THRESHOLDS)
    plain, _, _ = train(fm, split, Settings(max_epochs=1), 0, "FM-256, for its size")
    versions = {"FM-256": kr.export(plain, folder / "fm")}
    ratios: dict[str, list[float]] = {precision: [] for precision in _PRECISIONS}
    losses: dict[str, list[float]] = {precision: [] for precision in ("model", *_PRECISIONS)}
    evaluation = ({"ids": split.test.ids}, split.test.labels[:, np.newaxis])
    for seed in seeds:
        model, _, _ = train(rafm, split, Settings(max_epochs=max_epochs), seed, f"RaFM seed {seed}")
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
    """The version of TensorFlow of an interpreter, and the C client for it."""
    told = subprocess.run([python, "-c", _LIBRARY], capture_output=True, text=True, check=True)
    version, include, library = told.stdout.splitlines()[-3:]
    program = folder / f"score-{version}"
    libraries = ["-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2", f"-Wl,-rpath,{library}"]
    command = ["gcc", "-O2", "-std=c99", str(_SOURCE), "-o", str(program), f"-I{include}", f"-L{library}", *libraries]
    subprocess.run(command, check=True)
    return version, program


def _latencies(
    program: Path, versions: dict[str, Path], requests: str, rounds: int, threads: int | None
) -> dict[str, dict[int, list[dict[str, float]]]]:
    """By model and batch size, what each round measured."""
    found: dict[str, dict[int, list[dict[str, float]]]] = {name: {batch: [] for batch in _BATCHES} for name in versions}
    for _ in range(rounds):
        for batch, number in _BATCHES.items():
            for name, path in versions.items():
                repeat = 1 + max(1, number // _SAMPLES)
                more = ["--threads", str(threads)] if threads else []
                command = [str(program), "--batch", str(batch), "--repeat", str(repeat), *more, str(path)]
                done = subprocess.run(command, input=requests, capture_output=True, text=True, check=True)
                words = done.stderr.splitlines()[-1].split()
                found[name][batch].append({key: float(value) for key, value in zip(words[::2], words[1::2], strict=True)})
    return found


def _print_latencies(found: dict[str, dict[int, list[dict[str, float]]]]) -> None:
    print("| model | batch | p50 µs | p99 µs | samples/s | p50, of FM-256's |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, by_batch in found.items():
        for batch, measured in by_batch.items():
            p50, p99, speed = ([own[key] for own in measured] for key in ("p50_us", "p99_us", "samples_per_second"))
            ratios = pairwise_ratios(p50, [own["p50_us"] for own in found["FM-256"][batch]])
            ratio = "" if name == "FM-256" else Spread.of(ratios).text("{:.2f}")
            numbers = f"{Spread.of(p50).text('{:.0f}')} | {statistics.median(p99):.0f} | {statistics.median(speed):,.0f}"
            print(f"| {name} | {batch} | {numbers} | {ratio} |")
    print(flush=True)


def _print_profile(model: str, path: Path, requests: str, batch: int) -> None:
    """Microseconds of a request by kind of operation, as a session of the same runtime traces them."""
    import tensorflow as tf

    tf1 = tf.compat.v1
    ids = np.array([[int(word) for word in line.split()] for line in requests.splitlines()[:batch]], np.int32)
    microseconds: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    runs = 200
    with tf1.Session(graph=tf.Graph()) as session:
        with session.graph.as_default():
            signature = tf1.saved_model.load(session, ["serve"], str(path)).signature_def["serving_default"]
        fetched = [own.name for own in signature.outputs.values()]
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
    for kind, own in microseconds.most_common(12):
        print(f"| {kind} | {own / runs:.1f} | {numbers[kind] / runs:.0f} |")
    print(flush=True)


def _loads() -> str:
    return " ".join(f"{load:.1f}" for load in os.getloadavg())


if __name__ == "__main__":
    keras.utils.disable_interactive_logging()
    main()
