"""`Samples`: checks of the arrays, indexing, and batches."""

import numpy as np
import pytest
import tensorflow as tf

from keras_rafm.data import Samples

pytestmark = pytest.mark.one_tensorflow


def samples_of(num_samples, num_fields=3):
    rng = np.random.default_rng(num_samples)
    ids = np.arange(num_samples * num_fields, dtype=np.int32).reshape(num_samples, num_fields)
    values = rng.normal(size=ids.shape).astype(np.float32)
    return Samples(ids, values, np.arange(num_samples, dtype=np.float32))


def arrays(ids=((0, 1), (2, -1)), values=((1, 2), (3, 0)), labels=(0, 1)):
    return np.array(ids, np.int32), np.array(values, np.float32), np.array(labels, np.float32)


def assert_equal(left, right):
    for name in ("ids", "values", "labels"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
        assert getattr(left, name).dtype == getattr(right, name).dtype


def test_length_width_repr_and_inputs():
    samples = Samples(*arrays())
    assert len(samples) == 2
    assert samples.num_fields == 2
    assert repr(samples) == "Samples(2 samples, 2 fields, int32 ids)"
    assert samples.inputs() == {"ids": samples.ids, "values": samples.values}


def test_one_hot_looks_at_occurrences_only():
    assert Samples(*arrays(values=((1, 1), (1, 0)))).one_hot
    assert not Samples(*arrays(values=((1, 1), (0, 0)))).one_hot
    assert not Samples(*arrays(values=((1, 1), (2, 0)))).one_hot


def test_samples_are_frozen():
    with pytest.raises(AttributeError):
        Samples(*arrays()).labels = np.zeros(2, np.float32)


@pytest.mark.parametrize("id_dtype", [np.int32, np.int64])
def test_both_id_dtypes_are_kept(id_dtype):
    ids, values, labels = arrays()
    assert Samples(ids.astype(id_dtype), values, labels).ids.dtype == id_dtype


def test_there_may_be_no_samples():
    empty = samples_of(3).take([])
    assert len(empty) == 0
    assert empty.one_hot
    assert list(empty.dataset(2)) == []


@pytest.mark.parametrize(
    ("position", "array", "message"),
    [
        (0, np.zeros((2, 2), np.int16), "`ids` must be a NumPy array of int32 or int64. Received: dtype int16"),
        (0, np.zeros((2, 2), np.float32), "`ids` must be a NumPy array of int32 or int64. Received: dtype float32"),
        (0, [[0, 1], [2, 3]], "`ids` must be a NumPy array of int32 or int64. Received: list"),
        (1, np.zeros((2, 2), np.float64), "`values` must be a NumPy array of float32. Received: dtype float64"),
        (2, np.zeros(2, np.int64), "`labels` must be a NumPy array of float32. Received: dtype int64"),
    ],
)
def test_wrong_dtypes(position, array, message):
    arguments = list(arrays())
    arguments[position] = array
    with pytest.raises(TypeError) as error:
        Samples(*arguments)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": (0, 1)}, "`ids` must be of shape [N, F]. Received: shape (2,)"),
        ({"values": ((1,), (1,))}, "`values` must be of the shape of `ids`, (2, 2). Received: shape (2, 1)"),
        ({"labels": ((0,), (1,))}, "`labels` must be of shape [2], one per row of `ids`. Received: shape (2, 1)"),
        ({"ids": ((0, 1), (-2, -1))}, "`ids` must be at least 0, or -1 for padding. Received: ids[1, 0]=-2"),
        (
            {"ids": ((0, 1), (-1, 7))},
            "`ids` must have padding (-1) at the end of a row only. Received: ids[1, 0]=-1 before ids[1, 1]=7",
        ),
        (
            {"values": ((1, 1), (1, 0.5))},
            "`values` must be 0 where `ids` is padding (-1). Received: values[1, 1]=0.5",
        ),
        ({"values": ((1, np.nan), (1, 0))}, "`values` must be finite. Received: values[0, 1]=nan"),
        ({"labels": (0, np.inf)}, "`labels` must be finite. Received: labels[1]=inf"),
    ],
)
def test_wrong_contents(changes, message):
    with pytest.raises(ValueError, match=r".") as error:
        Samples(*arrays(**changes))
    assert str(error.value) == message


