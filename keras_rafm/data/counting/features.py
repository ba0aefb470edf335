"""Counting of the occurrences of each feature, which decide the levels of the features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_rafm.checks.arguments import integer
from keras_rafm.checks.constants import PADDING_ID
from keras_rafm.data.samples.samples import Samples

_IDS_AT_ONCE = 1 << 20


def count_features(data: Any, num_features: int) -> npt.NDArray[np.int64]:
    """Count the occurrences of every feature. Count training data only: any other data would leak into the levels.

    Args:
        data: Feature ids as one of

            - an int array, tensor or nested list of any shape, such as `[N, F]`, with -1 for padding,
            - `Samples`,
            - a `tf.RaggedTensor` of ids,
            - a `tf.SparseTensor` `[N, num_features]`, whose column is the id and every stored entry an occurrence,
            - a mapping with one of these under `"ids"`,
            - a tuple whose first item is one of these, such as `(inputs, labels)`,
            - a finite `tf.data.Dataset` of these, batched or not.
        num_features: Number of features; ids are in `0 … num_features - 1`.

    Returns:
        Occurrences of each feature, int64 `[num_features]`. The values of occurrences are ignored.

    Raises:
        TypeError: Ids are not integers, or `data` is of another kind.
        ValueError: An id is out of range, a mapping has no `"ids"`, a tuple is empty, a `tf.SparseTensor` does not
            have two dimensions, a dataset is infinite, or `num_features` is less than 1.
    """
    counts = np.zeros(integer(num_features, "num_features", at_least=1), np.int64)
    if isinstance(data, tf.data.Dataset):
        if data.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError("`data` must be finite. Received: a tf.data.Dataset that repeats without end")
        for element in data:
            _add(counts, element)
    else:
        _add(counts, data)
    return counts


def _add(counts: npt.NDArray[np.int64], data: Any) -> None:
    ids, lowest = _ids_and_lowest(data)
    if not np.issubdtype(ids.dtype, np.integer):
        raise TypeError(f"`data` must hold integer ids. Received: ids of dtype {ids.dtype}")
    for part in _parts(ids):
        low, high = int(part.min()), int(part.max())
        if low < lowest or high >= counts.size:
            wrong = low if low < lowest else high
            padding = ", or -1 for padding" if lowest == PADDING_ID else ""
            raise ValueError(f"ids must be from 0 to {counts.size - 1}{padding}. Received: {wrong}")
        # The cost of `np.add.at` depends on the number of ids, that of `np.bincount` also on the number of features.
        np.add.at(counts, (part[part != PADDING_ID] if low < 0 else part).astype(np.intp, copy=False), 1)


def _ids_and_lowest(data: Any) -> tuple[npt.NDArray[Any], int]:
    """Return the ids of one piece of data and the lowest legal id: -1 if the data may have padding, else 0."""
    if isinstance(data, Samples):
        return data.ids, PADDING_ID
    if isinstance(data, Mapping):
        if "ids" not in data:
            raise ValueError(f"`data` must have the key 'ids'. Received: the keys {sorted(map(str, data))}")
        return _ids_and_lowest(data["ids"])
    if isinstance(data, tuple):
        if not data:
            raise ValueError("`data` must have ids as the first item of a tuple. Received: an empty tuple")
        return _ids_and_lowest(data[0])
    if isinstance(data, tf.RaggedTensor):
        return data.flat_values.numpy(), PADDING_ID
    if isinstance(data, tf.SparseTensor):
        if data.shape.rank != 2:
            raise ValueError(f"`data` as a tf.SparseTensor must be [N, num_features]. Received: shape {data.shape}")
        return data.indices.numpy()[:, 1], 0
    if isinstance(data, np.ndarray | tf.Tensor | list):
        return np.asarray(data), PADDING_ID
    raise TypeError(
        "`data` must be an int array, Samples, a tf.RaggedTensor, a tf.SparseTensor, a mapping with 'ids', "
        f"a tuple that starts with one of them, or a tf.data.Dataset of them. Received: {type(data).__name__}"
    )


def _parts(ids: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Yield the ids in one-dimensional, non-empty pieces, so that copies stay small."""
    if ids.ndim == 0:
        ids = ids.reshape(1)
    rows = max(1, _IDS_AT_ONCE // max(1, ids[:1].size))
    for start in range(0, ids.shape[0] if ids.size else 0, rows):
        yield ids[start : start + rows].reshape(-1)
