"""DPS: ancestral sampling, pushed downhill on the residual of the predicted clean image."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from davi.operators.linear import LinearOperator
from davi.priors.sampling import ancestral_step, spaced_schedule, spaced_times
from davi.schedule import NUM_STEPS
from davi.solvers.base import GRADIENT, Noise, Rngs, Solver
from davi.solvers.prior import CountedPrior
from davi.system.runtime import normal_each


class Dps(Solver):
    """x_{t-1} = ancestral step - zeta grad_{x_t} |y - A x0(x_t)|.

    Source: Chung et al. 2023, Diffusion Posterior Sampling, Algorithm 1, with the step size of the
    official code: on the gradient of the norm itself, which is half of that of the squared norm
    over the norm. The norm is that of one image. Knows nothing of the noise; zeta is what balances
    measurement and prior, and depends on the task, the image size and the number of steps.

    Fields:
        num_steps: evenly spaced times, the last and the first included; the paper takes all.
        zeta: step size.
        clip: clip x0 to [-1, 1], for the gradient, too.
    """

    label: ClassVar[str] = "DPS"
    needs: ClassVar[frozenset[str]] = frozenset({GRADIENT})
    num_steps: int = Field(NUM_STEPS, ge=1, le=NUM_STEPS)
    zeta: float = Field(ge=0)
    clip: bool = True

    def solve(
        self, y: Tensor, operator: LinearOperator, noise: Noise, prior: CountedPrior, rngs: Rngs
    ) -> Tensor:
        """See `Solver.solve`."""
        times = spaced_times(len(prior.schedule), self.num_steps)
        spaced = spaced_schedule(prior.schedule, times)
        x_t = normal_each(operator.image_shape, rngs).to(y)
        for step, t in zip(reversed(range(self.num_steps)), times, strict=True):
            with torch.enable_grad():
                x_t = x_t.detach().requires_grad_(True)
                x0, _, variance = prior.predict(x_t, t)
                x0 = x0.clamp(-1, 1) if self.clip else x0
                residual = (y - operator.A(x0)).flatten(1).norm(dim=1).sum()
                (gradient,) = torch.autograd.grad(residual, x_t)
            # Unguided here: the gradient is taken at x_t, but acts after the step.
            sample = ancestral_step(spaced, step, x_t, x0, variance, rngs)
            x_t = sample - self.zeta * gradient
        return x_t
