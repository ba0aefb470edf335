"""`Schema`: what raw columns mean, and what was learnt from training data about them."""

from __future__ import annotations

import itertools
import math
import numbers
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_rafm.checks.arguments import Task, check_task
from keras_rafm.checks.tensors import require
from keras_rafm.data.columns.categorical import UNSEEN_NAME, Combiner, Hashed, Identity, Vocabulary
from keras_rafm.data.columns.column import MISSING_NAME, Column, Learnt, Missing
from keras_rafm.data.columns.encoder import Encoder, TableFiller, as_raw_batch, tables_in_memory
from keras_rafm.data.columns.kinds import column_config, column_from_config
from keras_rafm.data.columns.numeric import Binning, Discretized, Number, Scaling
from keras_rafm.data.columns.schema_files import LearntColumns, read_schema, write_schema
from keras_rafm.data.columns.value_counts import ValueCounts
from keras_rafm.data.counting.columns import Progress, count_values
from keras_rafm.data.formats.base import FileFormat
from keras_rafm.data.raw.blocks import is_legal
from keras_rafm.data.raw.columns import EXPECTED, RawColumn, RawDType, Role
from keras_rafm.data.raw.errors import OnError
from keras_rafm.data.raw.files import PathLike, files_of
from keras_rafm.data.reading.file_batches import eager_blocks, one_format, raw_blocks, read_batches, untold
from keras_rafm.data.reading.refused_rows import explain_rows

_Real = float  # the class has a function of this name
_NO_LABEL = "the schema declares no column of labels: Schema(…, label='name')"


