"""The Gaussian process: against scikit-learn's, and in the cases with a known answer."""

from __future__ import annotations

import random
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern

from search.propose.surrogate import Hyperparameters, Surrogate, expected_improvement, fit

_JITTER = 1e-6


def _made(
    seed: int, count: int = 30, dimensions: int = 3
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return points in the cube, values of mean 0 and variance 1, and variances of noise."""
    rng = np.random.default_rng(seed)
    points = rng.random((count, dimensions))
    values = np.sin(5 * points[:, 0]) + (points**2).sum(1) + 0.1 * rng.standard_normal(count)
    return points, (values - values.mean()) / values.std(), 0.1 * rng.random(count)


def _hyper(*lengthscales: float, noise: float = 0.02) -> Hyperparameters:
    return Hyperparameters(lengthscales=lengthscales, noise=noise)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(2, 60),
    lengthscales=st.lists(st.floats(0.05, 5.0), min_size=1, max_size=5),
    noise=st.floats(1e-4, 1.0),
)
def test_it_agrees_with_scikit_learn(
    seed: int, count: int, lengthscales: list[float], noise: float
) -> None:
    points, values, variances = _made(seed, count, len(lengthscales))
    ours = Surrogate(points, values, variances, _hyper(*lengthscales, noise=noise))
    kernel = Matern(length_scale=lengthscales, length_scale_bounds="fixed", nu=2.5)
    theirs = GaussianProcessRegressor(
        kernel, alpha=variances + noise + _JITTER, optimizer=None
    ).fit(points, values)
    others = np.random.default_rng(seed + 1).random((40, len(lengthscales)))
    mean, deviation = ours.mean_and_deviation(others)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # variances that are 0 to rounding
        expected_mean, expected_deviation = theirs.predict(others, return_std=True)
    np.testing.assert_allclose(mean, expected_mean, atol=1e-6)
    np.testing.assert_allclose(ours.mean(others), mean, atol=1e-12)
    np.testing.assert_allclose(deviation**2, expected_deviation**2, atol=1e-6)
    assert mean.shape == deviation.shape == (40,)


def test_its_likelihood_is_scikit_learn_s_and_its_priors_are_log_normal() -> None:
    points, values, variances = _made(0)

    def theirs(hyper: Hyperparameters) -> float:
        kernel = Matern(length_scale=hyper.lengthscales, length_scale_bounds="fixed", nu=2.5)
        alpha = variances + hyper.noise + _JITTER
        regressor = GaussianProcessRegressor(kernel, alpha=alpha, optimizer=None)
        likelihood = regressor.fit(points, values).log_marginal_likelihood_value_
        lengths = norm.logpdf(np.log(hyper.lengthscales), np.log(0.5), 0.8).sum()
        return float(likelihood + lengths + norm.logpdf(np.log(hyper.noise), np.log(0.02), 1.5))

    first, second = _hyper(0.5, 0.5, 0.5), _hyper(0.2, 3.0, 0.9, noise=0.3)
    found = [Surrogate(points, values, variances, h).log_posterior for h in (first, second)]
    # Up to a constant.
    assert found[0] - found[1] == pytest.approx(theirs(first) - theirs(second), abs=1e-5)


def test_it_goes_through_values_without_noise() -> None:
    points, values, _ = _made(1)
    surrogate = Surrogate(points, values, np.zeros(30), _hyper(0.5, 0.5, 0.5, noise=0.0))
    mean, deviation = surrogate.mean_and_deviation(points)
    np.testing.assert_allclose(mean, values, atol=1e-3)
    assert deviation.max() < 2e-3
    between = np.clip(points + 0.02, 0, 1)
    assert (surrogate.mean_and_deviation(between)[1] > deviation).all()


def test_far_from_all_observations_it_knows_the_prior_only() -> None:
    points, values, noise = _made(2)
    surrogate = Surrogate(points, values + 3.0, noise, _hyper(0.05, 0.05, 0.05))
    mean, deviation = surrogate.mean_and_deviation(np.full((1, 3), 5.0))
    assert (mean[0], deviation[0]) == pytest.approx((0.0, 1.0), abs=1e-9)


def test_an_observation_counts_by_its_own_noise() -> None:
    # One observation y with variance s: the mean there is y / (1 + s), the variance s / (1 + s).
    for own in (0.0, 0.5, 4.0):
        surrogate = Surrogate(
            np.array([[0.3, 0.3]]), np.array([2.0]), np.array([own]), _hyper(1.0, 1.0, noise=0.1)
        )
        total = own + 0.1 + _JITTER
        mean, deviation = surrogate.mean_and_deviation(np.array([[0.3, 0.3]]))
        assert mean[0] == pytest.approx(2.0 / (1 + total))
        assert deviation[0] ** 2 == pytest.approx(total / (1 + total))


def test_of_two_observations_at_one_place_the_surer_one_is_believed() -> None:
    points, values = np.array([[0.5], [0.5]]), np.array([1.0, -1.0])
    sure = Surrogate(points, values, np.array([0.01, 1.0]), _hyper(1.0, noise=0.001))
    unsure = Surrogate(points, values, np.array([1.0, 0.01]), _hyper(1.0, noise=0.001))
    assert sure.mean(points)[0] > 0.9
    assert unsure.mean(points)[0] < -0.9


def test_an_axis_with_a_long_scale_hardly_matters() -> None:
    surrogate = Surrogate(
        np.array([[0.5, 0.5]]), np.array([1.0]), np.zeros(1), _hyper(0.1, 50.0, noise=0.001)
    )
    along, across = surrogate.mean(np.array([[0.5, 0.0], [0.0, 0.5]]))
    assert along > 0.99 and across < 0.01


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(3, 40), steps=st.integers(0, 30))
def test_fitting_never_loses_and_is_the_same_for_the_same_dice(
    seed: int, count: int, steps: int
) -> None:
    points, values, noise = _made(seed, count)
    start = Hyperparameters.start(3)
    before = Surrogate(points, values, noise, start).log_posterior
    found = [
        fit(points, values, noise, start, steps=steps, rng=random.Random(seed)) for _ in range(2)
    ]
    assert found[0].log_posterior >= before
    assert found[0].hyper == found[1].hyper
    # What was found can be written down and read again without a change.
    again = Surrogate(points, values, noise, found[0].hyper)
    assert again.log_posterior == found[0].log_posterior
    assert found[0].hyper.lengthscales == tuple(
        float(f"{length:.6g}") for length in found[0].hyper.lengthscales
    )


def test_fitting_finds_which_axis_matters() -> None:
    rng = np.random.default_rng(0)
    points = rng.random((60, 2))
    values = np.sin(9 * points[:, 0])
    values = (values - values.mean()) / values.std()
    start = Hyperparameters.start(2)
    surrogate = fit(points, values, np.zeros(60), start, steps=80, rng=random.Random(0))
    matters, idle = surrogate.hyper.lengthscales
    assert idle > 2 * matters
    assert (
        surrogate.log_posterior > Surrogate(points, values, np.zeros(60), start).log_posterior + 5
    )


@pytest.mark.parametrize("mean", [-2.0, 0.0, 0.3, 4.0])
@pytest.mark.parametrize("deviation", [0.01, 0.5, 2.0])
def test_expected_improvement_is_the_integral_over_what_is_better(
    mean: float, deviation: float
) -> None:
    best = 0.4
    low, high = best, max(best, mean) + 12 * deviation
    expected, _ = quad(
        lambda value: (value - best) * norm.pdf(value, mean, deviation),
        low,
        high,
        points=[min(max(mean, low), high)],
    )
    found = expected_improvement(np.array([mean]), np.array([deviation]), best)
    assert found[0] == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_a_hundred_equal_points_can_be_conditioned_on() -> None:
    points, values = np.full((100, 4), 0.5), np.zeros(100)
    values[:50] = 1.0
    hyper = Hyperparameters(lengthscales=(5.0,) * 4, noise=np.exp(-9.0))
    surrogate = Surrogate(points, values, np.zeros(100), hyper)
    assert surrogate.mean(points[:1])[0] == pytest.approx(0.5, abs=1e-3)
