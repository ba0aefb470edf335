"""Samples drawn from a known model, with features of very different frequency whose true rank grows with frequency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from keras_rafm.checks.arguments import Task, check_task, increasing_ranks, integer
from keras_rafm.data.samples.samples import Samples

Float64Array = npt.NDArray[np.float64]

_SAMPLES_SCORED_AT_ONCE = 4096


@dataclass(frozen=True, eq=False, repr=False)
class Synthetic:
    """Samples and the model from which they were drawn.

    The score of a sample is `bias + Σ_i linear[i] + Σ_{i<j} <factors[i], factors[j]>` over its features.

    Attributes:
        samples: `N` one-hot samples of `F` fields.
        num_features: Number of features, `F · features_per_field`. The ids of field `f` start at `f · features_per_field`.
        true_scores: Score of each sample without noise, float64 `[N]`.
        bias: Global bias.
        linear: Linear weights, float64 `[num_features]`.
        factors: float64 `[num_features, max(ranks)]`, 0 beyond the true rank of the feature.
        true_ranks: Rank of each feature's factors, int32 `[num_features]`.
        probabilities: Probability of each feature in its field, float64 `[num_features]`.
    """

    samples: Samples
    num_features: int
    true_scores: Float64Array
    bias: float
    linear: Float64Array
    factors: Float64Array
    true_ranks: npt.NDArray[np.int32]
    probabilities: Float64Array


def synthetic(
    num_samples: int,
    num_fields: int = 8,
    features_per_field: int = 1000,
    ranks: Sequence[int] = (1, 4, 16),
    exponent: float = 1.1,
    task: Task = "classification",
    seed: int = 0,
    *,
    bias: float = -1.0,
    linear_std: float = 1.0,
    pairwise_std: float = 3.0,
    noise_std: float = 3.0,
) -> Synthetic:
    """Draw one-hot samples whose features have a true rank that grows with their frequency.

    Within a field the `r`-th most frequent feature has a probability proportional to `r ** -exponent`; ids are in
    random order. The range of `log(r)` is divided into as many equal parts as there are ranks, and the features of the
    most frequent part have the highest rank. An FM of the lowest rank then underfits the frequent features, and an FM of
    the highest rank overfits the many rare ones.

    The model depends on `seed` but not on `num_samples`. Its standard deviations are exact for infinitely many samples.

    Args:
        num_samples: `N`.
        num_fields: `F`, at least 2.
        features_per_field: Features per field, at least 2.
        ranks: Increasing true ranks.
        exponent: Exponent of the power law of frequencies; 0 makes all features of a field equally frequent.
        task: With `"classification"` labels are 1 with probability `sigmoid(score)`, else 0. With `"regression"` they
            are the score with Gaussian noise.
        seed: Seed of all random numbers.
        bias: Global bias of the model.
        linear_std: Standard deviation of the linear weights' contribution to the score.
        pairwise_std: Standard deviation of the factors' contribution to the score.
        noise_std: Standard deviation of the noise of regression labels.

    Returns:
        The samples and the model.

    Raises:
        TypeError: `num_samples`, `num_fields`, `features_per_field` or a rank is not an integer.
        ValueError: An argument is out of range or `ranks` are not positive and increasing.
    """
    integer(num_samples, "num_samples", at_least=1)
    integer(num_fields, "num_fields", at_least=2)
    integer(features_per_field, "features_per_field", at_least=2)
    checked_ranks = increasing_ranks(ranks)
    check_task(task)
    _check_not_negative(exponent=exponent, linear_std=linear_std, pairwise_std=pairwise_std, noise_std=noise_std)
    if not np.isfinite(bias):
        raise ValueError(f"`bias` must be finite. Received: bias={bias}")

    rng_of_model, rng_of_samples = np.random.default_rng(seed).spawn(2)
    # The place of each feature in the descending order of frequencies of its field, from 0.
    places = np.stack([rng_of_model.permutation(features_per_field) for _ in range(num_fields)])
    by_place = np.arange(1, features_per_field + 1) ** -float(exponent)
    probabilities = (by_place / by_place.sum())[places]
    true_ranks = _ranks_by_place(features_per_field, checked_ranks)[places]
    linear = _linear(rng_of_model, probabilities, linear_std)
    factors = _factors(rng_of_model, probabilities, true_ranks, pairwise_std)

    ids = _drawn_ids(rng_of_samples, probabilities, num_samples)
    scores = bias + linear.reshape(-1)[ids].sum(axis=1) + _pairwise(ids, factors.reshape(-1, factors.shape[-1]))
    if task == "classification":
        labels = rng_of_samples.random(num_samples) < np.exp(-np.logaddexp(0, -scores))
    else:
        labels = scores + rng_of_samples.normal(scale=noise_std, size=num_samples)
    return Synthetic(
        samples=Samples(ids, np.ones(ids.shape, np.float32), labels.astype(np.float32)),
        num_features=linear.size,
        true_scores=scores,
        bias=float(bias),
        linear=linear.reshape(-1),
        factors=factors.reshape(linear.size, -1),
        true_ranks=true_ranks.reshape(-1),
        probabilities=probabilities.reshape(-1),
    )


def _ranks_by_place(features_per_field: int, ranks: tuple[int, ...]) -> npt.NDArray[np.int32]:
    """Return the ranks of a field's features in descending order of their frequency, int32 `[features_per_field]`."""
    relative_places = np.log(np.arange(1, features_per_field + 1)) / np.log(features_per_field + 1)
    return np.array(ranks[::-1], np.int32)[(relative_places * len(ranks)).astype(np.intp)]


