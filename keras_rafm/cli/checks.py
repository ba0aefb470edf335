"""Check a command before TensorFlow is imported, so that mistakes are reported at once.

What only TensorFlow can find, such as remote files, is checked later, while the command runs.
"""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from keras_rafm.cli.choices import (
    COLUMN_OPTIONS,
    DATASETS,
    REQUIRED_COLUMN_OPTION,
    SIGNATURES,
    SPLITS,
    TEXT_FORMATS,
    TEXT_OPTIONS,
)
from keras_rafm.cli.errors import SettingError, UsageError, flag
from keras_rafm.cli.output import check_output
from keras_rafm.cli.parser import settings_of
from keras_rafm.cli.run_directory import RunDirectory, find_schema
from keras_rafm.cli.settings import Settings, check_thresholds
from keras_rafm.files.format_names import FORMAT_OF_SUFFIX, FORMATS
from keras_rafm.files.paths import LocalFileSystem, find_files

_MAY_CHANGE_ON_RESUME = ("epochs", "patience")


def check(parsed: argparse.Namespace) -> None:
    """Check a command.

    Raises:
        FileNotFoundError: A file does not exist.
        ImportError: The config file is a YAML file and PyYAML is not installed.
        UsageError: The command can't be carried out.
        ValueError: A folder has no files.
    """
    checks: dict[str, Callable[[argparse.Namespace], None]] = {
        "count": _check_count,
        "plan": _check_plan,
        "train": _check_train,
        "evaluate": _check_evaluate,
        "predict": _check_predict,
        "export": _check_export,
        "describe": _check_describe,
    }
    checks[parsed.command](parsed)


def settings_to_resume(parsed: argparse.Namespace, run: RunDirectory) -> Settings:
    """Return the settings with which a run continues.

    Raises:
        UsageError: There is no run, or other settings than --epochs and --patience would change.
    """
    of_run = run.settings().with_homes()
    settings = settings_of(parsed, vars(of_run)).with_absolute_paths()
    changed = [name for name, value in vars(settings).items() if value != getattr(of_run, name)]
    not_allowed = [flag(name) for name in changed if name not in _MAY_CHANGE_ON_RESUME]
    if not_allowed:
        raise UsageError(
            "--resume continues with the settings of the run: only --epochs and --patience may change. "
            f"Leave out {', '.join(not_allowed)}"
        )
    return settings


def candidate_thresholds(parsed: argparse.Namespace, settings: Settings) -> list[tuple[float, ...]]:
    """Return the thresholds that `plan` compares, those of the settings first.

    Raises:
        SettingError: The ranks can't have some of them.
    """
    others = [tuple(thresholds) for thresholds in parsed.try_ or []]
    for thresholds in others:
        check_thresholds("try", thresholds, settings.ranks)
    return [settings.thresholds, *others]


def schema_path(path: Path) -> Path:
    """Return the directory of the schema of a run, of an exported model, or of a schema itself.

    Raises:
        UsageError: There is no schema.
    """
    run = RunDirectory(path)
    if run.is_run:
        return run.schema_path()
    schema = find_schema(path)
    if schema is None:
        raise UsageError(f"{path} holds no run, no schema and no exported model")
    return schema


def check_columns(settings: Settings, format_name: str | None, with_labels: bool) -> None:
    """Raise a `UsageError` unless the settings declare the columns that files of a format need.

    Args:
        settings: The settings.
        format_name: The format of the files; `None` if it is not known yet.
        with_labels: Whether a column of labels is required.
    """
    if format_name == "libfm":
        if settings.columns or settings.label or settings.positive_label or settings.sample_weight:
            raise UsageError(
                "libFM files have fixed columns: leave out --column, --label, --positive-label and --sample-weight"
            )
    elif format_name is not None:
        if not settings.columns:
            raise UsageError("declare the columns: --column NAME=KIND, or [columns] in a config file")
        if settings.label is None and with_labels:
            raise UsageError("name the column of labels: --label")
    for name, declaration in settings.columns.items():
        _check_column(name, declaration)


