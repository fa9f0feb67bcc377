"""Problems with known answers for solvers that work coordinate by coordinate."""

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
from davi.system.runtime import keyed_rng

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
