"""Commands and flags of the command line. Only the standard library is imported, so that `--help` answers at once."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from keras_rafm.cli.choices import COLUMN_OPTIONS, ON_ERROR, OPTIMIZERS, PRECISIONS, SIGNATURES, SPLITS, TASKS
from keras_rafm.cli.errors import SettingError, UsageError
from keras_rafm.cli.flag_values import at_least, column, list_of, path
from keras_rafm.cli.settings import Settings, converted, read_config
from keras_rafm.files.format_names import FORMATS

_EXAMPLES = """examples:
  keras-rafm train --dataset frappe --path data/frappe --ranks 64,256 --thresholds 256 --output runs/frappe
  keras-rafm train --train 'train/*.parquet' --validation valid.parquet --label clicked --column user=string_categorical
      --column 'genres=string_categorical,separator=|' --ranks 8,64 --thresholds 100 --output runs/mine
  keras-rafm train --config run.toml --output runs/mine
  keras-rafm train --resume --output runs/mine
  keras-rafm evaluate runs/mine --data test.csv
  keras-rafm predict runs/mine --data new.csv --output predictions.csv
  keras-rafm export runs/mine saved_models/mine
  keras-rafm describe runs/mine

`keras-rafm COMMAND --help` lists the options of a command.
"""

_DEFAULT_SETTINGS = Settings()

#: Rows per batch of `evaluate` and `predict`.
_BATCH_SIZE = 8192

_TOP = 5


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse a command and its flags. If they are wrong, print an error and exit with code 2.

    Args:
        arguments: The arguments, by default those of the process.
    """
    parser = argparse.ArgumentParser(
        prog="keras-rafm",
        description="Train, evaluate and export Rank-Aware Factorization Machines from tables of raw data.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="store_true", help="print the versions of keras_rafm, TensorFlow and Keras, and exit"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_count(commands)
    _add_plan(commands)
    _add_train(commands)
    _add_evaluate(commands)
    _add_predict(commands)
    _add_export(commands)
    _add_describe(commands)
    parsed = parser.parse_args(arguments)
    if parsed.command is None and not parsed.version:
        parser.print_help()
        parser.exit(2)
    return parsed


def settings_of(parsed: argparse.Namespace, of_run: Mapping[str, Any] | None = None) -> Settings:
    """Return the settings of a command: flags override the config file, which overrides the settings of a resumed run.

    Args:
        parsed: The command and its flags.
        of_run: The settings of the run to resume, if any.

    Raises:
        FileNotFoundError: The config file does not exist.
        ImportError: The config file is a YAML file and PyYAML is not installed.
        UsageError: A setting is unknown, of the wrong type or out of range, or a column is declared more than once.
    """
    config = converted(read_config(parsed.config), parsed.config) if parsed.config else {}
    names = {setting.name for setting in fields(Settings)}
    flags = {name: value for name, value in vars(parsed).items() if name in names and value is not None}
    if parsed.column:
        flags["columns"] = {**config.get("columns", {}), **_without_repetition(parsed.column)}
    try:
        return Settings.of({**(of_run or {}), **config, **flags}, "flags").with_homes()
    except SettingError as error:
        if any(name in config for name in error.names) and not any(name in flags for name in error.names):
            raise UsageError(f"{parsed.config}: {error}") from error
        raise


def _without_repetition(columns: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in columns]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--column: '{name}' is declared {names.count(name)} times, expected once")
    return dict(columns)


def _add_count(commands: Any) -> None:
    command = _add_command(
        commands,
        "count",
        "count the values of all columns in training data and write a schema",
        "The schema holds the vocabularies, the bins and the number of occurrences of each feature.",
        "keras-rafm count --train 'train/*.parquet' --label clicked --column user=string_categorical --output schema",
    )
    _add_data_flags(command)
    command.add_argument("--output", type=path, metavar="DIR", help="directory to write the schema to; default: none")
    command.add_argument(
        "--top",
        type=int,
        default=_TOP,
        metavar="N",
        help=f"print the N most frequent values of each column, 0 for none; default: {_TOP}",
    )


def _add_plan(commands: Any) -> None:
    command = _add_command(
        commands,
        "plan",
        "show how many factors given ranks and thresholds need, without training",
        "Use it to choose --ranks and --thresholds. `--try` compares further thresholds.",
        "keras-rafm plan --dataset movielens-100k --path data/ml-100k --ranks 4,16 --try 20 --try 100 --try 500",
    )
    command.add_argument(
        "--schema",
        type=path,
        metavar="DIR",
        help="take the counts from a schema that `count` wrote, a run directory or an exported model, instead of data",
    )
    _add_data_flags(command)
    _add_level_flags(command)
    command.add_argument(
        "--try",
        dest="try_",
        type=list_of(float),
        action="append",
        metavar="T[,T…]",
        help="thresholds to compare with --thresholds; may be repeated",
    )


def _add_train(commands: Any) -> None:
    command = _add_command(
        commands,
        "train",
        "train a model with early stopping and keep everything in a run directory",
        "The command counts the training data, assigns a rank to each feature, trains, and reports metrics on validation\n"
        "and test data. A run that was interrupted continues with --resume.",
        "keras-rafm train --dataset frappe --path data/frappe --ranks 64,256 --thresholds 256 --output runs/frappe",
        "keras-rafm train --resume --output runs/frappe",
    )
    command.add_argument("--output", type=path, required=True, metavar="DIR", help="run directory")
    command.add_argument(
        "--resume",
        action="store_true",
        help="continue from the last checkpoint in the run directory, with the settings of the run. Only --epochs and "
        "--patience may change",
    )
    _add_data_flags(command)
    _add_level_flags(command)
    group = command.add_argument_group("training")
    _add_setting(group, "optimizer", "optimizer", choices=OPTIMIZERS)
    _add_setting(group, "learning_rate", "learning rate", type=float, metavar="X")
    _add_setting(group, "idle_decay", "weight decay of the tables", "set by the optimizer", type=float, metavar="X")
    _add_setting(group, "factors_l2", "L2 penalty on all factors", type=float, metavar="X")
    _add_setting(
        group,
        "dependent_loss_weight",
        "weight of the losses that train the dependent factors",
        "set by the loss",
        type=float,
        metavar="X",
    )
    _add_setting(group, "batch_size", "rows per step", type=int, metavar="N")
    _add_setting(group, "epochs", "maximum number of epochs", type=int, metavar="N")
    _add_setting(
        group,
        "patience",
        "stop after N epochs without a lower validation loss; requires validation data",
        type=int,
        metavar="N",
    )
    _add_setting(group, "seed", "seed of the initial weights and of the order of rows", type=int, metavar="N")
    _add_setting(group, "steps_per_execution", "steps that TensorFlow executes in one call", type=int, metavar="N")
    _add_setting(
        group,
        "checkpoint_steps",
        "also save a checkpoint every N steps within an epoch",
        "only after each epoch",
        type=int,
        metavar="N",
    )
    _add_setting(
        group,
        "memory_limit_mb",
        "keep the encoded rows of a split in memory up to N MB, and read larger splits from the files in every epoch",
        type=int,
        metavar="N",
    )
    _add_setting(group, "deterministic", "end every run with exactly the same weights; slower", action="store_true")
    _add_setting(group, "tensorboard", "write logs for TensorBoard to the run directory", action="store_true")


def _add_evaluate(commands: Any) -> None:
    command = _add_command(
        commands,
        "evaluate",
        "print the loss and metrics of a run's model",
        "The metrics of the lowest level (RaFM-low) and of the highest level (RaFM) are printed.",
        "keras-rafm evaluate runs/mine --data test.csv",
    )
    command.add_argument("run", type=path, help="run directory")
    _add_files_to_score(command, default="the test data of the run")


def _add_predict(commands: Any) -> None:
    command = _add_command(
        commands,
        "predict",
        "score rows with a run's model and write one line per row, in the same order",
        "The output is CSV with the columns score and probability (classification) or prediction (regression).",
        "keras-rafm predict runs/mine --data new.csv --output predictions.csv",
    )
    command.add_argument("run", type=path, help="run directory")
    skipping = ". Skipped rows have no line in the output, so line numbers and row numbers differ"
    _add_files_to_score(command, default=None, skipping=skipping)
    command.add_argument(
        "--output",
        type=path,
        metavar="FILE",
        help="file, pipe or device to write to; - is the standard output; default: -",
    )


def _add_export(commands: Any) -> None:
    command = _add_command(
        commands,
        "export",
        "write a run's model as the next version of a SavedModel for TF Serving",
        "The exported model takes raw columns as well as feature ids.",
        "keras-rafm export runs/mine saved_models/mine",
    )
    command.add_argument("run", type=path, help="run directory")
    command.add_argument("directory", type=path, help="model directory, which holds one directory per version")
    command.add_argument(
        "--signatures",
        type=list_of(str),
        metavar="A,B,…",
        help=f"signatures to export, among {', '.join(SIGNATURES)}; default: all that the model supports",
    )
    command.add_argument(
        "--level",
        type=int,
        metavar="K",
        help="leave out the levels above K, so that the highest rank is D_K; 1 exports a plain FM; default: all levels",
    )
    command.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="trained",
        help="number format of the factors; default: trained, the format they were trained in",
    )
    command.add_argument(
        "--as-version", type=int, metavar="N", help="version number; default: one above the highest existing version"
    )
    command.add_argument("--keep", type=int, metavar="N", help="delete all but the N highest versions; default: keep all")
    command.add_argument(
        "--warm-up",
        nargs="+",
        type=path,
        metavar="PATH",
        help="files in the format of the training data. TF Serving scores their first rows when it loads the model, so "
        "that the first requests are not slow",
    )
    command.add_argument(
        "--warm-up-batch-sizes",
        type=list_of(int),
        default=[1],
        metavar="N,N,…",
        help="numbers of rows of the warm-up requests; default: 1",
    )
    command.set_defaults(format=None)


