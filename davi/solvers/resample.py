"""ReSample in pixel space: DDIM whose x0 is now and then made to fit, and its state drawn anew."""

from functools import partial
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from davi.operators.noise import GaussianNoise
from davi.operators.operator import Operator
from davi.operators.svd import SVDOperator
from davi.priors.sampling import ddim_step
from davi.schedule import NUM_STEPS
from davi.solvers.base import GRADIENT, NOISE_LEVEL, Noise, Rngs, Solver
from davi.solvers.grids import steps_of, stride_times
from davi.solvers.prior import CountedPrior
from davi.solvers.residual_gradient import predict_and_pull
from davi.solvers.spectral import Observation, observe
from davi.system.runtime import normal_each

BISECTIONS, SMALLEST_RHO, LARGEST_RHO = 60, 1e-12, 1e12
WEIGHT = 40.0  # of the official code


class ReSample(Solver):
    """A DDIM step, less zeta abar_t grad_{x_t} |y - A x0|, and sometimes a state drawn anew.

    Every few steps, x0 of some more DDIM steps is moved to x0*, whose residual is that of noise of
    tolerance sigma_y, and the state at the level s, so far x', is drawn from what both say of it,

        N( (S sqrt(abar_s) x0* + (1 - abar_s) x') / (S + 1 - abar_s),
           S (1 - abar_s) / (S + 1 - abar_s) ),
        S = 40 (1 - abar_s) / (1 - abar_t) (1 - abar_t / abar_s).

    Source: Song et al. 2024, "Solving Inverse Problems with Latent Diffusion Models via Hard Data
    Consistency", and its code. Deviations: no latent space. Where the code descends on
    |y - A x|^2 from x0 until it is small enough, x0* = argmin |y - A x|^2 + rho |x - x0|^2, exact,
    with the rho that gives the wanted residual; x0 itself if it fits. Without singular values it
    descends, too: by Adam, without the code's weight decay, which shrinks pixels that A does not
    see, and each image until it fits. The code's wanted residual,
    1e-3, is below its noise, 0.01, so that x0* fits the noise, here `tolerance: 0.1`. Its estimate
    of x0 subtracts too little noise; here it is Tweedie's.

    Fields:
        num_steps: times of the stride grid. The first third is not resampled.
        zeta: step size of the gradient.
        resample_every: steps from one resampling to the next.
        inner_steps: DDIM steps before the x0 of a resampling, one evaluation each.
        tolerance: wanted residual in units of the noise; 0 fits y, and needs no noise level.
        fit_steps: of Adam at most, where the singular values of A are not known.
        fit_learning_rate: of Adam.
        clip: clip x0 to [-1, 1].
    """

    label: ClassVar[str] = "ReSample"
    needs: ClassVar[frozenset[str]] = frozenset({NOISE_LEVEL, GRADIENT})
    num_steps: int = Field(500, ge=1, le=NUM_STEPS)
    zeta: float = Field(0.5, ge=0)
    resample_every: int = Field(10, ge=1)
    inner_steps: int = Field(5, ge=1)
    tolerance: float = Field(1.0, ge=0)
    fit_steps: int = Field(200, ge=1)
    fit_learning_rate: float = Field(0.01, gt=0)
    clip: bool = True

    def require(self, operator: Operator, noise: Noise) -> None:
        """See `Solver.require`; with tolerance 0 any noise will do."""
        super().require(operator, GaussianNoise(0.0, 0.0) if self.tolerance == 0 else noise)

    def solve(
        self, y: Tensor, operator: Operator, noise: Noise, prior: CountedPrior, rngs: Rngs
    ) -> Tensor:
        """See `Solver.solve`."""
        known = noise if self.tolerance > 0 else GaussianNoise(0.0, 0.0)
        if isinstance(operator, SVDOperator):
            observation = observe(y, operator, known, prior)
            fit = partial(self.fit, observation=observation, operator=operator)
        else:
            wanted = self.tolerance * known.sigma_low
            how = {"num_steps": self.fit_steps, "learning_rate": self.fit_learning_rate}
            fit = partial(fit_by_descent, y=y, operator=operator, wanted=wanted, **how)
        steps = steps_of(stride_times(self.num_steps))
        x_t = normal_each(operator.image_shape, rngs).to(y)
        for index, (t, s) in zip(reversed(range(self.num_steps)), steps, strict=True):
            x0, _, gradient = predict_and_pull(x_t, t, y, operator, prior, self.clip)
            abar, abar_next = prior.alpha_bar(t), prior.alpha_bar(s)
            x_t = ddim_step(x_t, x0, abar, abar_next) - self.zeta * abar * gradient
            if self.resamples(index):
                x0 = self._look_ahead(x_t, steps[self.num_steps - index :], prior)
                x0 = fit(x0)
                n = normal_each(operator.image_shape, rngs).to(y)
                x_t = redraw(x0, x_t, n, abar, abar_next)
        return fit(x_t)

    def resamples(self, index: int) -> bool:
        """Returns whether the state is drawn anew after the step that leads to index - 1."""
        first = self.num_steps - self.num_steps // 3
        return 0 < index <= first and index % self.resample_every == 0

    def _look_ahead(self, x_t: Tensor, steps: list[tuple[int, int]], prior: CountedPrior) -> Tensor:
        """x0 of the last of the next DDIM steps."""
        for t, s in steps[: self.inner_steps]:
            x0 = prior.predict(x_t, t).x0
            x0 = x0.clamp(-1, 1) if self.clip else x0
            x_t = ddim_step(x_t, x0, prior.alpha_bar(t), prior.alpha_bar(s))
        return x0

    def fit(self, x0: Tensor, observation: Observation, operator: SVDOperator) -> Tensor:
        """Returns x0*, (B, C, H, W)."""
        x = operator.V_adjoint(x0)
        if self.tolerance == 0:
            return operator.V(observation.correct(x, operator.inverse_singular_values))
        return operator.V(closest_fit(x, observation, self.tolerance))


