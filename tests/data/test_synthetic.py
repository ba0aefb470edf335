"""Synthetic samples and the model from which they are drawn."""

import itertools

import numpy as np
import pytest

from keras_rafm.data import count_features, synthetic

pytestmark = pytest.mark.one_tensorflow


@pytest.fixture(scope="module")
def large():
    return synthetic(100_000, num_fields=3, features_per_field=200, seed=1)


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("num_samples", [1, 9000])  # fewer and more than one block of scores
def test_scores_equal_the_sum_over_pairs(task, num_samples):
    truth = synthetic(num_samples, 4, 30, ranks=(2, 5), bias=0.7, task=task)
    for row in np.linspace(0, num_samples - 1, 20, dtype=int):
        ids = truth.samples.ids[row]
        score = truth.bias + sum(truth.linear[i] for i in ids)
        for i, j in itertools.combinations(ids, 2):
            score += sum(a * b for a, b in zip(truth.factors[i], truth.factors[j], strict=True))
        np.testing.assert_allclose(truth.true_scores[row], score, rtol=1e-12, atol=1e-12)


def test_shapes_and_dtypes():
    truth = synthetic(50, num_fields=4, features_per_field=30, ranks=(2, 5), bias=0.5)
    assert truth.num_features == 120
    assert truth.samples.ids.shape == (50, 4)
    assert truth.samples.ids.dtype == np.int32
    assert truth.samples.one_hot
    assert truth.true_scores.shape == (50,)
    assert truth.bias == 0.5
    assert truth.linear.shape == truth.true_ranks.shape == truth.probabilities.shape == (120,)
    assert truth.factors.shape == (120, 5)
    for array in (truth.true_scores, truth.linear, truth.factors, truth.probabilities):
        assert array.dtype == np.float64
    assert truth.true_ranks.dtype == np.int32


