"""A run on disk: what it was told, what it learnt, and from where it can go on.

    settings.json              what the run was told
    schema/, plan.npz          what was learnt by counting
    begun.json                 what has to stay as it is: the digest of the schema, names and sizes of the files
    checkpoints/EPOCH-STEP/    model.keras with its optimizer, state.json
    best/EPOCH.keras           the model of the best epoch so far
    report.json                what the finished run reached on each split
    logs/                      for TensorBoard
    .lock                      there and locked while a process trains

A checkpoint is written beside its place and then renamed, and the one before it is removed after that: whenever the process
is killed, there is a whole one.
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

import keras

from keras_rafm.cli.settings import Settings, UsageError
from keras_rafm.data import Schema
from keras_rafm.files.atomic import folder_beside, new_file, replace_directory, write_text
from keras_rafm.files.locks import LockState, lock
from keras_rafm.rank_plan import RankPlan

#: Of each split: names of files and how many bytes each has, `None` where nobody knows.
Sizes = Mapping[str, Mapping[str, int | None]]

_LOCK = ".lock"


@dataclass
class State:
    """Where training is.

    Args:
        epoch: How many epochs are done.
        step: How many steps of the next one are done.
        best_loss: The least validation loss so far.
        best_epoch: The epoch that had it; `None` before the first validation.
        waited: Epochs since then.
        ended: Whether there is nothing left to do.
        history: What each epoch logged.
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
        path: Where it is.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._checkpoints = self.path / "checkpoints"

    @property
    def is_run(self) -> bool:
        """Whether a run was begun there."""
        return (self.path / "settings.json").is_file()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Make the directory, and keep other processes from training in it. It is removed if nothing came into it.

        Raises:
            UsageError: One does.
        """
        absent = [path for path in (self.path, *self.path.parents) if not path.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with lock(self.path / _LOCK, temporary=True) as state:
                if state is LockState.HELD_ELSEWHERE:
                    raise UsageError(f"another process trains in {self.path}: wait until it has ended")
                yield
        finally:
            with contextlib.suppress(OSError):
                for path in absent:
                    path.rmdir()

    def refuse_if_used(self) -> None:
        """Raise a `UsageError` if no run can be begun there."""
        if not self.path.exists() or (self.path.is_dir() and {own.name for own in self.path.iterdir()} <= {_LOCK}):
            return
        hint = "go on with it by --resume, or " if self.is_run else ""
        raise UsageError(f"{self.path} is not empty: {hint}name another directory by --output")

    def begin(self, settings: Settings, schema: Schema, plan: RankPlan, sizes: Sizes) -> None:
        """Keep what was told and counted. The settings come first: from them alone a killed run can be begun anew."""
        self.keep_settings(settings)
        schema.save(self.path / "schema")
        plan.save(self.path / "plan.npz")
        begun = {"schema": self._schema_digest(), "files": sizes}
        write_text(self.path / "begun.json", json.dumps(begun, indent=2, ensure_ascii=False) + "\n")

    def check_files(self, sizes: Sizes) -> None:
        """Raise a `UsageError` that names the first file that is another than when the run began."""
        for split, before in self._begun().get("files", {}).items():
            now = sizes.get(split, {})
            for file in [*before, *now]:
                if file not in now:
                    raise _changed(split, f"{file} was one of its files when the run began and is none now")
                if file not in before:
                    raise _changed(split, f"{file} was none of its files when the run began and is one now")
                if None not in (before[file], now[file]) and before[file] != now[file]:
                    had = f"{file} had {before[file]:,} bytes when the run began and has {now[file]:,} now"
                    raise _changed(split, had)

    def _begun(self) -> Any:
        path = self.path / "begun.json"
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}  # older runs have none
        except ValueError as error:
            raise UsageError(f"{path} is damaged: {error}") from error

    def _schema_digest(self) -> Any:
        """That which the schema says of itself, of vocabularies and counts too, and which is checked as it is loaded."""
        return json.loads((self.path / "schema" / "schema.json").read_text(encoding="utf-8"))["digest"]

    def keep_settings(self, settings: Settings) -> None:
        """Keep what was told."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.path / "settings.json", settings.as_json())

    def settings(self) -> Settings:
        """What the run was told.

        Raises:
            UsageError: There is no run.
        """
        if not self.is_run:
            raise UsageError(f"{self.path} holds no run: it has no settings.json")
        return Settings.from_json((self.path / "settings.json").read_text(encoding="utf-8"), str(self.path))

    def schema(self) -> Schema:
        """The schema.

        Raises:
            UsageError: There is no run, it was killed before it had one, or it is not the one that the run began with.
            ValueError: As of `Schema.load`.
        """
        self.settings()  # that there is a run
        path = self.path / "schema"
        if not path.is_dir():
            raise UsageError(f"{self.path} was begun and has no schema yet: go on by train --resume")
        schema = Schema.load(path)
        found, expected = self._schema_digest(), self._begun().get("schema")
        if expected not in (None, found):
            raise UsageError(
                f"{path} is another schema than the run was trained with: its digest is {found}, expected {expected}"
            )
        return schema

    def plan(self) -> RankPlan:
        """The plan."""
        return RankPlan.load(self.path / "plan.npz")

    def save_checkpoint(self, model: keras.Model, state: State) -> None:
        """Keep the model, its optimizer and the state, in place of the checkpoint before."""
        self._checkpoints.mkdir(exist_ok=True)
        older = list(self._checkpoints.iterdir())
        place = self._checkpoints / f"{state.epoch:06d}-{state.step:09d}{'-ended' if state.ended else ''}"
        if place.exists():  # nothing happened since
            older.remove(place)
        else:
            with folder_beside(place) as folder:
                checkpoint = folder / "checkpoint"
                checkpoint.mkdir()
                model.save(checkpoint / "model.keras")
                write_text(checkpoint / "state.json", json.dumps(asdict(state), indent=2))
                replace_directory(checkpoint, place)
        for path in older:
            shutil.rmtree(path, ignore_errors=True)

    def checkpoint(self) -> tuple[keras.Model, State]:
        """The last checkpoint.

        Raises:
            UsageError: There is none.
        """
        return _model(self._last() / "model.keras"), self.state()

    def state(self) -> State:
        """That of the last checkpoint.

        Raises:
            UsageError: There is none.
        """
        path = self._last() / "state.json"
        try:
            return State(**json.loads(path.read_text(encoding="utf-8")))
        except (TypeError, ValueError) as error:
            raise UsageError(f"{path} is damaged: {error}") from error

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is one to go on from."""
        return bool(self._whole())

    def _last(self) -> Path:
        whole = self._whole()
        if not whole:
            raise UsageError(f"{self.path} has no checkpoint yet: train with --resume first")
        return whole[-1]

    def _whole(self) -> list[Path]:
        return sorted(path for path in self._checkpoints.glob("[0-9]*") if (path / "state.json").is_file())

    def save_best(self, model: keras.Model, epoch: int) -> None:
        """Keep the model of an epoch."""
        folder = self.path / "best"
        folder.mkdir(exist_ok=True)
        with new_file(folder / f"{epoch}.keras") as path:
            model.save(path)

    def forget_other_bests(self, epoch: int) -> None:
        """Remove the models of all other epochs, once a checkpoint says that this one is the best."""
        for path in (self.path / "best").glob("*.keras"):
            if path.stem != str(epoch):
                path.unlink()
        for folder in (self.path / "best").glob(".*.keras.*"):  # a killed process left it
            shutil.rmtree(folder, ignore_errors=True)

    def model(self) -> keras.Model:
        """The model of the best epoch, or the last one where there was no validation.

        Raises:
            UsageError: Training has not got so far.
        """
        self.settings()  # that there is a run
        state = self.state()
        if state.best_epoch is not None:
            return _model(self.path / "best" / f"{state.best_epoch}.keras")
        if state.epoch == 0:
            raise UsageError(f"{self.path} has no trained model yet")
        return _model(self._last() / "model.keras")

    def forget_report(self) -> None:
        """As training goes on."""
        (self.path / "report.json").unlink(missing_ok=True)

    def write_report(self, report: Any) -> None:
        """Keep what was reached, with null for numbers that are not finite."""
        finite = keras.tree.map_structure(
            lambda own: None if isinstance(own, float) and not math.isfinite(own) else own, report
        )
        write_text(self.path / "report.json", json.dumps(finite, indent=2, allow_nan=False) + "\n")

    def report(self) -> Any:
        """What was reached, or `None` before the end."""
        path = self.path / "report.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _changed(split: str, how: str) -> UsageError:
    return UsageError(f"the {split} data changed: {how}. --resume needs the files as they were; train anew with new ones")


def _model(path: Path) -> keras.Model:
    try:
        model: Any = keras.saving.load_model(path)
    except Exception as error:  # Keras raises many kinds on damaged files
        raise UsageError(f"{path} can't be read: {error}") from error
    return model
