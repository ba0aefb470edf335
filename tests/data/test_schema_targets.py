"""Labels and sample weights of a `Schema`."""

import math
import re

import numpy as np
import pytest
import tensorflow as tf
from schemas import adapted, message_of

from keras_rafm.data import Schema

pytestmark = pytest.mark.one_tensorflow

INVALID = tf.errors.InvalidArgumentError


def targets_of(labels, weights=None, in_graph=False, **options):
    schema = adapted("float", [1.0], label="y", sample_weight=None if weights is None else "w", **options)
    raw = {"a": [1.0] * len(labels), "y": labels, **({} if weights is None else {"w": weights})}
    if in_graph:
        return [
            part.numpy()[:, 0].tolist()
            for part in next(iter(tf.data.Dataset.from_tensors(raw).map(schema.training_batch)))[1:]
        ]
    return [part.numpy()[:, 0].tolist() for part in schema.training_batch(raw)[1:]]


@pytest.mark.parametrize("in_graph", [False, True])
def test_labels(in_graph):
    assert targets_of([0, 1, 1], in_graph=in_graph) == [[0, 1, 1]]
    assert targets_of([-1.0, 1.0], in_graph=in_graph) == [[0, 1]]
    assert targets_of([[1], [0]], in_graph=in_graph) == [[1, 0]]
    assert targets_of(["no", "yes", "y"], positive_label="yes", in_graph=in_graph) == [[0, 1, 0]]
    assert targets_of([1, 2, 5], positive_label=2, in_graph=in_graph) == [[0, 1, 0]]
    assert targets_of([0.5, -3.0], task="regression", in_graph=in_graph) == [[0.5, -3.0]]
    assert targets_of([0, 1], [0.0, 2.5], in_graph=in_graph) == [[0, 1], [0, 2.5]]


@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize(
    ("labels", "weights", "options", "message"),
    [
        ([1.0, 2.0], None, {}, "column 'y': expected one of the labels 0 and 1, or -1 and 1. Received 2"),
        ([1.0, 0.5], None, {}, "column 'y': expected one of the labels 0 and 1, or -1 and 1. Received 0.5"),
        ([1.0, math.nan], None, {}, "column 'y': expected one of the labels 0 and 1, or -1 and 1. Received nan"),
        ([math.nan], None, {"positive_label": 1}, "column 'y': expected a label, which must not be missing. Received nan"),
        (["a", ""], None, {"positive_label": "a"}, "column 'y': expected a label, which must not be missing. Received"),
        ([math.nan], None, {"task": "regression"}, "column 'y': expected a label that is a finite number. Received nan"),
        ([math.inf], None, {"task": "regression"}, "column 'y': expected a label that is a finite number. Received inf"),
        (
            [1.0, 1.0],
            [1.0, math.nan],
            {},
            "column 'w': expected a finite sample weight of at least 0. Received nan",
        ),
        ([1.0, 1.0], [-0.5, 1.0], {}, "column 'w': expected a finite sample weight of at least 0. Received -0.5"),
        (
            [1.0, 1.0],
            [math.inf, 1.0],
            {},
            "column 'w': expected a finite sample weight of at least 0. Received inf",
        ),
    ],
)
def test_wrong_labels_and_sample_weights(labels, weights, options, message, in_graph):
    received = message_of(INVALID, targets_of, labels, weights, in_graph, **options)
    for part in message.split(". "):
        assert part in re.sub(r"[\\\[\]]", "", received)


def test_labels_of_another_dtype():
    assert "column 'y' must be of dtype float32" in message_of(TypeError, targets_of, ["1"])
    assert "column 'y' must be of dtype string" in message_of(TypeError, targets_of, [1], positive_label="1")


def test_training_batch_needs_one_label_per_row():
    assert "label" in message_of(ValueError, adapted("float", [1.0]).training_batch, {"a": [1.0]})
    schema = adapted("float", [1.0], label="y", sample_weight="w")
    for raw, numbers in [
        ({"a": [1.0, 2.0], "y": [1], "w": [1.0, 1.0]}, "{'a': 2, 'y': 1, 'w': 2}"),
        ({"a": [1.0, 2.0], "y": [1, 1], "w": [1.0]}, "{'a': 2, 'y': 2, 'w': 1}"),
    ]:
        message = message_of(ValueError, schema.training_batch, raw)
        assert message == f"columns must have equally many rows. Received: {numbers}"
    assert "no column 'y' among ['a']" in message_of(ValueError, schema.training_batch, {"a": [1.0]})


def test_booleans_are_labels_and_numbers() -> None:
    schema = Schema({"new": "float"}, label="clicked")
    raw = {"new": [True, False], "clicked": [False, True]}
    schema.adapt(raw)
    inputs, labels = schema.training_batch(raw)
    np.testing.assert_array_equal(inputs["values"], [[1.0], [0.0]])
    np.testing.assert_array_equal(labels, [[0.0], [1.0]])
