"""Bins, weights, labels and sample weights of a `Schema`, and what it refuses."""

import math
import re

import numpy as np
import pandas as pd
import polars as pl
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from keras_rafm.data.schema import Schema

pytestmark = pytest.mark.one_tensorflow

INVALID = tf.errors.InvalidArgumentError


def adapted(column, data, **options):
    schema = Schema({"a": column}, **options)
    schema.adapt({"a": data})
    return schema


def ids_of(schema, data):
    return schema({"a": data})["ids"].numpy()[:, 0]


def message_of(kind, function, *args, **options):
    with pytest.raises(kind) as error:
        function(*args, **options)
    return str(error.value)


# Order of ids.


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


# Bins.


def test_log_bins_are_those_of_the_formula():
    numbers = np.arange(-5, 100_001)
    schema = adapted(Schema.float_discretized(binning="log"), numbers)
    ids = ids_of(schema, numbers).tolist()
    names = [str(math.floor(math.log(x) ** 2)) if x > 2 else f"SP{x}" for x in numbers.tolist()]
    assert len(set(zip(ids, names, strict=True))) == len(set(ids)) == len(set(names))
    assert ids == sorted(ids)
    assert schema.counts.sum() == numbers.size


@given(st.lists(st.integers(-3, 10**6), min_size=1, max_size=20))
def test_log_bins_do_not_depend_on_which_numbers_were_seen_below_the_largest(numbers):
    schema = adapted(Schema.float_discretized(binning="log"), [float(x) for x in [-3, *numbers]])
    others = [x for x in (-3, -2, 0, 1, 2, 3, 4, 5, 8, 100, 12345) if x <= max(numbers)]
    names = [str(math.floor(math.log(x) ** 2)) if x > 2 else f"SP{x}" for x in others]
    ids = ids_of(schema, [float(x) for x in others]).tolist()
    assert len(set(zip(ids, names, strict=True))) == len(set(ids)) == len(set(names))


def test_log_bins_of_numbers_never_seen():
    schema = adapted(Schema.float_discretized(binning="log"), [1.0, 50.0, math.nan])
    low, high, small, missing = ids_of(schema, [-100.0, 1e30, 2.5, math.nan])
    assert (low, high, missing) == (0, schema.num_features - 1, -1)
    assert small == ids_of(schema, [2.7])[0]


@pytest.mark.parametrize("num_bins", [2, 7, 20])
@pytest.mark.parametrize("distribution", ["uniform", "normal", "lognormal", "exponential"])
def test_quantile_bins_are_about_equally_full(num_bins, distribution):
    rng = np.random.default_rng(0)
    numbers = getattr(rng, distribution)(size=5000).astype(np.float32)
    schema = adapted(Schema.float_discretized(num_bins), numbers)
    assert schema.num_features == num_bins
    assert schema.counts.max() - schema.counts.min() <= 2
    np.testing.assert_array_equal(np.bincount(ids_of(schema, numbers)), schema.counts)


def test_quantile_bins_with_heavy_ties():
    numbers = np.concatenate([np.zeros(900), np.arange(1, 101)]).astype(np.float32)
    schema = adapted(Schema.float_discretized(10), numbers)
    assert 2 <= schema.num_features <= 10
    assert schema.counts.tolist()[0] == 900
    assert schema.counts.min() > 0
    assert len(set(ids_of(schema, [0.0, 100.0]))) == 2


def test_each_of_few_equally_frequent_numbers_has_a_bin():
    schema = adapted(Schema.float_discretized(5), [3.0, 1.0, 2.0, 5.0, 4.0] * 3)
    assert schema.counts.tolist() == [3] * 5
    assert schema.vocabulary("a") == ["[-inf, 2)", "[2, 3)", "[3, 4)", "[4, 5)", "[5, inf)"]


@pytest.mark.parametrize("binning", ["quantile", "log"])
@pytest.mark.parametrize("data", [[1.0], [1.0, 1.0, math.nan], [math.nan]])
def test_bins_of_one_number_or_none(binning, data):
    column = Schema.float_discretized(4 if binning == "quantile" else None, binning=binning, missing="category")
    schema = adapted(column, data)
    assert schema.counts.tolist() == [np.isnan(data).sum(), len(data) - np.isnan(data).sum()]
    assert ids_of(schema, [-1.0, 1.0, math.nan, math.inf]).tolist() == [1, 1, 0, 1]


