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
from keras_rafm.cli.encoded import Encoded, encode
from keras_rafm.cli.parser import given_settings
from keras_rafm.cli.progress import bar, counted
from keras_rafm.cli.run_directory import RunDirectory, State
from keras_rafm.cli.settings import Settings, UsageError
from keras_rafm.cli.source import Source, format_of_settings, source_of
from keras_rafm.cli.training import make_deterministic, new_model, train
from keras_rafm.data import Schema, SkippedRows, known_dataset
from keras_rafm.data._files import files_of
from keras_rafm.data.formats import FileFormat
from keras_rafm.layer import RaFMLayer
from keras_rafm.rank_plan import RankPlan
from keras_rafm.serving.export import export

_BATCH_SIZE = 8192


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
    _adapt(source, settings)
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
        _adapt(source, settings)
        schema = source.schema
    plan = RankPlan.from_counts(schema.counts, settings.ranks, settings.thresholds)
    plan.summary()
    candidates = [settings.thresholds, *(tuple(t) for t in parsed.try_ or [])]
    if len(candidates) > 1:
        print()
        _print_rows(_compared(schema.counts, settings.ranks, candidates))


def _train(parsed: argparse.Namespace) -> None:
    run_directory = RunDirectory(parsed.output)
    if parsed.resume:
        given = given_settings(parsed)
        if given:
            raise UsageError(f"--resume goes on with the settings of the run: leave out {', '.join(sorted(given))}")
        settings = run_directory.settings()
    else:
        settings = _settings(parsed)
        if run_directory.path.exists() and (run_directory.path.is_file() or any(run_directory.path.iterdir())):
            hint = "go on with it by --resume, or " if run_directory.is_run else ""
            raise UsageError(f"{run_directory.path} is not empty: {hint}name another directory by --output")
    if settings.deterministic:
        make_deterministic()
    source = source_of(settings)
    model: Any
    if parsed.resume:
        source = replace(source, schema=run_directory.schema())
        model, state = run_directory.checkpoint()
        print(f"going on after {state.epoch} epochs" + (f" and {state.step} steps" if state.step else ""), file=sys.stderr)
    else:
        _adapt(source, settings)
        model, state = None, State()
    with _skipped_rows(settings) as on_error:
        limit = settings.memory_limit_mb * 10**6
        encoded = {
            split: encode(source.schema, files, source.file_format, on_error, limit, f"reading {split}")
            for split, files in source.files.items()
            if not (state.ended and split == "train")
        }
        if model is None:
            plan = RankPlan.from_counts(source.schema.counts, settings.ranks, settings.thresholds)
            plan.summary()
            model = new_model(source.schema, plan, settings, encoded["train"].mean_label)
            run_directory.begin(settings, source.schema, plan)
            run_directory.save_checkpoint(model, state)
        if not state.ended:
            training, validation = encoded["train"], encoded.get("validation")
            train(run_directory, model, state, settings, source.schema, training, validation)
    _report(run_directory, source.schema, {split: own for split, own in encoded.items() if split != "train"})


def _report(run_directory: RunDirectory, schema: Schema, encoded: dict[str, Encoded]) -> None:
    model = run_directory.model()
    _, state = run_directory.checkpoint()
    report: dict[str, Any] = {
        "epoch": state.best_epoch or state.epoch,
        "parameters": sum(int(np.prod(weight.shape)) for weight in model.trainable_weights),
        "seconds_per_epoch": float(np.median([own["seconds"] for own in state.history])) if state.history else None,
        "splits": {},
    }
    for split, own in encoded.items():
        report["splits"][split] = _measured(model, schema, own.in_order(_BATCH_SIZE), split, own.num_rows)
        _print_measured(split, report["splits"][split])
    run_directory.write_report(report)
    print(f"the run is in {run_directory.path}: the model of epoch {report['epoch']}, {report['parameters']:,} parameters")


def _evaluate(parsed: argparse.Namespace) -> None:
    run_directory = RunDirectory(parsed.run)
    schema, model = run_directory.schema(), run_directory.model()
    files = files_of(parsed.data)
    with _skipped_rows(parsed) as on_error:
        batches = schema.dataset(
            files, parsed.batch_size, file_format=_format_of_run(run_directory, parsed, files), on_error=on_error
        )
        _print_measured("data", _measured(model, schema, batches, "evaluating", None))


