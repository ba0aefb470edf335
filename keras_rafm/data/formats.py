"""Formats of files with raw columns: each opens a file as a dataset of blocks of rows."""

from __future__ import annotations

import abc
import contextlib
import gzip
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_rafm.data import _blocks
from keras_rafm.data._checks import Task
from keras_rafm.data._delimited import parse_delimited
from keras_rafm.data._delimited_format import DelimitedFormat, MalformedRowError, refuse_empty
from keras_rafm.data._files import is_gzip, opened
from keras_rafm.data._libfm_format import LibfmFormat
from keras_rafm.data._libfm_parser import parse_file
from keras_rafm.data._parquet_blocks import parquet_blocks
from keras_rafm.data._raw import EXPECTED, MISSING, Block, ListValues, RawColumn, is_legal
from keras_rafm.occurrences import require

#: Told of each row that is left out.
OnError = Callable[[MalformedRowError], None]
#: A file's name, a string scalar -> its rows as raw columns, block by block.
Opener = Callable[[tf.Tensor], tf.data.Dataset]

_BLOCK_BYTES = 1 << 19  # the arrays made of a block then stay in the processor's cache
_RECORDS_AT_ONCE = 4096
_RECORDS_LOOKED_AT, _RECORDS_LOOKED_AT_ONCE = 10_000, 10
_FINITE = "numbers that are finite"


