"""The command `describe`, and the versions that `--version` prints."""

from __future__ import annotations

import argparse
from pathlib import Path

import keras
import tensorflow as tf

import keras_rafm
from keras_rafm.cli.commands.measuring import print_metrics
from keras_rafm.cli.commands.run import Run
from keras_rafm.cli.run_directory import State, find_schema
from keras_rafm.cli.settings import Settings
from keras_rafm.data import Schema


def describe(parsed: argparse.Namespace) -> None:
    """Print what a run, a schema or an exported model consists of."""
    path = Path(parsed.run)
    schema = find_schema(path)
    if schema is None:
        _describe_run(Run(path))
        return
    if schema != path:
        print(f"an exported model with the schema {schema}")
    Schema.load(schema).summary()


def print_versions(parsed: argparse.Namespace) -> None:
    """Print the versions of this package, TensorFlow and Keras."""
    del parsed
    print(f"keras_rafm {keras_rafm.__version__}, TensorFlow {tf.version.VERSION}, Keras {keras.version()}")


def _describe_run(run: Run) -> None:
    settings, defaults = run.settings(), Settings()
    changed = {name: value for name, value in vars(settings).items() if value != getattr(defaults, name)}
    print("settings: " + (", ".join(f"{name} {value}" for name, value in changed.items()) or "all defaults") + "\n")
    run.schema().summary()
    print()
    run.plan().summary()
    if not run.has_checkpoint:
        print("\ntraining has not started")
        return
    print("\n" + _progress(run.state()))
    for split, metrics_by_level in (run.report() or {"splits": {}})["splits"].items():
        print_metrics(split, metrics_by_level)


def _progress(state: State) -> str:
    progress = f"stopped after {state.epoch} epochs" if state.ended else f"{state.epoch} epochs finished, not stopped"
    if state.best_epoch is not None:
        progress += f"; best: epoch {state.best_epoch} with validation loss {state.best_loss:.5f}"
    return progress
