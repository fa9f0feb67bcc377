"""DMPlug with an unknown kernel: descent on the seed of the image and on the kernel's logits."""

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from davi.operators.convolution import UnknownConvolution
from davi.solvers.base import GRADIENT, Noise, Rngs
from davi.solvers.blind import BlindSolver
from davi.solvers.dmplug import Dmplug
from davi.solvers.prior import CountedPrior
from davi.system.runtime import normal_each


class DmplugBlind(BlindSolver):
    """x = R(z), k = softmax(l), (z, l) = argmin |y - k * R(z)|^2, R as of `Dmplug`.

    The softmax keeps k positive and of sum 1; nothing else is asked of it. Returned is the last
    iterate. The shift between x and k is left open: PSNR counts it, `aligned_psnr` does not.

    Source: Wang et al. 2024, DMPlug, blind image deblurring, with both starts standard normal.

    Fields:
        num_ddim_steps: see `Dmplug`.
        num_iterations: updates; the official script has 10 000.
        learning_rate: of Adam for z.
        kernel_learning_rate: of Adam for the logits; 0 keeps their start.
        clip: clip the x0 of each DDIM step, and so the image, to [-1, 1].
    """

    label: ClassVar[str] = "DMPlug, blind"
    needs: ClassVar[frozenset[str]] = frozenset({GRADIENT})
    num_ddim_steps: int = Field(3, ge=1, le=100)
    num_iterations: int = Field(10_000, ge=1)
    learning_rate: float = Field(0.01, gt=0)
    kernel_learning_rate: float = Field(0.1, ge=0)
    clip: bool = True

    def estimate(
        self, y: Tensor, operator: UnknownConvolution, noise: Noise, prior: CountedPrior, rngs: Rngs
    ) -> tuple[Tensor, Tensor]:
        """See `BlindSolver.estimate`."""
        image = Dmplug(num_ddim_steps=self.num_ddim_steps, clip=self.clip)
        z = normal_each(operator.image_shape, rngs).to(y).requires_grad_(True)
        logits = self.first_logits(operator.kernel_size, rngs).to(y).requires_grad_(True)
        adam = torch.optim.Adam(
            [{"params": [z]}, {"params": [logits], "lr": self.kernel_learning_rate}],
            lr=self.learning_rate,
        )
        for _ in range(self.num_iterations):
            with torch.enable_grad():
                blurred = operator.with_kernel(simplex(logits)).A(image.reconstruct(z, prior))
                loss = (blurred - y).square().flatten(1).mean(dim=1).sum()
                z.grad, logits.grad = torch.autograd.grad(loss, [z, logits])
            adam.step()
        return image.reconstruct(z, prior), simplex(logits)

    def first_logits(self, size: int, rngs: Rngs) -> Tensor:
        """Returns where the logits start, (B, 1, size, size)."""
        return normal_each((1, size, size), rngs)


def simplex(logits: Tensor) -> Tensor:
    """Returns the softmax over the taps of each kernel, (B, 1, k, k)."""
    return logits.flatten(1).softmax(dim=1).view_as(logits)