class FileFormat(abc.ABC):
    """How raw columns are in files."""

    @abc.abstractmethod
    def opener(self, columns: Sequence[RawColumn], on_error: OnError | None) -> Opener:
        """What opens a file.

        Args:
            columns: Those to read.
            on_error: Told of each malformed row, which is then left out. `None`: the first one raises.
        """

    def fitted_to(self, paths: Sequence[str], columns: Sequence[RawColumn]) -> FileFormat:
        """The format with what files tell of how their columns are stored, which `opener` needs.

        Args:
            paths: Names of the files.
            columns: Those to read.
        """
        del paths, columns
        return self  # by default each file tells itself

    def explain(self, path: str, columns: Sequence[RawColumn], on_error: OnError | None = None) -> None:
        """Look for what is wrong with a file where reading it in a graph tells less.

        Args:
            path: Name of the file.
            columns: Those to read, such as `schema.raw_columns(training=True)`.
            on_error: If malformed rows were left out: told if the file is empty. Only a damaged file then raises.

        Raises:
            ValueError: Something is; the message names file, row, column and value.
        """
        del path, columns, on_error  # by default reading tells all


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

    Rows are UTF-8, with lines that end with `\n` or `\r\n`; blank lines are skipped. An empty field is a missing value;
    other marks of it, such as the `NaN` of pandas or the `\N` of Hive and MySQL, are to be named.

    Args:
        delimiter: The ASCII character between fields.
        quote: The ASCII character around fields that hold delimiters, line ends or, doubled, itself (RFC 4180). With
            `None`, quotes are characters like others.
        column_names: Names of all columns in the order of the fields. With `None`, the first row of each file has them.
        missing_values: Fields that stand for no value, in all columns, quoted or not.
        block_bytes: How much (uncompressed) text is parsed at a time.

    Raises:
        TypeError: A character, a name or a missing value is not a string.
        ValueError: A character can't have that role, a name is there twice or empty, or a missing value is empty.
    """

    shares_text: ClassVar[bool] = True

    delimiter: str = ","
    quote: str | None = '"'
    column_names: tuple[str, ...] | None = None
    missing_values: tuple[str, ...] = ()
    block_bytes: int = _BLOCK_BYTES

    def __post_init__(self) -> None:
        object.__setattr__(self, "column_names", self.grammar.column_names)
        object.__setattr__(self, "missing_values", self.grammar.missing_values)

    @property
    def grammar(self) -> DelimitedFormat:
        """How rows are written."""
        return DelimitedFormat(self.delimiter, self.quote, self.column_names, self.missing_values)

    def blocks(self, path: str, columns: Sequence[RawColumn], on_error: OnError | None) -> Iterator[tuple[int, Block]]:
        """As in `PythonFormat`."""
        return parse_delimited(path, self.grammar, columns, self.block_bytes, on_error)


@dataclass(frozen=True)
class ParquetFormat(PythonFormat):
    """Parquet files. A null is a missing value. Needs pyarrow (the extra `data`).

    A column of strings may also be stored as integers, one of integers as booleans, floats or decimals that are whole, and
    one of numbers as any of these.
    """

    shares_text: ClassVar[bool] = False

    def blocks(self, path: str, columns: Sequence[RawColumn], on_error: OnError | None) -> Iterator[tuple[int, Block]]:
        """As in `PythonFormat`; a damaged file raises, with `on_error` too."""
        return parquet_blocks(path, columns, on_error)


@dataclass(frozen=True)
class LibFMFormat(PythonFormat):
    """Text of libFM and LIBSVM, `label id:value id:value …`, plain or gzip whatever the name, as three raw columns.

    They are `ids` (lists of integers), `values` (lists of numbers, as many) and `label` (a number).

    Labels of a `Schema` for classification are -1 and 1 or 0 and 1 throughout a file, and become 0 and 1.

    Args:
        zero_based: As in `read_libfm`.
        block_bytes: How much (uncompressed) text is parsed at a time.
    """

    shares_text: ClassVar[bool] = False

    zero_based: bool = True
    block_bytes: int = _BLOCK_BYTES

    def blocks(self, path: str, columns: Sequence[RawColumn], on_error: OnError | None) -> Iterator[tuple[int, Block]]:
        """As in `PythonFormat`."""
        there = {"ids": ("int64", True), "values": ("float32", True), "label": ("float32", False)}
        task: Task = "regression"  # any numbers
        for column in columns:
            if column.role == "binary_label":
                task = "classification"
            if there.get(column.name) != (column.dtype, column.is_list):
                raise ValueError(
                    f"{path}: libFM text has the columns 'ids' (lists of int64), 'values' (lists of float32) and 'label' "
                    f"(float32). Received: {column}"
                )
        for rows in parse_file(path, LibfmFormat(task, self.zero_based), self.block_bytes, on_error):
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
    value. Numbers and labels may be `float_list` or `int64_list`, but the same in all files. Strings are not checked to be
    UTF-8.

    A malformed record raises a `tf.errors.OpError` that names the file, or is left out with `on_error`. A damaged file
    raises one with `on_error` too, and TensorFlow doesn't name it: `explain` does. TensorFlow may also take a file for
    ended that was cut off. `Schema.adapt` and `explain` notice that of a `.gz` file, and that a file is empty.

    Args:
        int64_numbers: The names of the columns of numbers that are stored as `int64_list`. `None`: the first record that
            has a column tells, of the first 10,000.
    """

    int64_numbers: frozenset[str] | None = None

    def fitted_to(self, paths: Sequence[str], columns: Sequence[RawColumn]) -> TFRecordFormat:
        """As in `FileFormat`."""
        if self.int64_numbers is not None:
            return self
        kinds = NumberKinds(columns)
        left = _RECORDS_LOOKED_AT
        for path in paths:
            if left <= 0 or kinds.are_known:
                break
            with tf.init_scope(), contextlib.suppress(tf.errors.OpError):  # which whoever reads it tells of
                for texts in _records(path).take(left).batch(_RECORDS_LOOKED_AT_ONCE):
                    kinds.look_at(texts.numpy().tolist())
                    left -= int(texts.shape[0])
                    if kinds.are_known:
                        break
        return TFRecordFormat(kinds.int64_numbers)

    def opener(self, columns: Sequence[RawColumn], on_error: OnError | None) -> Opener:
        """As in `FileFormat`."""
        int64_numbers = self.int64_numbers or frozenset()

        def opened_file(path: tf.Tensor) -> tf.data.Dataset:
            batches = _records(path).batch(_RECORDS_AT_ONCE).enumerate()

            def parsed(number: tf.Tensor, texts: tf.Tensor) -> dict[str, Any]:
                first = 1 + number * _RECORDS_AT_ONCE
                if on_error is not None:
                    texts = tf.ensure_shape(tf.numpy_function(good_records, [texts, path, first], tf.string), [None])
                return parse_examples(texts, columns, path, first, int64_numbers)

            if on_error is not None:  # one after the other, so that it is told in order
                return batches.map(parsed)
            return batches.map(parsed, tf.data.AUTOTUNE, deterministic=True)

        def good_records(texts: npt.NDArray[Any], path: bytes, first: np.int64) -> npt.NDArray[Any]:
            assert on_error is not None
            return _good_records(texts, columns, path.decode(), int(first), int64_numbers, on_error)

        return opened_file

    def explain(self, path: str, columns: Sequence[RawColumn], on_error: OnError | None = None) -> None:
        """As in `FileFormat`: raise the error of the first record that is malformed, if one is."""
        records, number = _records(path), 1
        int64_numbers = self.fitted_to([path], columns).int64_numbers or frozenset()
        try:
            for texts in records.batch(_RECORDS_AT_ONCE):
                if on_error is None:
                    _check_records(texts, columns, path, number, int64_numbers)
                number += int(texts.shape[0])
        except tf.errors.NotFoundError as error:
            raise FileNotFoundError(f"there is no file {path}") from error
        except tf.errors.OpError as error:
            number += _num_readable(records.skip(number - 1))
            problem = re.sub(r"^\{\{.*?\}\} | \[Op:\w+\].*$", "", str(error.message))
            raise ValueError(f"{path}, record {number}: damaged, cut off or no TFRecord ({problem})") from error
        if is_gzip(path):
            _check_whole_gzip(path)
        if number == 1:
            refuse_empty(path, on_error)


