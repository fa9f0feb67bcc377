"""Richardson-Lucy deconvolution."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from davi.operators.gaussian_blur import GaussianBlur
from davi.solvers.base import GAUSSIAN_BLUR, Noise, Rngs, Solver
from davi.solvers.prior import CountedPrior

DARKEST = 1e-3  # intensity of a measurement: the method divides by intensities


class RichardsonLucy(Solver):
    """Fits intensities (x + 1) / 2 >= 0 to y as counts of photons, and stops before the noise.

    Source: Richardson 1972; Lucy 1974. One iteration is x <- x A^T (y / (A x + b)) / A^T 1. Here b
    is the light from beyond the border: 0 on the [-1, 1] scale, and thus half of the intensity.

    Fields:
        num_iterations: the fewer, the smoother.
    """

    label: ClassVar[str] = "Richardson-Lucy"
    needs: ClassVar[frozenset[str]] = frozenset({GAUSSIAN_BLUR})
    num_iterations: int = Field(12, ge=1)

    def solve(
        self, y: Tensor, operator: GaussianBlur, noise: Noise, prior: CountedPrior, rngs: Rngs
    ) -> Tensor:
        """See `Solver.solve`."""
        ones = torch.ones_like(y)
        beyond, seen = (1 - operator.A(ones)) / 2, operator.A_adjoint(ones)
        measured = ((y + 1) / 2).clamp(min=DARKEST)
        x = ones / 2
        for _ in range(self.num_iterations):
            x = x * operator.A_adjoint(measured / (operator.A(x) + beyond)) / seen
        return 2 * x - 1
