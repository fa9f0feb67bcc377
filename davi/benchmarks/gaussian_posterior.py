"""How far a solver's samples are from an exact posterior, where that has a closed form.

Prior and noise are Gaussian: x_0 ~ N(0, C), y = A x_0 + n, so that p(x_0 | y) = N(m, P) with
P = (C^-1 + A^T A / sigma_y^2)^-1 and m = P A^T y / sigma_y^2.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from davi.operators.linear import LinearOperator
from davi.operators.noise import GaussianNoise
from davi.priors.analytic import GaussianMixturePrior
from davi.schedule import Schedule
from davi.solvers.base import Solver
from davi.solvers.prior import CountedPrior
from davi.system.runtime import keyed_rng

CORRELATION_LENGTH = 2.0  # pixels, between neighbours of the default prior
CHANNEL_CORRELATION = 0.8
PRIOR_STD = 0.5  # of a pixel on the [-1, 1] scale


@dataclass(frozen=True)
class GaussianProblem:
    """A measurement of a Gaussian image, with its posterior; all float64.

    Attributes:
        operator: A.
        sigma_y: of the noise.
        prior: N(0, C), as the diffusion prior a solver wants.
        y: (1, *measurement_shape).
        mean: (D,) posterior mean.
        covariance: (D, D) posterior covariance.
        prior_covariance: (D, D).
    """

    operator: LinearOperator
    sigma_y: float
    prior: GaussianMixturePrior
    y: Tensor
    mean: Tensor
    covariance: Tensor
    prior_covariance: Tensor


@dataclass(frozen=True)
class PosteriorDistance:
    """What a solver's samples differ by from the exact posterior; 0, 1, 1 and 0 are exact.

    Attributes:
        mean_error: |E x - m| over sqrt(trace P), the spread of the posterior.
        gain: <E x, m> / <m, m>: below 1 the measurement is trusted too little.
        spread: sqrt(trace cov x / trace P): below 1 the samples are too sure.
        covariance_error: |cov x - P| / |P| (Frobenius).
    """

    mean_error: float
    gain: float
    spread: float
    covariance_error: float


def smooth_covariance(image_shape: tuple[int, int, int]) -> Tensor:
    """Returns (D, D) of images whose neighbouring pixels and channels resemble each other."""
    channels, height, width = image_shape

    def along(size: int) -> Tensor:
        position = torch.arange(size, dtype=torch.float64)
        return torch.exp(-(position[:, None] - position).abs() / CORRELATION_LENGTH)

    between = torch.full((channels, channels), CHANNEL_CORRELATION, dtype=torch.float64)
    between.fill_diagonal_(1.0)
    return PRIOR_STD**2 * torch.kron(between, torch.kron(along(height), along(width)))


def gaussian_problem(
    operator: LinearOperator, sigma_y: float, covariance: Tensor, seed: int = 0
) -> GaussianProblem:
    """Returns a measurement of a drawn image, and its exact posterior.

    Args:
        operator: A; its images have D = C H W entries.
        sigma_y: noise on the [-1, 1] scale.
        covariance: (D, D) float64 of the prior, whose mean is 0.
        seed: of image and noise.
    """
    size = len(covariance)
    prior = GaussianMixturePrior(
        torch.ones(1, dtype=torch.float64),
        torch.zeros(1, size, dtype=torch.float64),
        covariance[None],
        Schedule.named("linear"),
    )
    rng = keyed_rng("cpu", seed, "gaussian problem")
    x0 = prior.sample(1, rng).view(1, *operator.image_shape)
    noise = torch.randn(1, *operator.measurement_shape, generator=rng, dtype=torch.float64)
    y = operator.project(operator.A(x0) + sigma_y * noise)
    basis = torch.eye(size, dtype=torch.float64).view(size, *operator.image_shape)
    A = operator.A(basis).flatten(1).T  # columns are the images of unit vectors
    posterior = torch.linalg.inv(torch.linalg.inv(covariance) + A.T @ A / sigma_y**2)
    mean = posterior @ A.T @ y.flatten() / sigma_y**2
    return GaussianProblem(operator, sigma_y, prior, y, mean, posterior, covariance)


def draw_samples(
    solver: Solver, problem: GaussianProblem, num_samples: int, seed: int = 0
) -> Tensor:
    """Returns restorations of the problem's one measurement, (num_samples, D) float64."""
    rngs = [keyed_rng("cpu", seed, "gaussian samples", index) for index in range(num_samples)]
    x = solver(
        problem.y.expand(num_samples, *problem.y.shape[1:]),
        problem.operator,
        GaussianNoise(problem.sigma_y, problem.sigma_y),
        CountedPrior(problem.prior),
        rngs,
    )
    return x.flatten(1)


def posterior_distance(samples: Tensor, problem: GaussianProblem) -> PosteriorDistance:
    """Returns how far samples (N, D) are from the problem's posterior.

    With N samples even exact ones have a mean error of about 1 / sqrt(N), and a covariance error
    of about sqrt(D / N) if the posterior's variance is spread over all D directions.
    """
    mean, covariance = samples.mean(dim=0), torch.cov(samples.T)
    total = problem.covariance.trace()
    return PosteriorDistance(
        mean_error=((mean - problem.mean).norm() / total.sqrt()).item(),
        gain=(mean @ problem.mean / problem.mean.square().sum()).item(),
        spread=(covariance.trace() / total).sqrt().item(),
        covariance_error=(
            (covariance - problem.covariance).norm() / problem.covariance.norm()
        ).item(),
    )
