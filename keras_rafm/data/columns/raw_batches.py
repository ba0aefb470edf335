"""Conversion of mappings and data frames to raw batches: tensors in the dtypes and shapes that columns declare."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_rafm.checks.tensors import after_checks, require
from keras_rafm.data.raw.columns import MISSING, RawColumn, RawDType

_EXACT = 2**53  # float64 holds every integer below it
_MISSING_TEXT: dict[RawDType, str] = {"string": "''", "int64": "-2**63", "float32": "NaN"}


def as_raw_batch(raw: Any, columns: Sequence[RawColumn]) -> dict[str, Any]:
    """Return the columns of a batch as tensors in their declared dtype and shape.

    Args:
        raw: A mapping of column names or a data frame. Further columns are ignored.
        columns: The columns to convert.

    Raises:
        TypeError: A column has values of another kind.
        ValueError: A column is missing or has another shape, or the columns differ in their number of rows.
        tf.errors.InvalidArgumentError: As for `ValueError`, where only the running graph knows the shapes.
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
    static = {number for number in num_rows.values() if number is not None}
    if len(static) > 1:
        raise ValueError(f"columns must have equally many rows. Received: {num_rows}")
    if len(tensors) < 2 or None not in num_rows.values():
        return tensors
    at_run_time = tf.stack([tf.shape(t, out_type=tf.int64)[0] if tf.is_tensor(t) else t.nrows() for t in tensors.values()])
    checks = require(
        tf.reduce_all(tf.equal(at_run_time, at_run_time[0])),
        f"the columns {', '.join(tensors)} must have equally many rows. Received",
        lambda: at_run_time,
    )
    return tf.nest.map_structure(lambda tensor: after_checks(checks, tensor), tensors, expand_composites=True)


def is_frame(data: Any) -> bool:
    """Whether `data` is a data frame of pandas or polars."""
    return all(hasattr(data, name) for name in ("columns", "to_dict", "__getitem__"))


def _as_raw(data: Any, column: RawColumn) -> Any:
    """Return one column as a tensor `[B]`, or as a `tf.RaggedTensor` `[B, None]` if it holds lists."""
    data = _from_series(data, column)
    try:
        tensor = _as_tensor(data, column)
    except TypeError:
        filled = _with_missing_values(data, column)
        if filled is None:
            raise
        tensor = _as_tensor(filled, column)
    return _as_lists(tensor, column) if column.is_list else _as_vector(tensor, column)


def _as_vector(tensor: Any, column: RawColumn) -> tf.Tensor:
    """Return a tensor `[B]` or `[B, 1]` as `[B]`."""
    expected = f"column '{column.name}' must be of shape [batch] or [batch, 1]"
    rank = tensor.shape.rank
    if isinstance(tensor, tf.RaggedTensor) or not (rank == 1 or (rank == 2 and tensor.shape[1] in (1, None))):
        raise ValueError(f"{expected}. Received: shape {tensor.shape}")
    if rank == 1:
        return tensor
    checks = []
    if tensor.shape[1] is None:
        checks = require(tf.equal(tf.shape(tensor)[1], 1), f"{expected}. Received the shape", lambda: tf.shape(tensor))
    return after_checks(checks, tensor)[:, 0]


def _as_lists(tensor: Any, column: RawColumn) -> tf.RaggedTensor:
    """Return a ragged or padded tensor of lists as a `tf.RaggedTensor` `[B, None]`."""
    if tensor.shape.rank != 2:
        raise ValueError(
            f"column '{column.name}' holds lists and must be ragged, or padded [batch, n]. Received: shape {tensor.shape}"
        )
    if isinstance(tensor, tf.RaggedTensor):
        return tensor.with_row_splits_dtype(tf.int64)
    # Missing values stay in the lists, so that each value keeps the position of its weight.
    return tf.RaggedTensor.from_tensor(tensor, row_splits_dtype=tf.int64)