def _linear(rng: np.random.Generator, probabilities: Float64Array, std: float) -> Float64Array:
    """Draw linear weights `[F, features_per_field]`."""
    weights = rng.normal(size=probabilities.shape)
    mean = (probabilities * weights).sum(axis=1, keepdims=True)
    variance = (probabilities * (weights - mean) ** 2).sum()
    return weights * (std / np.sqrt(variance))


def _factors(
    rng: np.random.Generator, probabilities: Float64Array, true_ranks: npt.NDArray[np.int32], std: float
) -> Float64Array:
    """Draw factors `[F, features_per_field, max rank]`."""
    factors = rng.normal(size=(*probabilities.shape, true_ranks.max()))
    factors *= np.arange(factors.shape[-1]) < true_ranks[..., np.newaxis]
    return factors * np.sqrt(std / _pairwise_std(factors, probabilities))


def _pairwise_std(factors: Float64Array, probabilities: Float64Array) -> float:
    """Return the standard deviation of `Σ_{f<g} <v_f, v_g>` for independent fields.

    Let `m_f` be the mean of `v_f`, and `v_f = m_f + u_f`. Then the sum is a constant plus
    `Σ_f <u_f, Σ_{g≠f} m_g> + Σ_{f<g} <u_f, u_g>`, whose terms are uncorrelated.
    """
    means = np.einsum("fi,fid->fd", probabilities, factors)
    deviations = factors - means[:, np.newaxis]
    covariances = np.einsum("fi,fid,fie->fde", probabilities, deviations, deviations, optimize=True)
    other_means = means.sum(axis=0) - means
    variance_of_single_terms = np.einsum("fd,fde,fe->", other_means, covariances, other_means)
    variance_of_pair_terms = (np.sum(covariances.sum(axis=0) ** 2) - np.sum(covariances**2)) / 2
    return float(np.sqrt(variance_of_single_terms + variance_of_pair_terms))


def _drawn_ids(rng: np.random.Generator, probabilities: Float64Array, num_samples: int) -> npt.NDArray[np.int32]:
    num_fields, features_per_field = probabilities.shape
    ids = np.empty((num_samples, num_fields), np.int32)
    for field, cumulative in enumerate(np.cumsum(probabilities, axis=1)):
        drawn = np.searchsorted(cumulative / cumulative[-1], rng.random(num_samples), side="right")
        ids[:, field] = drawn + field * features_per_field
    return ids


def _pairwise(ids: npt.NDArray[np.int32], factors: Float64Array) -> Float64Array:
    """Return `½(|Σ_i v_i|² − Σ_i |v_i|²)` of each sample, float64 `[N]`."""
    squares = np.einsum("id,id->i", factors, factors)
    scores = np.empty(ids.shape[0])
    for start in range(0, ids.shape[0], _SAMPLES_SCORED_AT_ONCE):
        part = slice(start, start + _SAMPLES_SCORED_AT_ONCE)
        sums = factors[ids[part, 0]]
        for field in range(1, ids.shape[1]):
            sums += factors[ids[part, field]]
        scores[part] = (np.einsum("nd,nd->n", sums, sums) - squares[ids[part]].sum(axis=1)) / 2
    return scores


def _check_not_negative(**numbers: float) -> None:
    for name, number in numbers.items():
        if not (np.isfinite(number) and number >= 0):
            raise ValueError(f"`{name}` must be finite and at least 0. Received: {name}={number}")
