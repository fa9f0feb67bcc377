"""Wiener deconvolution."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from davi.operators.gaussian_blur import GaussianBlur
from davi.operators.noise import GaussianNoise
from davi.solvers.base import GAUSSIAN_BLUR, NOISE_LEVEL, Rngs, Solver
from davi.solvers.prior import CountedPrior


class Wiener(Solver):
    """x = V s / (s^2 + sigma^2 / signal^2) U^T y: the best linear answer for white images.

    A = U diag(s) V^T takes the place of the Fourier transform, whose images would have to repeat
    beyond their borders, which these do not.

    Fields:
        signal: deviation of a coefficient of the image, on the [-1, 1] scale.
    """

    label: ClassVar[str] = "Wiener"
    needs: ClassVar[frozenset[str]] = frozenset({NOISE_LEVEL, GAUSSIAN_BLUR})
    signal: float = Field(0.35, gt=0)

    def solve(
        self,
        y: Tensor,
        operator: GaussianBlur,
        noise: GaussianNoise,
        prior: CountedPrior,
        rngs: Rngs,
    ) -> Tensor:
        """See `Solver.solve`."""
        sigma = max(noise.sigma_low, torch.finfo(y.dtype).eps)  # y is rounded
        values = operator.singular_values
        gain = values / (values**2 + (sigma / self.signal) ** 2)
        return operator.V(gain.to(y.dtype) * operator.U_adjoint(y))
