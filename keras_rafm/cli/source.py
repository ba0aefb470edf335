"""Settings -> the schema, the files and their format."""

from __future__ import annotations

import contextlib
import inspect
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from keras_rafm.checks.arguments import Task
from keras_rafm.cli.progress import bar
from keras_rafm.cli.settings import Settings, UsageError
from keras_rafm.data import AvroFormat, CSVFormat, LibFMFormat, ParquetFormat, Schema, TFRecordFormat, known_dataset
from keras_rafm.data.formats.base import FileFormat
from keras_rafm.data.known.entry import recipe_of
from keras_rafm.data.raw.blocks import ListValues
from keras_rafm.data.raw.columns import RawColumn
from keras_rafm.data.raw.files import files_of
from keras_rafm.data.reading.file_batches import one_format

_SPLITS = ("train", "validation", "test")
_OF_TEXT = ("delimiter", "quote", "column_names", "missing_values")
_KINDS = (
    "string_categorical",
    "integer_categorical",
    "string_hashed",
    "integer_hashed",
    "integer_identity",
    "float",
    "float_discretized",
)


@dataclass(frozen=True)
class Source:
    """What to learn from.

    Args:
        schema: Declared, not adapted.
        file_format: Of all files.
        files: Of each split that there is, by `"train"`, `"validation"` and `"test"`.
        num_rows: How many rows each split has, where that is known.
    """

    schema: Schema
    file_format: FileFormat
    files: dict[str, list[str]]
    num_rows: Mapping[str, int] = field(default_factory=dict)


def source_of(settings: Settings, schema: Schema | None = None, with_labels: bool = True) -> Source:
    """The schema, the files and their format.

    Args:
        settings: What is told.
        schema: One that is known already.
        with_labels: Whether the column of labels has to be told.

    Raises:
        UsageError: Settings are missing or don't go together.
        FileNotFoundError: There is no such file, or a known dataset is not where it is said to be.
        ValueError: A column's options are wrong.
    """
    if settings.dataset is not None:
        return _known(settings, settings.dataset, schema)
    for name in ("path", "cache_dir", "min_count"):
        if getattr(settings, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} is for a known dataset: name it by --dataset, or leave it out")
    if not settings.train:
        raise UsageError("name the data: --train with files, or --dataset with the name of a known dataset")
    files = {split: files_of(getattr(settings, split)) for split in _SPLITS if getattr(settings, split)}
    every_file = [file for own in files.values() for file in own]
    file_format = format_of_settings(settings, every_file)
    return Source(schema or _schema(settings, file_format, files["train"], with_labels), file_format, files)


def format_of_dataset(name: str) -> FileFormat:
    """The format of a known dataset's files, which need not be there.

    Raises:
        ValueError: There is no dataset of that name.
    """
    return recipe_of(name).file_format


def format_of_settings(settings: Settings, files: list[str]) -> FileFormat:
    """The format that is named, or that the names of the files tell, with the options of the settings.

    Raises:
        UsageError: There are options of text, and the format is another one.
        ValueError: The names of the files tell no format, or several; or an option is wrong.
    """
    file_format = named_format(settings.format, files)
    return with_options_of_text(file_format, options_of_text(settings))


def named_format(name: str | None, files: list[str]) -> FileFormat:
    """The format of a name, or that the names of the files tell.

    Raises:
        ValueError: They tell none, or several.
    """
    formats = {
        "csv": CSVFormat(),
        "tsv": CSVFormat(delimiter="\t"),
        "parquet": ParquetFormat(),
        "tfrecord": TFRecordFormat(),
        "avro": AvroFormat(),
        "libfm": LibFMFormat(),
    }
    return one_format(files, None) if name is None else formats[name]


def options_of_text(told: Settings | Namespace) -> dict[str, Any]:
    """The options of text that settings or flags tell, which not every command has."""
    return {name: value for name in _OF_TEXT if (value := getattr(told, name, None)) not in (None, ())}