def _as_tensor(data: Any, column: RawColumn) -> Any:
    """Return a tensor of the column's dtype, ragged if the data are nested lists."""
    missing = _MISSING_TEXT[column.dtype]
    expected = f"column '{column.name}' must be of dtype {column.dtype}, with {missing} where a value is missing"
    try:
        if isinstance(data, tf.RaggedTensor):
            tensor = data
        elif column.is_list and _is_nested(data):
            lists = list(data)
            tensor = tf.ragged.constant(lists, ragged_rank=1, inner_shape=(), dtype=column.dtype, row_splits_dtype=tf.int64)
        elif isinstance(data, list | tuple) and not data:
            tensor = tf.zeros([0], column.dtype)
        else:
            tensor = tf.convert_to_tensor(data)
    except (TypeError, ValueError) as error:
        wrong = _first_wrong_value(data, column.dtype)
        raise TypeError(f"{expected}. Received: {error if wrong is None else wrong}") from error
    is_convertible = {
        "string": tensor.dtype == tf.string,
        "int64": tensor.dtype.is_integer and tensor.dtype != tf.uint64,
        "float32": tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_bool,
    }[column.dtype]
    if not is_convertible:
        raise TypeError(f"{expected}. Received: dtype {tensor.dtype.name}")
    return tf.cast(tensor, column.dtype)


def _from_series(data: Any, column: RawColumn) -> Any:
    """Return a column of a data frame as an array, or as a list if an array would round its integers."""
    if not hasattr(data, "to_numpy"):
        return data
    array = data.to_numpy()
    is_rounded = array.dtype.kind == "f" and "int" in str(data.dtype).lower()
    return data.to_list() if is_rounded or (column.is_list and array.dtype == object) else array


def _with_missing_values(data: Any, column: RawColumn) -> Any:
    """Replace `None` and NaN by the missing value of the column's dtype.

    For a column of integers, an array of whole floats becomes an array of integers: pandas holds integers so if some are
    missing.

    Returns:
        An array or a list; `None` if `data` is of a kind that has no missing values to replace.
    """
    missing = MISSING[column.dtype]
    if isinstance(data, np.ndarray) and data.dtype.kind == "f":
        known = ~np.isnan(data)
        if column.dtype == "int64" and np.all((np.floor(data[known]) == data[known]) & (np.abs(data[known]) < _EXACT)):
            return np.where(known, data, 0).astype(np.int64) + np.where(known, 0, missing)
        return np.full(data.shape, missing) if column.dtype == "string" and not known.any() else None
    if not isinstance(data, list | tuple) and not (isinstance(data, np.ndarray) and data.dtype == object):
        return None

    def replaced(value: Any) -> Any:
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            filled = _with_missing_values(value, column)
            return value if filled is None else filled
        if isinstance(value, list | tuple | np.ndarray):
            return [missing if _is_none(item) else item for item in value]
        if _is_none(value):
            return [] if column.is_list else missing
        return value

    return [replaced(value) for value in data]


def _is_none(value: Any) -> bool:
    """Whether `value` is `None`, NaN or pandas' `NA`."""
    is_nan = isinstance(value, float | np.floating) and value != value
    return value is None or is_nan or type(value).__name__ == "NAType"


def _is_nested(data: Any) -> bool:
    """Whether `data` is a Python sequence or an array of objects such as lists, and no array or tensor of values."""
    if tf.is_tensor(data):
        return False
    return not isinstance(data, np.ndarray) or (data.dtype == object and data.ndim == 1)


def _first_wrong_value(data: Any, dtype: RawDType) -> str | None:
    """Return the first value that the dtype can't hold, with its row; `None` if this search does not find it."""
    kinds: dict[RawDType, tuple[type, ...]]
    kinds = {"string": (str, bytes), "int64": (numbers.Integral,), "float32": (numbers.Real,)}
    if data is None or isinstance(data, str | bytes) or not isinstance(data, Iterable):
        return repr(data)
    for row_number, row in enumerate(data):
        for value in row if isinstance(row, list | tuple | np.ndarray) else [row]:
            is_too_large = isinstance(value, int) and dtype == "int64" and not -(2**63) <= value < 2**63
            if not isinstance(value, kinds[dtype]) or is_too_large:
                return f"{value!r} in row {row_number}"
    return None
