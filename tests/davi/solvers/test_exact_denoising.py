"""Exact denoising against the exact posterior of a Gaussian prior, and what it refuses."""

import pytest
import torch

from davi.benchmarks.gaussian_posterior import (
    draw_samples,
    gaussian_problem,
    posterior_distance,
    smooth_covariance,
)
from davi.operators.denoising import Denoising
from davi.operators.linear import LinearOperator
from davi.operators.noise import GaussianNoise, PoissonNoise
from davi.operators.super_resolution import SuperResolution
from davi.solvers.base import Noise
from davi.solvers.exact_denoising import ExactDenoising
from davi.system.errors import InputError
from tests.davi.solvers.spectral_problems import IMAGE, isotropic_prior, restore, rngs_of


@pytest.mark.parametrize(("num_steps", "spread"), [(10, 1.026), (50, 1.003)])
def test_mean_and_spread_are_those_of_the_posterior(num_steps: int, spread: float) -> None:
    """The spread with few steps is what the recursion of the variances gives, by hand."""
    problem = gaussian_problem(Denoising((3, 8, 8)), 0.2, smooth_covariance((3, 8, 8)))
    samples = draw_samples(ExactDenoising(num_steps=num_steps), problem, 1500)
    distance = posterior_distance(samples, problem)
    assert distance.mean_error < 1.3 / 1500**0.5
    assert distance.gain == pytest.approx(1, abs=0.003)
    assert distance.spread == pytest.approx(spread, abs=0.008)


@pytest.mark.parametrize(("sigma", "evaluations"), [(0.05, 12), (0.2, 50)])
def test_no_more_steps_than_times_below_the_noise(sigma: float, evaluations: int) -> None:
    prior, noise = isotropic_prior(), GaussianNoise(sigma, sigma)
    ExactDenoising()(torch.zeros(3, *IMAGE), Denoising(IMAGE), noise, prior, rngs_of(range(3)))
    assert (prior.evaluations.forward, prior.evaluations.backward) == (3 * evaluations, 0)


def test_a_restoration_does_not_depend_on_the_batch() -> None:
    y = torch.rand(3, *IMAGE) - 0.5
    together = restore(ExactDenoising(num_steps=5), y, Denoising(IMAGE), 0.2)
    alone = restore(ExactDenoising(num_steps=5), y[:1], Denoising(IMAGE), 0.2)
    torch.testing.assert_close(alone, together[:1])


@pytest.mark.parametrize(
    ("operator", "noise", "lacking"),
    [
        (SuperResolution(IMAGE, 2), GaussianNoise(0.2, 0.2), "needs the task denoising"),
        (Denoising(IMAGE), PoissonNoise(1.0), "needs Gaussian noise of one known sigma"),
        (Denoising(IMAGE), GaussianNoise(0.1, 0.2), "needs Gaussian noise of one known sigma"),
        (Denoising(IMAGE), GaussianNoise(0.0, 0.0), "sigma 0; the prior knows 0.01 to 157.4"),
    ],
)
def test_another_problem_is_refused(operator: LinearOperator, noise: Noise, lacking: str) -> None:
    y = torch.zeros(1, *operator.measurement_shape)
    with pytest.raises(InputError, match=lacking):
        ExactDenoising()(y, operator, noise, isotropic_prior(), rngs_of([0]))
