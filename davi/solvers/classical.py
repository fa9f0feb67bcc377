"""What classical methods share: images as NumPy arrays, and the base of those that denoise."""

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from davi.operators.denoising import Denoising
from davi.operators.noise import GaussianNoise
from davi.solvers.base import DENOISING, NOISE_LEVEL, Rngs, Solver
from davi.solvers.prior import CountedPrior


def each(method: Callable[..., np.ndarray], *batches: Tensor) -> Tensor:
    """Returns what a method makes of each entry of the batches, of the kind of the first batch.

    Args:
        method: takes one float64 array per batch, and returns one.
        batches: (B, ...).
    """
    arrays = [batch.double().cpu().numpy() for batch in batches]
    made = [method(*entries) for entries in zip(*arrays, strict=True)]
    return torch.from_numpy(np.stack(made)).to(batches[0])


def each_channel(method: Callable[..., np.ndarray], *batches: Tensor) -> Tensor:
    """Returns what `each` does, of every channel (H, W) of batches (B, C, H, W)."""
    made = each(method, *(batch.flatten(0, 1) for batch in batches))
    return made.unflatten(0, batches[0].shape[:2])


class ClassicalDenoiser(Solver):
    """A denoiser of colour images that knows the noise level, without a prior."""

    needs: ClassVar[frozenset[str]] = frozenset({NOISE_LEVEL, DENOISING})

    def solve(
        self, y: Tensor, operator: Denoising, noise: GaussianNoise, prior: CountedPrior, rngs: Rngs
    ) -> Tensor:
        """See `Solver.solve`."""
        sigma = noise.sigma_low
        if sigma == 0:  # the libraries divide by it
            return y
        images = y.movedim(1, -1)
        return each(lambda image: self._denoised(image, sigma), images).movedim(-1, 1)

    def _denoised(self, image: np.ndarray, sigma: float) -> np.ndarray:
        return self.denoise(image, sigma).reshape(image.shape)

    @abstractmethod
    def denoise(self, image: np.ndarray, sigma: float) -> np.ndarray:
        """Returns the denoised image, (H, W, C), or (H, W) if there is one channel.

        Args:
            image: (H, W, C) float64, nominally in [-1, 1].
            sigma: deviation of its noise, positive.
        """