def _predict(parsed: argparse.Namespace) -> None:
    run_directory = RunDirectory(parsed.run)
    schema, model = run_directory.schema(), run_directory.model()
    files = files_of(parsed.data)
    is_classifier = schema.task == "classification"
    with _skipped_rows(parsed) as on_error, _opened(parsed.output) as file:
        file_format = _format_of_run(run_directory, parsed, files)
        batches = schema.dataset(files, parsed.batch_size, training=False, file_format=file_format, on_error=on_error)
        file.write("score,probability\n" if is_classifier else "prediction\n")
        for inputs in counted(batches, "predicting", lambda inputs: int(inputs["ids"].shape[0])):
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
    if (path / "schema.json").is_file():
        Schema.load(path).summary()
        return
    run_directory = RunDirectory(path)
    settings = run_directory.settings()
    defaults = Settings()
    told = {name: value for name, value in vars(settings).items() if value != getattr(defaults, name)}
    print("told: " + (", ".join(f"{name} {value}" for name, value in told.items()) or "nothing but defaults") + "\n")
    run_directory.schema().summary()
    print()
    run_directory.plan().summary()
    _, state = run_directory.checkpoint()
    print(f"\n{state.epoch} epochs done, {'ended' if state.ended else 'not ended'}" + _best(state))
    report = run_directory.report()
    for split, measured in (report or {"splits": {}})["splits"].items():
        _print_measured(split, measured)


def _best(state: State) -> str:
    return "" if state.best_epoch is None else f"; the best one is {state.best_epoch} with {state.best_loss:.5f}"


def _settings(parsed: argparse.Namespace) -> Settings:
    return Settings.of(given_settings(parsed), "settings")


def _adapt(source: Source, settings: Settings) -> None:
    with _skipped_rows(settings) as on_error, bar("counting", " columns", len(source.schema.columns)) as shown:
        source.schema.adapt(source.files["train"], file_format=source.file_format, on_error=on_error)
        shown.update(len(source.schema.columns))


@contextlib.contextmanager
def _skipped_rows(told: Any) -> Iterator[SkippedRows | None]:
    """What to give as `on_error`; at the end it is said what was left out."""
    if told.on_error == "raise":
        yield None
        return
    skipped = SkippedRows()
    try:
        yield skipped
    finally:
        if len(skipped):
            print(skipped.summary(), file=sys.stderr)


def _format_of_run(run_directory: RunDirectory, parsed: argparse.Namespace, files: list[str]) -> FileFormat:
    """The format that is named, or that of the training data."""
    settings = run_directory.settings()
    if parsed.format is not None:
        same = settings.format in (None, parsed.format)
        return format_of_settings(replace(settings if same else Settings(task=settings.task), format=parsed.format), files)
    if settings.dataset is not None:
        return known_dataset(settings.dataset, settings.path, cache_dir=settings.cache_dir).file_format
    return format_of_settings(settings, files)


def _measured(
    model: keras.Model, schema: Schema, batches: tf.data.Dataset, description: str, num_rows: int | None
) -> dict[str, dict[str, float]]:
    """Loss and metrics of each level's score."""
    layer = next(own for own in model.layers if isinstance(own, RaFMLayer))
    levels = {f"RaFM-low (rank {layer.ranks[0]})": 0} if layer.num_levels > 1 else {}
    levels["RaFM" if levels else f"FM (rank {layer.ranks[0]})"] = layer.num_levels - 1
    trackers = {name: _trackers(schema) for name in levels}
    scores_of = tf.function(layer.level_scores)
    rows = 0
    for inputs, labels, *weights in counted(batches, description, lambda batch: int(batch[1].shape[0]), num_rows):
        scores = scores_of(inputs)
        rows += int(labels.shape[0])
        for name, level in levels.items():
            for tracker in trackers[name].values():
                tracker.update_state(labels, scores[:, level : level + 1], *weights)
    return {
        name: {"rows": rows, **{metric: float(tracker.result()) for metric, tracker in own.items()}}
        for name, own in trackers.items()
    }


def _trackers(schema: Schema) -> dict[str, keras.metrics.Metric]:
    if schema.task == "classification":
        return {
            "log_loss": keras.metrics.BinaryCrossentropy(from_logits=True),
            "auc": keras.metrics.AUC(num_thresholds=2000, from_logits=True),
        }
    return {"rmse": keras.metrics.RootMeanSquaredError()}


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
    unfinished = Path(path).with_name(f".{Path(path).name}.unfinished")
    try:
        with unfinished.open("w", encoding="utf-8") as file:
            yield file
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
