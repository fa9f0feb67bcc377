"""BlindDPS: two diffusions in parallel, of the image and of the kernel, guided by one residual."""

from functools import cache
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from davi.config.section import FilePath
from davi.operators.convolution import UnknownConvolution
from davi.priors.sampling import ancestral_step, spaced_schedule, spaced_times
from davi.priors.weight_file import read_prior_file
from davi.schedule import NUM_STEPS, Schedule
from davi.score import ScoreModel
from davi.solvers.base import GRADIENT, Noise, Rngs
from davi.solvers.blind import BlindSolver
from davi.solvers.prior import CountedPrior, Prediction
from davi.system.errors import InputError
from davi.system.runtime import normal_each
from davi.weights.network_file import weights_file

SMALLEST_SUM = 1e-6  # of a picture's taps: one that is all black blurs to nothing


class BlindDps(BlindSolver):
    """x and k take ancestral steps - zeta sqrt(abar_t) grad (|y - k * x0| + sparsity |p|_1).

    Each has a prior of its own, the times are the same, and the gradients pass through both
    networks. The diffusion of kernels is one of pictures in [-1, 1], whose clean estimate, as p
    in [0, 1], stands for the kernel k = p / sum(p).

    Source: Chung et al. 2023, Parallel Diffusion Models of Operator and Image for Blind Inverse
    Problems, Algorithm 1, with the step size of the official code; the paper has the constant 0.3.
    Deviation: the paper's and the code's regulariser is the norm of k, which is 1 whatever k is and
    so does nothing; here it is that of p. Its default is 0, what the code amounts to.

    Fields:
        checkpoint: the prior of kernels, of one channel.
        num_steps: evenly spaced times, the last and the first included; the paper takes all.
        zeta: step size of the image, at abar_t = 1.
        kernel_zeta: that of the kernel.
        sparsity: weight of the sum of the taps p.
    """

    label: ClassVar[str] = "BlindDPS"
    needs: ClassVar[frozenset[str]] = frozenset({GRADIENT})
    checkpoint: FilePath
    num_steps: int = Field(NUM_STEPS, ge=1, le=NUM_STEPS)
    zeta: float = Field(1.0, ge=0)
    kernel_zeta: float = Field(1.0, ge=0)
    sparsity: float = Field(0.0, ge=0)

    def estimate(
        self, y: Tensor, operator: UnknownConvolution, noise: Noise, prior: CountedPrior, rngs: Rngs
    ) -> tuple[Tensor, Tensor]:
        """See `BlindSolver.estimate`."""
        model, side = load_kernel_prior(self.checkpoint, str(y.device), prior.precision)
        if side < operator.kernel_size:
            raise InputError(
                f"{self.checkpoint}: makes pictures of {side}x{side}, too small for kernels of "
                f"{operator.kernel_size} taps; take a prior of larger ones"
            )
        priors = prior, CountedPrior(model, prior.evaluations)
        times = spaced_times(len(prior.schedule), self.num_steps)
        spaced = [spaced_schedule(each.schedule, times) for each in priors]
        states = [
            normal_each(shape, rngs).to(y) for shape in (operator.image_shape, (1, side, side))
        ]
        for step, t in zip(reversed(range(self.num_steps)), times, strict=True):
            clean, variances, gradients = self._pull(states, t, y, operator, priors)
            rates = self.zeta, self.kernel_zeta
            for i in range(2):
                moved = ancestral_step(spaced[i], step, states[i], clean[i], variances[i], rngs)
                states[i] = moved - rates[i] * prior.alpha_bar(t) ** 0.5 * gradients[i]
        x, picture = states
        return x, kernel_of(taps_of(picture.clamp(-1, 1), operator.kernel_size))

    def _pull(
        self,
        states: list[Tensor],
        t: int,
        y: Tensor,
        operator: UnknownConvolution,
        priors: tuple[CountedPrior, CountedPrior],
    ) -> tuple[list[Tensor], list[Tensor], tuple[Tensor, ...]]:
        """Clean estimates of image and picture, their variance channels, and the gradients."""
        with torch.enable_grad():
            states = [state.detach().requires_grad_(True) for state in states]
            found: list[Prediction] = [
                each.predict(state, t) for each, state in zip(priors, states, strict=True)
            ]
            x0, picture = (each.x0.clamp(-1, 1) for each in found)
            taps = taps_of(picture, operator.kernel_size)
            residual = y - operator.with_kernel(kernel_of(taps)).A(x0)
            loss = residual.flatten(1).norm(dim=1).sum() + self.sparsity * taps.sum()
            gradients = torch.autograd.grad(loss, states)
        return (
            [x0.detach(), picture.detach()],
            [each.variance.detach() for each in found],
            gradients,
        )


def taps_of(picture: Tensor, size: int) -> Tensor:
    """Returns the taps (B, 1, k, k) in [0, 1] of pictures (B, 1, S, S) in [-1, 1].

    They lie where `davi.data.kernels.picture_of` puts them; what is around them is left out.
    """
    start = (picture.shape[-1] - 1) // 2 - size // 2
    part = slice(start, start + size)
    return (picture[..., part, part] + 1) / 2


def kernel_of(taps: Tensor) -> Tensor:
    """Returns taps by their sum, shape as given."""
    return taps / taps.sum(dim=(-2, -1), keepdim=True).clamp(min=SMALLEST_SUM)


@cache
def load_kernel_prior(source: str, device: str, precision: str) -> tuple[ScoreModel, int]:
    """Returns a prior of kernels, read once, and the side of its pictures.

    Args:
        source: run folder, training checkpoint or `.safetensors`.
        device: where to run.
        precision: fp32, bf16 or fp16; what the network runs in.

    Raises:
        InputError, CheckpointError: missing or damaged file, or no prior of one channel.
    """
    file = read_prior_file(weights_file(Path(source)))
    if file.unet.in_channels != 1:
        raise InputError(
            f"{source}: a prior of {file.unet.in_channels} channels; one of kernels has 1, such as "
            "checkpoints/kernel_prior.safetensors"
        )
    schedule = Schedule.named(file.schedule)
    model = ScoreModel(file.network(), schedule, precision, prediction=file.prediction)
    return model.to(device), file.unet.image_size