def with_options_of_text(file_format: FileFormat, options: Mapping[str, Any]) -> FileFormat:
    """The format with other options.

    Raises:
        UsageError: There are some, and the format is not that of delimited text.
        ValueError: One is wrong.
    """
    if not options:
        return file_format
    if not isinstance(file_format, CSVFormat):
        raise UsageError("--delimiter, --quote, --column-names and --missing-values are for csv and tsv")
    changed = dict(options)
    if "delimiter" in changed:
        changed["delimiter"] = changed["delimiter"].replace("\\t", "\t")
    for name in ("quote", "column_names"):
        if name in changed:
            changed[name] = changed[name] or None
    return replace(file_format, **changed)


def _known(settings: Settings, name: str, schema: Schema | None) -> Source:
    for other in (*_SPLITS, "columns", "label", "format", "task", "positive_label", "sample_weight", *_OF_TEXT):
        if getattr(settings, other):
            flag = "column" if other == "columns" else other.replace("_", "-")
            raise UsageError(f"--dataset brings files and columns: leave out --{flag}")
    known = known_dataset(name, settings.path, cache_dir=settings.cache_dir, min_count=settings.min_count)
    files = {split: list(getattr(known, split)) for split in _SPLITS}
    return Source(schema or known.schema, known.file_format, files, known.num_rows)


def _schema(settings: Settings, file_format: FileFormat, train: list[str], with_labels: bool) -> Schema:
    task: Task = "regression" if settings.task == "regression" else "classification"
    if isinstance(file_format, LibFMFormat):
        if settings.columns or settings.label or settings.positive_label or settings.sample_weight:
            raise UsageError(
                "libFM text has its own columns: leave out --column, --label, --positive-label and --sample-weight"
            )
        weights = "values" if _has_values(file_format, train) else None
        ids = Schema.integer_categorical(multivalued=True, missing="ignore", weights=weights)
        return Schema({"ids": ids}, label="label", task=task)
    if not settings.columns:
        raise UsageError("declare the columns: --column NAME=KIND, or [columns] in a config file")
    if settings.label is None and with_labels:
        raise UsageError("name the column of labels: --label")
    return Schema(
        {name: _column(name, given) for name, given in settings.columns.items()},
        label=settings.label,
        task=task,
        positive_label=_label(settings.positive_label),
        sample_weight=settings.sample_weight,
    )


def _label(told: str | None) -> str | float | None:
    """A number where it looks like one and stands in no quotes."""
    if told is None or (len(told) > 2 and told[0] == told[-1] == '"'):
        return told and told[1:-1]
    with contextlib.suppress(ValueError):
        return float(told)
    return told


def _column(name: str, given: Any) -> Any:
    options = {"kind": given} if isinstance(given, str) else given
    if not isinstance(options, Mapping) or options.get("kind") not in _KINDS:
        raise UsageError(f"column '{name}': the kind must be one of {', '.join(_KINDS)}. Received: {given!r}")
    others = {option: value for option, value in options.items() if option != "kind"}
    _check_options(name, options["kind"], others)
    if isinstance(others.get("bin_boundaries"), list):
        others["bin_boundaries"] = tuple(others["bin_boundaries"])
    try:
        return getattr(Schema, options["kind"])(**others)
    except (TypeError, ValueError) as error:
        raise UsageError(f"column '{name}': {error}") from error


def _check_options(name: str, kind: str, given: Mapping[str, Any]) -> None:
    known = inspect.signature(getattr(Schema, kind)).parameters
    for option in given:
        if option not in known:
            raise UsageError(f"column '{name}': {kind} has no option '{option}'. It has: {', '.join(known)}")
    for option, parameter in known.items():
        if parameter.default is parameter.empty and option not in given:
            raise UsageError(f"column '{name}': {kind} needs the option '{option}'")


def _has_values(file_format: LibFMFormat, files: list[str]) -> bool:
    """Whether some value of the training data is not 1."""
    column = RawColumn("values", "float32", is_list=True)
    with bar("looking for values", " rows") as shown:
        for file in files:
            # Malformed rows are told of by whoever reads the other columns.
            for num_rows, block in file_format.blocks(file, [column], on_error=lambda error: None):
                values = block["values"]
                assert isinstance(values, ListValues)
                assert isinstance(values.values, np.ndarray)
                if (values.values != 1).any():
                    return True
                shown.update(num_rows)
    return False
