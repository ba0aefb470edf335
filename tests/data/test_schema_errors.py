"""Wrong declarations of a `Schema`, nothing to learn from, and use before `adapt`."""

import math

import pytest
import tensorflow as tf
from schemas import adapted, message_of

from keras_rafm.data import Schema

pytestmark = pytest.mark.one_tensorflow


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
        ("string_categorical", {"separator": "|", "weight_separator": "."}, ValueError, "must not occur in numbers"),
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
