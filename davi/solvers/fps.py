"""FPS: posterior sampling as Bayesian filtering with a sequence of noisy measurements."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from davi.operators.svd import SVDOperator
from davi.schedule import NUM_STEPS
from davi.solvers.base import NOISE_LEVEL, SVD, Noise, Rngs, Solver
from davi.solvers.grids import steps_of, stride_times
from davi.solvers.prior import CountedPrior
from davi.solvers.spectral import Observation, observe, predict
from davi.system.runtime import draw_each, normal_each


class FPS(Solver):
    """Dou & Song 2024, "Diffusion Posterior Sampling for Linear Inverse Problem Solving", FPS-SMC.

    y_t = sqrt(alpha_bar_t) y + sqrt(1 - alpha_bar_t) A u_t, u_s = sqrt(1 - c) u_t + sqrt(c) z.
    x_s is drawn given x_t and y_s = A x_s + sqrt(alpha_bar_s) n, where x_s given x_t is
    sqrt(alpha_bar_s) x0 + sqrt((1 - c)(1 - alpha_bar_s)) eps + sqrt(c (1 - alpha_bar_s)) z.
    Particles are then drawn anew with the weights p(y_s | x_t). The first one is the result.

    Deviations: x_s meets y_s, where the code takes y_t; the start is drawn given y_T, where the
    code forgets a division by the variance of y_T; every particle starts from noise of its own;
    the first time costs an evaluation, too (1000 on the full grid, not 999); A is the same in
    data, updates and weights. The weights of the code are equal to ours, after simplification.

    Fields:
        num_steps: on the stride grid; each is an evaluation per particle, the last just one.
        num_particles: M of the paper.
        c: share of fresh noise in the variance.
        clip: clamp x0 to [-1, 1].
    """

    label: ClassVar[str] = "FPS"
    needs: ClassVar[frozenset[str]] = frozenset({NOISE_LEVEL, SVD})
    num_steps: int = Field(NUM_STEPS, ge=1, le=NUM_STEPS)
    num_particles: int = Field(1, ge=1)
    c: float = Field(0.95, gt=0, le=1)
    clip: bool = True

    def solve(
        self, y: Tensor, operator: SVDOperator, noise: Noise, prior: CountedPrior, rngs: Rngs
    ) -> Tensor:
        """See `Solver.solve`. States are (B, M, C, H, W), what particles share (B, 1, C, H, W)."""
        observation = with_particles(observe(y, operator, noise, prior))

        def draw(count: int) -> Tensor:
            return normal_each((count, *operator.image_shape), rngs).to(y.dtype)

        steps = steps_of(stride_times(self.num_steps))
        u, z = draw(1), draw(self.num_particles)
        likelihood = diffused(observation, u, prior.alpha_bar(steps[0][0]))
        x = condition(torch.zeros_like(z), 1.0, z, likelihood)
        for t, s in steps[:-1]:
            mean = self._next_mean(x, t, s, operator, prior)
            variance = self.c * (1 - prior.alpha_bar(s))
            u = (1 - self.c) ** 0.5 * u + self.c**0.5 * draw(1)
            likelihood = diffused(observation, u, prior.alpha_bar(s))
            x = condition(mean, variance, draw(self.num_particles), likelihood)
            if self.num_particles > 1:
                x = resample(x, log_weights(mean, variance, likelihood), rngs)
        return operator.V(self._next_mean(x[:, :1], *steps[-1], operator, prior)[:, 0])

    def _next_mean(
        self, x: Tensor, t: int, s: int, operator: SVDOperator, prior: CountedPrior
    ) -> Tensor:
        """The mean of x_s given x_t, shape as x; at CLEAN x0 itself."""
        x0, eps = predict(prior, operator, x.flatten(0, 1), t, self.clip)
        alpha_bar = prior.alpha_bar(s)
        mean = alpha_bar**0.5 * x0 + ((1 - self.c) * (1 - alpha_bar)) ** 0.5 * eps
        return mean.unflatten(0, x.shape[:2])


def with_particles(observation: Observation) -> Observation:
    """Returns the observation with an axis for particles after that of the batch."""
    values = observation.values
    per_image = values.ndim == observation.coefficients.ndim
    return Observation(
        values[:, None] if per_image else values,
        observation.coefficients[:, None],
        observation.sigma_y,
    )


def diffused(observation: Observation, u: Tensor, alpha_bar: float) -> Observation:
    """Returns what is observed of x_t at a level: the measurement, diffused by the noise A u."""
    noise = (1 - alpha_bar) ** 0.5 * observation.values.to(u.dtype) * u
    coefficients = alpha_bar**0.5 * observation.coefficients + noise
    return Observation(observation.values, coefficients, alpha_bar**0.5 * observation.sigma_y)


def condition(mean: Tensor, variance: float, z: Tensor, observation: Observation) -> Tensor:
    """Returns a draw of N(mean, variance), given an observation of it."""
    s, noise_variance = observation.values, observation.sigma_y**2
    predictive = noise_variance + variance * s**2
    std = (variance * noise_variance / predictive).sqrt()
    return observation.correct(mean, variance * s / predictive) + std.to(z.dtype) * z


def log_weights(mean: Tensor, variance: float, observation: Observation) -> Tensor:
    """Returns log p(observation | mean, variance) up to a constant of the image, (B, M) float64."""
    s = observation.values
    residual = observation.coefficients - s * mean
    predictive = observation.sigma_y**2 + variance * s**2
    return -0.5 * (residual.square() / predictive).flatten(2).sum(dim=2)


def resample(x: Tensor, log_weight: Tensor, rngs: Rngs) -> Tensor:
    """Returns as many particles per image, (B, M, ...), drawn by weight with replacement."""
    count = x.shape[1]
    uniform = draw_each(
        lambda rng: torch.rand(count, generator=rng, device=rng.device, dtype=torch.float32), rngs
    )
    cumulative = log_weight.softmax(dim=1).cumsum(dim=1)
    chosen = torch.searchsorted(cumulative, uniform.to(cumulative.dtype)).clamp(max=count - 1)
    return x.gather(1, chosen.view(*chosen.shape, *[1] * (x.ndim - 2)).expand_as(x))
