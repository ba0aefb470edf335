"""The command `train`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

import numpy as np
import tensorflow as tf

from keras_rafm.cli.checks import settings_to_resume
from keras_rafm.cli.commands.count import adapt
from keras_rafm.cli.commands.data_checks import (
    check_first_rows,
    check_model,
    warn_about_columns,
    warn_about_labels,
    warn_about_names,
)
from keras_rafm.cli.commands.fit import fit, make_deterministic, new_model
from keras_rafm.cli.commands.measuring import measure, print_metrics
from keras_rafm.cli.commands.progress import counted
from keras_rafm.cli.commands.reading import Encoded, encode, skipped_rows
from keras_rafm.cli.commands.run import Run
from keras_rafm.cli.commands.source import Source, source_of
from keras_rafm.cli.parser import settings_of
from keras_rafm.cli.run_directory import Sizes, State
from keras_rafm.cli.settings import Settings
from keras_rafm.data import Schema
from keras_rafm.rank_plan import RankPlan

_BATCH_SIZE_OF_REPORT = 8192


def train(parsed: argparse.Namespace) -> None:
    """Begin or resume a run, train it to its end and report its metrics."""
    run = Run(parsed.output)
    if parsed.resume:
        run.settings()  # raises an error if there is no run
    with run.locked():
        if parsed.resume:
            settings = settings_to_resume(parsed, run)
            if settings != run.settings():
                run.write_settings(settings)
        else:
            run.check_unused()  # another process may have just finished
            settings = settings_of(parsed).with_absolute_paths()
        if settings.deterministic:
            make_deterministic()
        if parsed.resume and run.has_checkpoint:
            _resume(run, settings)
        else:
            _begin(run, settings)


def _begin(run: Run, settings: Settings) -> None:
    source = source_of(settings)
    schema, sizes = source.schema, _sizes(source)
    check_model(settings)
    warn_about_names(schema)
    check_first_rows(source, settings)
    with skipped_rows(settings.on_error) as on_error:
        adapt(source, on_error)
        schema.summary()
        print()
        warn_about_columns(schema)
        plan = RankPlan.from_counts(schema.counts, settings.ranks, settings.thresholds)
        plan.summary()
        encoded = _encode(source, settings, source.files, on_error)
        warn_about_labels(encoded)
        model, state = new_model(schema, plan, settings, encoded["train"].mean_label), State()
        run.begin(settings, schema, plan, sizes)
        run.save_checkpoint(model, state)
        fit(run, model, state, settings, schema, encoded["train"], encoded.get("validation"))
    _report(run, schema, encoded)


def _resume(run: Run, settings: Settings) -> None:
    source = source_of(settings, run.schema())
    schema = source.schema
    run.check_files(_sizes(source))
    model, state = run.checkpoint()
    state.ended = state.epoch >= settings.epochs or ("validation" in source.files and state.waited >= settings.patience)
    if state.ended:
        print(f"the run has ended after {state.epoch} epochs", file=sys.stderr)
    else:
        run.remove_report()
        steps = f" and {state.step} steps" if state.step else ""
        print(f"continuing after {state.epoch} epochs{steps}", file=sys.stderr)
    files = {split: names for split, names in source.files.items() if split != "train" or not state.ended}
    with skipped_rows(settings.on_error) as on_error:
        encoded = _encode(source, settings, files, on_error)
        if not state.ended:
            fit(run, model, state, settings, schema, encoded["train"], encoded.get("validation"))
    _report(run, schema, encoded)


def _encode(source: Source, settings: Settings, files: dict[str, list[str]], on_error: Any) -> dict[str, Encoded]:
    expected_rows = {"train": _estimated_rows(source.schema), **source.num_rows}
    return {
        split: encode(
            source.schema,
            names,
            source.file_format,
            on_error,
            memory_limit=settings.memory_limit_mb * 10**6,
            description=f"reading {split}",
            expected_rows=expected_rows.get(split),
        )
        for split, names in files.items()
    }


def _estimated_rows(schema: Schema) -> int | None:
    """Return about how many rows were counted: a column with one value per row has at most one occurrence per row."""
    ranges = [schema.id_range(name) for name, column in schema.columns.items() if not column.has_lists]
    return max((int(schema.counts[ids.start : ids.stop].sum()) for ids in ranges), default=0) or None


def _sizes(source: Source) -> Sizes:
    """Return the sizes of the files that the model is trained with."""
    return {split: {file: _size(file) for file in source.files.get(split, ())} for split in ("train", "validation")}


def _size(file: str) -> int | None:
    try:
        return int(tf.io.gfile.stat(file).length)
    except tf.errors.OpError:  # some servers don't report it
        return None


def _report(run: Run, schema: Schema, encoded: dict[str, Encoded]) -> None:
    """Measure the model on all splits but the training data, print the metrics and write the report."""
    model, state = run.model(), run.state()
    epoch = state.best_epoch or state.epoch
    num_parameters = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    report: dict[str, Any] = {
        "epoch": epoch,
        "parameters": num_parameters,
        "seconds_per_epoch": float(np.median([logs["seconds"] for logs in state.history])) if state.history else None,
        "splits": {},
    }
    for split, rows in encoded.items():
        if split == "train":
            continue
        batches = rows.in_order(_BATCH_SIZE_OF_REPORT)
        shown = counted(batches, split, lambda batch: int(batch[1].shape[0]), rows.expected_rows)
        report["splits"][split] = measure(model, schema.task, shown)
        print_metrics(split, report["splits"][split])
    run.write_report(report)
    print(f"the run is in {run.path}: the model of epoch {epoch}, {num_parameters:,} parameters")
