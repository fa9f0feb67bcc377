"""DDNM+: the range of A from the measurement, its null space from the prior, with time travel."""

from collections.abc import Callable
from itertools import pairwise
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from davi.operators.linear import LinearOperator
from davi.operators.svd import SVDOperator
from davi.schedule import NUM_STEPS
from davi.solvers.base import LINEAR, NOISE_LEVEL, Noise, Rngs, Solver
from davi.solvers.grids import stride_times
from davi.solvers.prior import CLEAN, CountedPrior
from davi.solvers.spectral import ddrm_step, observe, predict
from davi.system.runtime import normal_each

Step = Callable[[Tensor, int, Tensor, float], tuple[Tensor, Tensor]]


class DDNMPlus(Solver):
    """Wang et al. 2023, "Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model".

    The form that uses the SVD, which is DDRM's step with eta_b = 1, from a start of pure noise;
    with sigma_y = 0 that of DDNM, x0 + A^+ (y - A x0). Time travel as in the code: the last x0,
    uncorrected, is diffused anew. (The paper diffuses x_t forward instead.)

    Deviations: eps enters in spectral coordinates (the code forgets to transform it), and one
    set of singular values serves everywhere (the code truncates those of A^+ but not those of
    its weights, and orders the two differently for the blur). Of an operator without singular
    values the step is `regularised_step`; the code takes A A^+ for the identity there.

    Fields:
        num_steps: levels of the stride grid; network evaluations if there is no time travel.
        eta: share of fresh noise where the measurement is noisier than the level, or missing.
        jump_length: levels that a journey leads back (s of the paper).
        num_repeats: how often every stretch of that length is gone through (r); 1 is no travel.
        clip: clamp x0 to [-1, 1].
    """

    label: ClassVar[str] = "DDNM+"
    needs: ClassVar[frozenset[str]] = frozenset({LINEAR, NOISE_LEVEL})
    num_steps: int = Field(100, ge=1, le=NUM_STEPS)
    eta: float = Field(0.85, ge=0, le=1)
    jump_length: int = Field(1, ge=1)
    num_repeats: int = Field(1, ge=1)
    clip: bool = False

    def solve(
        self, y: Tensor, operator: LinearOperator, noise: Noise, prior: CountedPrior, rngs: Rngs
    ) -> Tensor:
        """See `Solver.solve`."""
        spectral = isinstance(operator, SVDOperator)
        step = self._spectral_step if spectral else self._iterated_step
        step = step(y, operator, noise, prior, rngs)
        times = [*reversed(stride_times(self.num_steps)), CLEAN]  # times[-1] is CLEAN
        walk = travel(self.num_steps, self.jump_length, self.num_repeats)
        x = x0 = normal_each(operator.image_shape, rngs).to(y.dtype)
        for now, following in pairwise(walk):
            z = normal_each(operator.image_shape, rngs).to(y.dtype)
            alpha_bar = prior.alpha_bar(times[following])
            if following > now:
                x = alpha_bar**0.5 * x0 + (1 - alpha_bar) ** 0.5 * z
                continue
            x0, x = step(x, times[now], z, alpha_bar)
        return operator.V(x) if spectral else x

    def _spectral_step(
        self, y: Tensor, operator: SVDOperator, noise: Noise, prior: CountedPrior, rngs: Rngs
    ) -> Step:
        """In spectral coordinates, for x0 and for the states."""
        observation = observe(y, operator, noise, prior)

        def step(x: Tensor, t: int, z: Tensor, alpha_bar: float) -> tuple[Tensor, Tensor]:
            x0, eps = predict(prior, operator, x, t, self.clip)
            if noise.sigma_low > 0:
                return x0, ddrm_step(x0, eps, z, observation, alpha_bar, self.eta)
            corrected = observation.correct(x0, operator.inverse_singular_values)
            return x0, self._noised(corrected, eps, z, alpha_bar)

        return step

    def _iterated_step(
        self, y: Tensor, operator: LinearOperator, noise: Noise, prior: CountedPrior, rngs: Rngs
    ) -> Step:
        """In pixels."""
        sigma_y, kept = noise.sigma_low, (1 - self.eta**2) ** 0.5

        def step(x: Tensor, t: int, z: Tensor, alpha_bar: float) -> tuple[Tensor, Tensor]:
            x0, eps, _ = prior.predict(x, t)
            x0 = x0.clamp(-1, 1) if self.clip else x0
            if sigma_y == 0:
                corrected = x0 + operator.A_dagger(y - operator.A(x0))
                return x0, self._noised(corrected, eps, z, alpha_bar)
            z_x = normal_each(operator.image_shape, rngs).to(y.dtype)
            z_y = normal_each(operator.measurement_shape, rngs).to(y.dtype)
            mixed = kept * eps + self.eta * z
            return x0, regularised_step(x0, mixed, z_x, z_y, y, operator, sigma_y, alpha_bar)

        return step

    def _noised(self, x0: Tensor, eps: Tensor, z: Tensor, alpha_bar: float) -> Tensor:
        """DDNM's: x0 has what A^+ y says, whatever the level; noise is the same everywhere."""
        mixed = self.eta * z + (1 - self.eta**2) ** 0.5 * eps
        return alpha_bar**0.5 * x0 + (1 - alpha_bar) ** 0.5 * mixed


def regularised_step(
    x0: Tensor,
    eps: Tensor,
    z_x: Tensor,
    z_y: Tensor,
    y: Tensor,
    operator: LinearOperator,
    sigma_y: float,
    alpha_bar: float,
) -> Tensor:
    """Returns the next state, at the level alpha_bar, for which no singular values are needed.

    With sigma the noise of the level, in x_t / sqrt(alpha_bar), and rho = (sigma_y / sigma)^2, the
    correction (A^T A + rho)^-1 A^T (y - A x0) does softly what DDNM+ does by case: a coordinate
    with s sigma above sigma_y gets y / s, one below keeps x0. All coordinates of the result have
    noise of deviation sigma, that of y included, as the prior expects: what is added has the
    covariance sigma^2 - sigma_y^2 A^T A (A^T A + rho)^-2, which is that of the least-squares
    solution of a perturbed problem, with sigma eps in x0 and sigma A z_x + sigma_y z_y in y.

    Args:
        x0: predicted, (B, C, H, W).
        eps: noise for what A does not see, standard normal or the predicted one, shape as x0.
        z_x: standard normal, shape as x0.
        z_y: standard normal, shape as y.
        y: (B, *measurement_shape).
        operator: A.
        sigma_y: of the noise in y, above 0.
        alpha_bar: of the time stepped to.
    """
    sigma = ((1 - alpha_bar) / alpha_bar) ** 0.5
    if sigma == 0:
        return x0
    perturbed = y + sigma * operator.A(z_x) + sigma_y * z_y
    rho = (sigma_y / sigma) ** 2
    return alpha_bar**0.5 * operator.proximal(x0 + sigma * eps, perturbed, rho)


def travel(num_steps: int, jump_length: int, num_repeats: int) -> list[int]:
    """Returns the levels to visit in order, from num_steps - 1 down to -1.

    Every multiple of jump_length, once reached, is left upwards num_repeats - 1 times if that
    does not lead beyond the start. A climb is one entry: only where it ends matters.
    """
    walk = [num_steps - 1]
    for level in reversed(range(-1, num_steps - 1)):
        walk.append(level)
        if level >= 0 and level % jump_length == 0 and level + jump_length < num_steps:
            journey = range(level + jump_length, level - 1, -1)
            walk += [*journey] * (num_repeats - 1)
    return walk
