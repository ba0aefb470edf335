"""The settings of a run, from a config file, flags and defaults."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import itertools
import json
import math
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

from keras_rafm.checks.optional_packages import imported
from keras_rafm.cli.choices import ON_ERROR, OPTIMIZERS, SPLITS, TASKS
from keras_rafm.cli.errors import SettingError, UsageError
from keras_rafm.files.format_names import FORMATS

_AT_LEAST_1 = (
    "batch_size",
    "epochs",
    "steps_per_execution",
    "patience",
    "memory_limit_mb",
    "checkpoint_steps",
    "min_count",
)

_TYPE_NAMES = {str: "a string", int: "an integer", float: "a number", bool: "true or false", dict: "a table"}


@dataclass(frozen=True)
class Settings:
    """Everything that a model and its training depend on. Flags and keys of config files have the same names.

    Args:
        dataset: Name of a known dataset, in place of files and columns.
        path: The known dataset as its authors distribute it: a folder, an archive or a file.
        cache_dir: Where to keep the files that are made from a known dataset.
        train: Files, folders or patterns to train on.
        validation: Files for early stopping.
        test: Files for the final report.
        format: csv, tsv, parquet, tfrecord, avro or libfm. By default inferred from the file names.
        delimiter: Field delimiter of text files.
        quote: Quote character of text files; empty for none.
        column_names: Column names of text files without a header.
        missing_values: Fields of text files that, like empty fields, stand for a missing value.
        columns: Kind and options of each column: `{"user": "string_categorical", "genres": {"kind": "string_categorical",
            "separator": "|"}}`.
        label: Column of labels.
        task: classification or regression.
        positive_label: The label that counts as 1: a number or a string. A string that looks like a number needs double
            quotes.
        sample_weight: Column of sample weights.
        min_count: How often a value of a known dataset must occur to have a feature of its own.
        on_error: Whether malformed rows raise an error (raise) or are left out (skip).
        ranks: Ranks `D_1 < … < D_m`.
        thresholds: One threshold fewer than ranks: a feature that occurs more often has the next higher rank.
        dependent_loss_weight: See `RaFMLayer`; empty for its default.
        factors_l2: See `RaFMLayer`.
        optimizer: LazyAdam, SparseAdagrad or SparseFtrl.
        learning_rate: Learning rate of the optimizer.
        idle_decay: See the optimizer; empty for its default.
        batch_size: Rows per step.
        epochs: Maximum number of epochs.
        patience: Number of epochs without a lower validation loss after which training stops. The best epoch is kept.
        seed: Seed of the initial weights and of the order of rows.
        steps_per_execution: Steps that TensorFlow executes in one call.
        checkpoint_steps: Number of steps between checkpoints within an epoch; empty for none.
        memory_limit_mb: Encoded data that need more memory than that are read from the files in every epoch.
        deterministic: Whether every run ends with exactly the same weights.
        tensorboard: Whether to write logs for TensorBoard.
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
        for name, allowed in (("format", FORMATS), ("task", TASKS), ("on_error", ON_ERROR), ("optimizer", OPTIMIZERS)):
            value = getattr(self, name)
            if value is not None and value not in allowed:
                raise SettingError(name, f"one of {', '.join(allowed)}", repr(value))
        for name in _AT_LEAST_1:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingError(name, "at least 1", value)
        if not 0 < self.learning_rate < math.inf:
            raise SettingError("learning_rate", "a finite number above 0", self.learning_rate)
        for name in ("factors_l2", "dependent_loss_weight", "idle_decay"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise SettingError(name, "a finite number of at least 0", value)
        if not 0 <= self.seed < 2**32:
            raise SettingError("seed", "from 0 to 2**32 - 1", self.seed)
        if not self.ranks or any(a >= b for a, b in zip((0, *self.ranks), self.ranks, strict=False)):
            raise SettingError("ranks", "positive and increasing, at least one", _joined(self.ranks))
        check_thresholds("thresholds", self.thresholds, self.ranks)

    def as_json(self) -> str:
        """Return the settings in the format of `from_json`."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False) + "\n"

    def with_absolute_paths(self) -> Settings:
        """Return settings whose paths don't depend on the working directory."""
        return self._with_paths(os.path.abspath)

    def with_homes(self) -> Settings:
        """Return settings whose paths have the home directory in place of a leading `~`."""
        return self._with_paths(os.path.expanduser)

    def _with_paths(self, change: Callable[[str], str]) -> Settings:
        def local(path: str) -> str:
            return path if "://" in path else change(path)

        changes: dict[str, Any] = {
            name: local(getattr(self, name)) for name in ("path", "cache_dir") if getattr(self, name) is not None
        }
        for split in SPLITS:
            changes[split] = tuple(map(local, getattr(self, split)))
        return dataclasses.replace(self, **changes)

    @classmethod
    def from_json(cls, text: str, where: str) -> Settings:
        """Return the settings that `as_json` wrote.

        Args:
            text: The result of `as_json`.
            where: The file, for error messages.

        Raises:
            UsageError: The text is damaged.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise UsageError(f"{where} is damaged: {error}") from error
        return cls.of(values, where)

    @classmethod
    def of(cls, values: Mapping[str, Any], where: str) -> Settings:
        """Return settings with the given values, and defaults for all others.

        Args:
            values: Values by name.
            where: Where the values come from, for error messages.

        Raises:
            UsageError: A name is unknown, or a value is of the wrong type or out of range.
        """
        converted_values = converted(values, where)
        if len(converted_values.get("ranks", ())) == 1:
            converted_values.setdefault("thresholds", ())  # the default is for two levels
        return cls(**converted_values)


def converted(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the values of settings, converted to their types. Values of `None` are left out.

    Args:
        values: Values by name.
        where: Where the values come from, for error messages.

    Raises:
        UsageError: A name is unknown or a value is of the wrong type.
    """
    hints = get_type_hints(Settings)
    for name in values:
        if name not in hints:
            raise UsageError(f"{where}: unknown setting '{name}'; {_suggestion(name, hints)}")
    return {name: _converted(name, value, hints[name], where) for name, value in values.items() if value is not None}


def check_thresholds(name: str, thresholds: tuple[float, ...], ranks: tuple[int, ...]) -> None:
    """Raise a `SettingError` unless a plan can have these thresholds and ranks.

    Args:
        name: The setting of the thresholds, for error messages.
        thresholds: The thresholds.
        ranks: The ranks.
    """
    if len(thresholds) != len(ranks) - 1:
        received = f"thresholds {_joined(thresholds)} for ranks {_joined(ranks)}"
        raise SettingError(name, "one fewer than --ranks", received, depends_on="ranks")
    if any(not threshold >= 0 for threshold in thresholds) or any(a >= b for a, b in itertools.pairwise(thresholds)):
        raise SettingError(name, "non-negative and increasing", _joined(thresholds))


def read_config(path: str) -> dict[str, Any]:
    """Return the settings in a TOML, YAML or JSON file.

    Raises:
        FileNotFoundError: The file does not exist.
        ImportError: It is a YAML file and PyYAML is not installed.
        UsageError: The file can't be parsed, does not hold settings by name, or is of another type.
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
            raise UsageError(f"the name of a config file must end with .toml, .yaml, .yml or .json. Received: {path}")
    except UsageError:
        raise
    except FileNotFoundError as error:
        raise FileNotFoundError(f"file not found: {path}") from error
    except ValueError as error:
        raise UsageError(f"{path} can't be read: {error}") from error
    if not isinstance(config, dict):
        raise UsageError(f"{path} must hold settings by name. Received: {type(config).__name__}")
    if not isinstance(config.get("columns") or {}, dict):
        raise UsageError(f"{path}: `columns` must be a table of columns by name. Received: {config['columns']!r}")
    return {str(name).replace("-", "_"): value for name, value in config.items()}


def _suggestion(name: str, known_names: Iterable[str]) -> str:
    similar = difflib.get_close_matches(name, known_names, 1)
    return f"did you mean '{similar[0]}'?" if similar else "`keras-rafm train --help` lists all settings"


def _converted(name: str, value: Any, hint: Any, where: str) -> Any:
    """Return a value converted to the type that the hint of its setting asks for."""
    alternatives = get_args(hint)
    if alternatives and alternatives[-1] is Ellipsis:
        items = value if isinstance(value, list | tuple) else [value]
        return tuple(_converted(name, item, alternatives[0], where) for item in items)
    types: tuple[Any, ...] = (dict,) if hint == dict[str, Any] else alternatives or (hint,)
    if isinstance(value, bool) == (bool in types):  # a boolean is no number, although it is an `int`
        if float in types and isinstance(value, int | str):
            with contextlib.suppress(ValueError):  # in YAML 1.1, 4e-3 is a string
                value = float(value)
        if name == "positive_label" and isinstance(value, int | float):
            value = str(value)
        if isinstance(value, types):
            return value
    expected = " or ".join(_TYPE_NAMES[kind] for kind in types if kind in _TYPE_NAMES)
    raise UsageError(f"{where}: `{name}` must be {expected}. Received: {value!r}")


def _joined(numbers: tuple[float, ...]) -> str:
    return ",".join(f"{number:g}" for number in numbers) or "none"
