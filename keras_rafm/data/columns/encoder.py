"""Raw batches -> ids and values: the part of a `Schema` that runs inside `tf.data` and inside an exported graph."""

from __future__ import annotations

import hashlib
import numbers
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_rafm.checks.constants import PADDING_ID
from keras_rafm.checks.tensors import require
from keras_rafm.data.columns.column import Column, Learnt, Parts
from keras_rafm.data.columns.schema_files import vocabulary_file
from keras_rafm.data.raw.columns import MISSING, RawColumn, RawDType

#: Makes what fills a table: a vocabulary, and the name of its column -> initialiser. It gives positions of values.
TableFiller = Callable[[npt.NDArray[Any], str], tf.lookup.TextFileInitializer | tf.lookup.KeyValueTensorInitializer]

_EXACT = 2**53  # integers below it are floats
_MISSING_TEXT: dict[RawDType, str] = {"string": "''", "int64": "-2**63", "float32": "NaN"}


def tables_in_memory(vocabulary: npt.NDArray[Any], name: str) -> tf.lookup.KeyValueTensorInitializer:
    """Vocabularies as constants: for tables in this process."""
    del name
    keys = tf.constant(vocabulary.tolist(), tf.string) if vocabulary.dtype == object else tf.constant(vocabulary)
    return tf.lookup.KeyValueTensorInitializer(keys, tf.range(vocabulary.size, dtype=tf.int64))


def tables_from_files(folder: Path, columns: Mapping[str, Column]) -> TableFiller:
    """Vocabularies as files of a saved schema, which a SavedModel keeps beside its graph."""
    files = {name: folder / vocabulary_file(number) for number, name in enumerate(columns)}

    def fill(vocabulary: npt.NDArray[Any], name: str) -> tf.lookup.TextFileInitializer:
        return _VocabularyFile(files[name], tf.string if vocabulary.dtype == object else tf.int64)

    return fill


class _VocabularyFile(tf.lookup.TextFileInitializer):
    """A file whose path does not become part of the graph."""

    def __init__(self, path: Path, dtype: tf.DType) -> None:
        # Tables of one name are one table. TensorFlow's own name has the path, which nobody is to find in a SavedModel.
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._name_of_table = f"vocabulary_{dtype.name}_{digest}"
        whole_line, line_number = tf.lookup.TextFileIndex.WHOLE_LINE, tf.lookup.TextFileIndex.LINE_NUMBER
        super().__init__(str(path), dtype, whole_line, tf.int64, line_number)

    @property
    def _shared_name(self) -> str:
        return self._name_of_table


class Encoder(tf.Module):
    """The look-ups, hashes and bins of all columns.

    Args:
        columns: By name, in the order of their features.
        learnt: By name.
        fill: What fills the tables.
    """

    def __init__(self, columns: Mapping[str, Column], learnt: Mapping[str, Learnt], fill: TableFiller) -> None:
        super().__init__(name="encoder")
        self._columns = dict(columns)
        self._raw_columns = [raw for name, column in columns.items() for raw in column.raw_columns(name)]
        self._tables: dict[str, tf.lookup.StaticHashTable] = {}
        self._encode, self._first = {}, {}
        first = 0
        for name, column in columns.items():
            vocabulary = learnt[name].vocabulary
            if vocabulary is not None and vocabulary.size:
                self._tables[name] = tf.lookup.StaticHashTable(fill(vocabulary, name), default_value=-1)
            self._encode[name] = column.encoding(name, learnt[name], self._tables.get(name))
            self._first[name] = first
            first += learnt[name].num_ids
        self._dtype = tf.int32 if first <= 2**31 else tf.int64
        self.has_values = any(column.has_values for column in columns.values())

    @tf.Module.with_name_scope
    def __call__(self, raw: Mapping[str, Any]) -> dict[str, tf.Tensor]:
        """Ids, and values where some may differ from 1.

        Args:
            raw: Columns by name, as `Schema.__call__` takes them.

        Returns:
            `{"ids": int32 or int64 [B, F]}`, with `"values"`: float32 `[B, F]` if `has_values`.
        """
        tensors = as_raw_batch(raw, self._raw_columns)
        ids, values = [], []
        for name, column in self._columns.items():
            parts = column.parts(tensors, name)
            local, own_values = self._encode[name](parts.values)
            if column.has_lists:
                own_values = column.combined(parts)
            known = tf.cast(tf.where(local >= 0, local + self._first[name], tf.cast(PADDING_ID, tf.int64)), self._dtype)
            ids.append(_as_matrix(known, parts, PADDING_ID))
            if self.has_values:
                ones = tf.ones(tf.shape(local)) if own_values is None else own_values
                values.append(_as_matrix(tf.where(local >= 0, ones, 0.0), parts, 0.0))
        encoded = {"ids": tf.concat(ids, axis=1)}
        return {**encoded, "values": tf.concat(values, axis=1)} if self.has_values else encoded


