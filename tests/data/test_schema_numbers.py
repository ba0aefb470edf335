"""Bins and scaling of columns of numbers."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from schemas import adapted, ids_of, message_of

from keras_rafm.data import Schema

pytestmark = pytest.mark.one_tensorflow


def scaled(scaling, data, others):
    return adapted(Schema.float(scaling), np.array(data, np.float32))({"a": np.array(others, np.float32)})["values"][:, 0]


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


def test_numbers_must_be_finite_to_learn_from():
    for column in (Schema.float("standard"), Schema.float(), Schema.float_discretized(3)):
        for data in ([1.0, math.inf], np.array([1.0, 1e300])):
            message = message_of(ValueError, adapted, column, data)
            assert message == "column 'a': numbers must be finite. Received: inf"
