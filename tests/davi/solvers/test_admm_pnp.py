"""ADMM-PnP: exact posterior means in the limit, and its iteration in dense matrices."""

import pytest
import torch
from torch import Tensor

from davi.benchmarks.gaussian_posterior import (
    draw_samples,
    gaussian_problem,
    posterior_distance,
    smooth_covariance,
)
from davi.operators.svd import SVDOperator
from davi.solvers.admm_pnp import AdmmPnp
from tests.davi.solvers.spectral_problems import (
    COORDINATES,
    IMAGE,
    PRIOR_STD,
    five_operators,
    gain_and_spread,
    isotropic_prior,
    matrix_of,
    restore,
)

CONSTANT = {"sigma_start": 0.2, "sigma_d": 0.2, "clip": False}


@pytest.mark.parametrize("task", five_operators())
def test_admm_ends_at_the_exact_posterior_mean(task: str) -> None:
    """Of images whose pixels resemble each other, for constant and for falling noise."""
    sigma_y = 0.2 if task == "denoising" else 0.05
    problem = gaussian_problem(five_operators()[task], sigma_y, smooth_covariance(IMAGE))
    falling = {"sigma_start": 1.0, "sigma_d": 0.2, "clip": False}
    for settings in (CONSTANT, falling):
        samples = draw_samples(AdmmPnp(num_iterations=300, **settings), problem, 2)
        distance = posterior_distance(samples, problem)
        assert distance.mean_error < 0.002
        assert distance.spread == 0  # it draws nothing


@pytest.mark.parametrize(
    ("sigma_d", "iterations", "gains"),
    [
        (0.05, 12, [1.000, 1.069, 0.600, 0.341]),
        (0.1, 12, [1.000, 1.007, 0.956, 0.595]),
        (0.2, 12, [1.000, 1.000, 1.000, 0.931]),
        (0.2, 30, [1.000, 1.000, 1.000, 0.998]),
    ],
)
def test_gains_of_admm_on_the_way(sigma_d: float, iterations: int, gains: list[float]) -> None:
    """From an independent implementation, which calls D once more than it uses what D says."""
    solver = AdmmPnp(
        num_iterations=iterations - 1, sigma_start=sigma_d, sigma_d=sigma_d, clip=False
    )
    found = [gain_and_spread(solver, *each, shape=(3, 8, 8))[0] for each in COORDINATES]
    assert found == pytest.approx(gains, abs=0.015)


def admm_in_its_own_words(y: Tensor, operator: SVDOperator, sigma_y: float) -> Tensor:
    """Minimises with matrices and the unscaled multiplier, for noise of 0.4, 0.2 and 0.1."""
    A, prior = matrix_of(operator), isotropic_prior()
    z, multiplier = y.flatten(1) @ A, 0.0
    levels = [
        min(prior.sigma(t) for t in range(1000) if prior.sigma(t) >= level - 1e-9)
        for level in (0.4, 0.2, 0.1)
    ]
    for sigma_d in [*levels, levels[-1]]:
        rho = sigma_y**2 / sigma_d**2
        normal = A.T @ A + rho * torch.eye(A.shape[1]).double()
        x = torch.linalg.solve(normal, (y.flatten(1) @ A + rho * z - multiplier).T).T
        z = (x + multiplier / rho) * PRIOR_STD**2 / (PRIOR_STD**2 + sigma_d**2)
        multiplier = multiplier + rho * (x - z)
    return x.view(2, *IMAGE)


@pytest.mark.parametrize("task", five_operators())
def test_an_iteration_of_admm_for_falling_noise(task: str) -> None:
    operator = five_operators()[task]
    y = operator.project(torch.randn(2, *operator.measurement_shape, dtype=torch.float64))
    solver = AdmmPnp(num_iterations=3, sigma_start=0.4, sigma_d=0.1, clip=False)
    expected = admm_in_its_own_words(y, operator, 0.3)
    torch.testing.assert_close(restore(solver, y, operator, 0.3), expected)


def test_a_hole_fills_only_from_much_noise() -> None:
    """With a denoiser of little noise it stays as it was, 0."""
    problem = gaussian_problem(five_operators()["inpainting"], 0.05, smooth_covariance(IMAGE))
    hole = (problem.operator.singular_values == 0).expand(IMAGE).flatten()
    mean = problem.mean[hole]

    def share_filled(sigma_start: float) -> float:
        solver = AdmmPnp(num_iterations=12, sigma_start=sigma_start, sigma_d=0.02, clip=False)
        x = draw_samples(solver, problem, 1)[0, hole]
        return (x @ mean / mean.square().sum()).item()

    assert share_filled(0.02) < 0.05
    assert share_filled(2.0) > 0.75
