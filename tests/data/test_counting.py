"""Counting of features in data of every kind."""

import collections

import numpy as np
import pytest
import tensorflow as tf

from keras_rafm.data import Samples, count_features
from keras_rafm.data.counting import features

pytestmark = pytest.mark.one_tensorflow

IDS = np.array([[3, 0, 3], [1, -1, -1], [3, 4, -1], [-1, -1, -1]])
COUNTS = [1, 1, 0, 3, 1, 0]


def as_samples(ids):
    ids = ids.astype(np.int32)
    return Samples(ids, (ids >= 0).astype(np.float32), np.zeros(len(ids), np.float32))


def as_ragged(ids):
    return tf.ragged.constant([[i for i in row if i >= 0] for row in ids.tolist()], dtype=tf.int64)


def as_sparse(ids):
    rows, _ = np.nonzero(ids >= 0)
    # Stored zeros are occurrences too.
    indices = np.stack([rows, ids[ids >= 0]], axis=1)
    return tf.sparse.reorder(tf.SparseTensor(indices, np.zeros(rows.size, np.float32), [len(ids), 6]))


def sliced(elements):
    return tf.data.Dataset.from_tensor_slices(elements)


KINDS = {
    "int64": lambda: IDS,
    "int32": lambda: IDS.astype(np.int32),
    "int8": lambda: IDS.astype(np.int8),
    "list": lambda: IDS.tolist(),
    "transposed": lambda: IDS.T,
    "flat": lambda: IDS.reshape(-1),
    "three-dimensional": lambda: IDS.reshape(2, 2, 3),
    "tensor": lambda: tf.constant(IDS),
    "samples": lambda: as_samples(IDS),
    "mapping": lambda: {"ids": IDS, "values": None},
    "tuple": lambda: ({"ids": IDS}, "labels"),
    "ragged": lambda: as_ragged(IDS),
    "sparse": lambda: as_sparse(IDS),
    "dataset of ids": lambda: sliced(IDS).batch(3),
    "dataset of single samples": lambda: sliced(IDS),
    "dataset of mappings": lambda: sliced({"ids": IDS, "values": np.zeros(IDS.shape)}).batch(3),
    "dataset of inputs and labels": lambda: sliced(({"ids": IDS}, np.zeros(4))).batch(3),
    "dataset with weights": lambda: sliced((IDS, np.zeros(4), np.ones(4))).batch(3),
    "dataset of ragged": lambda: sliced(as_ragged(IDS)).batch(3),
    "dataset of sparse": lambda: tf.data.Dataset.from_tensors((as_sparse(IDS), np.zeros(4))),
    "dataset of Samples": lambda: as_samples(IDS).dataset(3, shuffle=True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_data(kind):
    counts = count_features(KINDS[kind](), 6)
    assert counts.dtype == np.int64
    assert counts.tolist() == COUNTS


def test_unsigned_ids():
    assert count_features(np.array([[3, 0]], np.uint64), 6).tolist() == [1, 0, 0, 1, 0, 0]


@pytest.mark.parametrize("ids", [np.zeros((0, 3), np.int32), np.zeros((3, 0), np.int64), np.full((2, 2), -1)])
def test_nothing_to_count(ids):
    assert count_features(ids, 2).tolist() == [0, 0]
    assert count_features(tf.data.Dataset.from_tensors(ids), 2).tolist() == [0, 0]


@pytest.mark.parametrize("at_once", [1, 7, 64, 1 << 20])
def test_counts_do_not_depend_on_the_size_of_pieces(monkeypatch, at_once):
    monkeypatch.setattr(features, "_IDS_AT_ONCE", at_once)
    ids = np.random.default_rng(0).integers(-1, 40, (57, 9))
    expected = collections.Counter(ids[ids >= 0].tolist())
    assert count_features(ids, 50).tolist() == [expected[i] for i in range(50)]


@pytest.mark.parametrize("wrong", [6, 1_000_000, -2])
@pytest.mark.parametrize("as_kind", [lambda ids: ids, sliced, lambda ids: tf.constant(ids)])
def test_ids_out_of_range(as_kind, wrong):
    ids = IDS.copy()
    ids[2, 1] = wrong
    with pytest.raises(ValueError, match=rf"^ids must be from 0 to 5, or -1 for padding\. Received: {wrong}$"):
        count_features(as_kind(ids), 6)


def test_huge_unsigned_id():
    with pytest.raises(ValueError, match="Received: 18446744073709551615"):
        count_features(np.array([2**64 - 1], np.uint64), 6)


@pytest.mark.parametrize("wrong", [6, -1])
def test_columns_of_a_sparse_tensor_have_no_padding(wrong):
    with pytest.raises(ValueError, match=rf"^ids must be from 0 to 5\. Received: {wrong}$"):
        count_features(tf.SparseTensor([[0, wrong]], [1.0], [1, 100]), 6)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bool", "complex64"])
@pytest.mark.parametrize("as_kind", [lambda ids: ids, sliced, lambda ids: {"ids": ids}])
def test_ids_must_be_integers(as_kind, dtype):
    with pytest.raises(TypeError, match=f"`data` must hold integer ids. Received: ids of dtype {dtype}"):
        count_features(as_kind(np.ones((2, 2), dtype)), 6)


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        ({"id": IDS}, ValueError, r"must have the key 'ids'. Received: the keys \['id'\]"),
        ((), ValueError, "empty tuple"),
        ("ids", TypeError, "Received: str"),
        (tf.SparseTensor([[0]], [1.0], [6]), ValueError, r"must be \[N, num_features\]. Received: shape \(6,\)"),
        (sliced(IDS).repeat(), ValueError, "must be finite"),
    ],
)
def test_data_of_another_kind(data, kind, message):
    with pytest.raises(kind, match=message):
        count_features(data, 6)


@pytest.mark.parametrize(("num_features", "kind"), [(0, ValueError), (-3, ValueError), (6.0, TypeError)])
def test_wrong_num_features(num_features, kind):
    with pytest.raises(kind, match="`num_features` must be"):
        count_features(IDS, num_features)
