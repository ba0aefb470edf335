"""A run with its schema, plan and model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras

from keras_rafm.cli.errors import UsageError
from keras_rafm.cli.run_directory import RunDirectory, Sizes, State
from keras_rafm.cli.settings import Settings
from keras_rafm.data import Schema
from keras_rafm.rank_plan import RankPlan


class Run(RunDirectory):
    """A run directory that loads and saves what needs TensorFlow. See `RunDirectory`."""

    def begin(self, settings: Settings, schema: Schema, plan: RankPlan, sizes: Sizes) -> None:
        """Save what must not change while the run is trained.

        Args:
            settings: The settings, which are saved first: with them alone, a run that was killed can start again.
            schema: The adapted schema.
            plan: The rank plan.
            sizes: The sizes of the data files.
        """
        self.write_settings(settings)
        schema.save(self.path / "schema")
        plan.save(self.plan_path)
        self.write_beginning(sizes)

    def schema(self) -> Schema:
        """Return the schema.

        Raises:
            UsageError: See `RunDirectory.schema_path`.
            ValueError: See `Schema.load`.
        """
        return Schema.load(self.schema_path())

    def plan(self) -> RankPlan:
        """Return the rank plan."""
        return RankPlan.load(self.plan_path)

    def model(self) -> keras.Model:
        """Return the model of the best epoch, or of the last epoch if there is no validation data.

        Raises:
            UsageError: See `RunDirectory.model_path`; or the file is damaged.
        """
        return _load_model(self.model_path())

    def checkpoint(self) -> tuple[keras.Model, State]:
        """Return the model and the state of the last checkpoint.

        Raises:
            UsageError: There is no checkpoint, or it is damaged.
        """
        return _load_model(self.checkpoint_path()), self.state()


def _load_model(path: Path) -> keras.Model:
    try:
        model: Any = keras.saving.load_model(path)
    except Exception as error:  # Keras raises exceptions of many types for damaged files
        raise UsageError(f"{path} can't be read: {error}") from error
    return model
