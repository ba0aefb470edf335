"""Samples of libFM text, compared with each other."""

from __future__ import annotations

import numpy as np

from keras_rafm.data import Samples


def assert_holds(samples, ids, values, labels):
    np.testing.assert_array_equal(samples.ids, np.array(ids, np.int64))
    np.testing.assert_array_equal(samples.values, np.array(values, np.float32))
    np.testing.assert_array_equal(samples.labels, np.array(labels, np.float32))


def assert_equal(left, right):
    assert left.ids.dtype == right.ids.dtype
    assert_holds(left, right.ids, right.values, right.labels)


def padded(array, width, filler):
    return np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=filler)


def joined(dataset):
    """Return all batches of a stream as samples, whatever the dtype of ids."""
    batches = list(dataset.as_numpy_iterator())
    width = max(inputs["ids"].shape[1] for inputs, _ in batches)
    return Samples(
        np.concatenate([padded(inputs["ids"], width, -1) for inputs, _ in batches]),
        np.concatenate([padded(inputs["values"], width, 0) for inputs, _ in batches]),
        np.concatenate([labels[:, 0] for _, labels in batches]),
    )
