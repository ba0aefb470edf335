"""Raw data in all forms that a `Schema` takes, and data that do not match its columns."""

import math

import numpy as np
import pandas as pd
import polars as pl
import pytest
import tensorflow as tf
from schemas import adapted, message_of

from keras_rafm.data import Schema

pytestmark = pytest.mark.one_tensorflow

LIST = Schema.integer_categorical(multivalued=True)

FRAMED = {
    "user": ["ann", None, "bob", "ann"],
    "item": [7, 8, None, 7],
    "price": [0.5, None, 2.0, 1.0],
    "tags": [["x", None], None, [], ["y"]],
    "y": [1, 0, 0, 1],
}


@pytest.mark.parametrize(
    ("column", "data", "kind", "received"),
    [
        ("string_categorical", [1], TypeError, "dtype string, with '' where a value is missing. Received: dtype int32"),
        ("string_categorical", ["a", 1], TypeError, "'' where a value is missing. Received: 1 in row 1"),
        ("string_categorical", np.array(["a", 0.5], object), TypeError, "missing. Received: 0.5 in row 1"),
        ("string_categorical", None, TypeError, "missing. Received: None"),
        (
            "integer_categorical",
            [1.0],
            TypeError,
            "dtype int64, with -2**63 where a value is missing. Received: dtype float32",
        ),
        (
            "integer_categorical",
            ["1"],
            TypeError,
            "dtype int64, with -2**63 where a value is missing. Received: dtype string",
        ),
        ("integer_categorical", np.array([1.0, 2.5]), TypeError, "missing. Received: dtype float64"),
        ("integer_categorical", np.array([1e19]), TypeError, "missing. Received: dtype float64"),
        ("integer_categorical", [1, 2**63], TypeError, "missing. Received: 9223372036854775808 in row 1"),
        ("integer_categorical", np.array([1], np.uint64), TypeError, "missing. Received: dtype uint64"),
        ("float", ["1"], TypeError, "dtype float32, with NaN where a value is missing. Received: dtype string"),
        (LIST, [[1], [2.5]], TypeError, "missing. Received: 2.5 in row 1"),
        (LIST, tf.ragged.constant([["1"]]), TypeError, "missing. Received: dtype string"),
        ("float", 1.0, ValueError, "[batch] or [batch, 1]. Received: shape ()"),
        ("float", [[1.0, 2.0]], ValueError, "[batch] or [batch, 1]. Received: shape (1, 2)"),
        ("integer_categorical", tf.ragged.constant([[1]]), ValueError, "[batch] or [batch, 1]. Received: shape (1, None)"),
        (LIST, np.array([1]), ValueError, "ragged, or padded [batch, n]. Received: shape (1,)"),
        (LIST, tf.ragged.constant([[[1]]]), ValueError, "ragged, or padded [batch, n]. Received: shape (1, None, None)"),
    ],
)
def test_wrong_data(column, data, kind, received):
    message = message_of(kind, adapted, column, data)
    assert message.startswith("column 'a' ")
    assert message.endswith(received)


@pytest.mark.parametrize("make", [dict, pd.DataFrame, lambda columns: pd.DataFrame(columns).convert_dtypes(), pl.DataFrame])
def test_data_frames_and_their_missing_values(make):
    columns = {"user": "string_categorical", "item": "integer_categorical", "price": "float"}
    schema = Schema({**columns, "tags": Schema.string_categorical(multivalued=True)}, label="y")
    frame = make(FRAMED)
    schema.adapt(frame)
    assert schema.vocabulary("user") == ["[UNSEEN]", "[MISSING]", "ann", "bob"]
    assert schema.vocabulary("item") == ["[UNSEEN]", "[MISSING]", "7", "8"]
    inputs, labels = schema.training_batch(frame)
    assert inputs["ids"].numpy().tolist() == [[2, 6, 8, 11], [1, 7, -1, 10], [3, 5, 8, 10], [2, 6, 8, 12]]
    assert inputs["values"].numpy()[:, 2].tolist() == [0.5, 0, 2, 1]
    assert labels.numpy()[:, 0].tolist() == [1, 0, 0, 1]