def test_fields_have_their_own_ids():
    ids = synthetic(2000, num_fields=4, features_per_field=30).samples.ids
    np.testing.assert_array_equal(ids // 30, np.tile(np.arange(4), (2000, 1)))


def test_the_seed_determines_everything():
    one, same, other = (synthetic(500, 4, 30, seed=seed) for seed in (3, 3, 4))
    for name in ("true_scores", "linear", "factors", "true_ranks", "probabilities"):
        np.testing.assert_array_equal(getattr(one, name), getattr(same, name))
        assert (getattr(one, name) != getattr(other, name)).any()
    for name in ("ids", "labels"):
        np.testing.assert_array_equal(getattr(one.samples, name), getattr(same.samples, name))
        assert (getattr(one.samples, name) != getattr(other.samples, name)).any()


def test_the_planted_model_does_not_depend_on_the_number_of_samples():
    few, many = synthetic(10, 4, 30), synthetic(1000, 4, 30)
    for name in ("linear", "factors", "true_ranks", "probabilities"):
        np.testing.assert_array_equal(getattr(few, name), getattr(many, name))


@pytest.mark.parametrize("exponent", [0.0, 0.8, 1.5])
def test_frequencies_follow_the_power_law(exponent):
    truth = synthetic(100_000, num_fields=2, features_per_field=100, exponent=exponent)
    counts = count_features(truth.samples, truth.num_features).reshape(2, 100)
    expected = np.arange(1, 101) ** -exponent
    expected *= 100_000 / expected.sum()
    for field in range(2):
        # Each count is binomial, so it is within five standard deviations of its mean.
        places = np.argsort(-truth.probabilities[100 * field : 100 * (field + 1)], kind="stable")
        assert np.all(np.abs(counts[field][places] - expected) < 5 * np.sqrt(expected) + 1)
        np.testing.assert_allclose(truth.probabilities[100 * field : 100 * (field + 1)].sum(), 1)
    fitted = np.polyfit(np.log(np.arange(1, 101)), np.log(-np.sort(-counts, axis=1).mean(axis=0)), 1)[0]
    np.testing.assert_allclose(fitted, -exponent, atol=0.1)


def test_ids_are_not_in_order_of_frequency(large):
    counts = count_features(large.samples, large.num_features)
    assert abs(np.corrcoef(np.arange(200), np.argsort(np.argsort(counts[:200])))[0, 1]) < 0.3


def test_true_rank_grows_with_frequency(large):
    counts = count_features(large.samples, large.num_features)
    assert set(large.true_ranks) == {1, 4, 16}
    means = [counts[large.true_ranks == rank].mean() for rank in (1, 4, 16)]
    assert means[0] < means[1] / 3 < means[2] / 9
    for low, high in ((1, 4), (4, 16)):
        by_rank = large.probabilities[large.true_ranks == low], large.probabilities[large.true_ranks == high]
        assert by_rank[0].max() < by_rank[1].min()


def test_factors_end_at_the_true_rank(large):
    np.testing.assert_array_equal(large.factors != 0, np.arange(16) < large.true_ranks[:, np.newaxis])


def test_standard_deviations_equal_the_arguments():
    truth = synthetic(100_000, num_fields=5, features_per_field=50, bias=2, linear_std=0.5, pairwise_std=1.5)
    linear = truth.linear[truth.samples.ids].sum(axis=1)
    np.testing.assert_allclose(linear.std(), 0.5, rtol=0.03)
    np.testing.assert_allclose((truth.true_scores - linear).std(), 1.5, rtol=0.03)


def test_classes_are_drawn_from_the_score(large):
    labels, probabilities = large.samples.labels, 1 / (1 + np.exp(-large.true_scores))
    assert set(labels) == {0, 1}
    for low in np.arange(0, 1, 0.2):
        inside = (probabilities >= low) & (probabilities < low + 0.2)
        deviation = np.sqrt(np.sum(probabilities[inside] * (1 - probabilities[inside]))) / inside.sum()
        assert abs(labels[inside].mean() - probabilities[inside].mean()) < 5 * deviation


def test_regression_labels_are_the_score_with_noise():
    truth = synthetic(20_000, 3, 30, task="regression", noise_std=0.25)
    noise = truth.samples.labels - truth.true_scores
    assert abs(noise.mean()) < 0.01
    np.testing.assert_allclose(noise.std(), 0.25, rtol=0.03)
    exact = synthetic(100, 3, 30, task="regression", noise_std=0)
    np.testing.assert_array_equal(exact.samples.labels, exact.true_scores.astype(np.float32))


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"num_samples": 0}, ValueError, "`num_samples` must be at least 1. Received: num_samples=0"),
        ({"num_samples": 1e3}, TypeError, "`num_samples` must be an integer. Received: num_samples=1000.0 of type float"),
        ({"num_fields": 1}, ValueError, "`num_fields` must be at least 2. Received: num_fields=1"),
        ({"features_per_field": 1}, ValueError, "`features_per_field` must be at least 2. Received: "),
        ({"ranks": ()}, ValueError, "`ranks` must be one or more positive, increasing integers. Received: ranks=()"),
        (
            {"ranks": (4, 4)},
            ValueError,
            "`ranks` must be one or more positive, increasing integers. Received: ranks=(4, 4)",
        ),
        (
            {"ranks": (0, 4)},
            ValueError,
            "`ranks` must be one or more positive, increasing integers. Received: ranks=(0, 4)",
        ),
        ({"exponent": -0.1}, ValueError, "`exponent` must be finite and at least 0. Received: exponent=-0.1"),
        ({"noise_std": np.nan}, ValueError, "`noise_std` must be finite and at least 0. Received: noise_std=nan"),
        ({"bias": np.inf}, ValueError, "`bias` must be finite. Received: bias=inf"),
        ({"task": "ranking"}, ValueError, "`task` must be one of 'classification', 'regression'. Received: task='ranking'"),
    ],
)
def test_wrong_arguments(arguments, kind, message):
    with pytest.raises(kind, match=r".") as error:
        synthetic(**{"num_samples": 10, **arguments})
    assert str(error.value).startswith(message)
