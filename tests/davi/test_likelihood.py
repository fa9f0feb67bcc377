"""Likelihood scores and the posterior's weight against dense closed forms."""

import math

import pytest
import torch
from torch import Tensor

from davi.likelihood import (
    PosteriorTarget,
    at_noised,
    at_sample,
    denoising_error,
    posterior_weight,
    through_denoiser,
)
from davi.operators.colorization import Colorization
from davi.operators.gaussian_blur import GaussianBlur
from davi.operators.inpainting import Inpainting, centred_box
from davi.operators.super_resolution import SuperResolution
from davi.operators.svd import SVDOperator
from davi.priors.analytic import GaussianMixturePrior
from davi.schedule import Schedule
from davi.score import FrozenPrior
from davi.terms import posterior_term

SHAPE = (3, 4, 4)
DIM = math.prod(SHAPE)
SCHEDULE = Schedule.named("linear")
SIGMA, DEVIATION = 0.3, 0.7
OPERATORS = {
    "inpainting": lambda: Inpainting(SHAPE, centred_box(4, 4, 2)),
    "super_resolution": lambda: SuperResolution(SHAPE, 2),
    "gaussian_blur": lambda: GaussianBlur(SHAPE, 3, 0.8),
    "colorization": lambda: Colorization(SHAPE),
}


def dense(operator: SVDOperator) -> Tensor:
    """A as a matrix."""
    return operator.A(torch.eye(DIM, dtype=torch.float64).view(-1, *SHAPE)).flatten(1).T


def white_prior() -> FrozenPrior:
    covariance = DEVIATION**2 * torch.eye(DIM, dtype=torch.float64)
    weights, means = torch.ones(1, dtype=torch.float64), torch.zeros(1, DIM, dtype=torch.float64)
    return FrozenPrior(GaussianMixturePrior(weights, means, covariance[None], SCHEDULE))


def gradient(y: Tensor, A: Tensor, x_t: Tensor, mean: float, spread: float) -> Tensor:
    """Returns grad log N(y; A mean x_t, SIGMA^2 I + spread A A^T), by autograd on matrices."""
    x = x_t.flatten(1).requires_grad_(True)
    covariance = SIGMA**2 * torch.eye(len(A), dtype=torch.float64) + spread * A @ A.T
    density = torch.distributions.MultivariateNormal(mean * x @ A.T, covariance)
    (score,) = torch.autograd.grad(density.log_prob(y.flatten(1)).sum(), x)
    return score.view_as(x_t)


@pytest.fixture(params=OPERATORS)
def problem(request: pytest.FixtureRequest) -> tuple[SVDOperator, Tensor, Tensor, Tensor]:
    """Operator, measurements, x_t and t."""
    rng = torch.Generator().manual_seed(0)
    operator = OPERATORS[request.param]()
    x = torch.randn(2, *SHAPE, generator=rng, dtype=torch.float64)
    y = torch.randn(2, *operator.measurement_shape, generator=rng, dtype=torch.float64)
    return operator, operator.project(y), x, torch.tensor([300, 300])


def test_what_is_said_at_the_sample(problem: tuple) -> None:
    operator, y, x0_hat, t = problem
    alpha_bar = SCHEDULE.alpha_bar_t(t, x0_hat)
    found = at_sample(y, operator, SIGMA, x0_hat, alpha_bar)
    expected = gradient(y, dense(operator), x0_hat, 1.0, 0.0) / alpha_bar.sqrt()
    torch.testing.assert_close(found, expected)


def test_what_is_said_at_the_noised_image_is_exact_for_a_flat_prior(problem: tuple) -> None:
    """x0 given x_t is then x_t / sqrt(abar) with variance s."""
    operator, y, x_t, t = problem
    alpha_bar = SCHEDULE.alpha_bar[300].item()
    found = at_noised(y, operator, SIGMA, x_t, SCHEDULE.alpha_bar_t(t, x_t))
    expected = gradient(y, dense(operator), x_t, alpha_bar**-0.5, (1 - alpha_bar) / alpha_bar)
    torch.testing.assert_close(found, expected)


