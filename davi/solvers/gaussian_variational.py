"""The best Gaussian of fixed variance for one measurement, by the paper's own objective."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from davi.operators.operator import Operator
from davi.schedule import NUM_STEPS
from davi.solvers.base import NOISE_LEVEL, Noise, Rngs
from davi.solvers.prior import CountedPrior
from davi.solvers.variational import VariationalSolver, descend, noise_gap, normal_like
from davi.system.errors import InputError

GOLDEN_RATIO = (5**0.5 - 1) / 2  # its fractional part


class GaussianVariational(VariationalSolver):
    """Fits q(x_0 | y) = N(mu, sigma^2 I), and returns a draw mu + sigma z of it.

    Source: DAVI's supplement A.2, Eqs. 28-34: the posterior KL divergence of Eqs. 7-9, where the
    score of q is known and needs no network. Minimises over mu

        |y - A mu|^2 / (2 sigma_y^2) + prior_weight mean_t w(t) KL(q(x_t | y) || p(x_t)).

    The learning rate falls linearly to 0.

    Fields: those of `VariationalSolver`, and
        sigma: standard deviation of q; 0 is the Dirac of Eq. 36.
        weighting: w(t), see `Schedule.ikl_weight`.
    """

    label: ClassVar[str] = "Gaussian variational"
    needs: ClassVar[frozenset[str]] = frozenset({NOISE_LEVEL})
    sigma: float = Field(default=0.01, ge=0)
    weighting: Literal["sigma_over_alpha", "constant", "variance"] = "sigma_over_alpha"

    def require(self, operator: Operator, noise: Noise) -> None:
        """Refuses what `VariationalSolver.require` does, and measurements without noise.

        Raises:
            InputError: says what is lacking.
        """
        super().require(operator, noise)
        if noise.sigma_low == 0:
            raise InputError(f"{self.label} divides by the noise's sigma, which is 0; set it above")

    def solve(
        self, y: Tensor, operator: Operator, noise: Noise, prior: CountedPrior, rngs: Rngs
    ) -> Tensor:
        """See `Solver.solve`."""

        def gradient(mean: Tensor, t: int) -> Tensor:
            eps = normal_like(mean, rngs)
            return self.gradient(mean, t, eps, y, operator, noise.sigma_low, prior)

        rates = [self.learning_rate * (1 - k / self.num_steps) for k in range(self.num_steps)]
        start = self.first_mean(y, operator)
        _, mean = descend(start, gradient, spread_times(self.num_steps), rates)
        return mean + self.sigma * normal_like(mean, rngs)

    def gradient(
        self,
        mean: Tensor,
        t: int,
        eps: Tensor,
        y: Tensor,
        operator: Operator,
        sigma_y: float,
        prior: CountedPrior,
    ) -> Tensor:
        """Returns one draw of the loss's gradient with respect to the mean, at one time.

        Args:
            mean: (B, C, H, W).
            t: diffusion time.
            eps: standard normal, shape as mean.
            y: measurements, (B, *measurement_shape).
            operator: A.
            sigma_y: of the measurement.
            prior: gives the score of p.
        """
        misfit = operator.vjp(mean, operator.A(mean) - y)
        # w(t) dx_t / dmu over the sqrt(1 - alpha_bar_t) that makes a score of the gap.
        on_cpu = torch.ones(1, dtype=torch.float64)  # a float without waiting for a GPU
        w_t = prior.schedule.ikl_weight(self.weighting, torch.tensor([t]), on_cpu).item()
        weight = self.prior_weight * w_t / prior.sigma(t)
        return weight * noise_gap(prior, mean, self.sigma, t, eps) + misfit / sigma_y**2


def spread_times(num_steps: int) -> list[int]:
    """Returns num_steps times such that every stretch of them covers 0 .. 999 evenly.

    The golden ratio's multiples do so. It is Algorithm 1's uniform t, the same for all images.
    """
    return [int(NUM_STEPS * (GOLDEN_RATIO * (k + 1) % 1)) for k in range(num_steps)]
