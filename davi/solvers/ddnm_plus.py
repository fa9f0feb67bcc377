"""DDNM+: the range of A from the measurement, its null space from the prior, with time travel."""

from itertools import pairwise
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from davi.operators.svd import SVDOperator
from davi.schedule import NUM_STEPS
from davi.solvers.base import NOISE_LEVEL, SVD, Noise, Rngs, Solver
from davi.solvers.grids import stride_times
from davi.solvers.prior import CLEAN, CountedPrior
from davi.solvers.spectral import ddrm_step, observe, predict
from davi.system.runtime import normal_each


class DDNMPlus(Solver):
    """Wang et al. 2023, "Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model".

    The form that uses the SVD, which is DDRM's step with eta_b = 1, from a start of pure noise;
    with sigma_y = 0 that of DDNM, x0 + A^+ (y - A x0). Time travel as in the code: the last x0,
    uncorrected, is diffused anew. (The paper diffuses x_t forward instead.)

    Deviations: eps enters in spectral coordinates (the code forgets to transform it), and one
    set of singular values serves everywhere (the code truncates those of A^+ but not those of
    its weights, and orders the two differently for the blur).

    Fields:
        num_steps: levels of the stride grid; network evaluations if there is no time travel.
        eta: share of fresh noise where the measurement is noisier than the level, or missing.
        jump_length: levels that a journey leads back (s of the paper).
        num_repeats: how often every stretch of that length is gone through (r); 1 is no travel.
        clip: clamp x0 to [-1, 1].
    """

    label: ClassVar[str] = "DDNM+"
    needs: ClassVar[frozenset[str]] = frozenset({NOISE_LEVEL, SVD})
    num_steps: int = Field(100, ge=1, le=NUM_STEPS)
    eta: float = Field(0.85, ge=0, le=1)
    jump_length: int = Field(1, ge=1)
    num_repeats: int = Field(1, ge=1)
    clip: bool = False

    def solve(
        self, y: Tensor, operator: SVDOperator, noise: Noise, prior: CountedPrior, rngs: Rngs
    ) -> Tensor:
        """See `Solver.solve`."""
        observation = observe(y, operator, noise, prior)
        times = [*reversed(stride_times(self.num_steps)), CLEAN]  # times[-1] is CLEAN
        walk = travel(self.num_steps, self.jump_length, self.num_repeats)
        x = x0 = normal_each(operator.image_shape, rngs).to(y.dtype)
        for now, following in pairwise(walk):
            z = normal_each(operator.image_shape, rngs).to(y.dtype)
            alpha_bar = prior.alpha_bar(times[following])
            if following > now:
                x = alpha_bar**0.5 * x0 + (1 - alpha_bar) ** 0.5 * z
                continue
            x0, eps = predict(prior, operator, x, times[now], self.clip)
            if noise.sigma_low > 0:
                x = ddrm_step(x0, eps, z, observation, alpha_bar, self.eta)
            else:  # x0 gets those of A^+ y, whatever the level; noise is the same everywhere
                corrected = observation.correct(x0, operator.inverse_singular_values)
                mixed = self.eta * z + (1 - self.eta**2) ** 0.5 * eps
                x = alpha_bar**0.5 * corrected + (1 - alpha_bar) ** 0.5 * mixed
        return operator.V(x)


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
