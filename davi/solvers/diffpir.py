"""DiffPIR: a denoiser's estimate and the measurement, balanced by a proximal step."""

from math import isqrt
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from davi.operators.linear import LinearOperator
from davi.schedule import NUM_STEPS
from davi.solvers.base import LINEAR, NOISE_LEVEL, SIGMA_FLOOR, Noise, Rngs, Solver
from davi.solvers.grids import steps_of
from davi.solvers.prior import CountedPrior
from davi.system.runtime import normal_each


class DiffPIR(Solver):
    """Zhu et al. 2023, "Denoising Diffusion Models for Plug-and-Play Image Restoration", Alg. 1.

    x0' = argmin_x |y - A x|^2 + rho |x - x0|^2 with rho = lam sigma_y^2 / sigma_t^2, then
    x_s = sqrt(alpha_bar_s) x0' + sqrt(1 - alpha_bar_s) (sqrt(1 - zeta) eps' + sqrt(zeta) z),
    where eps' is the noise that x_t and x0' imply.

    Deviations: the proximal step is exact where the singular values are known, where the code
    approximates A by a circular blur or iterates; both sigmas are on the [-1, 1] scale, where the
    code takes sigma_y on [0, 1], so that `lam` is a quarter of the code's lambda; the start is pure
    noise (the code adds 0.6 % of the measurement); evaluations whose result is not used are not
    made.

    Fields:
        num_steps: times of the quadratic grid, which is dense near 0.
        lam: weight of the prior; 1 is what Bayes' rule suggests.
        zeta: share of fresh noise in the variance.
        last_step: "official" returns x_0 as the last but one time left it, with noise of std 0.01
            and after num_steps - 1 evaluations; "denoised" returns x0' of the last time.
        clip: clamp x0 to [-1, 1] before the proximal step.
    """

    label: ClassVar[str] = "DiffPIR"
    needs: ClassVar[frozenset[str]] = frozenset({LINEAR, NOISE_LEVEL})
    num_steps: int = Field(100, ge=1, le=NUM_STEPS // 2)  # beyond, the grid repeats times
    lam: float = Field(1.75, gt=0)
    zeta: float = Field(0.3, ge=0, le=1)
    last_step: Literal["official", "denoised"] = "official"
    clip: bool = True

    @model_validator(mode="after")
    def _takes_a_step(self) -> Self:
        if self.last_step == "official" and self.num_steps == 1:
            raise ValueError("num_steps: 1 returns pure noise unless last_step is denoised")
        return self

    def solve(
        self, y: Tensor, operator: LinearOperator, noise: Noise, prior: CountedPrior, rngs: Rngs
    ) -> Tensor:
        """See `Solver.solve`."""
        strength = self.lam * max(noise.sigma_low, SIGMA_FLOOR) ** 2
        steps = steps_of(quadratic_times(self.num_steps))
        x = normal_each(operator.image_shape, rngs).to(y.dtype)
        for t, s in steps if self.last_step == "denoised" else steps[:-1]:
            x0 = prior.predict(x, t).x0
            x0 = x0.clamp(-1, 1) if self.clip else x0
            x0 = operator.proximal(x0, y, strength / prior.sigma(t) ** 2)
            z = normal_each(operator.image_shape, rngs).to(y.dtype)
            x = renoise(x, x0, z, prior.alpha_bar(t), prior.alpha_bar(s), self.zeta)
        return x


def renoise(
    x: Tensor, x0: Tensor, z: Tensor, alpha_bar: float, next_alpha_bar: float, zeta: float
) -> Tensor:
    """Returns the state at the next level: x0 with implied and with fresh noise z."""
    eps = (x - alpha_bar**0.5 * x0) / (1 - alpha_bar) ** 0.5
    noise = (1 - zeta) ** 0.5 * eps + zeta**0.5 * z
    return next_alpha_bar**0.5 * x0 + (1 - next_alpha_bar) ** 0.5 * noise


def quadratic_times(num_steps: int) -> list[int]:
    """Returns num_steps falling times from 999 to 0, 999 - t being the square root of a ramp."""
    last = max(num_steps - 1, 1)
    roots = [isqrt(NUM_STEPS**2 * index // last) for index in range(num_steps)]
    return [NUM_STEPS - 1 - min(root, NUM_STEPS - 1) for root in roots]