def format_of(path: str) -> FileFormat:
    """The format that a file's name tells.

    Raises:
        ValueError: It tells none.
    """
    from keras_rafm.data.avro import AvroFormat  # which is made of a class of this module

    suffixes = [suffix.lower() for suffix in PurePath(path).suffixes if suffix.lower() != ".gz"]
    known: dict[str, FileFormat] = {
        ".csv": CSVFormat(),
        ".tsv": CSVFormat(delimiter="\t"),
        ".parquet": ParquetFormat(),
        ".avro": AvroFormat(),
        ".libfm": LibFMFormat(),
        ".libsvm": LibFMFormat(),
        ".svm": LibFMFormat(),
        ".tfrecord": TFRecordFormat(),
        ".tfrecords": TFRecordFormat(),
    }
    suffix = suffixes[-1] if suffixes else ""
    if suffix not in known:
        raise ValueError(f"the name of {path} tells no format; name one of {', '.join(known)} by `file_format` (--format)")
    return known[suffix]


def _records(path: Any) -> tf.data.Dataset:
    is_compressed = tf.strings.regex_full_match(path, r"(?is).*\.gz")
    return tf.data.TFRecordDataset(path, compression_type=tf.where(is_compressed, "GZIP", ""))


class NumberKinds:
    """Which columns of numbers examples have as `int64_list`: for each, the first example that has it tells."""

    def __init__(self, columns: Sequence[RawColumn]) -> None:
        self._unknown = {column.name for column in columns if column.dtype == "float32"}
        self.int64_numbers: frozenset[str] = frozenset()

    @property
    def are_known(self) -> bool:
        """Whether all columns have been seen."""
        return not self._unknown

    def look_at(self, texts: Sequence[bytes]) -> None:
        """Look for columns that are not known yet."""
        for text in texts:
            if self.are_known:
                return
            try:
                feature = tf.train.Example.FromString(text).features.feature
            except Exception:  # whatever the version of protobuf raises; told of by whoever parses it
                continue
            for name in [name for name in self._unknown if name in feature]:
                kind = feature[name].WhichOneof("kind")
                if kind in ("float_list", "int64_list") and getattr(feature[name], kind).value:
                    self._unknown.remove(name)
                    self.int64_numbers |= {name} if kind == "int64_list" else set()


def parse_examples(
    texts: tf.Tensor, columns: Sequence[RawColumn], path: Any, first: Any, int64_numbers: frozenset[str]
) -> dict[str, Any]:
    """The columns of serialised examples, of which the first has this number in its file."""
    place = tf.strings.join([path, ", records from ", tf.strings.as_string(first)])
    dtypes = {column.name: "int64" if column.name in int64_numbers else column.dtype for column in columns}
    features = {name: tf.io.RaggedFeature(tf.as_dtype(dtype), row_splits_dtype=tf.int64) for name, dtype in dtypes.items()}
    lists = tf.io.parse_example(texts, features, example_names=tf.fill(tf.shape(texts), place))
    lists = {column.name: tf.cast(lists[column.name], column.dtype) for column in columns}
    checked = _check_examples(lists, columns, path, first)
    with tf.control_dependencies(checked):
        return {column.name: _of_example(lists[column.name], column) for column in columns}


def _of_example(lists: tf.RaggedTensor, column: RawColumn) -> Any:
    """A column of lists as it is; of any other the one value of each row, or the missing one."""
    if column.is_list:
        return lists.with_flat_values(tf.identity(lists.flat_values))
    missing = MISSING[column.dtype]
    return lists.to_tensor(tf.constant(missing, lists.dtype), shape=[None, 1])[:, 0]


