"""What each command does."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import keras
import numpy as np
import tensorflow as tf

import keras_rafm
from keras_rafm.cli.counting import adapt
from keras_rafm.cli.encoded import Encoded, encode, explained
from keras_rafm.cli.measuring import measured
from keras_rafm.cli.parser import given_settings
from keras_rafm.cli.progress import counted
from keras_rafm.cli.run_directory import RunDirectory, State
from keras_rafm.cli.settings import Settings, UsageError
from keras_rafm.cli.source import format_of_dataset, format_of_settings, source_of
from keras_rafm.cli.training import make_deterministic, new_model, train
from keras_rafm.data import Schema, SkippedRows
from keras_rafm.data._delimited_format import MalformedRowError
from keras_rafm.data._files import files_of
from keras_rafm.data.formats import FileFormat
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
    settings = _settings(parsed)
    source = source_of(settings)
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
    settings = _settings(parsed)
    if parsed.schema is not None:
        schema = Schema.load(parsed.schema)
    else:
        source = source_of(settings)
        with _skipped_rows(settings) as on_error:
            adapt(source, on_error)
        schema = source.schema
    plan = RankPlan.from_counts(schema.counts, settings.ranks, settings.thresholds)
    plan.summary()
    candidates = [settings.thresholds, *(tuple(t) for t in parsed.try_ or [])]
    if len(candidates) > 1:
        print()
        _print_rows(_compared(schema.counts, settings.ranks, candidates))


def _train(parsed: argparse.Namespace) -> None:
    run_directory = RunDirectory(parsed.output)
    settings = _settings_to_resume(parsed, run_directory) if parsed.resume else _settings_to_begin(parsed, run_directory)
    if settings.deterministic:
        make_deterministic()
    goes_on = parsed.resume and run_directory.has_checkpoint
    source = source_of(settings, run_directory.schema() if goes_on else None)
    schema = source.schema
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
            model = new_model(schema, plan, settings, encoded["train"].mean_label)
            run_directory.begin(settings, schema, plan)
            run_directory.save_checkpoint(model, state)
        if not state.ended:
            train(run_directory, model, state, settings, schema, encoded["train"], encoded.get("validation"))
    _report(run_directory, schema, {split: own for split, own in encoded.items() if split != "train"})


def _settings_to_begin(parsed: argparse.Namespace, run_directory: RunDirectory) -> Settings:
    settings = _settings(parsed).with_absolute_paths()
    path = run_directory.path
    if path.exists() and (path.is_file() or any(path.iterdir())):
        hint = "go on with it by --resume, or " if run_directory.is_run else ""
        raise UsageError(f"{path} is not empty: {hint}name another directory by --output")
    return settings


def _settings_to_resume(parsed: argparse.Namespace, run_directory: RunDirectory) -> Settings:
    """Those of the run, but for how long it goes on."""
    of_run, given = run_directory.settings(), given_settings(parsed)
    settings = Settings.of({**vars(of_run), **given}, "settings").with_absolute_paths()
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
        checked = explained(batches, file_format, files, schema.raw_columns(training=True), on_error)
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
    with _skipped_rows(parsed) as on_error, _opened(parsed.output) as file:
        file_format = _format_of_run(run_directory, parsed, files)
        batches = schema.dataset(files, parsed.batch_size, training=False, file_format=file_format, on_error=on_error)
        file.write("score,probability\n" if is_classifier else "prediction\n")
        checked = explained(batches, file_format, files, schema.raw_columns(training=False), on_error)
        for inputs in counted(checked, "predicting", lambda inputs: int(inputs["ids"].shape[0])):
            scores = model.predict_on_batch(inputs)[:, 0]
            if is_classifier:
                probabilities = tf.sigmoid(scores).numpy()
                file.writelines(f"{s:.9g},{p:.9g}\n" for s, p in zip(scores, probabilities, strict=True))
            else:
                file.writelines(f"{score:.9g}\n" for score in scores)


def _export(parsed: argparse.Namespace) -> None:
    run_directory = RunDirectory(parsed.run)
    version = export(run_directory.model(), parsed.directory, run_directory.schema())
    print(f"exported to {version}")


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


def _best(state: State) -> str:
    return "" if state.best_epoch is None else f"; the best one is {state.best_epoch} with {state.best_loss:.5f}"


def _settings(parsed: argparse.Namespace) -> Settings:
    return Settings.of(given_settings(parsed), "settings")


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
    """The format that is named, or that of the training data."""
    settings = run_directory.settings()
    if parsed.format is not None:
        same = settings.format in (None, parsed.format)
        return format_of_settings(replace(settings if same else Settings(task=settings.task), format=parsed.format), files)
    if settings.dataset is not None:
        return format_of_dataset(settings.dataset)
    return format_of_settings(settings, files)


def _print_measured(split: str, measured: dict[str, dict[str, float]]) -> None:
    for name, values in measured.items():
        metrics = ", ".join(f"{metric} {value:.5f}" for metric, value in values.items() if metric != "rows")
        print(f"{split}: {name}: {metrics} ({values['rows']:,.0f} rows)")


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


@contextlib.contextmanager
def _opened(path: str | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdout
        return
    if Path(path).is_dir() or not Path(path).parent.is_dir():
        raise UsageError(f"--output must be a file in a directory that is there. Received: {path}")
    unfinished = Path(path).with_name(f".{Path(path).name}.unfinished")
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            yield file
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
