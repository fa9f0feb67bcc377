"""Problems with known answers for solvers that work coordinate by coordinate."""

from math import prod

import torch
from torch import Tensor, nn

from davi.operators.colorization import Colorization
from davi.operators.denoising import Denoising
from davi.operators.gaussian_blur import GaussianBlur
from davi.operators.inpainting import Inpainting, centred_box
from davi.operators.linear import LinearOperator
from davi.operators.noise import GaussianNoise
from davi.operators.super_resolution import SuperResolution
from davi.operators.svd import SVDOperator
from davi.schedule import Schedule
from davi.solvers.base import Solver
from davi.solvers.prior import CountedPrior
from davi.system.runtime import keyed_rng, normal_each

IMAGE = (3, 8, 8)
PRIOR_STD = 0.5


class IsotropicPrior(nn.Module):
    """The exact score of diffused images of independent pixels N(0, PRIOR_STD^2)."""

    def __init__(self) -> None:
        super().__init__()
        self.schedule = Schedule.named("linear")

    def eps_and_variance(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha_bar = self.schedule.alpha_bar_t(t, x_t)
        variance = alpha_bar * PRIOR_STD**2 + 1 - alpha_bar
        return (1 - alpha_bar).sqrt() * x_t / variance, x_t[:, :0]


class Known(LinearOperator):
    """Another operator, of which only A and its adjoint are known."""

    def __init__(self, operator: SVDOperator) -> None:
        super().__init__(operator.image_shape, operator.measurement_shape)
        self.operator = operator

    def A(self, x: Tensor) -> Tensor:
        return self.operator.A(x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.operator.A_adjoint(y)

    def project(self, y: Tensor) -> Tensor:
        return self.operator.project(y)


def five_operators() -> dict[str, SVDOperator]:
    """The five tasks on small images; the blur is exact and has singular values down to 1e-15."""
    return {
        "gaussian_blur": GaussianBlur(IMAGE, 61, 3.0),
        "super_resolution": SuperResolution(IMAGE, 4),
        "inpainting": Inpainting(IMAGE, centred_box(8, 8, 4)),
        "denoising": Denoising(IMAGE),
        "colorization": Colorization(IMAGE),
    }


def isotropic_prior() -> CountedPrior:
    return CountedPrior(IsotropicPrior())


def rngs_of(indices: range, seed: int = 0) -> list[torch.Generator]:
    return [keyed_rng("cpu", seed, index) for index in indices]


def restore(
    solver: Solver, y: Tensor, operator: LinearOperator, sigma_y: float, seed: int = 0
) -> Tensor:
    """Restorations with the isotropic prior; image i has generator i."""
    noise, rngs = GaussianNoise(sigma_y, sigma_y), rngs_of(range(len(y)), seed)
    return solver(y, operator, noise, isotropic_prior(), rngs)


# (s, sigma_y) of a measurement s x + n; (1, 0.2) and (1/4, 0.05) are the same problem.
COORDINATES = [(1.0, 0.05), (1.0, 0.2), (0.25, 0.05), (0.25, 0.2)]


def gain_and_spread(
    solver: Solver, s: float, sigma_y: float, shape: tuple[int, int, int] = (3, 64, 64)
) -> list[float]:
    """Gain E x / m and spread std x / sqrt(v) over the exact posterior N(m, v) of every pixel.

    Images are of the isotropic prior, and A x = s x.
    """
    x0, n = normal_each((2, *shape), rngs_of(range(1), seed=1)).double()[0]
    y, operator = s * PRIOR_STD * x0 + sigma_y * n, Denoising(shape)
    operator._set_singular_values(torch.tensor(s, dtype=torch.float64))
    x = restore(solver, y[None], operator, sigma_y)[0]
    variance = 1 / (1 / PRIOR_STD**2 + s**2 / sigma_y**2)
    mean = variance * s * y / sigma_y**2
    gain = (x * mean).sum() / mean.square().sum()
    return [gain.item(), ((x - gain * mean).std() / variance**0.5).item()]


def matrix_of(operator: SVDOperator) -> Tensor:
    """A as a dense (measurement entries, pixels) float64 matrix."""
    size = prod(operator.image_shape)
    basis = torch.eye(size, dtype=torch.float64).view(size, *operator.image_shape)
    return operator.A(basis).flatten(1).T
