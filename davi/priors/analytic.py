"""A prior whose score is known: it stands in for s_theta where the truth must be computable."""

import torch
from torch import Tensor, nn

from davi.schedule import Schedule


class GaussianMixturePrior(nn.Module):
    """The exact score of a diffused Gaussian mixture; one component makes it a Gaussian.

    Images (B, C, H, W) are flattened to vectors of D = C H W entries.

    Args:
        weights: (K,) probabilities of the components.
        means: (K, D).
        covariances: (K, D, D), symmetric, positive definite.
        schedule: the diffusion.
    """

    log_weights: Tensor
    means: Tensor
    variances: Tensor  # (K, D), eigenvalues of the covariances
    axes: Tensor  # (K, D, D), eigenvectors in columns

    def __init__(
        self, weights: Tensor, means: Tensor, covariances: Tensor, schedule: Schedule
    ) -> None:
        super().__init__()
        variances, axes = torch.linalg.eigh(covariances)
        self.schedule = schedule
        self.register_buffer("log_weights", weights.log())
        self.register_buffer("means", means)
        self.register_buffer("variances", variances)
        self.register_buffer("axes", axes)

    def sample(self, count: int, rng: torch.Generator) -> Tensor:
        """Returns (count, D) draws of x_0."""
        probabilities = self.log_weights.exp()
        component = torch.multinomial(probabilities, count, replacement=True, generator=rng)
        normal = torch.randn(count, self.means.shape[1], generator=rng, dtype=self.means.dtype)
        scaled = self.variances[component].sqrt() * normal
        return self.means[component] + torch.einsum("bij,bj->bi", self.axes[component], scaled)

    def score(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Returns grad log p(x_t), shape as x_t; t is (B,) int64."""
        x = x_t.flatten(1)
        alpha_bar = self.schedule.alpha_bar_t(t, x)  # (B, 1)
        deviation = x[:, None] - alpha_bar.sqrt()[:, None] * self.means  # (B, K, D)
        rotated = torch.einsum("kij,bki->bkj", self.axes, deviation)
        variance = alpha_bar[:, None] * self.variances + (1 - alpha_bar)[:, None]
        log_density = -0.5 * (rotated.square() / variance + variance.log()).sum(dim=2)
        responsibility = (self.log_weights + log_density).softmax(dim=1)
        component_score = -torch.einsum("kij,bkj->bki", self.axes, rotated / variance)
        return torch.einsum("bk,bki->bi", responsibility, component_score).view_as(x_t)

    def eps(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Returns the expected noise in x_t, shape as x_t."""
        return self.schedule.eps_from_score(self.score(x_t, t), t)

    def eps_and_variance(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the expected noise and no variance channels, as a network without them."""
        return self.eps(x_t, t), x_t[:, :0]
