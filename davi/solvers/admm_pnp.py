"""ADMM-PnP: the proximal step of the measurement in turns with the prior as a denoiser."""

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from davi.operators.linear import LinearOperator
from davi.solvers.base import LINEAR, NOISE_LEVEL, SIGMA_FLOOR, Noise, Rngs, Solver
from davi.solvers.prior import CountedPrior


class AdmmPnp(Solver):
    """x = argmin |y - A x|^2 + rho |x - (z - u)|^2, z = D(x + u), u = u + x - z, in turns.

    Source: Chan, Wang and Elgendy 2017, "Plug-and-Play ADMM for Image Restoration". D is the
    prior's E[x_0 | x_0 + sigma_d n]. The denoiser of a Gaussian N(0, C) is the proximal step of
    sigma_d^2 x^T C^-1 x, so that the iteration then ends at the minimum of |y - A x|^2 +
    rho sigma_d^2 x^T C^-1 x. This is the posterior mean for rho = sigma_y^2 / sigma_d^2 and for no
    other rho, hence rho is no field. Starts at x = A^T y, draws nothing, and returns x.

    A denoiser of little noise leaves a hole as it was: inpainting needs a large sigma_start.

    Fields:
        num_iterations: network evaluations; a last proximal step follows.
        sigma_start: of D at first, on the [-1, 1] scale; falls by a constant factor.
        sigma_d: of D in the last iteration; as sigma_start for the algorithm as published.
        clip: clip what D returns to [-1, 1].
    """

    label: ClassVar[str] = "ADMM-PnP"
    needs: ClassVar[frozenset[str]] = frozenset({LINEAR, NOISE_LEVEL})
    num_iterations: int = Field(30, ge=1)
    sigma_start: float = Field(5.0, gt=0)
    sigma_d: float = Field(0.02, gt=0)
    clip: bool = True

    def solve(
        self, y: Tensor, operator: LinearOperator, noise: Noise, prior: CountedPrior, rngs: Rngs
    ) -> Tensor:
        """See `Solver.solve`."""
        sigma_y = max(noise.sigma_low, SIGMA_FLOOR)
        z = operator.A_adjoint(y)
        u, before = torch.zeros_like(z), None
        for t in self.times(prior):
            sigma = prior.sigma(t)
            # u times rho is the multiplier, which stays as it is where rho changes.
            u = u * (sigma / before) ** 2 if before else u
            v = operator.proximal(z - u, y, (sigma_y / sigma) ** 2) + u
            z = prior.predict(prior.alpha_bar(t) ** 0.5 * v, t).x0
            z = z.clamp(-1, 1) if self.clip else z
            u, before = v - z, sigma
        return operator.proximal(z - u, y, (sigma_y / sigma) ** 2)

    def times(self, prior: CountedPrior) -> list[int]:
        """Returns the diffusion time of each iteration: the first that has the noise of D."""
        ends = math.log10(self.sigma_d), math.log10(self.sigma_start)
        wanted = torch.logspace(*ends, self.num_iterations, dtype=torch.float64).flip(0)
        return prior.schedule.index_of_noise(wanted).tolist()
