"""RED-diff: one image per measurement, pulled to the prior at falling noise levels."""

import math
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from davi.operators.operator import Operator
from davi.solvers.base import Noise, Rngs
from davi.solvers.grids import stride_times
from davi.solvers.prior import CountedPrior
from davi.solvers.variational import VariationalSolver, descend, noise_gap, normal_like

# Of sigma_t = sqrt((1 - alpha_bar_t) / alpha_bar_t).
WEIGHTINGS = {
    "linear": lambda sigma: sigma,
    "square_root": math.sqrt,
    "square": lambda sigma: sigma**2,
    "log": math.log1p,
    "clipped": lambda sigma: min(sigma, 1.0),
    "power_2_3": lambda sigma: sigma ** (2 / 3),
    "constant": lambda sigma: 1.0,
}


class RedDiff(VariationalSolver):
    """Minimises w_t <eps_theta(x_t) - eps, x_0> / d_x + |y - A x_0|^2 / (2 d_y), t falling.

    Source: Mardani et al., "A Variational Perspective on Solving Inverse Problems with Diffusion
    Models" (ICLR 2024); the Dirac case of DAVI's supplement A.2, Eq. 36. The gap of noises counts
    as a constant, x_0 = mu + sigma_x0 n and w_t = prior_weight * weighting(sigma_t). The noise
    level is not used: the weight of the prior vanishes with t, and the end fits y.

    Fields: those of `VariationalSolver`, and
        weighting: how w_t grows with sigma_t.
        sigma_x0: standard deviation of the posterior; 0 is the Dirac.
    """

    label: ClassVar[str] = "RED-diff"
    prior_weight: float = Field(default=0.25, ge=0)
    weighting: Literal[
        "linear", "square_root", "square", "log", "clipped", "power_2_3", "constant"
    ] = "linear"
    sigma_x0: float = Field(default=0.0, ge=0)

    def solve(
        self, y: Tensor, operator: Operator, noise: Noise, prior: CountedPrior, rngs: Rngs
    ) -> Tensor:
        """See `Solver.solve`."""

        def gradient(mean: Tensor, t: int) -> Tensor:
            x0 = mean + self.sigma_x0 * normal_like(mean, rngs)
            return self.gradient(x0, t, normal_like(mean, rngs), y, operator, prior)

        rates = [self.learning_rate] * self.num_steps
        start = self.first_mean(y, operator)
        # As in the official code, what the last step does is not returned.
        mean, _ = descend(start, gradient, stride_times(self.num_steps), rates)
        return mean + self.sigma_x0 * normal_like(mean, rngs)

    def gradient(
        self,
        x0: Tensor,
        t: int,
        eps: Tensor,
        y: Tensor,
        operator: Operator,
        prior: CountedPrior,
    ) -> Tensor:
        """Returns d_x times the gradient of the loss with respect to x0; Adam ignores factors.

        Args:
            x0: (B, C, H, W).
            t: diffusion time of this step.
            eps: standard normal, shape as x0.
            y: measurements, (B, *measurement_shape).
            operator: A.
            prior: gives eps_theta.
        """
        data_weight = math.prod(operator.image_shape) / math.prod(operator.measurement_shape)
        misfit = operator.vjp(x0, operator.A(x0) - y)
        gap = noise_gap(prior, x0, 0.0, t, eps)
        return self.weight(prior.sigma(t)) * gap + data_weight * misfit

    def weight(self, sigma: float) -> float:
        """Returns w_t at the noise level sigma_t."""
        return self.prior_weight * WEIGHTINGS[self.weighting](sigma)
