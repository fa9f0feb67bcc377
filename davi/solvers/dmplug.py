"""DMPlug: the seed whose few-step DDIM sample explains the measurement, found by descent."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from davi.operators.operator import Operator
from davi.priors.sampling import ddim_step
from davi.solvers.base import GRADIENT, Noise, Rngs, Solver
from davi.solvers.grids import steps_of, stride_times
from davi.solvers.prior import CountedPrior
from davi.solvers.windowed_variance import WindowedVariance
from davi.system.runtime import normal_each


class Dmplug(Solver):
    """x = R(z), z = argmin |y - A R(z)|^2, R = DDIM without noise in a few steps.

    Source: Wang et al. 2024, DMPlug, Eq. 7, and its combination with ES-WMV, Algorithm 3. The
    official script returns the iterate closest to the truth, which a solver does not have: this one
    returns the last iterate, or stops early. Each image descends on a loss of its own, and leaves
    the batch when it has stopped.

    Fields:
        num_ddim_steps: K of R, at the multiples of 1000 // K; with 3 steps z stands for x_666.
        num_iterations: updates of z, at most.
        learning_rate: of Adam.
        window: images over which the early stopping takes the variance.
        patience: iterations without a new minimum of that variance after which an image is
            finished, and the one at the minimum returned; None for no early stopping.
        min_iterations: before which early stopping counts no minimum.
        improvement: share by which the variance must fall for a new minimum.
        clip: clip the x0 of each DDIM step, and so the image, to [-1, 1].
    """

    label: ClassVar[str] = "DMPlug"
    needs: ClassVar[frozenset[str]] = frozenset({GRADIENT})
    num_ddim_steps: int = Field(3, ge=1, le=100)
    num_iterations: int = Field(5000, ge=1)
    learning_rate: float = Field(0.01, gt=0)
    window: int = Field(50, ge=2)
    patience: int | None = Field(None, ge=1)
    min_iterations: int = Field(0, ge=0)
    improvement: float = Field(0.0, ge=0, lt=1)
    clip: bool = True

    def solve(
        self, y: Tensor, operator: Operator, noise: Noise, prior: CountedPrior, rngs: Rngs
    ) -> Tensor:
        """See `Solver.solve`."""
        z = normal_each(operator.image_shape, rngs).to(y).requires_grad_(True)
        adam = torch.optim.Adam([z], lr=self.learning_rate)
        stopping = self.window, self.patience, self.min_iterations, self.improvement
        early = WindowedVariance(z, *stopping) if self.patience else None
        x, running = torch.zeros_like(z), torch.arange(len(z), device=z.device)
        for _ in range(self.num_iterations):
            with torch.enable_grad():
                # The operator may differ from image to image: it always sees the whole batch.
                x = x.detach().index_copy(0, running, self.reconstruct(z[running], prior))
                loss = (operator.A(x) - y).square().flatten(1).mean(dim=1).sum()
                (z.grad,) = torch.autograd.grad(loss, z)
            adam.step()
            if early is not None:
                early.push(x.detach())
                running = (~early.stopped).nonzero().flatten()
                if not len(running):
                    return early.best
        x = x.detach().index_copy(0, running, self.reconstruct(z[running], prior))
        if early is None:
            return x
        early.push(x)
        return early.best

    def reconstruct(self, z: Tensor, prior: CountedPrior) -> Tensor:
        """Returns R(z), (B, C, H, W); differentiable."""
        x_t = z
        for t, s in steps_of(stride_times(self.num_ddim_steps)):
            x0 = prior.predict(x_t, t).x0
            x0 = x0.clamp(-1, 1) if self.clip else x0
            x_t = ddim_step(x_t, x0, prior.alpha_bar(t), prior.alpha_bar(s))
        return x_t
