"""What each command does."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import keras_rafm
from keras_rafm.cli.checks import check_columns, check_model, warn_of_columns, warn_of_labels, warn_of_names
from keras_rafm.cli.counting import adapt
from keras_rafm.cli.encoded import Encoded, encode, explained
from keras_rafm.cli.measuring import measured
from keras_rafm.cli.output import output
from keras_rafm.cli.parser import settings_of
from keras_rafm.cli.progress import counted
from keras_rafm.cli.run_directory import RunDirectory, Sizes, State
from keras_rafm.cli.settings import Settings, UsageError, check_thresholds
from keras_rafm.cli.source import (
    Source,
    format_of_dataset,
    named_format,
    options_of_text,
    source_of,
    with_options_of_text,
)
from keras_rafm.cli.training import make_deterministic, new_model, train
from keras_rafm.data import CSVFormat, Schema, SkippedRows
from keras_rafm.data.formats.base import FileFormat
from keras_rafm.data.raw.errors import MalformedRowError
from keras_rafm.data.raw.files import files_of
from keras_rafm.rank_plan import RankPlan
from keras_rafm.serving.export import export

_BATCH_SIZE = 8192
_NEW_ON_RESUME = ("epochs", "patience")


def run(parsed: argparse.Namespace) -> None:
    """Carry out a command."""
    commands = {
        "count": _count,
        "plan": _plan,
        "train": _train,
        "evaluate": _evaluate,
        "predict": _predict,
        "export": _export,
        "describe": _describe,
    }
    commands[parsed.command](parsed)


def print_versions() -> None:
    """Of this package and of what it stands on."""
    print(f"keras_rafm {keras_rafm.__version__}, TensorFlow {tf.version.VERSION}, Keras {keras.version()}")


def _count(parsed: argparse.Namespace) -> None:
    settings = settings_of(parsed)
    source = source_of(settings, with_labels=False)
    with _skipped_rows(settings) as on_error:
        adapt(source, on_error)
    source.schema.summary()
    if parsed.top > 0:
        print()
        for name in source.schema.columns:
            print(f"{name}: {_most_frequent(source.schema, name, parsed.top)}")
    if parsed.output:
        source.schema.save(parsed.output)
        print(f"\nthe schema is in {parsed.output}")


def _plan(parsed: argparse.Namespace) -> None:
    settings = settings_of(parsed)
    candidates = [settings.thresholds, *(tuple(t) for t in parsed.try_ or [])]
    for thresholds in candidates[1:]:
        check_thresholds("try", thresholds, settings.ranks)
    if parsed.schema is not None:
        schema = _schema_of(Path(parsed.schema))
    else:
        source = source_of(settings, with_labels=False)
        with _skipped_rows(settings) as on_error:
            adapt(source, on_error)
        schema = source.schema
    plan = RankPlan.from_counts(schema.counts, settings.ranks, settings.thresholds)
    plan.summary()
    if len(candidates) > 1:
        print()
        _print_rows(_compared(schema.counts, settings.ranks, candidates))


def _train(parsed: argparse.Namespace) -> None:
    run_directory = RunDirectory(parsed.output)
    if parsed.resume:
        run_directory.settings()  # that there is a run
    else:
        run_directory.refuse_if_used()
    with run_directory.locked():
        if not parsed.resume:
            run_directory.refuse_if_used()  # another process may just have ended
        _train_locked(parsed, run_directory)


def _train_locked(parsed: argparse.Namespace, run_directory: RunDirectory) -> None:
    settings = _settings_to_resume(parsed, run_directory) if parsed.resume else settings_of(parsed).with_absolute_paths()
    if settings.deterministic:
        make_deterministic()
    goes_on = parsed.resume and run_directory.has_checkpoint
    source = source_of(settings, run_directory.schema() if goes_on else None)
    schema, sizes = source.schema, _sizes(source)
    if goes_on:
        run_directory.check_files(sizes)
    else:
        check_model(settings)
        warn_of_names(schema)
        check_columns(source, settings)
    model: Any = None
    state, plan = State(), None
    with _skipped_rows(settings) as on_error:
        if goes_on:
            model, state = run_directory.checkpoint()
            _go_on(run_directory, settings, state, "validation" in source.files)
        else:
            adapt(source, on_error)
            schema.summary()
            print()
            warn_of_columns(schema)
            plan = RankPlan.from_counts(schema.counts, settings.ranks, settings.thresholds)
            plan.summary()
        limit = settings.memory_limit_mb * 10**6
        expected = {"train": _rows_counted(schema) if schema.is_adapted else None, **source.num_rows}
        encoded = {
            split: encode(schema, files, source.file_format, on_error, limit, f"reading {split}", expected.get(split))
            for split, files in source.files.items()
            if not (state.ended and split == "train")
        }
        if plan is not None:
            warn_of_labels(encoded)
            model = new_model(schema, plan, settings, encoded["train"].mean_label)
            run_directory.begin(settings, schema, plan, sizes)
            run_directory.save_checkpoint(model, state)
        if not state.ended:
            train(run_directory, model, state, settings, schema, encoded["train"], encoded.get("validation"))
    _report(run_directory, schema, {split: own for split, own in encoded.items() if split != "train"})


def _settings_to_resume(parsed: argparse.Namespace, run_directory: RunDirectory) -> Settings:
    """Those of the run, but for how long it goes on."""
    of_run = run_directory.settings().with_homes()
    settings = settings_of(parsed, vars(of_run)).with_absolute_paths()
    changed = [name for name, value in vars(settings).items() if value != getattr(of_run, name)]
    fixed = [_flag(name) for name in changed if name not in _NEW_ON_RESUME]
    if fixed:
        raise UsageError(
            f"--resume goes on with the settings of the run; only --epochs and --patience may be new. Leave out "
            f"{', '.join(fixed)}"
        )
    if changed:
        run_directory.keep_settings(settings)
    return settings


def _go_on(run_directory: RunDirectory, settings: Settings, state: State, validates: bool) -> None:
    state.ended = state.epoch >= settings.epochs or (validates and state.waited >= settings.patience)
    if state.ended:
        print(f"the run has ended after {state.epoch} epochs", file=sys.stderr)
        return
    run_directory.forget_report()
    print(f"going on after {state.epoch} epochs" + (f" and {state.step} steps" if state.step else ""), file=sys.stderr)


def _sizes(source: Source) -> Sizes:
    """Of the files that a run is trained with."""
    return {split: {file: _size(file) for file in source.files.get(split, ())} for split in ("train", "validation")}


def _size(file: str) -> int | None:
    try:
        return int(tf.io.gfile.stat(file).length)
    except tf.errors.OpError:  # such as a server that does not tell
        return None


def _flag(name: str) -> str:
    return "--column" if name == "columns" else "--" + name.replace("_", "-")


def _rows_counted(schema: Schema) -> int | None:
    """About how many rows were counted: no column that has one value per row has more occurrences."""
    ranges = [schema.id_range(name) for name, column in schema.columns.items() if not column.has_lists]
    return max((int(schema.counts[own.start : own.stop].sum()) for own in ranges), default=0) or None


def _report(run_directory: RunDirectory, schema: Schema, encoded: dict[str, Encoded]) -> None:
    model, state = run_directory.model(), run_directory.state()
    report: dict[str, Any] = {
        "epoch": state.best_epoch or state.epoch,
        "parameters": sum(int(np.prod(weight.shape)) for weight in model.trainable_weights),
        "seconds_per_epoch": float(np.median([own["seconds"] for own in state.history])) if state.history else None,
        "splits": {},
    }
    for split, own in encoded.items():
        batches = counted(own.in_order(_BATCH_SIZE), split, lambda batch: int(batch[1].shape[0]), own.expected_rows)
        report["splits"][split] = measured(model, schema.task, batches)
        _print_measured(split, report["splits"][split])
    run_directory.write_report(report)
    print(f"the run is in {run_directory.path}: the model of epoch {report['epoch']}, {report['parameters']:,} parameters")


def _evaluate(parsed: argparse.Namespace) -> None:
    run_directory = RunDirectory(parsed.run)
    schema, model = run_directory.schema(), run_directory.model()
    split, files = ("data", files_of(parsed.data)) if parsed.data else ("test", _test_files(run_directory))
    file_format = _format_of_run(run_directory, parsed, files)
    with _skipped_rows(parsed) as on_error:
        batches = schema.dataset(files, parsed.batch_size, file_format=file_format, on_error=on_error)
        checked = explained(batches, schema, files, file_format, on_error)
        rows = counted(checked, "evaluating", lambda batch: int(batch[1].shape[0]))
        _print_measured(split, measured(model, schema.task, rows))


def _test_files(run_directory: RunDirectory) -> list[str]:
    files = source_of(run_directory.settings(), run_directory.schema()).files.get("test")
    if not files:
        raise UsageError("name the files by --data: the run was told no test data")
    return files


def _predict(parsed: argparse.Namespace) -> None:
    run_directory = RunDirectory(parsed.run)
    schema, model = run_directory.schema(), run_directory.model()
    files = files_of(parsed.data)
    is_classifier = schema.task == "classification"
    file_format = _format_of_run(run_directory, parsed, files)
    with _skipped_rows(parsed) as on_error, output(parsed.output, files) as file:
        batches = schema.dataset(files, parsed.batch_size, training=False, file_format=file_format, on_error=on_error)
        file.write("score,probability\n" if is_classifier else "prediction\n")
        checked = explained(batches, schema, files, file_format, on_error, training=False)
        for inputs in counted(checked, "predicting", lambda inputs: int(inputs["ids"].shape[0])):
            scores = model.predict_on_batch(inputs)[:, 0]
            if is_classifier:
                probabilities = tf.sigmoid(scores).numpy()
                file.writelines(f"{s:.9g},{p:.9g}\n" for s, p in zip(scores, probabilities, strict=True))
            else:
                file.writelines(f"{score:.9g}\n" for score in scores)


def _export(parsed: argparse.Namespace) -> None:
    run_directory = RunDirectory(parsed.run)
    schema, model = run_directory.schema(), run_directory.model()
    rows = None
    if parsed.warm_up:
        files = files_of(parsed.warm_up)
        blocks = schema.raw_dataset(files, training=False, file_format=_format_of_run(run_directory, parsed, files))
        rows = next(iter(blocks))
    version = export(
        model,
        parsed.directory,
        schema,
        signatures=parsed.signatures,
        level=parsed.level,
        precision=parsed.precision,
        metrics=_reported(run_directory, parsed.level),
        warm_up=rows,
        warm_up_batch_sizes=parsed.warm_up_batch_sizes,
        version=parsed.as_version,
        keep=parsed.keep,
    )
    print(f"exported to {version}")


def _reported(run_directory: RunDirectory, level: int | None) -> dict[str, float]:
    """What the run's report says of its highest level, or of its lowest; of those in between it says nothing."""
    metrics = {}
    for split, of_levels in (run_directory.report() or {"splits": {}})["splits"].items():
        names = list(of_levels)
        if level in (None, len(run_directory.plan().ranks), 1):
            measured_values = of_levels[names[0] if level == 1 else names[-1]]
            metrics.update({f"{split}_{name}": value for name, value in measured_values.items() if value is not None})
    return metrics


