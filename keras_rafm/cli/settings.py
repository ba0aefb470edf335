"""What a run is told: defaults, then a config file, then flags."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import itertools
import json
import math
import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

from keras_rafm.checks.optional_packages import imported

FORMATS = ("csv", "tsv", "parquet", "tfrecord", "avro", "libfm")


class UsageError(ValueError):
    """A command can't be carried out as it was given."""


class SettingError(UsageError):
    """A setting is out of range.

    Attributes:
        names: Of the setting and of others that it depends on.
    """

    def __init__(self, name: str, expected: str, received: object, *others: str) -> None:
        super().__init__(f"{_flag(name)} must be {expected}. Received: {received}")
        self.names = (name, *others)


class DivergedError(ArithmeticError):
    """Training came to numbers that are not finite."""


@dataclass(frozen=True)
class Settings:
    """Everything that a model and its training depend on. Flags and keys of config files have the same names.

    Args:
        dataset: A known dataset by name, in place of files and columns.
        path: Where a known dataset is, as its authors give it away.
        cache_dir: Where the files made of a known dataset are kept.
        train: Files, folders or patterns to train on.
        validation: Files to stop early on.
        test: Files to report on.
        format: Of the files: csv, tsv, parquet, tfrecord, avro or libfm. By default their names tell.
        delimiter: Of text files.
        quote: Of text files; empty for none.
        column_names: Of text files without a header.
        missing_values: Fields of text that stand for no value, as empty ones do.
        columns: Kind and options of each column: `{"user": "string_categorical", "genres": {"kind": "string_categorical",
            "separator": "|"}}`.
        label: Column of labels.
        task: classification or regression.
        positive_label: The label that counts as 1: a number, or text, which is in double quotes if it looks like a number.
        sample_weight: Column of sample weights.
        min_count: Of known datasets: how often a value must occur to have a feature of its own.
        on_error: raise, or skip malformed rows.
        ranks: D_1 < … < D_m.
        thresholds: One less than ranks: a feature that occurs more often gets the next rank.
        dependent_loss_weight: As in `RaFMLayer`; empty for its default.
        factors_l2: As in `RaFMLayer`.
        optimizer: LazyAdam, SparseAdagrad or SparseFtrl.
        learning_rate: Of the optimizer.
        idle_decay: Of the optimizer; empty for its default.
        batch_size: Rows per step.
        epochs: At most.
        patience: Epochs without a better validation loss after which training stops; the best epoch is kept.
        seed: Of initial weights and of the order of rows.
        steps_per_execution: Steps that TensorFlow does in one call.
        checkpoint_steps: Also keep the state within epochs, every so many steps.
        memory_limit_mb: Training data that take more than that when encoded are read from the files in every epoch.
        deterministic: The same weights bit by bit in every run.
        tensorboard: Write logs for TensorBoard into the run.
    """

    dataset: str | None = None
    path: str | None = None
    cache_dir: str | None = None
    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    format: str | None = None
    delimiter: str | None = None
    quote: str | None = None
    column_names: tuple[str, ...] = ()
    missing_values: tuple[str, ...] = ()
    columns: dict[str, Any] = field(default_factory=dict)
    label: str | None = None
    task: str | None = None
    positive_label: str | None = None
    sample_weight: str | None = None
    min_count: int | None = None
    on_error: str = "raise"
    ranks: tuple[int, ...] = (4, 32)
    thresholds: tuple[float, ...] = (50.0,)
    dependent_loss_weight: float | None = None
    factors_l2: float = 0.0
    optimizer: str = "LazyAdam"
    learning_rate: float = 0.004
    idle_decay: float | None = None
    batch_size: int = 4096
    epochs: int = 20
    patience: int = 3
    seed: int = 0
    steps_per_execution: int = 8
    checkpoint_steps: int | None = None
    memory_limit_mb: int = 4096
    deterministic: bool = False
    tensorboard: bool = False

    def __post_init__(self) -> None:
        _one_of(self, "format", (None, *FORMATS))
        _one_of(self, "task", (None, "classification", "regression"))
        _one_of(self, "on_error", ("raise", "skip"))
        _one_of(self, "optimizer", ("LazyAdam", "SparseAdagrad", "SparseFtrl"))
        for name in ("batch_size", "epochs", "steps_per_execution", "patience", "memory_limit_mb"):
            if getattr(self, name) < 1:
                raise SettingError(name, "at least 1", getattr(self, name))
        if not 0 < self.learning_rate < math.inf:
            raise SettingError("learning_rate", "a finite number above 0", self.learning_rate)
        if not 0 <= self.seed < 2**32:
            raise SettingError("seed", "from 0 to 2**32 - 1", self.seed)
        if not self.ranks or any(a >= b for a, b in zip((0, *self.ranks), self.ranks, strict=False)):
            raise SettingError("ranks", "positive and increasing, at least one", _shown(self.ranks))
        if self.checkpoint_steps is not None and self.checkpoint_steps < 1:
            raise SettingError("checkpoint_steps", "at least 1", self.checkpoint_steps)
        check_thresholds("thresholds", self.thresholds, self.ranks)

    def as_json(self) -> str:
        """What `from_json` reads."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"

    def with_absolute_paths(self) -> Settings:
        """The same files, wherever a later process is started."""
        return self._with_paths(os.path.abspath)

    def with_homes(self) -> Settings:
        """The same with the home directories that `~` at the start of paths stands for."""
        return self._with_paths(os.path.expanduser)

    def _with_paths(self, changed: Callable[[str], str]) -> Settings:
        def local(path: str) -> str:
            return path if "://" in path else changed(path)

        found: dict[str, Any] = {
            name: local(getattr(self, name)) for name in ("path", "cache_dir") if getattr(self, name) is not None
        }
        for name in ("train", "validation", "test"):
            found[name] = tuple(map(local, getattr(self, name)))
        return dataclasses.replace(self, **found)

    @classmethod
    def from_json(cls, text: str, where: str) -> Settings:
        """The reverse of `as_json`."""
        try:
            given = json.loads(text)
        except ValueError as error:
            raise UsageError(f"{where} is damaged: {error}") from error
        return cls.of(given, where)

    @classmethod
    def of(cls, given: Mapping[str, Any], where: str) -> Settings:
        """Settings of plain values; others have their defaults.

        Raises:
            UsageError: A key is unknown, or a value is of the wrong kind or out of range.
        """
        values = converted(given, where)
        if len(values.get("ranks", ())) == 1:
            values.setdefault("thresholds", ())  # one level needs none
        return cls(**values)


def converted(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values of settings, each of its kind, without those that are not given: `None`.

    Raises:
        UsageError: A key is unknown or a value is of the wrong kind.
    """
    hints = get_type_hints(Settings)
    for name in given:
        if name not in hints:
            close = difflib.get_close_matches(name, hints, 1)
            hint = f"is '{close[0]}' meant?" if close else "`keras-rafm train --help` shows which there are"
            raise UsageError(f"{where}: there is no setting '{name}'; {hint}")
    return {name: _converted(name, value, hints[name], where) for name, value in given.items() if value is not None}


