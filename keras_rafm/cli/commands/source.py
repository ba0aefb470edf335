"""Make the schema, the files and their format from settings."""

from __future__ import annotations

import contextlib
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from keras_rafm.checks.arguments import Task
from keras_rafm.cli.checks import check_columns, check_text_options, text_options
from keras_rafm.cli.choices import SPLITS
from keras_rafm.cli.commands.progress import bar
from keras_rafm.cli.errors import UsageError
from keras_rafm.cli.run_directory import RunDirectory
from keras_rafm.cli.settings import Settings
from keras_rafm.data import CSVFormat, LibFMFormat, Schema, known_dataset
from keras_rafm.data.formats.base import FileFormat
from keras_rafm.data.formats.by_name import FORMATS_BY_NAME
from keras_rafm.data.known.entry import recipe_of
from keras_rafm.data.raw.blocks import ListValues
from keras_rafm.data.raw.columns import RawColumn
from keras_rafm.data.raw.files import files_of
from keras_rafm.data.reading.file_batches import one_format


@dataclass(frozen=True)
class Source:
    """The data of a command.

    Args:
        schema: The schema, adapted only if it is that of a run.
        file_format: The format of all files.
        files: Split -> files, for the splits that have files.
        num_rows: Split -> number of rows, where it is known.
    """

    schema: Schema
    file_format: FileFormat
    files: dict[str, list[str]]
    num_rows: Mapping[str, int] = field(default_factory=dict)


def source_of(settings: Settings, schema: Schema | None = None, with_labels: bool = True) -> Source:
    """Return the schema, the files and their format.

    Args:
        settings: The settings.
        schema: The schema of a run; otherwise it is made from the settings.
        with_labels: Whether a column of labels is required.

    Raises:
        UsageError: Settings are missing or contradict each other.
        FileNotFoundError: A file or a known dataset does not exist.
        ValueError: The options of a column are wrong.
    """
    if settings.dataset is not None:
        return _known_source(settings, settings.dataset, schema)
    files = {split: files_of(getattr(settings, split)) for split in SPLITS if getattr(settings, split)}
    every_file = [file for files_of_split in files.values() for file in files_of_split]
    file_format = with_text_options(named_format(settings.format, every_file), text_options(settings))
    if schema is None:
        schema = _new_schema(settings, file_format, files["train"], with_labels)
    return Source(schema, file_format, files)


def format_of_run(run: RunDirectory, parsed: Namespace, files: list[str]) -> FileFormat:
    """Return the format of files to score.

    It is the format that the flags name, or else that of the training data. Text files that have the format of the training
    data also have its options, unless the flags set others.

    Args:
        run: The run.
        parsed: The command and its flags.
        files: The files.

    Raises:
        UsageError: There are options of text files and the format is another one.
        ValueError: The format can't be inferred from the file names, or an option is wrong.
    """
    settings = run.settings()
    if parsed.format is None and settings.dataset is not None:
        file_format = recipe_of(settings.dataset).file_format
    else:
        file_format = named_format(parsed.format or settings.format, files)
    is_same_format = None in (settings.format, parsed.format) or settings.format == parsed.format
    if is_same_format and isinstance(file_format, CSVFormat):
        options = text_options(settings)
        if file_format.delimiter == "\t" and settings.format != "tsv":
            options.pop("delimiter", None)
        file_format = with_text_options(file_format, options)
    return with_text_options(file_format, text_options(parsed))


def named_format(name: str | None, files: list[str]) -> FileFormat:
    """Return the format with a name, or the one inferred from the file names.

    Raises:
        ValueError: The format can't be inferred, or differs between files.
    """
    return one_format(files, None) if name is None else FORMATS_BY_NAME[name]


def with_text_options(file_format: FileFormat, options: Mapping[str, Any]) -> FileFormat:
    r"""Return the format with other options.

    Args:
        file_format: The format.
        options: Options of text files. A delimiter of `\t` is a tab.

    Raises:
        UsageError: There are options and the format is not that of text files.
        ValueError: An option is wrong.
    """
    if not isinstance(file_format, CSVFormat):
        check_text_options(options, _name_of(file_format))
        return file_format
    changes = dict(options)
    if "delimiter" in changes:
        changes["delimiter"] = changes["delimiter"].replace("\\t", "\t")
    for name in ("quote", "column_names"):
        if name in changes:
            changes[name] = changes[name] or None
    return replace(file_format, **changes)


def _name_of(file_format: FileFormat) -> str:
    names = (name for name, known in FORMATS_BY_NAME.items() if type(known) is type(file_format))
    return next(names, type(file_format).__name__)


def _known_source(settings: Settings, name: str, schema: Schema | None) -> Source:
    known = known_dataset(name, settings.path, cache_dir=settings.cache_dir, min_count=settings.min_count)
    files = {split: list(getattr(known, split)) for split in SPLITS}
    return Source(schema or known.schema, known.file_format, files, known.num_rows)


def _new_schema(settings: Settings, file_format: FileFormat, train: list[str], with_labels: bool) -> Schema:
    check_columns(settings, _name_of(file_format), with_labels)
    task: Task = "regression" if settings.task == "regression" else "classification"
    if isinstance(file_format, LibFMFormat):
        weights = "values" if _has_values(file_format, train) else None
        ids = Schema.integer_categorical(multivalued=True, missing="ignore", weights=weights)
        return Schema({"ids": ids}, label="label", task=task)
    return Schema(
        {name: _column(name, declaration) for name, declaration in settings.columns.items()},
        label=settings.label,
        task=task,
        positive_label=_positive_label(settings.positive_label),
        sample_weight=settings.sample_weight,
    )


def _positive_label(text: str | None) -> str | float | None:
    """Return a number if the text looks like one, and otherwise the text, without double quotes around it."""
    if text is None:
        return None
    if len(text) > 2 and text[0] == text[-1] == '"':
        return text[1:-1]
    with contextlib.suppress(ValueError):
        return float(text)
    return text


def _column(name: str, declaration: Any) -> Any:
    options = {"kind": declaration} if isinstance(declaration, str) else dict(declaration)
    kind = options.pop("kind")
    if isinstance(options.get("bin_boundaries"), list):
        options["bin_boundaries"] = tuple(options["bin_boundaries"])
    try:
        return getattr(Schema, kind)(**options)
    except (TypeError, ValueError) as error:
        raise UsageError(f"column '{name}': {error}") from error


def _has_values(file_format: LibFMFormat, files: list[str]) -> bool:
    """Return whether the training data have a value other than 1."""
    column = RawColumn("values", "float32", is_list=True)
    with bar("looking for values", " rows") as progress:
        for file in files:
            # Malformed rows are reported when the other columns are read.
            for num_rows, block in file_format.blocks(file, [column], on_error=lambda error: None):
                values = block["values"]
                assert isinstance(values, ListValues)
                assert isinstance(values.values, np.ndarray)
                if (values.values != 1).any():
                    return True
                progress.update(num_rows)
    return False
