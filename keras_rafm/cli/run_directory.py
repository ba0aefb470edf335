"""The directory of a run: its settings, the state of its training and its results.

    settings.json              the settings of the run
    schema/, plan.npz          what was learnt from counting the training data
    begun.json                 what must not change: the digest of the schema, names and sizes of the data files
    checkpoints/EPOCH-STEP/    model.keras with its optimizer, state.json
    best/EPOCH.keras           the model of the best epoch so far
    report.json                metrics of the finished run on each split
    logs/                      logs for TensorBoard
    .lock                      exists and is locked while a process trains

Checkpoints are written atomically, and the previous one is removed afterwards. So a process that is killed at any moment
leaves a whole checkpoint.

`RunDirectory` needs no TensorFlow. `keras_rafm.cli.commands.run.Run` also loads the schema and the model.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from keras_rafm.cli.errors import UsageError
from keras_rafm.cli.settings import Settings
from keras_rafm.files.atomic import folder_beside, new_file, replace_directory, write_text
from keras_rafm.files.locks import LockState, lock

#: Split -> file name -> size in bytes, or `None` if the size is unknown.
Sizes = Mapping[str, Mapping[str, int | None]]

_LOCK = ".lock"


@dataclass
class State:
    """The state of training.

    Args:
        epoch: Number of finished epochs.
        step: Number of finished steps of the next epoch.
        best_loss: The lowest validation loss so far.
        best_epoch: The epoch with the lowest validation loss; `None` before the first validation.
        waited: Number of epochs since `best_epoch`.
        ended: Whether training is finished.
        history: The logged values of each epoch.
    """

    epoch: int = 0
    step: int = 0
    best_loss: float = float("inf")
    best_epoch: int | None = None
    waited: int = 0
    ended: bool = False
    history: list[dict[str, float]] = field(default_factory=list)


class RunDirectory:
    """The directory of one run.

    Args:
        path: The directory, which need not exist.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.plan_path = self.path / "plan.npz"
        self._schema_path = self.path / "schema"
        self._checkpoints = self.path / "checkpoints"

    @property
    def is_run(self) -> bool:
        """Whether the directory holds a run."""
        return (self.path / "settings.json").is_file()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Create the directory and keep other processes from training in it. Remove it afterwards if it is empty.

        Raises:
            UsageError: Another process is training in the directory.
        """
        missing = [path for path in (self.path, *self.path.parents) if not path.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with lock(self.path / _LOCK, temporary=True) as state:
                if state is LockState.HELD_ELSEWHERE:
                    raise UsageError(f"another process is training in {self.path}: wait until it has finished")
                yield
        finally:
            with contextlib.suppress(OSError):
                for path in missing:
                    path.rmdir()

    def check_unused(self) -> None:
        """Raise a `UsageError` if the path exists and is not an empty directory."""
        if not self.path.exists() or (self.path.is_dir() and {entry.name for entry in self.path.iterdir()} <= {_LOCK}):
            return
        hint = "continue the run with --resume, or " if self.is_run else ""
        raise UsageError(f"{self.path} is not empty: {hint}choose another directory with --output")

    def settings(self) -> Settings:
        """Return the settings of the run.

        Raises:
            UsageError: The directory holds no run, or its settings are damaged.
        """
        if not self.is_run:
            raise UsageError(f"{self.path} holds no run: it has no settings.json")
        return Settings.from_json((self.path / "settings.json").read_text(encoding="utf-8"), str(self.path))

    def write_settings(self, settings: Settings) -> None:
        """Write the settings of the run."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / "settings.json", settings.as_json())

    def write_beginning(self, sizes: Sizes) -> None:
        """Record what must not change: the data files, and the schema in the directory.

        Args:
            sizes: The sizes of the data files.
        """
        beginning = {"schema": self._schema_digest(), "files": sizes}
        write_text(self.path / "begun.json", json.dumps(beginning, indent=2, ensure_ascii=False) + "\n")

    def check_files(self, sizes: Sizes) -> None:
        """Raise a `UsageError` that names the first file that has changed since the run began.

        Args:
            sizes: The present sizes of the data files.
        """
        for split, before in self._beginning().get("files", {}).items():
            now = sizes.get(split, {})
            for file in [*before, *now]:
                if file not in now:
                    raise _changed_data(split, f"{file} was one of its files when the run began and is not any more")
                if file not in before:
                    raise _changed_data(split, f"{file} was not one of its files when the run began and is one now")
                if None not in (before[file], now[file]) and before[file] != now[file]:
                    change = f"{file} had {before[file]:,} bytes when the run began and has {now[file]:,} now"
                    raise _changed_data(split, change)

    def schema_path(self) -> Path:
        """Return the directory of the schema, after checking that it belongs to the run.

        Raises:
            UsageError: The directory holds no run, the run was interrupted before it had a schema, or the schema is not the
                one that the run began with.
        """
        self.settings()  # raises an error if there is no run
        if not self._schema_path.is_dir():
            raise UsageError(f"{self.path} has no schema yet: continue the run with train --resume")
        digest, expected = self._schema_digest(), self._beginning().get("schema")
        if expected not in (None, digest):
            raise UsageError(
                f"{self._schema_path} is not the schema that the run was trained with: its digest is {digest}, "
                f"expected {expected}"
            )
        return self._schema_path

    def model_path(self) -> Path:
        """Return the file of the model of the best epoch, or of the last epoch if there is no validation data.

        Raises:
            UsageError: The directory holds no run, or the run has no trained model yet.
        """
        self.settings()  # raises an error if there is no run
        state = self.state()
        if state.best_epoch is not None:
            return self.path / "best" / f"{state.best_epoch}.keras"
        if state.epoch == 0:
            raise UsageError(f"{self.path} has no trained model yet")
        return self.checkpoint_path()

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint to continue from."""
        return bool(self._whole_checkpoints())

    def checkpoint_path(self) -> Path:
        """Return the model file of the last checkpoint.

        Raises:
            UsageError: There is no checkpoint.
        """
        return self._last_checkpoint() / "model.keras"

    def state(self) -> State:
        """Return the state of the last checkpoint.

        Raises:
            UsageError: There is no checkpoint, or its state is damaged.
        """
        path = self._last_checkpoint() / "state.json"
        try:
            return State(**json.loads(path.read_text(encoding="utf-8")))
        except (TypeError, ValueError) as error:
            raise UsageError(f"{path} is damaged: {error}") from error

    def save_checkpoint(self, model: Any, state: State) -> None:
        """Save a Keras model, its optimizer and the state, and remove previous checkpoints."""
        self._checkpoints.mkdir(exist_ok=True)
        previous = list(self._checkpoints.iterdir())
        path = self._checkpoints / f"{state.epoch:06d}-{state.step:09d}{'-ended' if state.ended else ''}"
        if path.exists():  # no step was done since
            previous.remove(path)
        else:
            with folder_beside(path) as folder:
                checkpoint = folder / "checkpoint"
                checkpoint.mkdir()
                model.save(checkpoint / "model.keras")
                write_text(checkpoint / "state.json", json.dumps(asdict(state), indent=2))
                replace_directory(checkpoint, path)
        for other in previous:
            shutil.rmtree(other, ignore_errors=True)

    def save_best(self, model: Any, epoch: int) -> None:
        """Save the Keras model of an epoch."""
        folder = self.path / "best"
        folder.mkdir(exist_ok=True)
        with new_file(folder / f"{epoch}.keras") as path:
            model.save(path)

    def remove_other_bests(self, epoch: int) -> None:
        """Remove the models of all epochs but one, once a checkpoint records that this epoch is the best."""
        for path in (self.path / "best").glob("*.keras"):
            if path.stem != str(epoch):
                path.unlink()
        for folder in (self.path / "best").glob(".*.keras.*"):  # left by a process that was killed
            shutil.rmtree(folder, ignore_errors=True)

    def report(self) -> Any:
        """Return the report, or `None` if the run is not finished."""
        path = self.path / "report.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def write_report(self, report: Any) -> None:
        """Write the report, with null for numbers that are not finite."""
        write_text(self.path / "report.json", json.dumps(_with_null(report), indent=2, allow_nan=False) + "\n")

    def remove_report(self) -> None:
        """Remove the report, because training continues."""
        (self.path / "report.json").unlink(missing_ok=True)

    def _beginning(self) -> Any:
        path = self.path / "begun.json"
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}  # older runs have none
        except ValueError as error:
            raise UsageError(f"{path} is damaged: {error}") from error

    def _schema_digest(self) -> Any:
        """Return the digest of the schema. It covers vocabularies and counts, and `Schema.load` verifies it."""
        path = self._schema_path / "schema.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))["digest"]
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"{path} is damaged: {error!r}") from error

    def _last_checkpoint(self) -> Path:
        checkpoints = self._whole_checkpoints()
        if not checkpoints:
            raise UsageError(f"{self.path} has no checkpoint yet: continue the run with train --resume")
        return checkpoints[-1]

    def _whole_checkpoints(self) -> list[Path]:
        return sorted(path for path in self._checkpoints.glob("[0-9]*") if (path / "state.json").is_file())


def find_schema(path: Path) -> Path | None:
    """Return the directory of a schema.

    Args:
        path: A schema, a version directory of an exported model, or a model directory, whose newest version is taken.

    Returns:
        The directory, or `None` if there is no schema.
    """
    if (path / "schema.json").is_file():
        return path
    versions = [entry for entry in path.iterdir() if entry.name.isdecimal()] if path.is_dir() else []
    newest = sorted(versions, key=lambda version: int(version.name))[-1:]
    for model in (path, *newest):
        schema = model / "assets.extra" / "schema"
        if (schema / "schema.json").is_file():
            return schema
    return None


def _changed_data(split: str, change: str) -> UsageError:
    return UsageError(
        f"the {split} data changed: {change}. --resume requires the same files; train a new run on the changed ones"
    )


def _with_null(report: Any) -> Any:
    if isinstance(report, dict):
        return {name: _with_null(value) for name, value in report.items()}
    return None if isinstance(report, float) and not math.isfinite(report) else report
