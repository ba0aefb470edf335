"""Order of ids, weights and lists of categorical columns."""

import math

import numpy as np
import pytest
import tensorflow as tf
from schemas import adapted, message_of

from keras_rafm.data import Schema

pytestmark = pytest.mark.one_tensorflow

INVALID = tf.errors.InvalidArgumentError


def test_ids_by_falling_count_then_ascending_bytes():
    schema = adapted("string_categorical", ["b", "é", "a", "Z", "b", "", "é", "10", "9"])
    assert schema.vocabulary("a") == ["[UNSEEN]", "[MISSING]", "b", "é", "10", "9", "Z", "a"]
    assert schema.counts.tolist() == [0, 1, 2, 2, 1, 1, 1, 1]
    assert schema.feature_names()[:3] == ["a=[UNSEEN]", "a=[MISSING]", "a=b"]
    schema = adapted("integer_categorical", [10, -3, 9, 9, 2**63 - 1, -(2**63)])
    assert schema.vocabulary("a") == ["[UNSEEN]", "[MISSING]", "9", "-3", "10", str(2**63 - 1)]


def test_rare_values_are_counted_as_unseen():
    schema = adapted(Schema.string_categorical(min_count=2, max_tokens=1), ["a", "a", "b", "b", "b", "c"])
    assert schema.vocabulary("a") == ["[UNSEEN]", "[MISSING]", "b"]
    assert schema.counts.tolist() == [3, 0, 3]


def test_columns_share_one_numbering_in_the_order_of_declaration():
    schema = Schema({"b": "float", "a": "string_categorical", "c": Schema.integer_identity(2)})
    schema.adapt({"a": ["x"], "b": [1.0], "c": [1]})
    assert [schema.id_range(name) for name in "bac"] == [range(1), range(1, 4), range(4, 6)]
    assert schema.feature_names() == ["b", "a=[UNSEEN]", "a=[MISSING]", "a=x", "c=0", "c=1"]
    assert list(schema.columns) == ["b", "a", "c"]
    assert "no column 'd'" in message_of(KeyError, schema.id_range, "d")
    assert "no column 'd'" in message_of(KeyError, schema.vocabulary, "d")


def test_the_weight_is_behind_the_last_separator():
    column = Schema.string_categorical(separator="|", weight_separator=":")
    schema = adapted(column, ["x:y:0.5|z", ":2"])
    assert schema.vocabulary("a") == ["[UNSEEN]", "[MISSING]", "x:y", "z"]
    batch = schema({"a": ["z:-1e-2|x:y:.5|x:7", ""]})
    assert batch["ids"].numpy().tolist() == [[3, 2, 0], [1, -1, -1]]
    np.testing.assert_allclose(batch["values"], [[-0.01, 0.5, 7], [1, 0, 0]])


@pytest.mark.parametrize("separator", list(":=^$*()[]{}\\?_~ ndwbxAZ×é日\t"))
def test_any_character_may_come_before_a_weight(separator):
    schema = adapted(Schema.string_categorical(separator="|", weight_separator=separator), ["u", "v"])
    batch = schema({"a": [f"u{separator}0.5|v", f"v{separator}2|u"]})
    assert batch["ids"].numpy().tolist() == [[2, 3], [3, 2]]
    np.testing.assert_array_equal(batch["values"], [[0.5, 1], [2, 1]])


@pytest.mark.parametrize("token", ["x:", "x:y", "x:1 ", "x:nan", "x:inf", "x:0x1", "x:1:", "x:1e999"])
def test_weights_in_strings_must_be_numbers(token):
    schema = adapted(Schema.string_categorical(separator="|", weight_separator=":"), ["x"])
    message = message_of(INVALID, schema, {"a": ["x:1", "x|" + token]})
    wrong = "inf" if token.endswith("e999") else token
    assert "column 'a': weights must be " in message
    assert wrong in message


@pytest.mark.parametrize("weights", [[[1.0], []], [[1.0, 2.0], [1.0, 2.0]], [[1.0, 2.0]], [[1.0, 2.0], [1.0], [1.0]]])
def test_as_many_weights_as_values(weights):
    schema = Schema({"a": Schema.integer_categorical(multivalued=True, weights="w")})
    schema.adapt({"a": [[1, 2], [3]], "w": [[1.0, 1.0], [1.0]]})
    with pytest.raises((INVALID, ValueError), match=r"column 'w' must have as many|columns must have equally many rows"):
        schema({"a": [[1, 2], [3]], "w": weights})


@pytest.mark.parametrize("weight", [math.nan, math.inf])
def test_weights_of_lists_must_be_finite(weight):
    schema = Schema({"a": Schema.integer_categorical(multivalued=True, weights="w")})
    schema.adapt({"a": [[1, 2]], "w": [[1.0, 1.0]]})
    message = message_of(INVALID, schema, {"a": [[1, 2]], "w": [[1.0, weight]]})
    assert f"column 'a': weights must be finite. Received {weight}" in message
    missing = {"a": [[1, -(2**63)]], "w": [[1.0, weight]]}
    np.testing.assert_array_equal(schema(missing)["values"], [[1.0]])


class TestPaddedLists:
    """Dense lists, padded with missing values anywhere."""

    schema = Schema({"genres": Schema.string_categorical(multivalued=True, weights="shares")})

    def test_weights_stay_with_their_values(self) -> None:
        lists = {"genres": [["a", "b"], ["b"], []], "shares": [[0.5, 2.0], [3.0], []]}
        self.schema.adapt(lists)
        genres = np.array([["a", "b", ""], ["", "b", ""], ["", "", ""]], object)
        shares = np.array([[0.5, 2.0, 0.0], [9.0, 3.0, np.nan], [7.0, 7.0, 7.0]], np.float32)
        expected, padded = self.schema(lists), self.schema({"genres": genres, "shares": shares})
        for name in expected:
            np.testing.assert_array_equal(padded[name], expected[name])


def test_summary() -> None:
    schema = Schema({"user": Schema.string_categorical(min_count=2), "price": "float"})
    assert repr(schema) == "Schema(user: vocabulary, price: number; not adapted)"
    schema.adapt({"user": ["a", "a", "b", ""], "price": [1.0, 2.0, np.nan, 3.0]})
    assert repr(schema).endswith("; 4 features)")
    lines: list[str] = []
    schema.summary(lines.append)
    rows = [line.split() for line in lines[0].split("\n")]
    assert ["user", "vocabulary", "3", "4", "25.0%", "25.0%"] in rows
    assert ["price", "number", "1", "3"] in rows
    assert ["total", "4", "7"] in rows
