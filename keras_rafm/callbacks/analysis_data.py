"""The rows that `TensorBoard` analyses the levels on, from arrays, tensors, `Samples` or a dataset."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_rafm.data.samples.samples import Samples

_ROWS_AT_ONCE = 4096


def check_kind(data: Any) -> None:
    """Raise a `TypeError` if `data` can't be analysis data."""
    if not (data is None or isinstance(data, (Samples, tf.data.Dataset)) or _is_pair(data)):
        raise TypeError(
            "`analysis_data` must be keras_rafm.data.Samples, a tuple (inputs, labels) or a tf.data.Dataset of such "
            f"tuples. Received: {_kind(data)}"
        )


def take_rows(data: Any, max_rows: int, model: keras.Model) -> tuple[list[Any], Any]:
    """Return batches of inputs (tensors and arrays), and the labels of all batches together (arrays).

    Args:
        data: The `analysis_data` of the callback.
        max_rows: The number of rows to take, if there are as many.
        model: The model that takes the inputs.

    Raises:
        TypeError: A dataset does not yield inputs and labels, or an input or label has no rows.
        ValueError: There are no rows, the arrays have different numbers of rows, or the model does not take `Samples`.
    """
    if isinstance(data, Samples):
        data = (_inputs_of_samples(data, model), data.labels[:, np.newaxis])
    if isinstance(data, tuple):
        if any(isinstance(leaf, tf.SparseTensor) for leaf in keras.tree.flatten(data[0])):
            data = tf.data.Dataset.from_tensor_slices(data).batch(min(max_rows, _ROWS_AT_ONCE))
        else:
            inputs, labels = data
            return _take_rows_of_arrays(inputs, labels, max_rows)
    batches, labels, missing = [], [], max_rows
    for element in data:
        if not _is_pair(element):
            raise TypeError(f"`analysis_data` must be a dataset of (inputs, labels). Received: {_kind(element)}")
        inputs, y = (keras.tree.map_structure(functools.partial(_first_rows, number=missing), part) for part in element)
        batches.append(inputs)
        labels.append(keras.tree.map_structure(keras.ops.convert_to_numpy, y))
        missing -= _num_rows(keras.tree.flatten(labels[-1])[0])
        if missing <= 0:
            break
    if missing == max_rows:
        raise ValueError("`analysis_data` must have at least one row. Received: none")
    return batches, keras.tree.map_structure(lambda *parts: np.concatenate(parts), *labels)


def _take_rows_of_arrays(inputs: Any, labels: Any, max_rows: int) -> tuple[list[Any], Any]:
    """Return batches of inputs and all their labels, of rows at even distances."""
    leaves = keras.tree.flatten((inputs, labels))
    sizes = sorted({_num_rows(leaf) for leaf in leaves})
    if len(sizes) != 1 or sizes[0] == 0:
        raise ValueError(f"`analysis_data` must have at least one row, equally many in every array. Received: {sizes} rows")
    rows = np.arange(sizes[0])
    if rows.size > max_rows:
        rows = np.linspace(0, rows.size - 1, max_rows).astype(np.int64)

    def take(leaf: Any, rows: npt.NDArray[np.int64]) -> Any:
        return leaf[rows] if isinstance(leaf, np.ndarray) else tf.gather(leaf, rows)

    batches = [
        keras.tree.map_structure(functools.partial(take, rows=rows[start : start + _ROWS_AT_ONCE]), inputs)
        for start in range(0, rows.size, _ROWS_AT_ONCE)
    ]
    return batches, keras.tree.map_structure(lambda leaf: keras.ops.convert_to_numpy(take(leaf, rows)), labels)


def _inputs_of_samples(samples: Samples, model: keras.Model) -> Any:
    """Return the ids of samples, and their values if the model takes them."""
    declared = getattr(model, "input", None)
    if isinstance(declared, Mapping):
        unknown = set(declared) - {"ids", "values"}
        if unknown:
            raise ValueError(
                f"`analysis_data` must be a tuple (inputs, labels) or a tf.data.Dataset for {model.name}, which also takes "
                f"{sorted(unknown)}. Received: Samples, which have ids and values"
            )
        inputs = samples.inputs()
        return {name: inputs[name] for name in declared}
    if len(model.inputs) != 1:
        raise ValueError(
            f"`analysis_data` must be a tuple (inputs, labels) or a tf.data.Dataset for {model.name}, which takes "
            f"{len(model.inputs)} inputs. Received: Samples, which are for models of ids, or of a dict of ids and values"
        )
    return samples.ids


def _first_rows(leaf: Any, number: int) -> Any:
    if isinstance(leaf, tf.SparseTensor):
        size = tf.concat([tf.minimum(leaf.dense_shape[:1], number), leaf.dense_shape[1:]], axis=0)
        return tf.sparse.slice(leaf, tf.zeros_like(size), size)
    return leaf[:number]


def _num_rows(leaf: Any) -> int:
    shape = getattr(leaf, "shape", None)
    if shape is None or len(shape) == 0:
        raise TypeError(f"`analysis_data` must hold arrays or tensors with a row per sample. Received: {_kind(leaf)}")
    return int(leaf.nrows()) if isinstance(leaf, tf.RaggedTensor) else int(shape[0])


def _is_pair(data: Any) -> bool:
    return isinstance(data, tuple) and len(data) == 2


def _kind(data: Any) -> str:
    """Return the type of data, for messages."""
    return f"{type(data).__name__} of {len(data)}" if isinstance(data, (tuple, list)) else type(data).__name__
