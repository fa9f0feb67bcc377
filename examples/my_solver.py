"""Null-space projection at every step of DDIM: DDNM (ICLR 2023) without noise."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from davi.operators.linear import LinearOperator
from davi.solvers.base import Noise, Solver
from davi.solvers.grids import steps_of, stride_times
from davi.solvers.prior import CountedPrior
from davi.system.runtime import normal_each


class NullSpaceProjection(Solver):
    """x0' = x0 + A^+ (y - A x0): the measurement says what A sees, the prior says the rest.

    Fields:
        num_steps: evaluations of the prior.
        eta: share of fresh noise in that of the next time.
    """

    label: ClassVar[str] = "null-space projection"
    num_steps: int = Field(100, ge=1, le=1000)
    eta: float = Field(0.85, ge=0, le=1)

    def solve(
        self,
        y: Tensor,
        operator: LinearOperator,
        noise: Noise,
        prior: CountedPrior,
        rngs: list[torch.Generator],
    ) -> Tensor:
        """See `Solver.solve`."""
        x = normal_each(operator.image_shape, rngs)
        for t, s in steps_of(stride_times(self.num_steps)):
            x0, eps, _ = prior.predict(x, t)
            x0 = x0 + operator.A_dagger(y - operator.A(x0))
            fresh = normal_each(operator.image_shape, rngs)
            noise_s = self.eta * fresh + (1 - self.eta**2) ** 0.5 * eps
            x = prior.alpha_bar(s) ** 0.5 * x0 + (1 - prior.alpha_bar(s)) ** 0.5 * noise_s
        return x
