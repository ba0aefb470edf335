"""TFRecord files of `tf.train.Example`."""

from __future__ import annotations

import contextlib
import gzip
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_rafm.data.formats.base import BLOCK_BYTES, FileFormat, Opener
from keras_rafm.data.formats.examples import NumberKinds, explain_records, parse_examples
from keras_rafm.data.raw.columns import RawColumn
from keras_rafm.data.raw.errors import MalformedRowError, OnError, refuse_empty
from keras_rafm.data.raw.files import is_gzip, opened

_RECORDS_AT_ONCE = 4096
_RECORDS_LOOKED_AT, _RECORDS_LOOKED_AT_ONCE = 10_000, 10


@dataclass(frozen=True)
class TFRecordFormat(FileFormat):
    """TFRecord files of `tf.train.Example`, compressed with gzip if their names end with `.gz`.

    A column is a feature with at most one value; a column of lists is a feature with any number of values. An absent
    feature is a missing value. Numbers and labels may be stored as `float_list` or `int64_list`, but in the same way in all
    files. Strings are not checked to be UTF-8.

    A malformed record raises a `tf.errors.OpError` that names the file, or is skipped with `on_error`. A damaged file
    raises a `tf.errors.OpError` even with `on_error`, without the name of the file; `explain` names it. TensorFlow may also
    read a truncated file as if it were complete. `Schema.adapt` and `explain` detect this for `.gz` files; they also detect
    empty files.

    Args:
        int64_numbers: The names of the number columns that are stored as `int64_list`. With `None`, the first record that
            has the column decides, among the first 10,000.
    """

    int64_numbers: frozenset[str] | None = None

    def fitted_to(self, paths: Sequence[str], columns: Sequence[RawColumn]) -> TFRecordFormat:
        """See `FileFormat.fitted_to`."""
        if self.int64_numbers is not None:
            return self
        kinds = NumberKinds(columns)
        num_left = _RECORDS_LOOKED_AT
        for path in paths:
            if num_left <= 0 or kinds.are_known:
                break
            with tf.init_scope(), contextlib.suppress(tf.errors.OpError):  # Reading the file will report the error.
                for texts in _records(path).take(num_left).batch(_RECORDS_LOOKED_AT_ONCE):
                    kinds.look_at(texts.numpy().tolist())
                    num_left -= int(texts.shape[0])
                    if kinds.are_known:
                        break
        return TFRecordFormat(kinds.int64_numbers)

    def opener(self, columns: Sequence[RawColumn], on_error: OnError | None) -> Opener:
        """See `FileFormat.opener`."""
        int64_numbers = self.int64_numbers or frozenset()

        def opened_file(path: tf.Tensor) -> tf.data.Dataset:
            batches = _records(path).batch(_RECORDS_AT_ONCE).enumerate()

            def parsed(number: tf.Tensor, texts: tf.Tensor) -> dict[str, Any]:
                first = 1 + number * _RECORDS_AT_ONCE
                if on_error is not None:
                    texts = tf.ensure_shape(tf.numpy_function(good_records, [texts, path, first], tf.string), [None])
                return parse_examples(texts, columns, path, first, int64_numbers)

            if on_error is not None:  # Not in parallel, so that errors are reported in order.
                return batches.map(parsed)
            return batches.map(parsed, tf.data.AUTOTUNE, deterministic=True)

        def good_records(texts: npt.NDArray[Any], path: bytes, first: np.int64) -> npt.NDArray[Any]:
            assert on_error is not None
            return _good_records(
                texts, columns, path=path.decode(), first=int(first), int64_numbers=int64_numbers, on_error=on_error
            )

        return opened_file

    def explain(self, path: str, columns: Sequence[RawColumn], on_error: OnError | None = None) -> None:
        """Raise the error of the first malformed record, if there is one. See `FileFormat.explain`."""
        records, number = _records(path), 1
        int64_numbers = self.fitted_to([path], columns).int64_numbers or frozenset()
        try:
            for texts in records.batch(_RECORDS_AT_ONCE):
                if on_error is None:
                    _check_records(texts, columns, path, number, int64_numbers)
                number += int(texts.shape[0])
        except tf.errors.NotFoundError as error:
            raise FileNotFoundError(f"file not found: {path}") from error
        except tf.errors.OpError as error:
            number += _num_readable(records.skip(number - 1))
            problem = re.sub(r"^\{\{.*?\}\} | \[Op:\w+\].*$", "", str(error.message))
            raise ValueError(f"{path}, record {number}: damaged, truncated or not a TFRecord ({problem})") from error
        if is_gzip(path):
            _check_whole_gzip(path)
        if number == 1:
            refuse_empty(path, on_error)


def _records(path: Any) -> tf.data.Dataset:
    is_compressed = tf.strings.regex_full_match(path, r"(?is).*\.gz")
    return tf.data.TFRecordDataset(path, compression_type=tf.where(is_compressed, "GZIP", ""))


def _good_records(
    texts: npt.NDArray[Any],
    columns: Sequence[RawColumn],
    path: str,
    first: int,
    int64_numbers: frozenset[str],
    on_error: OnError,
) -> npt.NDArray[Any]:
    """Return the serialised examples that are not malformed, and report the errors of the others to `on_error`."""
    try:
        _check_records(tf.constant(texts, tf.string), columns, path, first, int64_numbers)
        return texts
    except MalformedRowError:
        pass
    good = []
    for number, text in enumerate(texts.tolist(), start=first):
        try:
            explain_records([text], columns, path, number, int64_numbers)
            good.append(text)
        except MalformedRowError as error:
            on_error(error)
    return np.array(good, object)


def _check_records(
    texts: tf.Tensor, columns: Sequence[RawColumn], path: str, first: int, int64_numbers: frozenset[str]
) -> None:
    """Do the same as `explain_records`, but fast if no record is malformed."""
    try:
        parse_examples(texts, columns, path, first, int64_numbers)
    except (
        tf.errors.InvalidArgumentError,
        UnicodeDecodeError,
    ) as error:  # The latter if the message has bytes of the file.
        explain_records(texts.numpy().tolist(), columns, path, first, int64_numbers)
        raise ValueError(f"{path}, from record {first} on: {error}") from error


def _num_readable(records: tf.data.Dataset) -> int:
    """Return the number of records before the first one that can't be read."""
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
            while unpacked.read(BLOCK_BYTES):
                pass
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: damaged or truncated gzip file ({error})") from error