@pytest.mark.parametrize("indices", [slice(1, 6, 2), [4, 0, 4], np.arange(7) % 2 == 0, slice(None, None, -1)])
def test_take_and_index(indices):
    samples = samples_of(7)
    expected = Samples(samples.ids[indices], samples.values[indices], samples.labels[indices])
    assert_equal(samples.take(indices), expected)
    assert_equal(samples[indices], expected)


@pytest.mark.parametrize("indices", [3, [[0, 1]], [7], [0.5]])
def test_take_refuses_other_indices(indices):
    with pytest.raises(IndexError):
        samples_of(7).take(indices)


@pytest.mark.parametrize("batch_size", [1, 4, 10, 11])
@pytest.mark.parametrize("drop_remainder", [False, True])
def test_dataset_in_order(batch_size, drop_remainder):
    samples = samples_of(10)
    dataset = samples.dataset(batch_size, drop_remainder=drop_remainder)
    batches = list(dataset.as_numpy_iterator())
    stop = 10 - 10 % batch_size if drop_remainder else 10
    assert dataset.cardinality() == len(batches) == -(-stop // batch_size)
    starts = range(0, stop, batch_size)
    for start, (inputs, labels) in zip(starts, batches, strict=True):
        rows = slice(start, min(start + batch_size, stop))
        np.testing.assert_array_equal(inputs["ids"], samples.ids[rows])
        np.testing.assert_array_equal(inputs["values"], samples.values[rows])
        np.testing.assert_array_equal(labels, samples.labels[rows, np.newaxis])


def test_dataset_spec():
    inputs, labels = samples_of(10).dataset(4).element_spec
    assert inputs["ids"] == tf.TensorSpec([None, 3], tf.int32)
    assert inputs["values"] == tf.TensorSpec([None, 3], tf.float32)
    assert labels == tf.TensorSpec([None, 1], tf.float32)
    inputs, labels = samples_of(10).dataset(4, shuffle=True, drop_remainder=True).element_spec
    assert inputs["ids"].shape == [4, 3]
    assert labels.shape == [4, 1]


def epoch(dataset):
    return np.concatenate([labels[:, 0] for _, labels in dataset.as_numpy_iterator()])


def test_shuffling_yields_every_sample_with_its_own_label_and_values():
    samples = samples_of(100)
    for inputs, labels in samples.dataset(7, shuffle=True, seed=1).as_numpy_iterator():
        rows = labels[:, 0].astype(int)
        np.testing.assert_array_equal(inputs["ids"], samples.ids[rows])
        np.testing.assert_array_equal(inputs["values"], samples.values[rows])
    assert sorted(epoch(samples.dataset(7, shuffle=True))) == list(range(100))


def test_each_iteration_has_a_new_order_that_the_seed_reproduces():
    samples = samples_of(100)
    tf.random.set_seed(1)
    dataset = samples.dataset(7, shuffle=True, seed=5)
    first, second = epoch(dataset), epoch(dataset)
    assert (first != second).any()
    tf.random.set_seed(2)
    again = samples.dataset(7, shuffle=True, seed=5).repeat(2)
    np.testing.assert_array_equal(epoch(again), np.concatenate([first, second]))
    assert (epoch(samples.dataset(7, shuffle=True, seed=6)) != first).any()
    assert (epoch(samples.dataset(7, shuffle=True)) != epoch(samples.dataset(7, shuffle=True))).any()


@pytest.mark.parametrize(("batch_size", "kind"), [(0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)])
def test_wrong_batch_size(batch_size, kind):
    with pytest.raises(kind, match="`batch_size` must be"):
        samples_of(3).dataset(batch_size)


def test_padded_widens_rows_and_keeps_the_occurrences():
    samples = Samples(np.array([[1, 2]], np.int32), np.array([[1, 0.5]], np.float32), np.array([1], np.float32))
    wide = samples.padded(4)
    np.testing.assert_array_equal(wide.ids, [[1, 2, -1, -1]])
    np.testing.assert_array_equal(wide.values, [[1, 0.5, 0, 0]])
    np.testing.assert_array_equal(wide.labels, samples.labels)
    assert wide.ids.dtype == np.int32
    with pytest.raises(ValueError, match=r"at least 2\. Received: num_fields=1"):
        samples.padded(1)