def check_thresholds(name: str, thresholds: tuple[float, ...], ranks: tuple[int, ...]) -> None:
    """Raise a `SettingError` for thresholds that a plan with these ranks can't have."""
    if len(thresholds) != len(ranks) - 1:
        received = f"thresholds {_shown(thresholds)} for ranks {_shown(ranks)}"
        raise SettingError(name, "one less than --ranks", received, "ranks")
    if any(not threshold >= 0 for threshold in thresholds) or any(a >= b for a, b in itertools.pairwise(thresholds)):
        raise SettingError(name, "0 or more and increasing", _shown(thresholds))


def read_config(path: str) -> dict[str, Any]:
    """The settings of a TOML, YAML or JSON file.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: A YAML file is given and PyYAML is not installed.
        UsageError: It can't be read, or has another ending.
    """
    suffix = Path(path).suffix.lower()
    try:
        text = Path(path).read_text(encoding="utf-8")
        if suffix == ".toml":
            config: Any = tomllib.loads(text)
        elif suffix == ".json":
            config = json.loads(text)
        elif suffix in (".yaml", ".yml"):
            yaml = imported("yaml", "cli")
            try:
                config = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise ValueError(str(error)) from error
        else:
            raise UsageError(f"a config file must end with .toml, .yaml or .json. Received: {path}")
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{path} can't be read: {error}") from error
    if not isinstance(config, dict):
        raise UsageError(f"{path} must hold settings by name. Received: {type(config).__name__}")
    if not isinstance(config.get("columns") or {}, dict):
        raise UsageError(f"{path}: `columns` must be a table of columns by name. Received: {config['columns']!r}")
    return {str(name).replace("-", "_"): value for name, value in config.items()}


def _converted(name: str, value: Any, hint: Any, where: str) -> Any:
    kinds = get_args(hint)
    if hint is bool:
        wanted: tuple[Any, ...] = (bool,)
    elif kinds and kinds[-1] is Ellipsis:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_converted(name, item, kinds[0], where) for item in items)
    elif hint == dict[str, Any]:
        wanted = (dict,)
    else:
        wanted = kinds or (hint,)
    if isinstance(value, bool) != (bool in wanted):
        raise UsageError(f"{where}: `{name}` must be {_names(wanted)}. Received: {value!r}")
    if float in wanted and isinstance(value, int | str):
        with contextlib.suppress(ValueError):  # for YAML 1.1, 4e-3 is text
            value = float(value)
    if str in wanted and isinstance(value, int | float) and name == "positive_label":
        value = str(value)
    if not isinstance(value, wanted):
        raise UsageError(f"{where}: `{name}` must be {_names(wanted)}. Received: {value!r}")
    return value


def _names(kinds: tuple[Any, ...]) -> str:
    words = {str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "a table"}
    return " or ".join(words[kind] for kind in kinds if kind in words)


def _one_of(settings: Settings, name: str, allowed: tuple[Any, ...]) -> None:
    value = getattr(settings, name)
    if value not in allowed:
        names = ", ".join(str(a) for a in allowed if a is not None)
        raise SettingError(name, f"one of {names}", repr(value))


def _shown(numbers: tuple[float, ...]) -> str:
    return ",".join(f"{number:g}" for number in numbers) or "none"


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
