"""The sample of data that the levels are analysed on, from arrays, tensors, `Samples` or a dataset."""

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
    """Raise a `TypeError` for what can't be analysis data."""
    if not (data is None or isinstance(data, (Samples, tf.data.Dataset)) or _is_pair(data)):
        raise TypeError(
            "`analysis_data` must be keras_rafm.data.Samples, a tuple (inputs, labels) or a tf.data.Dataset of such. "
            f"Received: {_kind(data)}"
        )


def sample(data: Any, at_most: int, model: keras.Model) -> tuple[list[Any], Any]:
    """Batches of inputs (tensors and arrays), and the labels of all of them (arrays).

    Args:
        data: As `analysis_data` of the callback.
        at_most: At most so many rows are taken.
        model: The model that they are for.

    Raises:
        TypeError: A dataset is not of inputs and labels, or something has no rows.
        ValueError: There are no rows, arrays differ in their number, or the model does not take `Samples`.
    """
    if isinstance(data, Samples):
        data = (_inputs_of_samples(data, model), data.labels[:, np.newaxis])
    if isinstance(data, tuple):
        if any(isinstance(leaf, tf.SparseTensor) for leaf in keras.tree.flatten(data[0])):
            data = tf.data.Dataset.from_tensor_slices(data).batch(min(at_most, _ROWS_AT_ONCE))
        else:
            inputs, labels = data
            return _sample_of_arrays(inputs, labels, at_most)
    batches, labels, missing = [], [], at_most
    for element in data:
        if not _is_pair(element):
            raise TypeError(f"`analysis_data` must be a dataset of (inputs, labels). Received: {_kind(element)}")
        inputs, y = (keras.tree.map_structure(functools.partial(_first_rows, number=missing), part) for part in element)
        batches.append(inputs)
        labels.append(keras.tree.map_structure(keras.ops.convert_to_numpy, y))
        missing -= _num_rows(keras.tree.flatten(labels[-1])[0])
        if missing <= 0:
            break
    if missing == at_most:
        raise ValueError("`analysis_data` must have rows. Received none")
    return batches, keras.tree.map_structure(lambda *parts: np.concatenate(parts), *labels)


def _sample_of_arrays(inputs: Any, labels: Any, at_most: int) -> tuple[list[Any], Any]:
    leaves = keras.tree.flatten((inputs, labels))
    sizes = sorted({_num_rows(leaf) for leaf in leaves})
    if len(sizes) != 1 or sizes[0] == 0:
        raise ValueError(f"`analysis_data` must have one row or more, as many in every array. Received: {sizes} rows")
    rows = np.arange(sizes[0])
    if rows.size > at_most:
        rows = np.linspace(0, rows.size - 1, at_most).astype(np.int64)

    def take(leaf: Any, rows: npt.NDArray[np.int64]) -> Any:
        return leaf[rows] if isinstance(leaf, np.ndarray) else tf.gather(leaf, rows)

    batches = [
        keras.tree.map_structure(functools.partial(take, rows=rows[start : start + _ROWS_AT_ONCE]), inputs)
        for start in range(0, rows.size, _ROWS_AT_ONCE)
    ]
    return batches, keras.tree.map_structure(lambda leaf: keras.ops.convert_to_numpy(take(leaf, rows)), labels)


def _inputs_of_samples(samples: Samples, model: keras.Model) -> Any:
    """The ids, and the values if the model takes them."""
    declared = getattr(model, "input", None)
    if isinstance(declared, Mapping):
        unknown = set(declared) - {"ids", "values"}
        if unknown:
            raise ValueError(
                f"`analysis_data` as Samples has ids and values, but {model.name} also takes {sorted(unknown)}. "
                "Give a tuple (inputs, labels) or a tf.data.Dataset."
            )
        inputs = samples.inputs()
        return {name: inputs[name] for name in declared}
    if len(model.inputs) != 1:
        raise ValueError(
            f"`analysis_data` as Samples needs a model of ids, or of a dict of ids and values. {model.name} takes "
            f"{len(model.inputs)} inputs: give a tuple (inputs, labels) or a tf.data.Dataset."
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
    return f"{type(data).__name__} of {len(data)}" if isinstance(data, (tuple, list)) else type(data).__name__