def as_raw_batch(raw: Any, columns: list[RawColumn]) -> dict[str, Any]:
    """The columns of a batch, a mapping or a data frame, in the dtype and shape that they are declared with.

    Raises:
        TypeError: A column has another kind of values.
        ValueError: A column is not there, has another shape, or the columns have different numbers of rows.
    """
    if is_frame(raw):
        raw = {name: raw[name] for name in raw.columns}
    if not isinstance(raw, Mapping):
        raise TypeError(f"a raw batch must be a mapping of column names, or a data frame. Received: {type(raw).__name__}")
    tensors: dict[str, Any] = {}
    num_rows: dict[str, int | None] = {}
    for column in columns:
        if column.name not in raw:
            raise ValueError(f"there is no column '{column.name}' among {sorted(map(str, raw))}")
        tensors[column.name] = tensor = _as_raw(raw[column.name], column)
        num_rows[column.name] = tensor.shape[0]
    known = {number for number in num_rows.values() if number is not None}
    if len(known) > 1:
        raise ValueError(f"columns must have equally many rows. Received: {num_rows}")
    if len(tensors) < 2 or None not in num_rows.values():
        return tensors
    at_run_time = tf.stack([tf.shape(t, out_type=tf.int64)[0] if tf.is_tensor(t) else t.nrows() for t in tensors.values()])
    checked = require(
        tf.reduce_all(tf.equal(at_run_time, at_run_time[0])),
        f"the columns {', '.join(tensors)} must have equally many rows. Received",
        lambda: at_run_time,
    )
    with tf.control_dependencies(checked):
        return tf.nest.map_structure(tf.identity, tensors, expand_composites=True)


def is_frame(data: Any) -> bool:
    """Whether it is a data frame of pandas or polars."""
    return all(hasattr(data, name) for name in ("columns", "to_dict", "__getitem__"))


def _as_raw(given: Any, column: RawColumn) -> Any:
    what = f"column '{column.name}'"
    given = _of_series(given, column)
    try:
        tensor = _as_tensor(given, column)
    except TypeError:
        filled = _with_missing_values(given, column)
        if filled is None:
            raise
        tensor = _as_tensor(filled, column)
    rank = tensor.shape.rank
    if not column.is_list:
        if isinstance(tensor, tf.RaggedTensor) or not (rank == 1 or (rank == 2 and tensor.shape[1] in (1, None))):
            raise ValueError(f"{what} must be of shape [batch] or [batch, 1]. Received: shape {tensor.shape}")
        if rank == 1:
            return tensor
        checked = []
        if tensor.shape[1] is None:
            checked = require(
                tf.equal(tf.shape(tensor)[1], 1),
                f"{what} must be of shape [batch] or [batch, 1]. Received the shape",
                lambda: tf.shape(tensor),
            )
        with tf.control_dependencies(checked):
            return tensor[:, 0]
    if rank != 2:
        raise ValueError(f"{what} holds lists and must be ragged, or padded [batch, n]. Received: shape {tensor.shape}")
    if isinstance(tensor, tf.RaggedTensor):
        return tensor.with_row_splits_dtype(tf.int64)
    # With what is missing, so that values and their weights stay together.
    return tf.RaggedTensor.from_tensor(tensor, row_splits_dtype=tf.int64)


