"""CDDB: I2SB whose estimates are drawn towards the measurement."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from davi.operators.linear import LinearOperator
from davi.operators.svd import SVDOperator
from davi.solvers.base import LINEAR, Noise, Rngs
from davi.solvers.i2sb import I2SB, BridgeProblem
from davi.solvers.prior import CountedPrior
from davi.system.errors import InputError

ROUNDING = 1e-6  # of a largest step size, relative


class CDDB(I2SB):
    """Data-consistent direct diffusion bridge (Chung et al. 2023), Algorithms 1 and 2 (deep).

    Every x0 of I2SB becomes x0 - step_size * grad |A x0 - y|^2, which multiplies the residual in a
    singular direction of A by 1 - 2 step_size s^2. A factor below 0 would reflect it, so that
    2 step_size s_max^2 <= 1 is required. The official 1.0 is for super-resolution, where
    s_max = 1/4 and the factor is 0.875; for A = I it would be -1. The noise of y is not known to
    the method: many full steps fit it. Inpainting has nothing to correct, since x0 has the measured
    pixels already.

    Fields:
        step_size: of the gradient; None for 0.5 / s_max^2, the largest allowed.
        deep: differentiate by x_k, through the network, and subtract the gradient from x_j.
        Further ones are those of I2SB.
    """

    label: ClassVar[str] = "CDDB"
    needs: ClassVar[frozenset[str]] = I2SB.needs | {LINEAR}
    step_size: float | None = Field(None, ge=0)
    deep: bool = False

    def solve(
        self, y: Tensor, operator: LinearOperator, noise: Noise, prior: CountedPrior, rngs: Rngs
    ) -> Tensor:
        """See `Solver.solve`."""
        # Once: on a GPU to look at the singular values means to wait for it.
        fitted = self.model_copy(update={"step_size": self.step_for(operator)})
        return super(CDDB, fitted).solve(y, operator, noise, prior, rngs)

    def goal(self, problem: BridgeProblem, x: Tensor, k: int, kept: float) -> Tensor:
        """See `I2SB.goal`."""
        if not self.deep:
            x0 = super().goal(problem, x, k, kept)
            return corrected(x0, problem.y, problem.operator, self.step_size)
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            x0 = super().goal(problem, x, k, kept)
            residual = problem.operator.A(x0) - problem.y
            (gradient,) = torch.autograd.grad(residual.square().sum(), x)
        # The step weighs it by 1 - kept.
        return x0.detach() - self.step_size / (1 - kept) * gradient

    def step_for(self, operator: LinearOperator) -> float:
        """Returns the step size for an operator.

        Raises:
            InputError: it is too large, or not given for an operator without known s_max.
        """
        if not isinstance(operator, SVDOperator):
            if self.step_size is None:
                raise InputError(
                    f"{self.label}: step_size: {type(operator).__name__} has no known singular "
                    "values; give a step size of at most 0.5 / s_max^2"
                )
            return self.step_size
        largest = 0.5 / operator.singular_values.max().item() ** 2
        if self.step_size is None:
            return largest
        if self.step_size > largest * (1 + ROUNDING):
            raise InputError(
                f"{self.label}: step_size={self.step_size} reflects the residual of "
                f"{type(operator).__name__}; at most 0.5 / s_max^2 = {largest:.4g} is allowed"
            )
        return self.step_size


def corrected(x0: Tensor, y: Tensor, operator: LinearOperator, step_size: float) -> Tensor:
    """Returns x0 - step_size * grad |A x0 - y|^2, (B, C, H, W)."""
    return x0 - 2 * step_size * operator.A_adjoint(operator.A(x0) - y)