def test_what_is_said_through_the_denoiser_is_exact_for_a_white_prior(problem: tuple) -> None:
    """x0 given x_t is then a multiple of x_t, with a white variance."""
    operator, y, x_t, t = problem
    alpha_bar = SCHEDULE.alpha_bar[300].item()
    s = (1 - alpha_bar) / alpha_bar
    shrinkage = DEVIATION**2 / (DEVIATION**2 + s)
    error = torch.tensor(shrinkage * s, dtype=torch.float64)
    prior = white_prior()
    eps_theta, found = through_denoiser(y, operator, SIGMA, x_t, t, prior, error)
    expected = gradient(y, dense(operator), x_t, shrinkage * alpha_bar**-0.5, shrinkage * s)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(eps_theta, prior.eps(x_t, t))
    assert not found.requires_grad


def test_posterior_weight_is_diagonal_in_the_singular_directions(problem: tuple) -> None:
    operator, _, direction, t = problem
    s = SCHEDULE.noise_ratio(t, direction)
    found = posterior_weight(direction, s, operator, SIGMA, DEVIATION, power=2)
    identity = torch.eye(DIM, dtype=torch.float64)
    A = dense(operator)
    M = torch.linalg.inv(A.T @ A / SIGMA**2 + identity / DEVIATION**2)
    spread = s[0].item()
    shrink = torch.linalg.inv(M + spread * identity)
    expected = 4 * M @ shrink @ M @ shrink @ (spread * shrink)
    torch.testing.assert_close(found.flatten(1), direction.flatten(1) @ expected.T)


def test_denoising_error_of_a_white_prior(rng: torch.Generator) -> None:
    images = DEVIATION * torch.randn(2000, *SHAPE, generator=rng, dtype=torch.float64)
    eps = torch.randn(images.shape, generator=rng, dtype=torch.float64)
    found = denoising_error(white_prior(), images, eps, 24)
    s = (1 - SCHEDULE.alpha_bar) / SCHEDULE.alpha_bar
    torch.testing.assert_close(found, DEVIATION**2 * s / (DEVIATION**2 + s), rtol=0.03, atol=0)


@pytest.mark.parametrize("spread", [1.0, 0.5])
def test_at_posterior_samples_the_fake_score_is_the_prior(
    spread: float, rng: torch.Generator
) -> None:
    """What s_psi learns beyond s_theta is then 0 on average, whatever x_t and y are.

    Each image has a sigma of its own. Samples with half the spread are the control.
    """
    operator, n = Inpainting((1, 1, 2), torch.tensor([[1.0, 0.0]])), 100_000
    covariance = DEVIATION**2 * torch.eye(2, dtype=torch.float64)
    weights, means = torch.ones(1, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    prior = FrozenPrior(GaussianMixturePrior(weights, means, covariance[None], SCHEDULE))

    def normal() -> Tensor:
        return torch.randn(n, 1, 1, 2, generator=rng, dtype=torch.float64)

    sigma = 0.15 + 0.45 * torch.rand(n, 1, 1, 1, generator=rng, dtype=torch.float64)
    y = operator.project(operator.A(DEVIATION * normal()) + sigma * normal())
    variance = 1 / (operator.singular_values / sigma**2 + DEVIATION**-2)
    samples = variance * y / sigma**2 + spread * variance.sqrt() * normal()
    t, eps = torch.full((n,), 150), normal()
    s = SCHEDULE.noise_ratio(t[:1], samples)
    error = (DEVIATION**2 * s / (DEVIATION**2 + s)).expand(1000, 1, 1, 1).flatten()
    target = PosteriorTarget(prior, "denoised", error)

    class Residual(torch.nn.Module):
        """The prior, plus a linear function of x_t and y."""

        schedule = SCHEDULE

        def __init__(self) -> None:
            super().__init__()
            self.slope = torch.nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))

        def eps(self, x_t: Tensor, t: Tensor, y_image: Tensor) -> Tensor:
            return prior.eps(x_t, t) + self.slope[0] * x_t + self.slope[1] * y_image

    fake_score = Residual()
    loss, direction = posterior_term(fake_score, target, samples, y, operator, sigma, t, eps, y)
    loss.backward()
    largest = fake_score.slope.grad.abs().max().item()
    assert largest < 0.01 if spread == 1 else largest > 0.1
    torch.testing.assert_close(direction, torch.zeros_like(direction))
