"""Likelihood scores and the posterior's weight against dense closed forms."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from davi.likelihood import (
    PosteriorTarget,
    denoising_error,
    has_diagonal_gram,
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
DEVIATION = 0.7
OPERATORS = {
    "inpainting": lambda: Inpainting(SHAPE, centred_box(4, 4, 2)),
    "super_resolution": lambda: SuperResolution(SHAPE, 2),
    "bicubic": lambda: SuperResolution(SHAPE, 2, "bicubic"),
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


@dataclass(frozen=True)
class Problem:
    """Two images, each with its own noise sigma and its own time t."""

    operator: SVDOperator
    sigma: Tensor
    y: Tensor
    x0_hat: Tensor
    x_t: Tensor
    t: Tensor

    def parts(self, form: str, error: Tensor | None = None) -> tuple[Tensor, Tensor]:
        target = PosteriorTarget(white_prior(), form, error)
        return target.parts(self.y, self.operator, self.sigma, self.x0_hat, self.x_t, self.t)

    def gradient(self, x: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
        """Returns grad log N(y; A mean x, sigma^2 + spread A A^T), by autograd on matrices."""
        A, x = dense(self.operator), x.flatten(1).requires_grad_(True)
        noise = self.sigma.square().expand_as(self.y).flatten(1).diag_embed()
        covariance = noise + spread.view(-1, 1, 1) * A @ A.T
        density = torch.distributions.MultivariateNormal(mean.view(-1, 1) * x @ A.T, covariance)
        (score,) = torch.autograd.grad(density.log_prob(self.y.flatten(1)).sum(), x)
        return score.view_as(self.x_t)


OWN = ["each image", "each entry"]
CASES = [
    (task, own)
    for task in OPERATORS
    for own in OWN
    if own == "each image" or task not in ("gaussian_blur", "bicubic")
]


@pytest.fixture(params=CASES, ids=" ".join)
def problem(request: pytest.FixtureRequest) -> Problem:
    return make_problem(*request.param)


def make_problem(task: str, own: str) -> Problem:
    """A problem whose sigma each image has for its own, or each entry of y."""
    rng = torch.Generator().manual_seed(0)
    operator = OPERATORS[task]()
    x0_hat, x_t = torch.randn(2, 2, *SHAPE, generator=rng, dtype=torch.float64)
    y = torch.randn(2, *operator.measurement_shape, generator=rng, dtype=torch.float64)
    shape = (2, 1, 1, 1) if own == "each image" else y.shape
    sigma = 0.2 + 0.4 * torch.rand(shape, generator=rng, dtype=torch.float64)
    return Problem(operator, sigma, operator.project(y), x0_hat, x_t, torch.tensor([300, 120]))


@pytest.mark.parametrize("own", OWN)
@pytest.mark.parametrize("task", OPERATORS)
def test_what_is_said_at_the_sample(task: str, own: str) -> None:
    problem = make_problem(task, own)
    found = problem.parts("sample")[1]
    alpha_bar = SCHEDULE.alpha_bar_t(problem.t, found)
    expected = problem.gradient(problem.x0_hat, torch.ones(2), torch.zeros(2))
    torch.testing.assert_close(found, expected / alpha_bar.sqrt())


def test_what_is_said_at_the_noised_image_is_exact_for_a_flat_prior(problem: Problem) -> None:
    """x0 given x_t is then x_t / sqrt(abar) with variance s."""
    alpha_bar = SCHEDULE.alpha_bar[problem.t]
    expected = problem.gradient(problem.x_t, alpha_bar.rsqrt(), (1 - alpha_bar) / alpha_bar)
    torch.testing.assert_close(problem.parts("noised")[1], expected)


def test_what_is_said_through_the_denoiser_is_exact_for_a_white_prior(problem: Problem) -> None:
    """x0 given x_t is then a multiple of x_t, with a white variance."""
    s = (1 - SCHEDULE.alpha_bar) / SCHEDULE.alpha_bar
    shrinkage = DEVIATION**2 / (DEVIATION**2 + s)
    mean, error = shrinkage / SCHEDULE.alpha_bar.sqrt(), shrinkage * s
    eps_theta, found = problem.parts("denoised", error)
    expected = problem.gradient(problem.x_t, mean[problem.t], error[problem.t])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(eps_theta, white_prior().eps(problem.x_t, problem.t))
    assert not found.requires_grad


def test_posterior_weight_is_diagonal_in_the_singular_directions(problem: Problem) -> None:
    """Of noise that each entry has for its own, the mean variance counts."""
    direction, operator, sigma = problem.x_t, problem.operator, problem.sigma
    s = SCHEDULE.noise_ratio(problem.t, direction)
    target = PosteriorTarget(white_prior(), "noised", spectral_power=2, image_deviation=DEVIATION)
    found = target.weigh(direction, s, operator, sigma)
    identity, A = torch.eye(DIM, dtype=torch.float64), dense(operator)
    for index in range(2):
        variance = sigma[index].square().mean()
        M = torch.linalg.inv(A.T @ A / variance + identity / DEVIATION**2)
        spread = s[index].item()
        shrink = torch.linalg.inv(M + spread * identity)
        expected = 4 * M @ shrink @ M @ shrink @ (spread * shrink)
        torch.testing.assert_close(found[index].flatten(), expected @ direction[index].flatten())


@pytest.mark.parametrize("task", OPERATORS)
def test_which_operators_allow_noise_of_each_entry(task: str) -> None:
    A = dense(OPERATORS[task]())
    gram = A @ A.T
    expected = torch.allclose(gram, gram.diag().diag())
    assert has_diagonal_gram(OPERATORS[task](), torch.device("cpu")) == expected
    assert expected == (task not in ("gaussian_blur", "bicubic"))


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

    fake_score, samples = Residual(), samples.requires_grad_()
    loss, direction = posterior_term(fake_score, target, samples, y, operator, sigma, t, eps, y)
    loss.backward()
    largest = fake_score.slope.grad.abs().max().item()
    assert largest < 0.01 if spread == 1 else largest > 0.1
    torch.testing.assert_close(direction, torch.zeros_like(direction))
    assert samples.grad is None
    assert not direction.requires_grad
