"""Commands and flags of the command line tool. No TensorFlow here: `--help` answers at once."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from os.path import expanduser
from typing import Any

from keras_rafm.cli.settings import FORMATS, SettingError, Settings, UsageError, converted, read_config

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
"""

_OF_TEXT = ("separator", "weight_separator", "weights")  # of the options of columns

_DATA_HELP = "files, folders or patterns such as 'train/*.csv'"


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command and its flags. Ends the process with exit code 2 where they are wrong."""
    parser = argparse.ArgumentParser(
        prog="keras-rafm",
        description="Rank-Aware Factorization Machines from raw tables to a served model.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print versions and end")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_count(commands)
    _add_plan(commands)
    _add_train(commands)
    _add_of_run(commands)
    parsed = parser.parse_args(arguments)
    if parsed.command is None and not parsed.version:
        parser.print_help()
        parser.exit(2)
    return parsed


def settings_of(parsed: argparse.Namespace, of_run: Mapping[str, Any] | None = None) -> Settings:
    """The settings of a run that goes on, if one does, over them those of the config file, and over these the flags.

    Raises:
        FileNotFoundError: There is no such config file.
        ImportError: A YAML file is given and PyYAML is not installed.
        UsageError: A setting is unknown, of the wrong kind or out of range, or a column is declared twice.
    """
    config = converted(read_config(parsed.config), parsed.config) if parsed.config else {}
    names = {own.name for own in fields(Settings)}
    flags = {name: value for name, value in vars(parsed).items() if name in names and value is not None}
    if parsed.column:
        flags["columns"] = {**config.get("columns", {}), **_each_once(parsed.column)}
    try:
        return Settings.of({**(of_run or {}), **config, **flags}, "flags").with_homes()
    except SettingError as error:
        if any(name in config for name in error.names) and not any(name in flags for name in error.names):
            raise UsageError(f"{parsed.config}: {error}") from error
        raise


def _each_once(columns: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in columns]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--column: '{name}' is declared {names.count(name)} times, expected once")
    return dict(columns)


def _add_count(commands: Any) -> None:
    command = _command(
        commands,
        "count",
        "count the values of all columns and write the schema: vocabularies, bins, counts",
        "  keras-rafm count --train 'train/*.parquet' --label clicked --column user=string_categorical --output schema",
    )
    _add_data(command)
    command.add_argument("--output", type=_path, metavar="DIR", help="where the schema is written")
    command.add_argument("--top", type=int, default=5, metavar="N", help="print the N most frequent values (default: 5)")


def _add_plan(commands: Any) -> None:
    command = _command(
        commands,
        "plan",
        "show what ranks and thresholds would cost and cover, without training",
        "  keras-rafm plan --dataset movielens-100k --path data/ml-100k --ranks 4,16 --try 20 --try 100 --try 500",
    )
    command.add_argument(
        "--schema",
        type=_path,
        metavar="DIR",
        help="a schema that `count` wrote, a run directory or an exported model, in place of data",
    )
    _add_data(command)
    _add_levels(command)
    command.add_argument(
        "--try",
        dest="try_",
        type=_list_of(float),
        action="append",
        metavar="T[,T…]",
        help="other thresholds to compare with; may be given several times",
    )


def _add_train(commands: Any) -> None:
    command = _command(
        commands,
        "train",
        "count, plan, train with early stopping, report, and keep everything in a run directory",
        "  keras-rafm train --dataset frappe --path data/frappe --ranks 64,256 --thresholds 256 --output runs/frappe\n"
        "  keras-rafm train --resume --output runs/frappe",
    )
    command.add_argument("--output", type=_path, required=True, metavar="DIR", help="the run directory")
    command.add_argument(
        "--resume",
        action="store_true",
        help="go on from the last checkpoint of the run directory, with its settings; --epochs and --patience may be new",
    )
    _add_data(command)
    _add_levels(command)
    group = command.add_argument_group("training")
    group.add_argument("--optimizer", choices=["LazyAdam", "SparseAdagrad", "SparseFtrl"], help="default: LazyAdam")
    group.add_argument("--learning-rate", type=float, metavar="X", help="default: 0.004")
    group.add_argument("--idle-decay", type=float, metavar="X", help="decay of the tables; default: the optimizer's own")
    group.add_argument("--factors-l2", type=float, metavar="X", help="L2 over whole factor tables; default: 0")
    group.add_argument("--dependent-loss-weight", type=float, metavar="X", help="default: by the loss")
    group.add_argument("--batch-size", type=int, metavar="N", help="default: 4096")
    group.add_argument("--epochs", type=int, metavar="N", help="at most; default: 20")
    group.add_argument(
        "--patience",
        type=int,
        metavar="N",
        help="epochs without a better validation loss after which training stops; needs --validation; default: 3",
    )
    group.add_argument("--seed", type=int, metavar="N", help="of initial weights and the order of rows; default: 0")
    group.add_argument("--steps-per-execution", type=int, metavar="N", help="default: 8")
    group.add_argument("--checkpoint-steps", type=int, metavar="N", help="also keep the state every N steps of an epoch")
    group.add_argument(
        "--memory-limit-mb", type=int, metavar="N", help="encoded data above it are read anew in every epoch; default: 4096"
    )
    group.add_argument("--deterministic", action="store_true", default=None, help="equal weights bit by bit in every run")
    group.add_argument("--tensorboard", action="store_true", default=None, help="write logs for TensorBoard into the run")


def _add_of_run(commands: Any) -> None:
    evaluate = _command(
        commands, "evaluate", "loss and metrics of a run's model on data", "  keras-rafm evaluate runs/mine --data test.csv"
    )
    predict = _command(
        commands,
        "predict",
        "score rows: one line per row, in their order",
        "  keras-rafm predict runs/mine --data new.csv --output predictions.csv",
    )
    for command in (evaluate, predict):
        command.add_argument("run", type=_path, help="the run directory")
        own = command is evaluate
        more = "; default: the test data of the run" if own else ""
        command.add_argument("--data", required=not own, nargs="+", type=_path, metavar="PATH", help=_DATA_HELP + more)
        command.add_argument(
            "--format",
            choices=FORMATS,
            help="default: that of the training data if it was told by --format or --dataset, else as the names of the "
            "files tell",
        )
        _add_text(command, "; default: as in training", "; '' where the first row has them")
        command.add_argument("--batch-size", type=int, default=8192, metavar="N", help="default: 8192")
        command.add_argument(
            "--on-error",
            choices=["raise", "skip"],
            default="raise",
            help="for malformed rows; default: raise"
            + ("" if own else ". Rows that are skipped have no line in the output, so that line and row numbers differ"),
        )
    predict.add_argument(
        "--output", type=_path, metavar="FILE", help="- is stdout; a pipe or device is written to as it is; default: -"
    )
    exported = _command(
        commands,
        "export",
        "write a run's model as the next version of a SavedModel for TF Serving, raw columns included",
        "  keras-rafm export runs/mine saved_models/mine",
    )
    exported.add_argument("run", type=_path, help="the run directory")
    exported.add_argument("directory", type=_path, help="the model directory, which holds versions")
    exported.add_argument("--signatures", type=_list_of(str), metavar="A,B,…", help="default: all that the model can have")
    exported.add_argument("--level", type=int, metavar="K", help="cut the model off at rank D_K; 1 is a plain FM")
    exported.add_argument(
        "--precision",
        choices=["trained", "bfloat16", "int8"],
        default="trained",
        help="how factors are stored; default: trained, which is as they are",
    )
    exported.add_argument("--as-version", type=int, metavar="N", help="default: one above the highest that is there")
    exported.add_argument("--keep", type=int, metavar="N", help="delete all but the N highest versions; default: none")
    exported.add_argument(
        "--warm-up",
        nargs="+",
        type=_path,
        metavar="PATH",
        help="files whose first rows TF Serving scores when it loads the model, as fast as any other from then on; in the "
        "format of the training data",
    )
    exported.add_argument(
        "--warm-up-batch-sizes", type=_list_of(int), default=[1], metavar="N,N,…", help="rows of such requests; default: 1"
    )
    exported.set_defaults(format=None)
    described = _command(
        commands, "describe", "what a run, a schema or an exported model is made of", "  keras-rafm describe runs/mine"
    )
    described.add_argument("run", type=_path, help="a run directory, a schema, or an exported model")


def _command(commands: Any, name: str, purpose: str, example: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=purpose,
        description=purpose[0].upper() + purpose[1:] + ".",
        epilog=f"example:\n{example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("--debug", action="store_true", help="show where an error comes from")
    return command


def _path(text: str) -> str:
    return expanduser(text)


def _add_data(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("data")
    group.add_argument("--config", type=_path, metavar="FILE", help="settings in TOML, YAML or JSON; flags override them")
    group.add_argument("--dataset", metavar="NAME", help="a known dataset, such as movielens-100k, frappe, yelp, criteo")
    group.add_argument("--path", metavar="PATH", help="where the known dataset is")
    group.add_argument("--cache-dir", metavar="DIR", help="where files made of a known dataset are kept")
    group.add_argument("--min-count", type=int, metavar="N", help="of a known dataset: rarer values share a feature")
    for name, purpose in (("train", "to learn from"), ("validation", "to stop early on"), ("test", "to report on")):
        group.add_argument(f"--{name}", nargs="+", metavar="PATH", help=f"{_DATA_HELP}, {purpose}")
    group.add_argument("--format", choices=FORMATS, help="default: as the names of the files tell")
    _add_text(group)
    group.add_argument(
        "--column",
        type=_column,
        action="append",
        metavar="NAME=KIND[,OPTION=VALUE…]",
        help="a column and its kind: string_categorical, integer_categorical, string_hashed, integer_hashed, "
        "integer_identity, float, float_discretized, with the options of keras_rafm.data.Schema, such as "
        r"'bin_boundaries=0;1.5;10'; in a value '\,' is a comma, as a separator '\t' is a tab",
    )
    group.add_argument("--label", metavar="NAME", help="column of labels")
    group.add_argument(
        "--positive-label", metavar="VALUE", help="the label that counts as 1; '\"1\"' is text that looks like a number"
    )
    group.add_argument("--task", choices=["classification", "regression"], help="default: classification")
    group.add_argument("--sample-weight", metavar="NAME", help="column of sample weights")
    group.add_argument("--on-error", choices=["raise", "skip"], help="for malformed rows; default: raise")


def _add_text(group: Any, more: str = "", names_more: str = "") -> None:
    group.add_argument("--delimiter", help=rf"between fields of text; '\t' is a tab{more}")
    group.add_argument("--quote", help=f"around fields of text; '' for none{more}")
    group.add_argument(
        "--column-names",
        type=_list_of(str),
        metavar="A,B,…",
        help=f"of text files without a header, of all fields in their order{names_more}{more}",
    )
    group.add_argument(
        "--missing-values",
        type=_list_of(str),
        metavar="A,B,…",
        help=rf"fields of text that stand for no value, as empty ones do, such as 'NaN,\N'{more}",
    )


def _add_levels(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("levels")
    group.add_argument("--ranks", type=_list_of(int), metavar="D,D,…", help="increasing; default: 4,32")
    group.add_argument(
        "--thresholds",
        type=_list_of(float),
        metavar="T,…",
        help="one less than ranks: a feature that occurs more often in training gets the next rank; default: 50",
    )


def _list_of(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    def parsed(text: str) -> list[Any]:
        return [kind(part) for part in text.split(",") if part]

    parsed.__name__ = f"list of {kind.__name__}"
    return parsed


def _column(text: str) -> tuple[str, dict[str, Any]]:
    name, equals, rest = text.partition("=")
    kind, *options = (part.replace("\\,", ",") for part in re.split(r"(?<!\\),", rest))
    column: dict[str, Any] = {"kind": kind}
    for option in options:
        key, sign, value = option.partition("=")
        if not sign:
            hint = r" (a comma in a value is written '\,')" if not option else ""
            raise argparse.ArgumentTypeError(f"expected OPTION=VALUE, received {option!r} in {text!r}{hint}")
        if key in column:
            raise argparse.ArgumentTypeError(f"expected each option once, received '{key}' twice in {text!r}")
        column[key] = _boundaries(value) if key == "bin_boundaries" else _value(key, value)
    if not (name and equals and kind):
        raise argparse.ArgumentTypeError(f"expected NAME=KIND[,OPTION=VALUE…], received {text!r}")
    return name, column


def _boundaries(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(";")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"expected bin_boundaries=NUMBER[;NUMBER…], received 'bin_boundaries={text}'"
        ) from error


def _value(key: str, text: str) -> Any:
    if key in _OF_TEXT:
        return text.replace("\\t", "\t")
    words = {"true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