def test_a_negative_zero_is_zero_in_whichever_order():
    column = Schema.float_discretized(2)
    names = [adapted(column, data).feature_names() for data in ([-1.0, -0.0, 0.0], [-1.0, 0.0, -0.0])]
    assert names[0] == names[1] == ["a=[-inf, 0)", "a=[0, inf)"]


def test_given_boundaries_are_lower_ends():
    schema = adapted(Schema.float_discretized(bin_boundaries=[1, 2.5]), [0.0, 1.0, 2.5, 3.0])
    assert ids_of(schema, [0.99, 1.0, 2.49, 2.5, 1e9]).tolist() == [0, 1, 1, 2, 2]
    assert schema.counts.tolist() == [1, 1, 2]


# Scaling.


def scaled(scaling, data, others):
    return adapted(Schema.float(scaling), np.array(data, np.float32))({"a": np.array(others, np.float32)})["values"][:, 0]


def test_scaling():
    np.testing.assert_allclose(scaled("min_max", [2, 4, math.nan], [2, 3, 4, 6]), [0, 0.5, 1, 2])
    np.testing.assert_allclose(scaled("standard", [1, 3], [1, 2, 5]), [-1, 0, 3])
    np.testing.assert_allclose(scaled("none", [1, 3], [1, 2, 5]), [1, 2, 5])


@pytest.mark.parametrize("scaling", ["standard", "min_max"])
@pytest.mark.parametrize("data", [[7, 7], [0], [math.nan], [1e-45, 0], [1e-40, 2e-40]])
def test_numbers_that_do_not_differ_stay_finite(scaling, data):
    values = scaled(scaling, data, [*data, 8])
    assert np.isfinite(values).all()


def test_numbers_too_far_apart():
    message = message_of(ValueError, scaled, "min_max", [-3e38, 3e38], [0])
    assert message == (
        "column 'a': numbers to be scaled must differ by at most 3.40282e+38, the largest float32. "
        "Received: numbers from -3e+38 to 3e+38"
    )


# Weights.


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


# Labels and sample weights.


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
    found = message_of(INVALID, targets_of, labels, weights, in_graph, **options)
    for part in message.split(". "):
        assert part in re.sub(r"[\\\[\]]", "", found)


def test_labels_of_another_dtype():
    assert "column 'y' must be of dtype float32" in message_of(TypeError, targets_of, ["1"])
    assert "column 'y' must be of dtype string" in message_of(TypeError, targets_of, [1], positive_label="1")


def test_training_batch_needs_a_label_and_as_many_as_rows():
    assert "label" in message_of(ValueError, adapted("float", [1.0]).training_batch, {"a": [1.0]})
    schema = adapted("float", [1.0], label="y", sample_weight="w")
    for raw, numbers in [
        ({"a": [1.0, 2.0], "y": [1], "w": [1.0, 1.0]}, "{'a': 2, 'y': 1, 'w': 2}"),
        ({"a": [1.0, 2.0], "y": [1, 1], "w": [1.0]}, "{'a': 2, 'y': 2, 'w': 1}"),
    ]:
        message = message_of(ValueError, schema.training_batch, raw)
        assert message == f"columns must have equally many rows. Received: {numbers}"
    assert "no column 'y' among ['a']" in message_of(ValueError, schema.training_batch, {"a": [1.0]})


# What it refuses.

LIST = Schema.integer_categorical(multivalued=True)


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


FRAMED = {
    "user": ["ann", None, "bob", "ann"],
    "item": [7, 8, None, 7],
    "price": [0.5, None, 2.0, 1.0],
    "tags": [["x", None], None, [], ["y"]],
    "y": [1, 0, 0, 1],
}


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
    """An array of floats would round them."""
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


def test_numbers_must_be_finite_to_learn_from():
    for column in (Schema.float("standard"), Schema.float(), Schema.float_discretized(3)):
        for data in ([1.0, math.inf], np.array([1.0, 1e300])):
            message = message_of(ValueError, adapted, column, data)
            assert message == "column 'a': numbers must be finite. Received: inf"


def test_absent_columns_and_different_lengths():
    schema = Schema({"a": "float", "b": "string_categorical"})
    assert message_of(ValueError, schema.adapt, {"a": [1.0], "c": [1]}) == "there is no column 'b' among ['a', 'c']"
    message = message_of(ValueError, schema.adapt, {"a": [1.0], "b": ["x", "y"]})
    assert message == "columns must have equally many rows. Received: {'a': 1, 'b': 2}"
    assert not schema.is_adapted
    schema.adapt({"a": [1.0], "b": ["x"]})
    assert message_of(ValueError, schema, {"a": [1.0]}) == "there is no column 'b' among ['a']"
    assert "Received: list" in message_of(TypeError, schema, [1.0])