def _add_describe(commands: Any) -> None:
    command = _add_command(
        commands,
        "describe",
        "show the columns, ranks and metrics of a run, a schema or an exported model",
        "",
        "keras-rafm describe runs/mine",
    )
    command.add_argument("run", type=path, help="run directory, schema or exported model")


def _add_command(commands: Any, name: str, purpose: str, details: str, *examples: str) -> argparse.ArgumentParser:
    heading = "example:" if len(examples) == 1 else "examples:"
    description = purpose[0].upper() + purpose[1:] + "."
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=purpose,
        description=f"{description}\n\n{details}" if details else description,
        epilog="\n  ".join([heading, *examples]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--debug", action="store_true", help="print the traceback of an error")
    return command


def _add_setting(group: Any, name: str, purpose: str, default: str | None = None, **options: Any) -> None:
    """Add the flag of a setting.

    Args:
        group: The group of flags in the help text.
        name: The name of the setting.
        purpose: The help text.
        default: The default in the help text, if the default of `Settings` does not say it.
        **options: Arguments of `add_argument`.
    """
    value = getattr(_DEFAULT_SETTINGS, name)
    if isinstance(value, tuple):
        value = ",".join(f"{number:g}" for number in value)
    if default is None and value is not None and value is not False and value != "":
        default = f"{value:g}" if isinstance(value, float) else str(value)
    if default is not None:
        purpose += f"; default: {default}"
    group.add_argument("--" + name.replace("_", "-"), default=None, help=purpose, **options)


def _add_data_flags(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--config", type=path, metavar="FILE", help="settings in a TOML, YAML or JSON file, which flags override"
    )
    known = command.add_argument_group("known datasets")
    _add_setting(known, "dataset", "a known dataset, such as movielens-100k, frappe, yelp, criteo or avazu", metavar="NAME")
    _add_setting(known, "path", "the dataset as its authors distribute it: a folder, an archive or a file", metavar="PATH")
    _add_setting(
        known,
        "cache_dir",
        "directory for the files that are made from the dataset",
        "~/.keras/keras_rafm",
        metavar="DIR",
    )
    _add_setting(
        known,
        "min_count",
        "values that occur fewer than N times share one feature",
        "set by the dataset",
        type=int,
        metavar="N",
    )
    group = command.add_argument_group("data")
    for split, purpose in zip(SPLITS, ("to train on", "for early stopping", "for the final report"), strict=True):
        _add_setting(group, split, f"files, folders or patterns {purpose}", nargs="+", metavar="PATH")
    _add_setting(group, "format", "format of the files", "inferred from the file names", choices=FORMATS)
    _add_text_flags(group, "")
    group.add_argument(
        "--column",
        type=column,
        action="append",
        metavar="NAME=KIND[,OPTION=VALUE…]",
        help=f"a column, its kind and its options; may be repeated. Kinds: {', '.join(COLUMN_OPTIONS)}. Options: those of "
        r"keras_rafm.data.Schema, such as 'bin_boundaries=0;1.5;10'. In a value, '\,' is a comma; in a separator, '\t' is "
        "a tab",
    )
    _add_setting(group, "label", "column of labels", metavar="NAME")
    _add_setting(
        group,
        "positive_label",
        "the label that counts as 1; write a string that looks like a number as '\"1\"'",
        metavar="VALUE",
    )
    _add_setting(group, "task", "kind of model", TASKS[0], choices=TASKS)
    _add_setting(group, "sample_weight", "column of sample weights", metavar="NAME")
    _add_setting(group, "on_error", "whether malformed rows are an error or are skipped", choices=ON_ERROR)


def _add_files_to_score(command: argparse.ArgumentParser, default: str | None, skipping: str = "") -> None:
    command.add_argument(
        "--data",
        required=default is None,
        nargs="+",
        type=path,
        metavar="PATH",
        help="files, folders or patterns such as 'new/*.csv'" + (f"; default: {default}" if default else ""),
    )
    command.add_argument(
        "--format",
        choices=FORMATS,
        help="format of the files; default: that of the training data if the run was given --format or --dataset, "
        "otherwise inferred from the file names",
    )
    _add_text_flags(command, "as in training", "; '' if the first row has them")
    command.add_argument(
        "--batch-size", type=at_least(1), default=_BATCH_SIZE, metavar="N", help=f"rows per batch; default: {_BATCH_SIZE}"
    )
    command.add_argument(
        "--on-error",
        choices=ON_ERROR,
        default=ON_ERROR[0],
        help=f"whether malformed rows are an error or are skipped; default: {ON_ERROR[0]}{skipping}",
    )


def _add_text_flags(group: Any, default: str, no_column_names: str = "") -> None:
    default = f"; default: {default}" if default else ""
    group.add_argument("--delimiter", help=rf"field delimiter of text files; '\t' is a tab{default}")
    group.add_argument("--quote", help=f"quote character of text files; '' for none{default}")
    group.add_argument(
        "--column-names",
        type=list_of(str),
        metavar="A,B,…",
        help=f"names of all columns, in order, of text files without a header{no_column_names}{default}",
    )
    group.add_argument(
        "--missing-values",
        type=list_of(str),
        metavar="A,B,…",
        help=rf"fields of text files that stand for a missing value, as empty fields do, such as 'NaN,\N'{default}",
    )


def _add_level_flags(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("levels")
    _add_setting(group, "ranks", "ranks of the levels, increasing", type=list_of(int), metavar="D,D,…")
    _add_setting(
        group,
        "thresholds",
        "one threshold fewer than ranks: a feature that occurs more often in training data has the next higher rank",
        type=list_of(float),
        metavar="T,…",
    )