def _check_examples(
    lists: Mapping[str, tf.RaggedTensor], columns: Sequence[RawColumn], path: Any, first: Any
) -> list[tf.Tensor]:
    """What has to be waited for, as in `require`: each check is one of all columns, as a branch of a graph is costly."""

    def received(value: tf.Tensor, name: tf.Tensor, row: tf.Tensor) -> tf.Tensor:
        record = tf.strings.as_string(tf.cast(first, tf.int64) + row)
        return tf.strings.join([tf.strings.as_string(value), " of column ", name, " in record ", record, " of ", path])

    checked: list[tf.Tensor] = []
    names = [column.name for column in columns if not column.is_list]
    for column in columns:
        if column.role != "feature":
            values = _of_example(lists[column.name], column)
            legal = is_legal(values, column.role)

            def illegal(values: tf.Tensor = values, legal: tf.Tensor = legal, name: str = column.name) -> tf.Tensor:
                row = tf.where(~legal)[0, 0]
                return received(values[row], name, row)

            checked += require(tf.reduce_all(legal), f"expected {EXPECTED[column.role]}. Received", illegal)
    if names:
        lengths = tf.stack([lists[name].row_lengths() for name in names], axis=1)

        def several() -> tf.Tensor:
            row, column = tf.unstack(tf.where(lengths > 1)[0], num=2)
            return received(lengths[row, column], tf.gather(names, column), row)

        at_most_one = tf.reduce_all(lengths <= 1)
        checked += require(at_most_one, "expected at most one value in each tf.train.Example. Received", several)
    floats = [column.name for column in columns if column.dtype == "float32"]
    if floats:
        values = tf.concat([lists[name].flat_values for name in floats], axis=0)

        def infinite() -> tf.Tensor:
            place = tf.where(tf.math.is_inf(values))[0, 0]
            rows = tf.concat([lists[name].value_rowids() for name in floats], axis=0)
            column = tf.repeat(floats, [tf.size(lists[name].flat_values) for name in floats])
            return received(values[place], column[place], rows[place])

        checked += require(~tf.reduce_any(tf.math.is_inf(values)), f"expected {_FINITE}. Received", infinite)
    return checked


def _good_records(
    texts: npt.NDArray[Any],
    columns: Sequence[RawColumn],
    path: str,
    first: int,
    int64_numbers: frozenset[str],
    on_error: OnError,
) -> npt.NDArray[Any]:
    """The serialised examples without those that are malformed, of which `on_error` is told."""
    try:
        _check_records(tf.constant(texts, tf.string), columns, path, first, int64_numbers)
        return texts
    except MalformedRowError:
        pass
    kept = []
    for number, text in enumerate(texts.tolist(), start=first):
        try:
            explain_records([text], columns, path, number, int64_numbers)
            kept.append(text)
        except MalformedRowError as error:
            on_error(error)
    return np.array(kept, object)


def _check_records(
    texts: tf.Tensor, columns: Sequence[RawColumn], path: str, first: int, int64_numbers: frozenset[str]
) -> None:
    """As `explain_records`, fast where none is malformed."""
    try:
        parse_examples(texts, columns, path, first, int64_numbers)
    except (tf.errors.InvalidArgumentError, UnicodeDecodeError) as error:  # the latter where TensorFlow's message has bytes
        explain_records(texts.numpy().tolist(), columns, path, first, int64_numbers)
        raise ValueError(f"{path}, from record {first} on: {error}") from error


def explain_records(
    texts: Sequence[bytes], columns: Sequence[RawColumn], path: str, first: int, int64_numbers: frozenset[str]
) -> None:
    """Raise the `MalformedRowError` of the first of these records that has a malformed feature."""
    fields = {"string": "bytes_list", "int64": "int64_list", "float32": "float_list"}
    for number, text in enumerate(texts, start=first):
        try:
            feature = tf.train.Example.FromString(text).features.feature
        except Exception as error:  # its type differs between versions of protobuf
            problem = f"expected a tf.train.Example ({error})"
            raise MalformedRowError(path, number, None, problem, "record") from error
        for column in columns:
            field = fields["int64" if column.name in int64_numbers else column.dtype]
            kind = feature[column.name].WhichOneof("kind") if column.name in feature else None
            values = [] if kind is None else list(getattr(feature[column.name], kind).value)
            infinite = [value for value in values if kind == "float_list" and np.isinf(value)]
            wrong = None
            if kind not in (None, field):
                wrong = f"expected {field}, received {kind} {values[:3]}"
            elif len(values) > 1 and not column.is_list:
                wrong = f"expected at most one value, received {len(values)}"
            elif infinite:
                wrong = f"expected {_FINITE}, received {infinite[0]}"
            elif column.role != "feature" and not (values and _is_legal(values[0], column)):
                wrong = f"expected {EXPECTED[column.role]}, received {values[0] if values else 'none'}"
            if wrong is not None:
                raise MalformedRowError(path, number, column.name, wrong, "record")


def _is_legal(value: Any, column: RawColumn) -> bool:
    return value != b"" if column.dtype == "string" else bool(is_legal(np.float32(value), column.role))


def _num_readable(records: tf.data.Dataset) -> int:
    """How many records come before the first that can't be read."""
    number = 0
    try:
        for _ in records:
            number += 1
    except tf.errors.OpError:
        pass
    return number


def _check_whole_gzip(path: str) -> None:
    try:
        with opened(path) as file, gzip.GzipFile(fileobj=file) as unpacked:
            while unpacked.read(_BLOCK_BYTES):
                pass
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: damaged or truncated gzip file ({error})") from error