def _as_tensor(given: Any, column: RawColumn) -> Any:
    """A tensor of the column's dtype, ragged where the given values are nested."""
    missing = _MISSING_TEXT[column.dtype]
    kind = f"column '{column.name}' must be of dtype {column.dtype}, with {missing} where a value is missing"
    try:
        if isinstance(given, tf.RaggedTensor):
            tensor = given
        elif column.is_list and _is_nested(given):
            lists = list(given)
            tensor = tf.ragged.constant(lists, ragged_rank=1, inner_shape=(), dtype=column.dtype, row_splits_dtype=tf.int64)
        elif isinstance(given, list | tuple) and not given:
            tensor = tf.zeros([0], column.dtype)
        else:
            tensor = tf.convert_to_tensor(given)
    except (TypeError, ValueError) as error:
        stranger = _first_stranger(given, column.dtype)
        raise TypeError(f"{kind}. Received: {error if stranger is None else stranger}") from error
    fits = {
        "string": tensor.dtype == tf.string,
        "int64": tensor.dtype.is_integer and tensor.dtype != tf.uint64,
        "float32": tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_bool,
    }[column.dtype]
    if not fits:
        raise TypeError(f"{kind}. Received: dtype {tensor.dtype.name}")
    return tf.cast(tensor, column.dtype)


def _of_series(given: Any, column: RawColumn) -> Any:
    """A column of a data frame as an array, or as a list where an array would round integers."""
    if not hasattr(given, "to_numpy"):
        return given
    array = given.to_numpy()
    is_rounded = array.dtype.kind == "f" and "int" in str(given.dtype).lower()
    return given.to_list() if is_rounded or (column.is_list and array.dtype == object) else array


def _with_missing_values(given: Any, column: RawColumn) -> Any:
    """An array or a list with what stands for no value here in place of `None` and NaN; `None` if it has neither.

    In a column of integers, an array of floats that are whole becomes one of integers: pandas has those where some are
    missing.
    """
    missing = MISSING[column.dtype]
    if isinstance(given, np.ndarray) and given.dtype.kind == "f":
        there = ~np.isnan(given)
        if column.dtype == "int64" and np.all((np.floor(given[there]) == given[there]) & (np.abs(given[there]) < _EXACT)):
            return np.where(there, given, 0).astype(np.int64) + np.where(there, 0, missing)
        return np.full(given.shape, missing) if column.dtype == "string" and not there.any() else None
    if not isinstance(given, list | tuple) and not (isinstance(given, np.ndarray) and given.dtype == object):
        return None

    def replaced(value: Any) -> Any:
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            filled = _with_missing_values(value, column)
            return value if filled is None else filled
        if isinstance(value, list | tuple | np.ndarray):
            return [missing if _is_none(own) else own for own in value]
        if _is_none(value):
            return [] if column.is_list else missing
        return value

    return [replaced(value) for value in given]


def _is_none(value: Any) -> bool:
    """Whether it is `None`, NaN or the `NA` of pandas."""
    is_nan = isinstance(value, float | np.floating) and value != value
    return value is None or is_nan or type(value).__name__ == "NAType"


def _is_nested(given: Any) -> bool:
    """Whether it is Python lists, or an array of objects such as lists, and not one of values."""
    if tf.is_tensor(given):
        return False
    return not isinstance(given, np.ndarray) or (given.dtype == object and given.ndim == 1)


def _first_stranger(given: Any, dtype: RawDType) -> str | None:
    """The first value that can't be of the dtype, and where it is; `None` if it isn't found in this way."""
    kinds: dict[RawDType, tuple[type, ...]]
    kinds = {"string": (str, bytes), "int64": (numbers.Integral,), "float32": (numbers.Real,)}
    if given is None or isinstance(given, str | bytes) or not isinstance(given, Iterable):
        return repr(given)
    for number, row in enumerate(given):
        for value in row if isinstance(row, list | tuple | np.ndarray) else [row]:
            too_large = isinstance(value, int) and dtype == "int64" and not -(2**63) <= value < 2**63
            if not isinstance(value, kinds[dtype]) or too_large:
                return f"{value!r} in row {number}"
    return None


def _as_matrix(flat: tf.Tensor, parts: Parts, padding: float) -> tf.Tensor:
    if parts.row_lengths is None:
        return flat[:, tf.newaxis]
    return tf.RaggedTensor.from_row_lengths(flat, parts.row_lengths, validate=False).to_tensor(padding)
