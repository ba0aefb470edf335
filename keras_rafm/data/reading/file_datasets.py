"""The file-reading functions of `Schema`."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from keras_rafm.data.formats.base import FileFormat
from keras_rafm.data.raw.columns import RawColumn
from keras_rafm.data.raw.errors import OnError
from keras_rafm.data.raw.files import PathLike, files_of
from keras_rafm.data.reading.file_batches import fitted_format, raw_blocks, read_batches
from keras_rafm.data.reading.refused_rows import explain_files


class FileDatasets(abc.ABC):
    """The file-reading functions of `Schema`, for any class that encodes batches of raw columns."""

    @abc.abstractmethod
    def raw_columns(self, training: bool) -> list[RawColumn]:
        """Return the columns that a reader must supply."""

    @abc.abstractmethod
    def __call__(self, raw: Any) -> dict[str, tf.Tensor]:
        """Return ids and values of a batch of raw columns."""

    @abc.abstractmethod
    def training_batch(self, raw: Any) -> tuple[Any, ...]:
        """Return inputs, labels and sample weights of a batch of raw columns."""

    @abc.abstractmethod
    def _check_readable(self, training: bool) -> None:
        """Raise an error if batches can't be encoded yet."""

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
        """Stream files in batches for `fit`, `evaluate` or `predict`. No file is ever held in memory whole.

        Several files are read in parallel; the order of the batches depends on nothing but the arguments. The dataset uses
        as many threads as there are cores and turns off `tf.data.Options.autotune`, which would delay the end of an
        iteration.

        Args:
            paths: Files, folders and patterns such as `"train/*.parquet"`, one or several.
            batch_size: `B`, rows per batch. A batch may span files.
            training: `False` leaves out labels and sample weights, whose columns the files then need not have.
            file_format: Such as `CSVFormat(delimiter=";")`. By default it is inferred from the file names: `.csv`, `.tsv`,
                `.parquet`, `.tfrecord`, `.avro`, `.libfm`, with or without `.gz`.
            shuffle: Read the files in a new order in every iteration, and draw each batch from `shuffled_rows` rows.
            seed: Makes the sequence of orders reproducible; see `Samples.dataset`.
            first_epoch: The number of the first order, to continue the sequence of an earlier process.
            shuffled_rows: The number of rows held in memory to draw from. Files with fewer rows are shuffled completely.
            drop_remainder: Leave out a last batch of fewer than `batch_size` rows.
            num_shards: The number of workers that share the files. Worker `i` reads every `num_shards`-th file or, if there
                are fewer files than workers, every `num_shards`-th block of rows. Together they read every row once.
            shard_index: The number of this worker, from 0.
            num_rows: The number of rows of this shard, if known. It gives the dataset its cardinality, without which Keras
                warns at the end of an epoch that it ran out of data. If it implies a wrong number of batches, the iteration
                ends with a `tf.errors.FailedPreconditionError`.
            on_error: Called with a `MalformedRowError` for each row that is malformed or has an illegal label or weight,
                and with an `EmptyFileError` for each empty file, which are then skipped; `SkippedRows` counts them. By
                default the first such error ends the iteration. A damaged file always ends it.

        Returns:
            A dataset of the results of `training_batch`, or of calling the schema if not `training`.

        Raises:
            FileNotFoundError: A file is not found.
            RuntimeError: The schema is not adapted.
            TypeError: An argument is of the wrong type.
            ValueError: An argument is out of range, the file format can't be inferred, or no column of labels is declared
                for training. Errors in the content of a file are raised when the iteration reaches them: as a
                `tf.errors.OpError` whose message names file, row and column.
        """
        self._check_readable(training)
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

    def raw_dataset(
        self,
        paths: PathLike | Sequence[PathLike],
        *,
        training: bool = True,
        file_format: FileFormat | None = None,
        on_error: OnError | None = None,
    ) -> tf.data.Dataset:
        """Stream raw columns block by block, to look at them, write them in another format or send them to a server.

        Args:
            paths: See `dataset`.
            training: `False` leaves out labels and sample weights. Otherwise they must be legal.
            file_format: See `dataset`.
            on_error: See `dataset`.

        Returns:
            A dataset of raw columns by name, `[n]` or ragged `[n, None]`, in the order of rows. The format determines `n`.
        """
        return raw_blocks(paths, self.raw_columns(training), file_format, on_error)

    def explain(
        self,
        paths: PathLike | Sequence[PathLike],
        *,
        training: bool = True,
        file_format: FileFormat | None = None,
        on_error: OnError | None = None,
    ) -> None:
        """Look for the first error in files, to name its place more precisely than an error of `fit` or an iteration does.

        Args:
            paths: See `dataset`.
            training: See `dataset`.
            file_format: See `dataset`.
            on_error: See `dataset`. The errors that it has received are not searched for, and it does not receive them
                again.

        Raises:
            RuntimeError: The schema is not adapted.
            ValueError: A file has an error; the message names file, row, column and value as far as they matter.
        """
        files, columns = files_of(paths), self.raw_columns(training)
        reader = fitted_format(files, file_format, columns)
        explain_files(files, columns, reader, self.training_batch if training else self, on_error)
