"""PiGDM: DDIM, guided by a Gaussian approximation of p(y | x_t)."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from davi.operators.linear import LinearOperator
from davi.operators.noise import GaussianNoise
from davi.schedule import NUM_STEPS
from davi.solvers.base import GRADIENT, LINEAR, NOISE_LEVEL, Noise, Rngs, Solver
from davi.solvers.grids import steps_of, stride_times
from davi.solvers.prior import CountedPrior
from davi.system.runtime import normal_each


class Pigdm(Solver):
    """x_s = sqrt(abar_s) x0 + c1 z + c2 eps + guidance w J^T u, with J = dx0 / dx_t.

    u = A^T (A A^T + (sigma_y / r_t)^2)^{-1} (y - A x0) is the correction that least squares with
    the prior variance r_t^2 = 1 - abar_t gives. The sampler starts from the u of x0 = 0 rather than
    from A^+ y, which for a blur is mostly amplified noise.

    Source: Song et al. 2023, Pseudoinverse-Guided Diffusion Models, Algorithm 1; noise-blind and
    weights as in the official code (RED-diff's).

    Fields:
        num_steps: times, the multiples of 1000 // num_steps.
        variant: what u and w are.
            noise_blind: sigma_y = 0 in u, w = sqrt(abar_s abar_t): the official code. It returns
                a least-squares solution, noise and all.
            noise_aware: the same w with sigma_y in u.
            noise_aware_unscaled: sigma_y in u, w = sqrt(abar_t).
            likelihood_score: grad log p(y | x_t) = J^T u / r_t^2 is added to the prior's score
                before a plain DDIM step; the closest to a Gaussian's posterior, but it weighs the
                Jacobian at early times more, and may diverge with a network and few steps.
        eta: of DDIM, 0 for no noise, 1 for that of DDPM. Beyond 1, what it asks for at small t is
            more than the step's whole noise, and eps is left out there.
        guidance: factor of the guidance; another knob than eta.
    """

    label: ClassVar[str] = "PiGDM"
    needs: ClassVar[frozenset[str]] = frozenset({LINEAR, NOISE_LEVEL, GRADIENT})
    num_steps: int = Field(100, ge=1, le=NUM_STEPS)
    variant: Literal["noise_blind", "noise_aware", "noise_aware_unscaled", "likelihood_score"] = (
        "noise_aware"
    )
    eta: float = Field(1.0, ge=0)
    guidance: float = Field(1.0, ge=0)

    def require(self, operator: LinearOperator, noise: Noise) -> None:
        """See `Solver.require`; the noise-blind variant takes any noise."""
        blind = self.variant == "noise_blind"
        super().require(operator, GaussianNoise(0.0, 0.0) if blind else noise)

    def solve(
        self, y: Tensor, operator: LinearOperator, noise: Noise, prior: CountedPrior, rngs: Rngs
    ) -> Tensor:
        """See `Solver.solve`."""
        sigma_y = 0.0 if self.variant == "noise_blind" else noise.sigma_low
        steps = steps_of(stride_times(self.num_steps))
        abar = prior.alpha_bar(steps[0][0])
        x_t = normal_each(operator.image_shape, rngs).to(y)
        start = self._correction(y, operator, sigma_y, abar)
        x_t = abar**0.5 * start + (1 - abar) ** 0.5 * x_t
        for t, s in steps:
            abar, abar_next = prior.alpha_bar(t), prior.alpha_bar(s)
            with torch.enable_grad():
                x_t = x_t.detach().requires_grad_(True)
                x0, eps, _ = prior.predict(x_t, t)
            u = self._correction(y - operator.A(x0), operator, sigma_y, abar)
            (pull,) = torch.autograd.grad(x0, x_t, u)
            c1, c2 = ddim_coefficients(abar, abar_next, self.eta)
            z = normal_each(operator.image_shape, rngs).to(y)
            x_t = abar_next**0.5 * x0 + c1 * z + c2 * eps
            x_t = x_t + self.guidance * self._weight(abar, abar_next, c2) * pull
        return x_t

    def conditional_variance(self, abar: float) -> float:
        """Returns r_t^2, what the method takes for the variance of a pixel of x_0 given x_t."""
        return 1 - abar

    def _correction(
        self, residual: Tensor, operator: LinearOperator, sigma_y: float, abar: float
    ) -> Tensor:
        """A^T (A A^T + (sigma_y / r_t)^2)^{-1} of the residual."""
        if sigma_y == 0:
            return operator.A_dagger(residual)
        ratio = sigma_y**2 / self.conditional_variance(abar)
        return operator.least_squares(residual, ratio)

    def _weight(self, abar: float, abar_next: float, c2: float) -> float:
        """What J^T u is multiplied by in x_s."""
        if self.variant == "likelihood_score":
            # The score moves x0 by (1 - abar) / sqrt(abar) and eps by -sqrt(1 - abar).
            moves_x0 = (abar_next / abar) ** 0.5 * (1 - abar)
            return (moves_x0 - c2 * (1 - abar) ** 0.5) / self.conditional_variance(abar)
        if self.variant == "noise_aware_unscaled":
            return abar**0.5
        return (abar_next * abar) ** 0.5


def ddim_coefficients(abar: float, abar_next: float, eta: float) -> tuple[float, float]:
    """Returns what DDIM multiplies fresh noise and predicted noise by in a step.

    Source: Song et al. 2021, Eq. 12. The second is 0 where eta > 1 would ask for the root of a
    negative number.
    """
    c1 = eta * ((1 - abar / abar_next) * (1 - abar_next) / (1 - abar)) ** 0.5
    return c1, max(1 - abar_next - c1**2, 0.0) ** 0.5