def _describe(parsed: argparse.Namespace) -> None:
    path = Path(parsed.run)
    schema = _schema_in(path)
    if schema is not None:
        if schema != path:
            print(f"an exported model; its schema is {schema}")
        Schema.load(schema).summary()
        return
    run_directory = RunDirectory(path)
    settings = run_directory.settings()
    defaults = Settings()
    told = {name: value for name, value in vars(settings).items() if value != getattr(defaults, name)}
    print("told: " + (", ".join(f"{name} {value}" for name, value in told.items()) or "nothing but defaults") + "\n")
    run_directory.schema().summary()
    print()
    run_directory.plan().summary()
    if not run_directory.has_checkpoint:
        print("\nno epoch was begun")
        return
    state = run_directory.state()
    print(f"\n{state.epoch} epochs done, {'ended' if state.ended else 'not ended'}" + _best(state))
    report = run_directory.report()
    for split, values in (report or {"splits": {}})["splits"].items():
        _print_measured(split, values)


def _schema_in(path: Path) -> Path | None:
    """The schema that a folder is or, if an exported model, of which its newest version was made."""
    if (path / "schema.json").is_file():
        return path
    versions = [own for own in path.iterdir() if own.name.isdecimal()] if path.is_dir() else []
    for model in (path, *sorted(versions, key=lambda own: int(own.name), reverse=True)[:1]):
        if (model / "assets.extra" / "schema" / "schema.json").is_file():
            return model / "assets.extra" / "schema"
    return None