def check_text_options(options: Mapping[str, Any], format_name: str | None) -> None:
    """Raise a `UsageError` if there are options of text files and the format is another one.

    Args:
        options: The options of `text_options`.
        format_name: The format of the files; `None` if it is not known yet.
    """
    if options and format_name is not None and format_name not in TEXT_FORMATS:
        flags = [flag(name) for name in TEXT_OPTIONS]
        raise UsageError(
            f"{', '.join(flags[:-1])} and {flags[-1]} are for the formats csv and tsv. Received: format {format_name}"
        )


def text_options(settings: Settings | argparse.Namespace) -> dict[str, Any]:
    """Return the options of text files that settings or flags set. Not every command has these flags."""
    return {name: value for name in TEXT_OPTIONS if (value := getattr(settings, name, None)) not in (None, ())}


def _check_count(parsed: argparse.Namespace) -> None:
    _check_data(settings_of(parsed), with_labels=False)
    if parsed.output:
        _check_schema_output(Path(parsed.output))


def _check_plan(parsed: argparse.Namespace) -> None:
    settings = settings_of(parsed)
    candidate_thresholds(parsed, settings)
    if parsed.schema is not None:
        schema_path(Path(parsed.schema))
    else:
        _check_data(settings, with_labels=False)


def _check_train(parsed: argparse.Namespace) -> None:
    run = RunDirectory(parsed.output)
    if parsed.resume:
        settings = settings_to_resume(parsed, run)
    else:
        run.check_unused()
        settings = settings_of(parsed)
    _check_data(settings, with_labels=True)


def _check_evaluate(parsed: argparse.Namespace) -> None:
    run = RunDirectory(parsed.run)
    _check_trained(run)
    if parsed.data:
        _check_files_to_score(parsed, run, parsed.data)
        return
    settings = run.settings()
    if settings.dataset is None and not settings.test:
        raise UsageError("name the files with --data: the run has no test data")
    _check_data(settings, with_labels=True)


def _check_predict(parsed: argparse.Namespace) -> None:
    run = RunDirectory(parsed.run)
    _check_trained(run)
    files = _check_files_to_score(parsed, run, parsed.data)
    check_output(parsed.output, files)


def _check_export(parsed: argparse.Namespace) -> None:
    run = RunDirectory(parsed.run)
    _check_trained(run)
    for name in parsed.signatures or []:
        if name not in SIGNATURES:
            raise SettingError("signatures", f"among {', '.join(SIGNATURES)}", name)
    num_levels = len(run.settings().ranks)
    if parsed.level is not None and not 1 <= parsed.level <= num_levels:
        raise SettingError("level", f"in 1 … {num_levels}, the levels of the run", parsed.level)
    if os.path.isfile(parsed.directory):
        raise UsageError(f"the model directory is a file: {parsed.directory}")
    if parsed.warm_up:
        _check_files_to_score(parsed, run, parsed.warm_up)


def _check_describe(parsed: argparse.Namespace) -> None:
    run = RunDirectory(parsed.run)
    if run.is_run:
        run.settings()
    else:
        schema_path(run.path)


def _check_trained(run: RunDirectory) -> None:
    run.schema_path()
    model = run.model_path()
    if not model.is_file():
        raise FileNotFoundError(f"file not found: {model}")


def _check_files_to_score(parsed: argparse.Namespace, run: RunDirectory, paths: Sequence[str]) -> list[str]:
    """Check files and the options of their format, and return those that are local."""
    files, is_complete = _local_files(paths)
    settings = run.settings()
    format_name = parsed.format or settings.format
    if format_name is None and settings.dataset is None and is_complete:
        format_name = _inferred_format(files)
    check_text_options(text_options(parsed), format_name)
    return files


