"""ILVR: unconditional sampling whose low frequencies are those of a noised reference image."""

from typing import ClassVar

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from davi.operators.measurement import lift
from davi.operators.operator import Operator
from davi.priors.sampling import ancestral_step, spaced_schedule, spaced_times
from davi.schedule import NUM_STEPS
from davi.solvers.base import Noise, Rngs, Solver
from davi.solvers.grids import steps_of
from davi.solvers.prior import CountedPrior
from davi.system.errors import InputError
from davi.system.runtime import normal_each


class Ilvr(Solver):
    """x_s = x' + phi(r_s - x'), x' the ancestral step, while t > range_t; then x_s = x'.

    Source: Choi et al. 2021, "ILVR: Conditioning Method for Denoising Diffusion Probabilistic
    Models". r_s = sqrt(abar_s) r + sqrt(1 - abar_s) z is the reference r at the level s, as the
    paper has it (its code takes the level t), and phi reduces an image by `factor` and enlarges it
    again, both cubic. r is the measurement on the image grid, see `lift`: ILVR knows neither A nor
    the noise. So it cannot sharpen coarse structures, and takes a hole for a gray area.

    Fields:
        num_steps: evenly spaced times, the last and the first included.
        factor: of phi; 1 returns the reference, the side of the image keeps its mean colour only.
        range_t: diffusion time from which on the sampling is free.
        clip: clip x0 to [-1, 1].
    """

    label: ClassVar[str] = "ILVR"
    num_steps: int = Field(NUM_STEPS, ge=1, le=NUM_STEPS)
    factor: int = Field(16, ge=1)
    range_t: int = Field(100, ge=0, le=NUM_STEPS)
    clip: bool = True

    def require(self, operator: Operator, noise: Noise) -> None:
        """See `Solver.require`; sides of the image have to be multiples of the factor."""
        super().require(operator, noise)
        height, width = operator.image_shape[1:]
        if height % self.factor or width % self.factor:
            raise InputError(
                f"ILVR: images of {height}x{width}; both sides must be multiples of its factor "
                f"{self.factor}. Set another factor"
            )

    def solve(
        self, y: Tensor, operator: Operator, noise: Noise, prior: CountedPrior, rngs: Rngs
    ) -> Tensor:
        """See `Solver.solve`."""
        reference = lift(y, operator.image_shape)
        times = spaced_times(len(prior.schedule), self.num_steps)
        spaced = spaced_schedule(prior.schedule, times)
        x_t = normal_each(operator.image_shape, rngs).to(y)
        for step, (t, s) in zip(reversed(range(self.num_steps)), steps_of(times), strict=True):
            x0, _, variance = prior.predict(x_t, t)
            x0 = x0.clamp(-1, 1) if self.clip else x0
            x_t = ancestral_step(spaced, step, x_t, x0, variance, rngs)
            if t > self.range_t:
                z = normal_each(operator.image_shape, rngs).to(y)
                abar = prior.alpha_bar(s)
                noised = abar**0.5 * reference + (1 - abar) ** 0.5 * z
                x_t = x_t + low_frequencies(noised - x_t, self.factor)
        return x_t


def low_frequencies(x: Tensor, factor: int) -> Tensor:
    """Returns phi(x), shape as x: reduced without aliasing and enlarged, by cubic filters."""
    height, width = x.shape[-2:]
    how = {"mode": "bicubic", "antialias": True}
    small = F.interpolate(x, size=(height // factor, width // factor), **how)
    return F.interpolate(small, size=(height, width), **how)