def closest_fit(x: Tensor, observation: Observation, tolerance: float) -> Tensor:
    """Returns the proximal point of x whose residual is tolerance sigma_y, x itself if it fits.

    All in spectral coordinates. The residual is the root mean square over the coordinates that are
    seen, of each image; it grows with rho, which is found by bisection.
    """
    values = observation.values.expand(x.shape[0], *x.shape[1:])
    residual = (observation.coefficients - values.to(x.dtype) * x).double()
    seen = (values > 0).flatten(1).sum(dim=1).clamp(min=1)

    def misfit(rho: Tensor) -> Tensor:
        left = residual * rho / (values.square() + rho)
        return (left.square().flatten(1).sum(dim=1) / seen).sqrt().view(-1, 1, 1, 1)

    wanted = tolerance * observation.sigma_y
    low = torch.full((len(x), 1, 1, 1), SMALLEST_RHO, dtype=torch.float64, device=x.device).log()
    high = torch.full_like(low, LARGEST_RHO).log()
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        fits = misfit(middle.exp()) <= wanted
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    return observation.correct(x, values / (values.square() + low.exp()))


def fit_by_descent(
    x0: Tensor,
    y: Tensor,
    operator: Operator,
    wanted: float,
    num_steps: int,
    learning_rate: float,
) -> Tensor:
    """Returns images to which Adam comes from x0 (B, C, H, W), down |y - A x|^2.

    Each stops once the root mean square of its residual is as wanted; x0 itself if it fits.
    """
    x = x0.clone(memory_format=torch.contiguous_format)
    seen = operator.project(torch.ones_like(y)).flatten(1).sum(dim=1)  # the rest is 0 in y and A x
    adam = torch.optim.Adam([x], lr=learning_rate)
    for _ in range(num_steps):
        residual = operator.A(x) - y
        running = (residual.square().flatten(1).sum(dim=1) / seen).sqrt() > wanted
        if not running.any():
            break
        before, x.grad = x.clone(), operator.vjp(x, residual)
        adam.step()
        x.copy_(torch.where(running.view(-1, 1, 1, 1), x, before))
    return x


def redraw(x0: Tensor, x: Tensor, n: Tensor, alpha_bar: float, next_alpha_bar: float) -> Tensor:
    """Returns a draw of the state at the next level from x0* and the state x there, shapes as x0.

    Args:
        x0: that fits the measurement.
        x: state at the next level.
        n: standard normal.
        alpha_bar: of the level before.
        next_alpha_bar: of x.
    """
    variance = 1 - next_alpha_bar
    S = WEIGHT * variance / (1 - alpha_bar) * (1 - alpha_bar / next_alpha_bar)
    total = S + variance
    mean = (S * next_alpha_bar**0.5 * x0 + variance * x) / total
    return mean + (S * variance / total) ** 0.5 * n
