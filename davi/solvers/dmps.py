"""DMPS: ancestral sampling, moved to the measurement as if the prior of x_0 were flat."""

from typing import ClassVar

from pydantic import Field
from torch import Tensor

from davi.operators.linear import LinearOperator
from davi.priors.sampling import ancestral_step, spaced_schedule, spaced_times
from davi.schedule import NUM_STEPS
from davi.solvers.base import LINEAR, NOISE_LEVEL, SIGMA_FLOOR, Noise, Rngs, Solver
from davi.solvers.prior import CLEAN, CountedPrior
from davi.system.runtime import normal_each


class Dmps(Solver):
    """x_{t-1} = x' + weight beta_t / sqrt(alpha_t) * score of y, x' the ancestral step.

    Source: Meng and Kabashima 2022, "Diffusion Model Based Posterior Sampling for Noisy Linear
    Inverse Problems". Under a flat prior of x_0, x_0 given x_t is N(w, sigma_t^2 I) with
    w = x_t / sqrt(abar_t), which gives y a score without a gradient of the network:

        A^T (sigma_y^2 + sigma_t^2 A A^T)^-1 (y - A w) / sqrt(abar_t).

    A^T (...)^-1 (y - A w) is (p(w) - w) / sigma_t^2, where p(w) = argmin_x |y - A x|^2 +
    (sigma_y / sigma_t)^2 |x - w|^2. So w moves towards p(w) by the share
    weight beta_t / (sqrt(alpha_t) (1 - abar_t)). As in the official code, w is that of x', which
    is of level t - 1, with the constants of level t; and the last x0 is moved, too, by more than
    the whole way if weight > 1. With few steps beta_t = 1 - abar_t / abar_s.

    Fields:
        num_steps: evenly spaced times, the last and the first included; the paper takes all.
        weight: lambda; 1 is the score itself.
        clip: clip x0 to [-1, 1] before the ancestral step.
    """

    label: ClassVar[str] = "DMPS"
    needs: ClassVar[frozenset[str]] = frozenset({LINEAR, NOISE_LEVEL})
    num_steps: int = Field(NUM_STEPS, ge=1, le=NUM_STEPS)
    weight: float = Field(1.75, ge=0)
    clip: bool = True

    def solve(
        self, y: Tensor, operator: LinearOperator, noise: Noise, prior: CountedPrior, rngs: Rngs
    ) -> Tensor:
        """See `Solver.solve`."""
        sigma_y = max(noise.sigma_low, SIGMA_FLOOR)
        times = spaced_times(len(prior.schedule), self.num_steps)
        spaced = spaced_schedule(prior.schedule, times)
        x_t = normal_each(operator.image_shape, rngs).to(y)
        for step, t in zip(reversed(range(self.num_steps)), times, strict=True):
            x0, _, variance = prior.predict(x_t, t)
            x0 = x0.clamp(-1, 1) if self.clip else x0
            x_t = ancestral_step(spaced, step, x_t, x0, variance, rngs)
            root = prior.alpha_bar(t) ** 0.5
            moved = operator.proximal(x_t / root, y, (sigma_y / prior.sigma(t)) ** 2) - x_t / root
            after = times[self.num_steps - step] if step else CLEAN
            share = self.share(prior.alpha_bar(t), prior.alpha_bar(after))
            x_t = x_t + root * share * moved
        return x_t

    def share(self, alpha_bar: float, next_alpha_bar: float) -> float:
        """Returns how much of the way to p(w) a step goes."""
        alpha = alpha_bar / next_alpha_bar
        return self.weight * (1 - alpha) / (alpha**0.5 * (1 - alpha_bar))
