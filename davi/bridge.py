"""The Perturbed Posterior Bridge between clean image and measurement (Sec. 4.3).

Bridge times are integer indices a = 0 (clean) .. 999 (measurement), as the networks take them.
"""

import scipy.special
import torch
from torch import Tensor, nn

from davi.schedule import BETA_END, NUM_STEPS, Schedule, linear_betas, quadratic_betas
from davi.system.runtime import draw_each


def symmetric_betas(end: float = BETA_END) -> Tensor:
    """Returns the release's (1000,) bridge betas: the quadratic ones rise, then mirrored fall.

    Args:
        end: the last of the quadratic ones, of which half are taken.
    """
    rising = quadratic_betas(end=end)[: NUM_STEPS // 2]
    return torch.cat([rising, rising.flip(0)])


def integral_share(betas: Tensor) -> Tensor:
    """Returns sigma_a, the share of the integral of beta that lies between a and the end.

    Source: Eq. 13, by the trapezoid rule, so that sigma is exactly 1 at a = 0 and 0 at the end.
    """
    covered = torch.cat([betas.new_zeros(1), torch.cumulative_trapezoid(betas)])
    return 1 - covered / covered[-1]


def release_mixing() -> Tensor:
    """Returns the release's weight of the clean image: symmetric betas, both sums include a."""
    betas = symmetric_betas()
    forward, backward = betas.cumsum(0), betas.flip(0).cumsum(0).flip(0)
    return backward / (forward + backward)


MIXINGS = {
    "linear": lambda: integral_share(linear_betas()),
    "quadratic": lambda: integral_share(quadratic_betas()),
    "symmetric": release_mixing,
}


def beta_cdf(shape: tuple[float, float], index: str = "truncated") -> Tensor:
    """Returns P(index <= k), (1000,) float64, for v ~ Beta(shape).

    Source: supplement C.1, p(a) = Beta(3, 1). The paper does not say how a becomes an index.

    Args:
        shape: of the beta distribution.
        index: "truncated", trunc(1000 v - 0.5) as in the release, or "nearest", round(999 v).
    """
    k = torch.arange(NUM_STEPS, dtype=torch.float64)
    upper = {"truncated": (k + 1.5) / NUM_STEPS, "nearest": (k + 0.5) / (NUM_STEPS - 1)}[index]
    return torch.from_numpy(scipy.special.betainc(*shape, upper.clamp(max=1).numpy()))


def uniform_cdf() -> Tensor:
    """Returns P(index <= k), (1000,) float64, for a uniform index."""
    return torch.arange(1, NUM_STEPS + 1, dtype=torch.float64) / NUM_STEPS


def end_cdf() -> Tensor:
    """Returns P(index <= k), (1000,) float64, if only the measurement's end is ever drawn."""
    return (torch.arange(NUM_STEPS) == NUM_STEPS - 1).double()


class PosteriorBridge(nn.Module):
    """y_a = (1 - sigma_a) y + sigma_a x + h sbar_a z (Eq. 13).

    Args:
        mixing: which betas give sigma_a, a key of `MIXINGS`.
        perturbation: "monotone", sbar_a = 1 - alpha_bar_a (supplement C.1, read with alpha_bar),
            or "constant", sbar_a = 1 (Table 5).
        h: perturbation strength, a standard deviation on the [-1, 1] scale.
        h_sampling: the same at `endpoint`; None for h.
        time_cdf: (1000,) cumulative distribution of the index a.
        extra_noise: add sigma_a (1 - sigma_a) z, the further term of Eq. 14.
        resize: how measurements come to the image grid, see `measurement.image_of`.
        schedule: gives alpha_bar.

    Attributes:
        mix_x: (1000,) sigma_a, the weight of the clean image.
        perturb_scale: (1000,) the factor of z.
        endpoint_scale: the factor of z where sampling starts.
        resize: as given.
    """

    END = NUM_STEPS - 1

    mix_x: Tensor
    perturb_scale: Tensor
    time_cdf: Tensor

    def __init__(
        self,
        *,
        mixing: str,
        perturbation: str,
        h: float,
        h_sampling: float | None = None,
        time_cdf: Tensor,
        extra_noise: bool,
        resize: str = "bilinear",
        schedule: Schedule,
    ) -> None:
        super().__init__()
        mix_x = MIXINGS[mixing]()
        shape = {"monotone": 1 - schedule.alpha_bar, "constant": torch.ones_like(mix_x)}
        self.resize = resize
        end = shape[perturbation][-1].item()
        self.endpoint_scale = end * (h if h_sampling is None else h_sampling)
        perturb_scale = h * shape[perturbation]
        if extra_noise:
            perturb_scale = perturb_scale + mix_x * (1 - mix_x)
        self.register_buffer("mix_x", mix_x)
        self.register_buffer("perturb_scale", perturb_scale)
        self.register_buffer("time_cdf", time_cdf)

    def sample_time(self, rngs: list[torch.Generator]) -> Tensor:
        """Returns a ~ p(a), (B,) int64, one per generator."""
        u = draw_each(
            lambda rng: torch.rand((), generator=rng, device=rng.device, dtype=torch.float64), rngs
        )
        return torch.searchsorted(self.time_cdf, u, right=True)

    def perturb(self, x0: Tensor, y_image: Tensor, a: Tensor, z: Tensor) -> Tensor:
        """Returns y_a, (B, C, H, W).

        Source: Eq. 13.

        Args:
            x0: clean images in [-1, 1].
            y_image: measurements on the image grid, see `measurement.lift`.
            a: (B,) int64 index.
            z: standard normal, shape as x0.
        """
        mix = self.mix_x[a].to(x0.dtype)[:, None, None, None]
        scale = self.perturb_scale[a].to(x0.dtype)[:, None, None, None]
        return (1 - mix) * y_image + mix * x0 + scale * z

    def endpoint(self, y_image: Tensor, z: Tensor) -> Tensor:
        """Returns y_a at a = 1, y + h z: where sampling starts (Algorithm 2)."""
        return y_image + self.endpoint_scale * z
