"""DDRM: diffusion in the coordinates of the SVD, with the measurement as one of its levels."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from davi.operators.svd import SVDOperator
from davi.schedule import NUM_STEPS
from davi.solvers.base import NOISE_LEVEL, SVD, Noise, Rngs, Solver
from davi.solvers.grids import steps_of, stride_times
from davi.solvers.prior import CountedPrior
from davi.solvers.spectral import ddrm_step, observe, predict
from davi.system.runtime import normal_each


class DDRM(Solver):
    """Kawar et al. 2022, "Denoising Diffusion Restoration Models".

    The steps of its variational distribution in `ddrm_step`; the start is such a step, too, with
    nothing but noise for what is unseen.

    Deviation: the start is scaled by sqrt(alpha_bar) as every later state is, where the code
    divides by sigma (5e-5 apart at t = 950, but wrong on short grids).

    Fields:
        num_steps: network evaluations, on the stride grid.
        eta: share of fresh noise where the measurement is noisier than the level, or missing.
        eta_b: share of the measurement where it is less noisy than the level.
        clip: clamp x0 to [-1, 1].
    """

    label: ClassVar[str] = "DDRM"
    needs: ClassVar[frozenset[str]] = frozenset({NOISE_LEVEL, SVD})
    num_steps: int = Field(20, ge=1, le=NUM_STEPS)
    eta: float = Field(0.85, ge=0, le=1)
    eta_b: float = Field(1.0, ge=0, le=1)
    clip: bool = False

    def solve(
        self, y: Tensor, operator: SVDOperator, noise: Noise, prior: CountedPrior, rngs: Rngs
    ) -> Tensor:
        """See `Solver.solve`."""
        observation = observe(y, operator, noise, prior)
        times = stride_times(self.num_steps)
        z = normal_each(operator.image_shape, rngs).to(y.dtype)
        nothing = torch.zeros_like(z)
        x = ddrm_step(nothing, nothing, z, observation, prior.alpha_bar(times[0]), eta=1.0)
        for t, s in steps_of(times):
            x0, eps = predict(prior, operator, x, t, self.clip)
            z = normal_each(operator.image_shape, rngs).to(y.dtype)
            x = ddrm_step(x0, eps, z, observation, prior.alpha_bar(s), self.eta, self.eta_b)
        return operator.V(x)