class Schema:
    """Raw columns (strings, integers, numbers, lists) -> the ids and values that `RaFMLayer` takes.

    It is declared column by column, in the manner of `keras.utils.FeatureSpace`. `adapt` learns vocabularies, counts and
    bins from training data; after that the same code maps raw batches in Python, inside `tf.data` and inside an exported
    graph. All columns share one numbering of features: each has a range of its own, in the order of declaration.

    Args:
        features: Columns by name: what a function such as `Schema.string_categorical()` returns, or the name of one that
            has defaults for everything, such as `"string_categorical"`.
        label: The column of labels, if there is one.
        task: With `"classification"` labels are 0 and 1, or −1 and 1, or whatever `positive_label` tells apart. With
            `"regression"` they are numbers.
        positive_label: The label (a string or a number) that counts as 1 in classification; all others count as 0.
        sample_weight: The column of sample weights, numbers of 0 or more, if there is one.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: There are no columns, a column is named twice, or an option is unknown.

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
        check_task(task)
        if positive_label is not None:
            if task != "classification":
                raise ValueError(f"`positive_label` is for classification. Received: task={task!r}")
            positive_label = _as_label(positive_label)
        for option, column in (("label", label), ("sample_weight", sample_weight)):
            if column is not None and (not isinstance(column, str) or not column):
                raise TypeError(f"`{option}` must be the name of a column. Received: {option}={column!r}")
        self._columns = {name: _as_column(name, given) for name, given in features.items()}
        self._label, self._task, self._positive_label = label, task, positive_label
        self._sample_weight = sample_weight
        names = [raw.name for raw in self.raw_columns(training=True)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"a column must be declared once. Received twice: {twice}")
        self._learnt: dict[str, Learnt] | None = None
        self._encoder: Encoder | None = None

    # What columns can be. The names and the words of the options are those of `keras.utils.FeatureSpace` where it has them.

    @staticmethod
    def string_categorical(
        *,
        min_count: int = 1,
        max_tokens: int | None = None,
        num_oov_indices: int = 1,
        missing: Missing = "category",
        multivalued: bool = False,
        separator: str | None = None,
        weight_separator: str | None = None,
        weights: str | None = None,
        combiner: Combiner = "sum",
    ) -> Vocabulary:
        """Strings with one feature per value.

        Args:
            min_count: A value that occurs less often in training data shares the feature of unseen values.
            max_tokens: At most so many values, the most frequent ones, have a feature of their own. Unlike Keras's
                `StringLookup`, the features of unseen and of missing values are not among them.
            num_oov_indices: 1: unseen values have a feature, one for all. 0: they contribute nothing.
            missing: `"category"`: missing values (empty strings, rows without a value) have a feature of their own.
                `"ignore"`: they contribute nothing.
            multivalued: A row has a list of values.
            separator: A row is a string of values with this between them, such as `"|"`.
            weight_separator: One character between a value and its weight, such as `":"` in `"jazz:0.7|folk:0.3"`; the last
                one counts. It can't be one of those that numbers are written with. A value without a weight has the
                weight 1.
            weights: The name of a column with the weights of a `multivalued` column: lists of equal lengths.
            combiner: What `x_i` of each of a row's values is, given their weights `w` (1 without weights): `"sum"`: `w`;
                `"mean"`: `w / Σ w`; `"sqrtn"`: `w / √(Σ w²)`, as in `tf.nn.embedding_lookup_sparse`. The sums are over all
                values of the row, those that contribute nothing among them.

        Values with a line break are counted as unseen: a vocabulary file has one value per line.

        Raises:
            TypeError, ValueError: Of options that are wrong or don't go together.
        """
        return Vocabulary(
            "string",
            missing,
            multivalued,
            separator,
            weight_separator,
            weights,
            combiner,
            min_count,
            max_tokens,
            num_oov_indices,
        )

    @staticmethod
    def integer_categorical(
        *,
        min_count: int = 1,
        max_tokens: int | None = None,
        num_oov_indices: int = 1,
        missing: Missing = "category",
        multivalued: bool = False,
        weights: str | None = None,
        combiner: Combiner = "sum",
    ) -> Vocabulary:
        """Integers with one feature per value; missing is −2**63. Arguments as in `string_categorical`."""
        return Vocabulary(
            "int64", missing, multivalued, None, None, weights, combiner, min_count, max_tokens, num_oov_indices
        )

    @staticmethod
    def string_hashed(
        num_bins: int,
        *,
        missing: Missing = "category",
        multivalued: bool = False,
        separator: str | None = None,
        weight_separator: str | None = None,
        weights: str | None = None,
        combiner: Combiner = "sum",
    ) -> Hashed:
        """Strings hashed into `num_bins` features. Other arguments as in `string_categorical`."""
        return Hashed("string", missing, multivalued, separator, weight_separator, weights, combiner, num_bins)

    @staticmethod
    def integer_hashed(
        num_bins: int,
        *,
        missing: Missing = "category",
        multivalued: bool = False,
        weights: str | None = None,
        combiner: Combiner = "sum",
    ) -> Hashed:
        """Integers hashed into `num_bins` features. Other arguments as in `string_categorical`."""
        return Hashed("int64", missing, multivalued, None, None, weights, combiner, num_bins)

    @staticmethod
    def integer_identity(
        num_ids: int, *, multivalued: bool = False, weights: str | None = None, combiner: Combiner = "sum"
    ) -> Identity:
        """Integers in `[0, num_ids)` that number features already; others contribute nothing."""
        return Identity("int64", "ignore", multivalued, None, None, weights, combiner, num_ids)

    @staticmethod
    def float(scaling: Scaling = "none") -> Number:
        """A number that is the value `x_i` of one feature; a missing one (NaN, or an empty field) contributes nothing.

        Args:
            scaling: `"standard"`: less the mean, by the standard deviation of training data, as `float_normalized` of
                `keras.utils.FeatureSpace`. `"min_max"`: to `[0, 1]` on training data. `"none"`: as it is; values should
                then be about 1 in size.
        """
        return Number(scaling)

    @staticmethod
    def float_discretized(
        num_bins: int | None = None,
        *,
        bin_boundaries: tuple[_Real, ...] | None = None,
        binning: Binning = "quantile",
        missing: Missing = "ignore",
    ) -> Discretized:
        """A number with one feature per bin.

        Args:
            num_bins: How many quantile bins, at least 2; fewer where many rows have the same number.
            bin_boundaries: Lower ends of all bins but the first, increasing, in place of `num_bins` and `binning`.
            binning: `"quantile"`: bins of about equally many training rows. `"log"`: `floor(ln(x)²)` above 2 and whole
                numbers up to 2, as used for Criteo's columns.
            missing: `"ignore"`: missing numbers contribute nothing. `"category"`: they have a feature of their own.
        """
        return Discretized(num_bins, bin_boundaries, binning, missing)

    # What was declared.

    @property
    def columns(self) -> dict[str, Column]:
        """The columns that features are made of, by name."""
        return dict(self._columns)

    @property
    def label(self) -> str | None:
        """The column of labels."""
        return self._label

    @property
    def task(self) -> Task:
        """`"classification"` or `"regression"`."""
        return self._task

    @property
    def sample_weight(self) -> str | None:
        """The column of sample weights."""
        return self._sample_weight

    def raw_columns(self, training: bool) -> list[RawColumn]:
        """The columns that a reader has to yield: those of features, in training those of labels and weights as well."""
        columns = [raw for name, column in self._columns.items() for raw in column.raw_columns(name)]
        if training and self._label is not None:
            dtype: RawDType = "string" if isinstance(self._positive_label, str) else "float32"
            role: Role = "numeric_label" if self._task == "regression" else "binary_label"
            columns.append(RawColumn(self._label, dtype, role=role if self._positive_label is None else "label"))
        if training and self._sample_weight is not None:
            columns.append(RawColumn(self._sample_weight, "float32", role="sample_weight"))
        return columns

    # What is learnt.

    def adapt(
        self,
        data: Any,
        *,
        file_format: FileFormat | None = None,
        on_error: OnError | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Learn vocabularies, counts and bins. Adapt on training data only: anything else leaks into the levels.

        The order of rows makes no difference.

        Args:
            data: Raw columns as a mapping of arrays or a data frame, a finite `tf.data.Dataset` of batches of such mappings
                (or of tuples that begin with one), files as in `dataset`, or what `count_values` returned.
            file_format: As in `dataset`.
            on_error: As in `dataset`. Labels and weights are not looked at here: rows may count that `dataset` leaves out.
            progress: Called now and then with how much is counted, how much there is (`None` if unknown), and the unit:
                `"rows"`, or `"steps"` where DuckDB counts.

        Raises:
            FileNotFoundError: There is no such file.
            TypeError: `data` is of another kind, or a column has another dtype than declared.
            ValueError: A column is not there or has no rows, no feature is left, a dataset is infinite, or a file is
                malformed; the message names file, line and column.
        """
        options: dict[str, Any] = {"file_format": file_format, "on_error": on_error, "progress": progress}
        counted = data if _is_counted(data) else self.count_values(data, **options)
        absent = sorted(set(self._columns) - set(counted))
        if absent:
            raise ValueError(f"there are no counts of the columns {absent}")
        learnt = {}
        for name, column in self._columns.items():
            if not counted[name].total and not counted[name].num_missing:
                raise ValueError(f"column '{name}' has no rows to learn from")
            try:
                learnt[name] = column.learn(counted[name])
            except ValueError as error:
                raise ValueError(f"column '{name}': {error}") from error
        if not any(own.num_ids for own in learnt.values()):
            raise ValueError(
                f"no feature is left of the columns {list(learnt)}: no value occurs `min_count` times, and neither unseen "
                "nor missing values have a feature"
            )
        self._learnt, self._encoder = learnt, None

    def count_values(
        self,
        data: Any,
        *,
        file_format: FileFormat | None = None,
        on_error: OnError | None = None,
        progress: Progress | None = None,
    ) -> dict[str, ValueCounts]:
        """How often each value of each column occurs in raw data, for `adapt`. Arguments and errors as there."""
        return count_values(self._columns, data, file_format, on_error, progress)

    def raw_dataset(
        self,
        paths: PathLike | Sequence[PathLike],
        *,
        training: bool = True,
        file_format: FileFormat | None = None,
        on_error: OnError | None = None,
    ) -> tf.data.Dataset:
        """Raw columns, block by block: to look at them, to write them in another format, to send them to a server.

        Args:
            paths: As in `dataset`.
            training: `False` leaves out labels and sample weights, which must be legal otherwise.
            file_format: As in `dataset`.
            on_error: As in `dataset`.

        Returns:
            A dataset of raw columns by name, `[n]` or ragged `[n, None]`, in the order of the rows; the format decides `n`.
        """
        return raw_blocks(paths, self.raw_columns(training), file_format, on_error)

    @property
    def is_adapted(self) -> bool:
        """Whether `adapt` was called, or the schema was loaded as it was after that."""
        return self._learnt is not None

    @property
    def num_features(self) -> int:
        """Features of all columns together: ids are in `[0, num_features)`."""
        return sum(learnt.num_ids for learnt in self._of_columns().values())

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """Occurrences of each feature in training data, int64 `[num_features]`, for `RankPlan.from_counts`."""
        return np.concatenate([learnt.counts for learnt in self._of_columns().values()])

    @property
    def has_values(self) -> bool:
        """Whether batches have `"values"` beside `"ids"`: some column is a number or has weights or a combiner."""
        return any(column.has_values for column in self._columns.values())

    def id_range(self, name: str) -> range:
        """The ids of a column's features.

        Raises:
            KeyError: There is no such column.
        """
        learnt = self._of_columns()
        if name not in learnt:
            raise KeyError(f"there is no column '{name}' among {sorted(learnt)}")
        ends = dict(zip(learnt, itertools.accumulate(own.num_ids for own in learnt.values()), strict=True))
        return range(ends[name] - learnt[name].num_ids, ends[name])

    def vocabulary(self, name: str) -> list[str]:
        """What each of a column's features stands for, in the order of their ids.

        Raises:
            KeyError: There is no such column.
        """
        self.id_range(name)
        return self._columns[name].feature_names(self._of_columns()[name])

    def feature_names(self) -> list[str]:
        """`column=value` of each feature, in the order of ids."""
        return [f"{name}={value}" if value else name for name in self._columns for value in self.vocabulary(name)]

    def summary(self, print_fn: Callable[[str], object] | None = None) -> None:
        """Print the columns: how many features each has, and which share of its occurrences is missing or unseen.

        Args:
            print_fn: Called once with the table, in place of `print`.
        """
        rows: list[tuple[str, ...]] = [("column", "kind", "features", "occurrences", "missing", "unseen")]
        for name, column in self._columns.items():
            own = self._of_columns()[name]
            total = int(own.counts.sum())
            reserved = dict(zip(column.reserved_names(), own.counts.tolist(), strict=False))
            shares = [
                f"{reserved[key] / max(total, 1):.1%}" if key in reserved else "" for key in (MISSING_NAME, UNSEEN_NAME)
            ]
            rows.append((name, column.kind, f"{own.num_ids:,}", f"{total:,}", *shares))
        rows.append(("total", "", f"{self.num_features:,}", f"{int(self.counts.sum()):,}", "", ""))
        widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
        lines = [
            "  ".join(
                cell.ljust(width) if index < 2 else cell.rjust(width)
                for index, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        rule = "-" * max(map(len, lines))
        (print if print_fn is None else print_fn)("\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]]))

    def __repr__(self) -> str:
        kinds = ", ".join(f"{name}: {column.kind}" for name, column in self._columns.items())
        return f"Schema({kinds}; {f'{self.num_features:,} features' if self.is_adapted else 'not adapted'})"

    # What it does with raw data.

    def __call__(self, raw: Any) -> dict[str, tf.Tensor]:
        """Ids and values of a batch, eagerly or in a graph.

        Args:
            raw: Columns by name, or a data frame; others than those of features are left alone. A column is `[B]` or
                `[B, 1]`; one of lists is a `tf.RaggedTensor` `[B, None]`, nested lists, or padded `[B, n]` with missing
                values. Missing are empty strings, −2**63, NaN, empty lists; outside of graphs also `None` and `pandas.NA`.

        Returns:
            `{"ids": [B, F]}`, int32 (int64 for more than 2**31 features), with `"values"`: float32 `[B, F]` if
            `has_values`. `F` is the number of columns; where columns have lists, it is as wide as this batch needs. What
            contributes nothing has the id −1.

        Raises:
            RuntimeError: The schema was not adapted.
            TypeError: A column has another dtype than declared.
            ValueError: A column is not there or has another shape.
        """
        return self.encoder()(raw)

    def encoder(self) -> Encoder:
        """What maps raw batches, as a `tf.Module` to keep beside a model of one's own."""
        if self._encoder is None:
            with tf.init_scope():
                self._encoder = self.new_encoder(tables_in_memory)
        return self._encoder

    def new_encoder(self, fill: TableFiller) -> Encoder:
        """An encoder with tables of its own."""
        return Encoder(self._columns, self._of_columns(), fill)

    def training_batch(self, raw: Any) -> tuple[Any, ...]:
        """Inputs, labels and sample weights of a batch: what `fit` takes.

        Args:
            raw: As in `__call__`, with the columns of labels and of sample weights.

        Returns:
            `(inputs, labels)`, with sample weights behind them if declared; both float32 `[B, 1]`.

        Raises:
            RuntimeError: The schema was not adapted.
            TypeError: As in `__call__`.
            ValueError: As in `__call__`, or no column of labels was declared.
            tf.errors.InvalidArgumentError: A label or a sample weight is missing or illegal.
        """
        if self._label is None:
            raise ValueError(_NO_LABEL)
        encoder = self.encoder()
        columns = self.raw_columns(training=True)
        tensors = as_raw_batch(raw, columns)
        targets = [_legal(tensors[column.name], column) for column in columns if column.role != "feature"]
        labels = targets[0]
        if self._positive_label is not None:
            labels = tf.cast(tf.equal(labels, tf.constant(self._positive_label, labels.dtype)), tf.float32)
        elif self._task == "classification":
            labels = tf.maximum(labels, 0.0)
        return encoder(tensors), *(own[:, tf.newaxis] for own in (labels, *targets[1:]))

    def dataset(
        self,
        paths: PathLike | Sequence[PathLike],
        batch_size: int,
        *,
        training: bool = True,
        file_format: FileFormat | None = None,
        shuffle: bool = False,
        seed: int | None = None,
        first_epoch: int = 0,
        shuffled_rows: int = 2**17,
        drop_remainder: bool = False,
        num_shards: int = 1,
        shard_index: int = 0,
        num_rows: int | None = None,
        on_error: OnError | None = None,
    ) -> tf.data.Dataset:
        """Stream files in batches for `fit`, `evaluate` or `predict`, without ever holding a whole file.

        Several files are read at once; the order of the batches depends on nothing but the arguments. There are as many
        threads as cores, and no tuning of their number (`tf.data.Options.autotune`), for which iterators would have to wait
        when they end.

        Args:
            paths: Files, folders and patterns such as `"train/*.parquet"`, one or several.
            batch_size: `B`, rows per batch. Batches run on across files.
            training: `False` leaves out labels and sample weights, whose columns the files then need not have.
            file_format: Such as `CSVFormat(delimiter=";")`. By default the names of the files tell: `.csv`, `.tsv`,
                `.parquet`, `.tfrecord`, `.avro`, `.libfm`, with `.gz` or without.
            shuffle: Read the files in a new order at every iteration, and draw each batch from `shuffled_rows` rows.
            seed: Makes the sequence of these orders reproducible, as in `Samples.dataset`.
            first_epoch: The number of the first of these orders: to go on where another process ended.
            shuffled_rows: How many rows are held to draw from. Files with fewer rows are shuffled wholly.
            drop_remainder: Leave out a last batch of fewer than `batch_size` rows.
            num_shards: How many workers share the files: each gets every so manyth file or, with fewer files, block of
                rows, and together they get every row once.
            shard_index: The number of this worker, from 0.
            num_rows: Rows of this shard, if known. It gives the dataset its cardinality, without which Keras warns at the
                end of an epoch that it ran out of data. If it gives a wrong number of batches, the iteration ends with a
                `tf.errors.FailedPreconditionError`.
            on_error: Told of each row that is malformed or whose label or weight is illegal, as a `MalformedRowError`, and
                of each empty file, as an `EmptyFileError`; they are then left out. A `SkippedRows` counts them. By default
                the first one ends the iteration. A damaged file always does.

        Returns:
            A dataset of what `training_batch` returns, or of what calling the schema returns if not `training`.

        Raises:
            FileNotFoundError: There is no such file.
            RuntimeError: The schema was not adapted.
            TypeError: An argument is of the wrong kind.
            ValueError: An argument is out of range, the files are of no known format, or no column of labels was declared
                for training. Of what is wrong in a file one learns when the iteration gets there: as a
                `tf.errors.OpError` whose message names file, row and column.
        """
        self._of_columns()
        if training and self._label is None:
            raise ValueError(_NO_LABEL)
        return read_batches(
            paths,
            self.raw_columns(training),
            self.training_batch if training else lambda raw: (self(raw),),
            batch_size,
            file_format=file_format,
            shuffle=shuffle,
            seed=seed,
            first_epoch=first_epoch,
            shuffled_rows=shuffled_rows,
            drop_remainder=drop_remainder,
            num_shards=num_shards,
            shard_index=shard_index,
            num_rows=num_rows,
            on_error=on_error,
        )

    def explain(
        self,
        paths: PathLike | Sequence[PathLike],
        *,
        training: bool = True,
        file_format: FileFormat | None = None,
        on_error: OnError | None = None,
    ) -> None:
        """Look for what is wrong with files, to tell more of it than an error out of `fit` or an iteration does.

        Args:
            paths: As in `dataset`.
            training: As in `dataset`.
            file_format: As in `dataset`.
            on_error: As in `dataset`. What it was told of is not looked for, and it is not told again.

        Raises:
            RuntimeError: The schema was not adapted.
            ValueError: Something is wrong; the message names file, row, column and value as far as they matter.
        """
        files, columns = files_of(paths), self.raw_columns(training)
        reader = one_format(files, file_format).fitted_to(files, columns)
        for file in files:
            blocks = eager_blocks(file, columns, reader, untold(on_error))
            explain_rows(file, blocks, self.training_batch if training else self, on_error is not None)

    def inputs(self) -> dict[str, keras.KerasTensor]:
        """`keras.Input`s for a model that takes what this schema yields: `RaFMModel(inputs, RaFMLayer(plan)(inputs))`."""
        width = None if any(column.has_lists for column in self._columns.values()) else len(self._columns)
        dtype = "int32" if self.num_features <= 2**31 else "int64"
        inputs = {"ids": keras.Input((width,), dtype=dtype, name="ids")}
        return {**inputs, "values": keras.Input((width,), dtype="float32", name="values")} if self.has_values else inputs

    # Files.

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the schema as a directory: `schema.json`, `counts.npy`, and a vocabulary file per column that has one.

        Args:
            path: The directory. One that holds a schema and nothing else is replaced.

        Raises:
            RuntimeError: The schema was not adapted.
            ValueError: The directory holds something else.
        """
        write_schema(path, self.get_config(), LearntColumns(self._columns, self._of_columns()))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Schema:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: There is no such directory, or a file of it is not there.
            ValueError: A file is damaged, belongs to another schema, or was written in a newer format.
        """
        config, learnt_columns = read_schema(path)
        try:
            schema = cls.from_config(config)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)} holds a schema that this version can't make: {error}") from error
        schema._learnt = learnt_columns(schema._columns)
        return schema

    def get_config(self) -> dict[str, Any]:
        """What was declared, as plain values."""
        return {
            "features": {name: column_config(column) for name, column in self._columns.items()},
            "label": self._label,
            "task": self._task,
            "positive_label": self._positive_label,
            "sample_weight": self._sample_weight,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Schema:
        """A schema declared alike, not adapted."""
        features = {name: column_from_config(own) for name, own in config["features"].items()}
        return cls(features, **{name: value for name, value in config.items() if name != "features"})

    def _of_columns(self) -> dict[str, Learnt]:
        if self._learnt is None:
            raise RuntimeError("the schema has learnt nothing yet: call `adapt` with training data, or `load` a saved one")
        return self._learnt


def _legal(values: tf.Tensor, column: RawColumn) -> tf.Tensor:
    """The same, once it is checked that the column may have them."""
    legal = is_legal(values, column.role)
    checked = require(
        tf.reduce_all(legal),
        f"column '{column.name}': expected {EXPECTED[column.role]}. Received",
        lambda: tf.boolean_mask(values, ~legal)[0],
    )
    with tf.control_dependencies(checked):
        return tf.identity(values)


def _as_column(name: object, given: Column | str) -> Column:
    if not isinstance(name, str) or not name:
        raise TypeError(f"names of columns must be strings that are not empty. Received: {name!r}")
    if isinstance(given, Column):
        return given
    shorthands = ("string_categorical", "integer_categorical", "float")
    if callable(given):
        raise TypeError(f"column '{name}' must be what a function of Schema returns: call it. Received: {given!r}")
    if given not in shorthands:
        raise ValueError(
            f"column '{name}' must be made by a function of Schema, such as Schema.string_categorical(), or be one of "
            f"{', '.join(map(repr, shorthands))}. Received: {given!r}"
        )
    column: Column = getattr(Schema, given)()
    return column


def _as_label(given: object) -> str | float:
    """A label as JSON can hold it."""
    if isinstance(given, str) and given:
        return str(given)
    if isinstance(given, numbers.Real) and not isinstance(given, bool) and math.isfinite(given):
        return float(given)
    raise TypeError(
        f"`positive_label` must be a string that is not empty, or a finite number. Received: positive_label={given!r}"
    )


def _is_counted(data: Any) -> bool:
    return isinstance(data, Mapping) and bool(data) and all(isinstance(own, ValueCounts) for own in data.values())
