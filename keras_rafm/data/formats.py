"""Formats of files with raw columns: each opens a file as a dataset of blocks of rows."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from keras_rafm.data import _blocks
from keras_rafm.data._checks import Task
from keras_rafm.data._delimited import parse_delimited
from keras_rafm.data._delimited_format import DelimitedFormat, MalformedRowError
from keras_rafm.data._libfm_format import LibfmFormat
from keras_rafm.data._libfm_parser import parse_file
from keras_rafm.data._parquet_blocks import parquet_blocks
from keras_rafm.data._raw import MISSING_INTEGER, Block, ListValues, RawColumn
from keras_rafm.occurrences import require

#: Told of each row that is left out.
OnError = Callable[[MalformedRowError], None]
#: A file's name, a string scalar -> its rows as raw columns, block by block.
Opener = Callable[[tf.Tensor], tf.data.Dataset]

_BLOCK_BYTES = 1 << 19  # the arrays made of a block then stay in the processor's cache
_RECORDS_AT_ONCE = 4096


class FileFormat(abc.ABC):
    """How raw columns are in files."""

    @abc.abstractmethod
    def opener(self, columns: Sequence[RawColumn], on_error: OnError | None) -> Opener:
        """What opens a file.

        Args:
            columns: Those to read.
            on_error: Told of each malformed row, which is then left out. `None`: the first one raises.
        """


class PythonFormat(FileFormat):
    """A format that is read by Python.

    Attributes:
        shares_text: Whether all strings of a block are in one buffer.
    """

    shares_text: ClassVar[bool]

    @abc.abstractmethod
    def blocks(self, path: str, columns: Sequence[RawColumn], on_error: OnError | None) -> Iterator[tuple[int, Block]]:
        """The rows of a file, in blocks."""

    def opener(self, columns: Sequence[RawColumn], on_error: OnError | None) -> Opener:
        """As in `FileFormat`."""

        def generate(path: bytes) -> Iterator[Any]:
            blocks = self.blocks(path.decode(), columns, on_error)
            return _blocks.as_arrays(blocks, columns, self.shares_text)

        def opened(path: tf.Tensor) -> tf.data.Dataset:
            signature = _blocks.signature(columns, self.shares_text)
            arrays = tf.data.Dataset.from_generator(generate, args=(path,), output_signature=signature)
            return arrays.map(
                lambda texts, own: _blocks.as_raw_columns(texts, own, columns), tf.data.AUTOTUNE, deterministic=True
            )

        return opened


@dataclass(frozen=True)
class CSVFormat(PythonFormat):
    r"""Text with one row per line and a delimiter between fields, plain or gzip whatever the name.

    Rows are UTF-8, with lines that end with `\n` or `\r\n`; blank lines are skipped. An empty field is a missing value.

    Args:
        delimiter: The ASCII character between fields.
        quote: The ASCII character around fields that hold delimiters, line ends or, doubled, itself (RFC 4180). With
            `None`, quotes are characters like others.
        column_names: Names of all columns in the order of the fields. With `None`, the first row of each file has them.
        block_bytes: How much (uncompressed) text is parsed at a time.

    Raises:
        TypeError: A character or a name is not a string.
        ValueError: A character can't have that role, or a name is there twice or empty.
    """

    shares_text: ClassVar[bool] = True

    delimiter: str = ","
    quote: str | None = '"'
    column_names: tuple[str, ...] | None = None
    block_bytes: int = _BLOCK_BYTES

    def __post_init__(self) -> None:
        object.__setattr__(self, "column_names", self.grammar.column_names)

    @property
    def grammar(self) -> DelimitedFormat:
        """How rows are written."""
        return DelimitedFormat(self.delimiter, self.quote, self.column_names)

    def blocks(self, path: str, columns: Sequence[RawColumn], on_error: OnError | None) -> Iterator[tuple[int, Block]]:
        """As in `PythonFormat`."""
        return parse_delimited(path, self.grammar, columns, self.block_bytes, on_error)


@dataclass(frozen=True)
class ParquetFormat(PythonFormat):
    """Parquet files. A null is a missing value. Needs pyarrow (the extra `data`)."""

    shares_text: ClassVar[bool] = False

    def blocks(self, path: str, columns: Sequence[RawColumn], on_error: OnError | None) -> Iterator[tuple[int, Block]]:
        """As in `PythonFormat`; a damaged file raises, with `on_error` too."""
        return parquet_blocks(path, columns)


@dataclass(frozen=True)
class LibFMFormat(PythonFormat):
    """Text of libFM and LIBSVM, `label id:value id:value …`, plain or gzip whatever the name, as three raw columns.

    They are `ids` (lists of integers), `values` (lists of numbers, as many) and `label` (a number).

    Args:
        task: As in `read_libfm`.
        zero_based: As in `read_libfm`.
        block_bytes: How much (uncompressed) text is parsed at a time.
    """

    shares_text: ClassVar[bool] = False

    task: Task = "classification"
    zero_based: bool = True
    block_bytes: int = _BLOCK_BYTES

    def __post_init__(self) -> None:
        LibfmFormat(self.task, self.zero_based)

    def blocks(self, path: str, columns: Sequence[RawColumn], on_error: OnError | None) -> Iterator[tuple[int, Block]]:
        """As in `PythonFormat`."""
        there = {
            "ids": RawColumn("ids", "int64", is_list=True),
            "values": RawColumn("values", "float32", is_list=True),
            "label": RawColumn("label", "float32"),
        }
        for column in columns:
            if there.get(column.name) != column:
                raise ValueError(
                    f"{path}: libFM text has the columns 'ids' (lists of int64), 'values' (lists of float32) and 'label' "
                    f"(float32). Received: {column}"
                )
        for rows in parse_file(path, LibfmFormat(self.task, self.zero_based), self.block_bytes, on_error):
            yield (
                len(rows),
                {
                    "ids": ListValues(rows.ids.astype(np.int64), rows.lengths),
                    "values": ListValues(rows.values, rows.lengths),
                    "label": rows.labels,
                },
            )


@dataclass(frozen=True)
class TFRecordFormat(FileFormat):
    """TFRecord files of `tf.train.Example`, compressed by gzip if their names end with `.gz`.

    A column is a feature with at most one value, one of lists a feature with any number. An absent feature is a missing
    value. A damaged file, or a feature of another type, raises a `tf.errors.OpError`, with `on_error` too.
    """

    def opener(self, columns: Sequence[RawColumn], on_error: OnError | None) -> Opener:
        """As in `FileFormat`."""
        features = {
            column.name: tf.io.RaggedFeature(tf.as_dtype(column.dtype), row_splits_dtype=tf.int64) for column in columns
        }

        def parsed(texts: tf.Tensor) -> dict[str, Any]:
            lists = tf.io.parse_example(texts, features)
            return {column.name: _of_example(lists[column.name], column) for column in columns}

        def opened(path: tf.Tensor) -> tf.data.Dataset:
            is_gzip = tf.strings.regex_full_match(path, r".*\.gz")
            records = tf.data.TFRecordDataset(path, compression_type=tf.where(is_gzip, "GZIP", ""))
            batches = records.batch(_RECORDS_AT_ONCE)
            return batches.map(parsed, tf.data.AUTOTUNE, deterministic=True)

        return opened


def format_of(path: str) -> FileFormat:
    """The format that a file's name tells.

    Raises:
        ValueError: It tells none.
    """
    suffixes = [suffix for suffix in PurePath(path).suffixes if suffix != ".gz"]
    known: dict[str, FileFormat] = {
        ".csv": CSVFormat(),
        ".tsv": CSVFormat(delimiter="\t"),
        ".parquet": ParquetFormat(),
        ".libfm": LibFMFormat(),
        ".libsvm": LibFMFormat(),
        ".svm": LibFMFormat(),
        ".tfrecord": TFRecordFormat(),
        ".tfrecords": TFRecordFormat(),
    }
    suffix = suffixes[-1] if suffixes else ""
    if suffix not in known:
        raise ValueError(f"the name of {path} tells no format; name one of {', '.join(known)} by `file_format`")
    return known[suffix]


def _of_example(lists: tf.RaggedTensor, column: RawColumn) -> Any:
    """A column of lists as it is; of any other the one value of each row, or the missing one."""
    if column.is_list:
        return lists
    lengths = lists.row_lengths()
    checked = require(
        tf.reduce_all(lengths <= 1),
        f"column '{column.name}': expected at most one value in each tf.train.Example. Received numbers of values up to",
        lambda: tf.reduce_max(lengths),
    )
    missing: Any = {"string": "", "int64": MISSING_INTEGER, "float32": float("nan")}[column.dtype]
    with tf.control_dependencies(checked):
        return lists.to_tensor(tf.constant(missing, lists.dtype), shape=[None, 1])[:, 0]