@pytest.mark.parametrize(
    "make", [pl.Series, lambda values: pd.Series(values, dtype="Int64"), lambda values: np.array(values, object)]
)
def test_large_integers_beside_a_missing_one(make):
    """An array of floats would round the large integers."""
    schema = Schema({"i": "integer_categorical"})
    schema.adapt({"i": make([2**60 + 1, 2**60 + 3, None])})
    assert schema.vocabulary("i")[2:] == [str(2**60 + 1), str(2**60 + 3)]
    assert schema({"i": [2**60 + 3, None]})["ids"].numpy().tolist() == [[3], [1]]
    with pytest.raises(TypeError, match="Received: dtype float64"):
        schema({"i": np.array([2.0**53, math.nan])})


def test_lists_with_missing_integers():
    schema = Schema({"i": Schema.integer_categorical(multivalued=True)})
    expected = [[2, -1], [1, -1], [3, 2]]
    rows = [[7, None], None, [8, 7]]
    schema.adapt({"i": [[7, 7], [8]]})
    cells = np.empty(3, object)
    cells[:] = [np.array([7.0, math.nan]), None, np.array([8.0, 7.0])]
    for data in (rows, pl.Series(rows), pd.Series(rows), pd.Series(cells), cells):
        assert schema({"i": data})["ids"].numpy().tolist() == expected


def test_strings_without_any_value():
    schema = Schema({"s": "string_categorical"})
    schema.adapt({"s": ["a"]})
    for data in ([None, None], np.array([math.nan] * 2), ["", np.float32("nan")], pd.Series([None, None], dtype="string")):
        assert schema({"s": data})["ids"].numpy().tolist() == [[1], [1]]


def test_absent_columns_and_different_lengths():
    schema = Schema({"a": "float", "b": "string_categorical"})
    assert message_of(ValueError, schema.adapt, {"a": [1.0], "c": [1]}) == "there is no column 'b' among ['a', 'c']"
    message = message_of(ValueError, schema.adapt, {"a": [1.0], "b": ["x", "y"]})
    assert message == "columns must have equally many rows. Received: {'a': 1, 'b': 2}"
    assert not schema.is_adapted
    schema.adapt({"a": [1.0], "b": ["x"]})
    assert message_of(ValueError, schema, {"a": [1.0]}) == "there is no column 'b' among ['a']"
    assert "Received: list" in message_of(TypeError, schema, [1.0])


class TestMismatches:
    schema = Schema({"user": "string_categorical", "price": "float"})

    @pytest.fixture(autouse=True)
    def _adapt(self) -> None:
        self.schema.adapt({"user": ["ann"], "price": [1.0]})

    def test_graphs_report_different_numbers_of_rows(self) -> None:
        specs = {"user": tf.TensorSpec([None], tf.string), "price": tf.TensorSpec([None], tf.float32)}
        in_graph = tf.function(self.schema).get_concrete_function(specs)
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"the columns user, price must have equally many rows"):
            in_graph({"user": tf.constant(["ann", "bob"]), "price": tf.constant([1.0])})

    def test_graphs_report_several_values_in_a_column_without_lists(self) -> None:
        specs = {"user": tf.TensorSpec([None, None], tf.string), "price": tf.TensorSpec([None], tf.float32)}
        in_graph = tf.function(self.schema).get_concrete_function(specs)
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"user.* must be of shape \[batch\] or \[batch, 1\]"):
            in_graph({"user": tf.constant([["ann", "bob"]]), "price": tf.constant([1.0])})

    def test_neither_a_mapping_nor_a_data_frame(self) -> None:
        with pytest.raises(TypeError, match=r"must be a mapping of column names, or a data frame\. Received: list"):
            self.schema([1])

    def test_no_feature_is_left(self) -> None:
        columns = dict.fromkeys(
            ("user", "shop"), Schema.string_categorical(min_count=2, num_oov_indices=0, missing="ignore")
        )
        schema = Schema(columns)
        with pytest.raises(ValueError, match=r"no feature is left of the columns \['user', 'shop'\]"):
            schema.adapt({"user": ["a", "b"], "shop": ["a", ""]})
        assert not schema.is_adapted
        schema.adapt({"user": ["a", "b"], "shop": ["a", "a"]})

    def test_functions_that_were_not_called(self) -> None:
        with pytest.raises(TypeError, match="column 'user' must be what a function of Schema returns: call it"):
            Schema({"user": Schema.string_categorical})