def _check_data(settings: Settings, with_labels: bool) -> None:
    """Check the settings of data, and that local files exist."""
    if settings.dataset is not None:
        _check_dataset(settings, settings.dataset)
        return
    for name in ("path", "cache_dir", "min_count"):
        if getattr(settings, name) is not None:
            raise UsageError(f"{flag(name)} is for a known dataset: name it with --dataset, or leave out {flag(name)}")
    if not settings.train:
        raise UsageError("name the data: --train with files, or --dataset with the name of a known dataset")
    files, is_complete = _local_files(path for split in SPLITS for path in getattr(settings, split))
    format_name = settings.format or (_inferred_format(files) if is_complete else None)
    check_text_options(text_options(settings), format_name)
    check_columns(settings, format_name, with_labels)


def _check_dataset(settings: Settings, name: str) -> None:
    if name not in DATASETS:
        similar = difflib.get_close_matches(name.lower(), DATASETS, n=1, cutoff=0.4)
        hint = f"; did you mean '{similar[0]}'?" if similar else ""
        raise SettingError("dataset", f"one of {', '.join(DATASETS)}", f"'{name}'{hint}")
    for other in (*SPLITS, "columns", "label", "format", "task", "positive_label", "sample_weight", *TEXT_OPTIONS):
        if getattr(settings, other):
            raise UsageError(f"--dataset determines files and columns: leave out {flag(other)}")


def _check_column(name: str, declaration: Any) -> None:
    options = {"kind": declaration} if isinstance(declaration, str) else declaration
    if not isinstance(options, Mapping) or options.get("kind") not in COLUMN_OPTIONS:
        raise UsageError(f"column '{name}': the kind must be one of {', '.join(COLUMN_OPTIONS)}. Received: {declaration!r}")
    kind = options["kind"]
    for option in options:
        if option != "kind" and option not in COLUMN_OPTIONS[kind]:
            raise UsageError(
                f"column '{name}': {kind} has no option '{option}'. Its options are: {', '.join(COLUMN_OPTIONS[kind])}"
            )
    required = REQUIRED_COLUMN_OPTION.get(kind)
    if required is not None and required not in options:
        raise UsageError(f"column '{name}': {kind} requires the option '{required}'")


def _check_schema_output(path: Path) -> None:
    is_replaceable = path.is_dir() and (not any(path.iterdir()) or (path / "schema.json").is_file())
    if path.exists() and not is_replaceable:
        raise UsageError(f"--output must be a new or empty directory, or one that holds a schema. Received: {path}")


def _local_files(paths: Iterable[str]) -> tuple[list[str], bool]:
    """Return the local files that paths stand for, and whether these are all files.

    Raises:
        FileNotFoundError: A file does not exist, or no file matches a pattern.
        ValueError: A folder has no files, or holds a folder that is not empty.
    """
    files: list[str] = []
    is_complete = True
    for path in paths:
        # Python and TensorFlow differ on brackets and backslashes in patterns.
        if "://" in path or (any(letter in path for letter in "[\\") and not os.path.exists(path)):
            is_complete = False
        else:
            files += find_files(os.path.expanduser(path), LocalFileSystem())
    return files, is_complete


def _inferred_format(files: Sequence[str]) -> str:
    """Return the format that the names of all files share."""
    names = {file: _format_of_name(file) for file in files}
    first = files[0]
    for file, name in names.items():
        if name != names[first]:
            raise UsageError(f"files must have the same format. Received: {first} ({names[first]}) and {file} ({name})")
    return names[first]


def _format_of_name(path: str) -> str:
    suffixes = [suffix.lower() for suffix in PurePath(path).suffixes if suffix.lower() != ".gz"]
    name = FORMAT_OF_SUFFIX.get(suffixes[-1] if suffixes else "")
    if name is None:
        raise UsageError(
            f"{path}: the format can't be inferred from the file name. Name it with --format: {', '.join(FORMATS)}"
        )
    return name