def test_nothing_to_learn_from():
    assert message_of(ValueError, adapted, "float", []) == "column 'a' has no rows to learn from"
    schema = Schema({"a": "float"})
    endless = tf.data.Dataset.from_tensors({"a": [1.0]}).repeat()
    assert "must be finite" in message_of(ValueError, schema.adapt, endless)
    assert "Received: int" in message_of(TypeError, schema.adapt, 5)
    counted = Schema({"b": "float"}).count_values({"b": [1.0]})
    assert message_of(ValueError, schema.adapt, counted) == "there are no counts of the columns ['a']"


def test_a_failed_adapt_changes_nothing():
    schema = adapted("float", [1.0, 2.0])
    message_of(ValueError, schema.adapt, {"a": [math.inf]})
    assert schema.counts.tolist() == [2]


@pytest.mark.parametrize(
    "use",
    [
        lambda s, path: s({"a": [1.0]}),
        lambda s, path: s.training_batch({"a": [1.0], "y": [1]}),
        lambda s, path: s.encoder(),
        lambda s, path: s.inputs(),
        lambda s, path: s.counts,
        lambda s, path: s.num_features,
        lambda s, path: s.id_range("a"),
        lambda s, path: s.vocabulary("a"),
        lambda s, path: s.feature_names(),
        lambda s, path: s.save(path / "schema"),
    ],
)
def test_before_adapt(use, tmp_path):
    message = message_of(RuntimeError, use, Schema({"a": "float"}, label="y"), tmp_path)
    assert message == "the schema has learnt nothing yet: call `adapt` with training data, or `load` a saved one"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("make", "options", "kind", "message"),
    [
        ("string_categorical", {"min_count": 0}, ValueError, "`min_count` must be at least 1. Received: min_count=0"),
        ("string_categorical", {"min_count": 1.5}, TypeError, "`min_count` must be an integer. Received: min_count=1.5"),
        ("string_categorical", {"max_tokens": 0}, ValueError, "`max_tokens` must be at least 1"),
        ("string_categorical", {"num_oov_indices": 2}, ValueError, "`num_oov_indices` must be 0 or 1"),
        ("string_categorical", {"num_oov_indices": 1.0}, ValueError, "`num_oov_indices` must be 0 or 1"),
        (
            "string_categorical",
            {"missing": "drop"},
            ValueError,
            "`missing` must be one of 'category', 'ignore'. Received: ",
        ),
        ("string_categorical", {"combiner": "max"}, ValueError, "`combiner` must be one of 'sum', 'mean', 'sqrtn'. Rec"),
        ("string_categorical", {"combiner": "mean"}, ValueError, "`combiner` is for columns with several values"),
        ("string_categorical", {"separator": ""}, ValueError, "`separator` must be a non-empty string"),
        ("string_categorical", {"weight_separator": ":"}, ValueError, "`weight_separator` needs `separator`"),
        ("string_categorical", {"separator": "|", "weight_separator": "::"}, ValueError, "must be one character"),
        ("string_categorical", {"separator": "|", "weight_separator": "|"}, ValueError, "must differ from `separator`"),
        ("string_categorical", {"separator": "|", "weight_separator": "."}, ValueError, "must not be part of a number"),
        ("string_categorical", {"weights": "w"}, ValueError, "it needs `multivalued=True` and no `separator`"),
        ("string_categorical", {"multivalued": True, "weights": 3}, TypeError, "`weights` must be the name of a column"),
        ("string_hashed", {"num_bins": 0}, ValueError, "`num_bins` must be at least 1"),
        ("integer_hashed", {"num_bins": "5"}, TypeError, "`num_bins` must be an integer"),
        ("integer_identity", {"num_ids": -1}, ValueError, "`num_ids` must be at least 1"),
        ("float", {"scaling": "normal"}, ValueError, "`scaling` must be one of 'none', 'standard', 'min_max'. Received: "),
        ("float_discretized", {}, ValueError, "one of `num_bins`, `bin_boundaries` and binning='log' must be given"),
        ("float_discretized", {"num_bins": 1}, ValueError, "`num_bins` must be at least 2. Received: num_bins=1"),
        ("float_discretized", {"num_bins": 3, "binning": "log"}, ValueError, "`num_bins` is for quantile bins"),
        ("float_discretized", {"num_bins": 3, "binning": "equal"}, ValueError, "`binning` must be one of"),
        ("float_discretized", {"num_bins": 3, "bin_boundaries": (1.0,)}, ValueError, "`bin_boundaries` excludes"),
        ("float_discretized", {"binning": "log", "bin_boundaries": (1.0,)}, ValueError, "`bin_boundaries` excludes"),
        ("float_discretized", {"bin_boundaries": ()}, ValueError, "`bin_boundaries` must be numbers"),
        ("float_discretized", {"bin_boundaries": (1.0, 1.0)}, ValueError, "finite and increasing"),
        ("float_discretized", {"bin_boundaries": (1.0, 1.0 + 1e-12)}, ValueError, "increasing in float32"),
        ("float_discretized", {"bin_boundaries": (1.0, 1e300)}, ValueError, "finite and increasing"),
        ("float_discretized", {"bin_boundaries": (math.nan,)}, ValueError, "finite and increasing"),
        ("float_discretized", {"bin_boundaries": 2.0}, TypeError, "`bin_boundaries` must be numbers"),
        ("float_discretized", {"bin_boundaries": "12"}, TypeError, "`bin_boundaries` must be numbers"),
        ("float_discretized", {"bin_boundaries": ["1"]}, TypeError, "`bin_boundaries` must be numbers"),
    ],
)
def test_wrong_options_of_columns(make, options, kind, message):
    assert message in message_of(kind, getattr(Schema, make), **options)


