"""Noise models: y given the noiseless A x, both on the [-1, 1] scale.

The four kinds of ImageNet-C (Hendrycks and Dietterich 2019) are here: Gaussian, impulse, shot
(`PoissonNoise` of 255 * rate photons) and speckle. It clips their y, see `ClippedNoise`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from davi.system.runtime import draw_each, normal_each

PHOTONS_AT_FULL_SCALE = 255.0  # at rate 1, as in DPS
GREY_LEVEL = 2 / 255  # of 8 bits, on the [-1, 1] scale


class Noise(ABC):
    """What is added to A x, or done to it."""

    @abstractmethod
    def sample(self, clean: Tensor, rngs: list[torch.Generator]) -> tuple[Tensor, Tensor]:
        """Returns a noisy copy of noiseless measurements (B, ...), image i by generator i.

        And the deviation of the noise: (B, 1, ...) one for each image, or as y one for each entry.
        """

    @property
    @abstractmethod
    def largest_deviation(self) -> float:
        """The largest deviation that values in [-1, 1] can have."""

    def consistency_weight(self, y: Tensor) -> Tensor:
        """Returns the weight of each entry in L_C; broadcasts against y.

        1, unless a model says otherwise: 1 / (2 sigma_y^2) of Eq. 8 is part of gamma, as in
        Algorithm 1. Impulse noise, whose likelihood is no square, and noise of which neither
        deviation nor kind is known keep that square.
        """
        return y.new_ones(())


@dataclass(frozen=True)
class GaussianNoise(Noise):
    """y = A x + n with white Gaussian n (Eq. 1).

    Attributes:
        sigma_low, sigma_high: standard deviation on the [-1, 1] scale; if they differ, it is
            drawn uniformly for each image (Table 3).
    """

    sigma_low: float
    sigma_high: float

    def sample(self, clean: Tensor, rngs: list[torch.Generator]) -> tuple[Tensor, Tensor]:
        """See `Noise.sample`; the deviation of each image, float64."""
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


@dataclass(frozen=True)
class PoissonNoise(Noise):
    """Photon noise (Table 9), or shot noise: 255 * rate photons for a white pixel.

    Intensities are (value + 1) / 2; negative ones, which a blur of black can give by rounding,
    count as dark.

    Attributes:
        rate: photons per grey level.
    """

    rate: float

    @property
    def photons(self) -> float:
        """How many a white pixel has."""
        return PHOTONS_AT_FULL_SCALE * self.rate

    def sample(self, clean: Tensor, rngs: list[torch.Generator]) -> tuple[Tensor, Tensor]:
        """See `Noise.sample`; the deviation of each entry in the approximation of Eq. 37."""
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


@dataclass(frozen=True)
class ImpulseNoise(Noise):
    """Salt and pepper: some entries are -1 or 1 instead, as many of each.

    Attributes:
        amount: the probability of an entry to be one of them.
    """

    amount: float

    def sample(self, clean: Tensor, rngs: list[torch.Generator]) -> tuple[Tensor, Tensor]:
        """See `Noise.sample`; E (y - A x)^2 = amount (1 + (A x)^2), with y in the place of A x."""
        shape = clean.shape[1:]
        chance = draw_each(
            lambda rng: torch.rand(shape, generator=rng, device=rng.device, dtype=torch.float32),
            rngs,
        )
        y = torch.where(chance < self.amount, 1, clean)
        y = torch.where(chance < self.amount / 2, -1, y)
        return y, (self.amount * (1 + y.square())).sqrt()

    @property
    def largest_deviation(self) -> float:
        """That of a black or white pixel."""
        return (2 * self.amount) ** 0.5


@dataclass(frozen=True)
class SpeckleNoise(Noise):
    """Gaussian noise that grows with the intensity u = (value + 1) / 2: u + u n.

    Attributes:
        sigma: standard deviation of n, which is that of a white pixel on the scale [0, 1].
    """

    sigma: float

    def sample(self, clean: Tensor, rngs: list[torch.Generator]) -> tuple[Tensor, Tensor]:
        """See `Noise.sample`; the deviation takes y for A x, and the darkest for one grey level."""
        noise = normal_each(clean.shape[1:], rngs)
        y = clean + (clean + 1) * self.sigma * noise
        return y, (y + 1).clamp(min=GREY_LEVEL) * self.sigma

    @property
    def largest_deviation(self) -> float:
        """That of a white pixel."""
        return 2 * self.sigma


@dataclass(frozen=True)
class ClippedNoise(Noise):
    """Another noise, whose y is clipped to [-1, 1]: that of dark and bright pixels has a bias.

    Attributes:
        noise: the other; its deviations, an upper bound here, and weights are kept.
    """

    noise: Noise

    def sample(self, clean: Tensor, rngs: list[torch.Generator]) -> tuple[Tensor, Tensor]:
        """See `Noise.sample`."""
        y, sigma = self.noise.sample(clean, rngs)
        return y.clamp(-1, 1), sigma

    @property
    def largest_deviation(self) -> float:
        """That of the other noise."""
        return self.noise.largest_deviation

    def consistency_weight(self, y: Tensor) -> Tensor:
        """See `Noise.consistency_weight`; that of the other noise."""
        return self.noise.consistency_weight(y)


@dataclass(frozen=True)
class NoiseMixture(Noise):
    """Each image draws one of several kinds, all equally likely.

    Attributes:
        kinds: of noise.
    """

    kinds: tuple[Noise, ...]

    def sample(self, clean: Tensor, rngs: list[torch.Generator]) -> tuple[Tensor, Tensor]:
        """See `Noise.sample`; the deviation that the drawn kind gives, shape as y."""
        drawn = []
        for image, rng in zip(clean, rngs, strict=True):
            number = torch.randint(len(self.kinds), (), generator=rng, device=rng.device)
            y, sigma = self.kinds[number].sample(image[None], [rng])
            drawn.append((y, sigma.expand_as(y).to(y.dtype)))
        ys, sigmas = zip(*drawn, strict=True)
        return torch.cat(ys), torch.cat(sigmas)

    @property
    def largest_deviation(self) -> float:
        """The largest of all kinds."""
        return max(kind.largest_deviation for kind in self.kinds)