def _schema_of(path: Path) -> Schema:
    """That of a run, of an exported model, or that a folder is."""
    run_directory = RunDirectory(path)
    return run_directory.schema() if run_directory.is_run else Schema.load(_schema_in(path) or path)


def _best(state: State) -> str:
    return "" if state.best_epoch is None else f"; the best one is {state.best_epoch} with {state.best_loss:.5f}"


@contextlib.contextmanager
def _skipped_rows(told: Any) -> Iterator[SkippedRows | None]:
    """What to give as `on_error`; at the end it is said what was left out."""
    if told.on_error == "raise":
        yield None
        return
    skipped = _SkippedOnce()
    try:
        yield skipped
    finally:
        if len(skipped):
            print(skipped.summary(), file=sys.stderr)


class _SkippedOnce(SkippedRows):
    """Counts each row once, however often it is read."""

    def __init__(self) -> None:
        super().__init__()
        self._told: set[tuple[str, int]] = set()

    def __call__(self, error: MalformedRowError) -> None:
        """Count one more, if it is another one."""
        if (error.path, error.line) not in self._told:
            self._told.add((error.path, error.line))
            super().__call__(error)


def _format_of_run(run_directory: RunDirectory, parsed: argparse.Namespace, files: list[str]) -> FileFormat:
    """The format that is named, or that of the training data; of text with the options of the training data."""
    settings = run_directory.settings()
    if parsed.format is None and settings.dataset is not None:
        file_format = format_of_dataset(settings.dataset)
    else:
        file_format = named_format(parsed.format or settings.format, files)
    is_alike = None in (settings.format, parsed.format) or settings.format == parsed.format
    if is_alike and isinstance(file_format, CSVFormat):
        options = options_of_text(settings)
        if file_format.delimiter == "\t" and settings.format != "tsv":
            options.pop("delimiter", None)
        file_format = with_options_of_text(file_format, options)
    return with_options_of_text(file_format, options_of_text(parsed))


