"""Noise models: y given the noiseless A x, both on the [-1, 1] scale."""

from dataclasses import dataclass

import torch
from torch import Tensor

from davi.system.runtime import draw_each, normal_each

PHOTONS_AT_FULL_SCALE = 255.0  # at rate 1, as in DPS


@dataclass(frozen=True)
class GaussianNoise:
    """y = A x + n with white Gaussian n (Eq. 1).

    Attributes:
        sigma_low, sigma_high: standard deviation on the [-1, 1] scale; if they differ, it is
            drawn uniformly for each image (Table 3).
    """

    sigma_low: float
    sigma_high: float

    def sample(self, clean: Tensor, rngs: list[torch.Generator]) -> tuple[Tensor, Tensor]:
        """Returns a noisy copy of noiseless measurements (B, ...), image i by generator i.

        And the deviation of each image's noise, (B, 1, ...) float64.
        """
        position = draw_each(
            lambda rng: torch.rand((), generator=rng, device=rng.device, dtype=torch.float32), rngs
        )
        position = position.view(-1, *[1] * (clean.ndim - 1))
        noise = normal_each(clean.shape[1:], rngs)
        span = self.sigma_high - self.sigma_low
        noisy = clean + (self.sigma_low + span * position).to(clean.dtype) * noise
        return noisy, self.sigma_low + span * position.double()  # sigma_low itself without a span

    @property
    def largest_deviation(self) -> float:
        """The largest deviation that is drawn."""
        return self.sigma_high

    def consistency_weight(self, y: Tensor) -> Tensor:
        """Returns 1: 1 / (2 sigma_y^2) of Eq. 8 is part of gamma, as in Algorithm 1."""
        return y.new_ones(())


class PoissonNoise:
    """Photon noise (Table 9): 255 * rate photons for a white pixel.

    Intensities are (value + 1) / 2; negative ones, which a blur of black can give by rounding,
    count as dark.

    Args:
        rate: photons per grey level.
    """

    def __init__(self, rate: float) -> None:
        self.photons = PHOTONS_AT_FULL_SCALE * rate

    def sample(self, clean: Tensor, rngs: list[torch.Generator]) -> tuple[Tensor, Tensor]:
        """Returns a noisy copy of noiseless measurements (B, ...), image i by generator i.

        And the deviation of each entry's noise in the quadratic approximation of Eq. 37.
        """
        expected = ((clean + 1) / 2).clamp(min=0) * self.photons
        counts = [torch.poisson(image, rng) for image, rng in zip(expected, rngs, strict=True)]
        y = torch.stack(counts) / self.photons * 2 - 1
        return y, self._deviation(y)

    @property
    def largest_deviation(self) -> float:
        """The deviation of a white pixel's noise."""
        return self._deviation(torch.ones((), dtype=torch.float64)).item()

    def consistency_weight(self, y: Tensor) -> Tensor:
        """Returns the diagonal of Lambda, for residuals on the [-1, 1] scale; shape as y.

        Source: Eq. 37, [Lambda]_ii = 1 / (2 y_i) for intensities y. A residual on the [-1, 1]
        scale is twice one of intensities, hence the 4. At least one photon is assumed, where the
        equation would divide by 0.
        """
        intensity = ((y + 1) / 2).clamp(min=1 / self.photons)
        return 1 / (2 * intensity) / 4

    def _deviation(self, y: Tensor) -> Tensor:
        return (2 * self.photons * self.consistency_weight(y)).rsqrt()