@pytest.mark.parametrize(
    ("features", "options", "kind", "message"),
    [
        ({}, {}, ValueError, "`features` must be a mapping of column names, at least one"),
        (["a"], {}, ValueError, "`features` must be a mapping of column names, at least one"),
        ({"a": "string"}, {}, ValueError, "column 'a' must be made by a function of Schema"),
        ({"a": "string_hashed"}, {}, ValueError, "column 'a' must be made by a function of Schema"),
        ({1: "float"}, {}, TypeError, "names of columns must be non-empty strings. Received: 1"),
        ({"": "float"}, {}, TypeError, "names of columns must be non-empty strings"),
        ({"a": "float"}, {"label": "a"}, ValueError, "a column must be declared once. Received twice: ['a']"),
        ({"a": "float"}, {"label": "b", "sample_weight": "b"}, ValueError, "Received twice: ['b']"),
        ({"a": "float", "b": Schema.string_categorical(multivalued=True, weights="a")}, {}, ValueError, "twice: ['a']"),
        ({"a": "float"}, {"label": 1}, TypeError, "`label` must be the name of a column. Received: label=1"),
        ({"a": "float"}, {"sample_weight": ["w"]}, TypeError, "`sample_weight` must be the name of a column"),
        ({"a": "float"}, {"task": "ranking"}, ValueError, "`task` must be one of 'classification', 'regression'"),
        ({"a": "float"}, {"task": "regression", "positive_label": 1}, ValueError, "`positive_label` is for classification"),
        ({"a": "float"}, {"positive_label": [1]}, TypeError, "`positive_label` must be a non-empty string or"),
        (
            {"a": "float"},
            {"positive_label": math.nan},
            TypeError,
            "`positive_label` must be a non-empty string or",
        ),
    ],
)
def test_wrong_declarations(features, options, kind, message):
    assert message in message_of(kind, Schema, features, **options)


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


class TestColumnsThatDontFit:
    schema = Schema({"user": "string_categorical", "price": "float"})

    @pytest.fixture(autouse=True)
    def _adapt(self) -> None:
        self.schema.adapt({"user": ["ann"], "price": [1.0]})

    def test_different_numbers_of_rows_are_named_in_a_graph_too(self) -> None:
        specs = {"user": tf.TensorSpec([None], tf.string), "price": tf.TensorSpec([None], tf.float32)}
        in_graph = tf.function(self.schema).get_concrete_function(specs)
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"the columns user, price must have equally many rows"):
            in_graph({"user": tf.constant(["ann", "bob"]), "price": tf.constant([1.0])})

    def test_several_values_of_a_column_without_lists_are_told_in_a_graph_too(self) -> None:
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


def test_booleans_are_labels_and_numbers() -> None:
    schema = Schema({"new": "float"}, label="clicked")
    raw = {"new": [True, False], "clicked": [False, True]}
    schema.adapt(raw)
    inputs, labels = schema.training_batch(raw)
    np.testing.assert_array_equal(inputs["values"], [[1.0], [0.0]])
    np.testing.assert_array_equal(labels, [[0.0], [1.0]])


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