def _print_measured(split: str, measured: dict[str, dict[str, float]]) -> None:
    for name, values in measured.items():
        metrics = ", ".join(f"{metric} {_shown(value)}" for metric, value in values.items() if metric != "rows")
        print(f"{split}: {name}: {metrics} ({values['rows']:,.0f} rows)")


def _shown(value: float | None) -> str:
    return "not finite" if value is None or not math.isfinite(value) else f"{value:.5f}"


def _most_frequent(schema: Schema, name: str, number: int) -> str:
    counts = schema.counts[schema.id_range(name).start : schema.id_range(name).stop]
    names = schema.vocabulary(name)
    top = np.argsort(-counts, kind="stable")[:number]
    return ", ".join(f"{names[index] or name} {counts[index]:,}" for index in top)


def _compared(counts: Any, ranks: tuple[int, ...], candidates: list[tuple[float, ...]]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("thresholds", "factors", "of FM-" + str(ranks[-1]), "occurrences per level")]
    total = max(1.0, float(counts.sum()))
    for thresholds in candidates:
        plan = RankPlan.from_counts(counts, ranks, thresholds)
        shares = [float(counts[plan.levels == level].sum()) / total for level in range(1, plan.num_levels + 1)]
        rows.append(
            (
                ",".join(f"{threshold:g}" for threshold in thresholds),
                f"{plan.num_active_factors:,}",
                f"{plan.num_active_factors / (ranks[-1] * plan.num_features):.1%}",
                " ".join(f"{share:.1%}" for share in shares),
            )
        )
    return rows


def _print_rows(rows: list[tuple[str, ...]]) -> None:
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
