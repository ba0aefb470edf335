"""`Schema`: the meaning of raw columns, and what they learnt from training data."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_rafm.checks.arguments import Task
from keras_rafm.data.columns.column import Column
from keras_rafm.data.columns.declarations import ColumnDeclarations
from keras_rafm.data.columns.encoder import Encoder, TableFiller, tables_in_memory
from keras_rafm.data.columns.kinds import column_config, column_from_config, declared_column
from keras_rafm.data.columns.learnt_columns import LearntColumns
from keras_rafm.data.columns.raw_batches import as_raw_batch
from keras_rafm.data.columns.schema_files import read_schema, write_schema
from keras_rafm.data.columns.targets import Targets
from keras_rafm.data.columns.value_counts import ValueCounts
from keras_rafm.data.counting.columns import Progress, count_values, is_counted
from keras_rafm.data.formats.base import FileFormat
from keras_rafm.data.raw.columns import RawColumn
from keras_rafm.data.raw.errors import OnError
from keras_rafm.data.reading.file_datasets import FileDatasets

_Real = float  # the class below has a function of this name


class Schema(ColumnDeclarations, FileDatasets):
    """Maps raw columns (strings, integers, numbers, lists) to the ids and values that `RaFMLayer` takes.

    A schema is declared column by column, in the manner of `keras.utils.FeatureSpace`. `adapt` learns vocabularies, counts
    and bins from training data. Then the same code maps raw batches in Python, inside `tf.data` and in exported graphs. All
    columns share one numbering of features: each column has a range of its own, in the order of declaration.

    Args:
        features: Columns by name. A column is what a function such as `Schema.string_categorical()` returns, or the name of
            such a function if it needs no options, such as `"string_categorical"`.
        label: The column of labels, if there is one.
        task: With `"classification"` labels are 0 and 1, or −1 and 1, unless there is a `positive_label`. With
            `"regression"` they are numbers.
        positive_label: The label (a string or a number) that counts as 1 in classification; all other labels count as 0.
        sample_weight: The column of sample weights, numbers of 0 or more, if there is one.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: There are no columns, a column is declared twice, or an option is unknown.

    Example:

    ```python
    schema = keras_rafm.data.Schema(
        {
            "user": "string_categorical",
            "genres": keras_rafm.data.Schema.string_categorical(separator="|", combiner="mean"),
            "price": keras_rafm.data.Schema.float_discretized(num_bins=20),
        },
        label="clicked",
    )
    schema.adapt({"user": ["ann", "bob"], "genres": ["jazz|folk", ""], "price": [9.5, 20.0]})
    schema({"user": ["eve"], "genres": ["folk"], "price": [12.0]})
    ```
    """

    def __init__(
        self,
        features: Mapping[str, Column | str],
        *,
        label: str | None = None,
        task: Task = "classification",
        positive_label: str | _Real | None = None,
        sample_weight: str | None = None,
    ) -> None:
        if not isinstance(features, Mapping) or not features:
            raise ValueError(f"`features` must be a mapping of column names, at least one. Received: {features!r}")
        self._targets = Targets(label=label, task=task, positive_label=positive_label, sample_weight=sample_weight)
        self._columns = {name: declared_column(name, column) for name, column in features.items()}
        names = [column.name for column in self.raw_columns(training=True)]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"a column must be declared once. Received twice: {repeated}")
        self._learnt: LearntColumns | None = None
        self._encoder: Encoder | None = None

    @property
    def columns(self) -> dict[str, Column]:
        """The columns of features, by name."""
        return dict(self._columns)

    @property
    def label(self) -> str | None:
        """The column of labels."""
        return self._targets.label

    @property
    def task(self) -> Task:
        """`"classification"` or `"regression"`."""
        return self._targets.task

    @property
    def sample_weight(self) -> str | None:
        """The column of sample weights."""
        return self._targets.sample_weight

    @property
    def has_values(self) -> bool:
        """Whether batches have `"values"` beside `"ids"`: if a column is a number or has weights or a combiner."""
        return any(column.has_values for column in self._columns.values())

    def raw_columns(self, training: bool) -> list[RawColumn]:
        """Return the columns that a reader must supply; those of labels and sample weights only for training."""
        columns = [raw for name, column in self._columns.items() for raw in column.raw_columns(name)]
        return [*columns, *self._targets.raw_columns()] if training else columns

    def adapt(
        self,
        data: Any,
        *,
        file_format: FileFormat | None = None,
        on_error: OnError | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Learn vocabularies, counts and bins. Adapt on training data only: any other data would leak into the levels.

        The order of rows makes no difference.

        Args:
            data: Raw columns as a mapping of arrays or a data frame, a finite `tf.data.Dataset` of batches of such mappings
                (or of tuples that begin with one), files as in `dataset`, or the result of `count_values`.
            file_format: See `dataset`.
            on_error: See `dataset`. `adapt` does not check labels and sample weights, so it may count rows that `dataset`
                skips.
            progress: Called repeatedly with the amount counted, the total amount (`None` if unknown), and their unit:
                `"rows"`, or `"steps"` when DuckDB counts.

        Raises:
            FileNotFoundError: A file is not found.
            TypeError: `data` is of another kind, or a column has another dtype than declared.
            ValueError: A column is missing or has no rows, no feature is left, a dataset is infinite, or a file is
                malformed; the message names file, line and column.
        """
        counts = data
        if not is_counted(data):
            counts = self.count_values(data, file_format=file_format, on_error=on_error, progress=progress)
        self._learnt, self._encoder = LearntColumns.from_counts(self._columns, counts), None

    def count_values(
        self,
        data: Any,
        *,
        file_format: FileFormat | None = None,
        on_error: OnError | None = None,
        progress: Progress | None = None,
    ) -> dict[str, ValueCounts]:
        """Count the values of each column in raw data, for `adapt`. See there for arguments and errors."""
        return count_values(self._columns, data, file_format=file_format, on_error=on_error, progress=progress)

    @property
    def is_adapted(self) -> bool:
        """Whether the schema has learnt from data: `adapt` was called, or an adapted schema was loaded."""
        return self._learnt is not None

    @property
    def num_features(self) -> int:
        """The number of features of all columns together: ids are in `[0, num_features)`."""
        return self._adapted().num_features

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Occurrences of each feature in training data, int64 `[num_features]`, for `RankPlan.from_counts`."""
        return self._adapted().counts

    def id_range(self, name: str) -> range:
        """Return the ids of a column's features.

        Raises:
            KeyError: There is no column of this name.
        """
        return self._adapted().id_range(name)

    def vocabulary(self, name: str) -> list[str]:
        """Return the value, bin or reserved name of each of a column's features, in the order of their ids.

        Raises:
            KeyError: There is no column of this name.
        """
        return self._adapted().vocabulary(name)

    def feature_names(self) -> list[str]:
        """Return `column=value` for each feature, in the order of ids."""
        return [f"{name}={value}" if value else name for name in self._columns for value in self.vocabulary(name)]

    def summary(self, print_fn: Callable[[str], object] | None = None) -> None:
        """Print for each column its number of features, its occurrences, and the shares of missing and unseen values.

        Args:
            print_fn: Called once with the table, in place of `print`.
        """
        (print if print_fn is None else print_fn)(self._adapted().summary())

    def __repr__(self) -> str:
        kinds = ", ".join(f"{name}: {column.kind}" for name, column in self._columns.items())
        return f"Schema({kinds}; {f'{self.num_features:,} features' if self.is_adapted else 'not adapted'})"

    def __call__(self, raw: Any) -> dict[str, tf.Tensor]:
        """Return ids and values of a batch, eagerly or in a graph.

        Args:
            raw: Columns by name, or a data frame; columns that the schema does not declare are ignored. A column is `[B]`
                or `[B, 1]`. A column of lists is a `tf.RaggedTensor` `[B, None]`, nested lists, or padded `[B, n]` with
                missing values. Missing values are empty strings, −2**63, NaN and empty lists; outside of graphs also `None`
                and `pandas.NA`.

        Returns:
            `{"ids": [B, F]}`, int32 (int64 for more than 2**31 features), with `"values"`: float32 `[B, F]` if
            `has_values`. `F` is the number of columns; if some columns have lists, it is as large as this batch needs.
            Positions that contribute nothing have the id −1.

        Raises:
            RuntimeError: The schema is not adapted.
            TypeError: A column has another dtype than declared.
            ValueError: A column is missing or has another shape.
        """
        return self.encoder()(raw)

    def encoder(self) -> Encoder:
        """Return the `tf.Module` that maps raw batches, which your own model can track as an attribute."""
        if self._encoder is None:
            with tf.init_scope():
                self._encoder = self.new_encoder(tables_in_memory)
        return self._encoder

    def new_encoder(self, fill: TableFiller) -> Encoder:
        """Return an encoder with look-up tables of its own, whose initializers `fill` makes."""
        return Encoder(self._columns, self._adapted().learnt, fill)

    def training_batch(self, raw: Any) -> tuple[Any, ...]:
        """Return inputs, labels and sample weights of a batch, as `fit` takes them.

        Args:
            raw: See `__call__`; with the columns of labels and sample weights.

        Returns:
            `(inputs, labels)`, or `(inputs, labels, sample_weights)` if sample weights are declared; both float32 `[B, 1]`.

        Raises:
            RuntimeError: The schema is not adapted.
            TypeError: See `__call__`.
            ValueError: See `__call__`; or no column of labels is declared.
            tf.errors.InvalidArgumentError: A label or a sample weight is missing or illegal.
        """
        self._targets.check_has_label()
        encoder = self.encoder()
        tensors = as_raw_batch(raw, self.raw_columns(training=True))
        targets = self._targets.read(tensors)
        return encoder(tensors), *targets

    def inputs(self) -> dict[str, keras.KerasTensor]:
        """Return `keras.Input`s for a model of this schema's batches: `RaFMModel(inputs, RaFMLayer(plan)(inputs))`."""
        width = None if any(column.has_lists for column in self._columns.values()) else len(self._columns)
        dtype = "int32" if self.num_features <= 2**31 else "int64"
        inputs = {"ids": keras.Input((width,), dtype=dtype, name="ids")}
        return {**inputs, "values": keras.Input((width,), dtype="float32", name="values")} if self.has_values else inputs

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the schema as a directory: `schema.json`, `counts.npy`, and a vocabulary file per vocabulary column.

        Args:
            path: The directory. It is replaced if it holds a schema and nothing else.

        Raises:
            RuntimeError: The schema is not adapted.
            ValueError: The directory holds something else.
        """
        write_schema(path, self.get_config(), self._adapted())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Schema:
        """Read a schema that `save` wrote.

        Raises:
            FileNotFoundError: The directory or one of its files is not found.
            ValueError: A file is damaged, belongs to another schema, or was written in a newer format.
        """
        config, read_learnt = read_schema(path)
        try:
            schema = cls.from_config(config)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)} holds a schema that this version can't read: {error}") from error
        schema._learnt = LearntColumns(schema._columns, read_learnt(schema._columns))
        return schema

    def get_config(self) -> dict[str, Any]:
        """Return the declaration as plain values."""
        return {
            "features": {name: column_config(column) for name, column in self._columns.items()},
            "label": self._targets.label,
            "task": self._targets.task,
            "positive_label": self._targets.positive_label,
            "sample_weight": self._targets.sample_weight,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Schema:
        """Return a schema with the declaration of `get_config`, not adapted."""
        features = {name: column_from_config(column) for name, column in config["features"].items()}
        return cls(features, **{name: value for name, value in config.items() if name != "features"})

    def _check_readable(self, training: bool) -> None:
        self._adapted()
        if training:
            self._targets.check_has_label()

    def _adapted(self) -> LearntColumns:
        """Return what the columns learnt, if they learnt anything."""
        if self._learnt is None:
            raise RuntimeError("the schema has learnt nothing yet: call `adapt` with training data, or `load` a saved one")
        return self._learnt
