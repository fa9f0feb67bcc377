"""Networks that estimate a score: the frozen prior s_theta and the fake score s_psi.

Both are ADM UNets that predict the noise; s = -eps / sqrt(1 - alpha_bar_t).
"""

import torch
from torch import Tensor, nn

from davi.operators.measurement import MeasurementChannels
from davi.schedule import Schedule
from davi.system.runtime import autocast


class ScoreModel(nn.Module):
    """A noise-predicting network seen as a score.

    Args:
        network: (x_t, t) -> (B, >= C, H, W); the first C channels are the noise, C further ones
            a learned variance.
        schedule: the diffusion that x_t comes from.
        precision: fp32, bf16 or fp16; what the network runs in. Results are float32.
        sees: how the network is shown the measurement, which makes it the score of
            q(x_t | y); None: not at all, as in the paper.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        precision: str = "fp32",
        sees: MeasurementChannels | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.precision = precision
        self.sees = sees

    def eps(self, x_t: Tensor, t: Tensor, y_image: Tensor | None = None) -> Tensor:
        """Returns the predicted noise, shape as x_t (B, C, H, W).

        Args:
            x_t: noised images.
            t: (B,) int64 index.
            y_image: (B, C, H, W) measurements on the image grid, for a network that sees them.
        """
        return self.eps_and_variance(x_t, t, y_image)[0]

    def eps_and_variance(
        self, x_t: Tensor, t: Tensor, y_image: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns the predicted noise and what the network's further channels say.

        Those mean a variance, see `Schedule.learned_log_variance`; a network without has none.
        """
        network_input = x_t if self.sees is None else self.sees.append(x_t, y_image)
        with autocast(x_t.device, self.precision):
            output = self.network(network_input, t).to(x_t.dtype)
        channels = x_t.shape[1]
        return output[:, :channels], output[:, channels:]

    def score(self, x_t: Tensor, t: Tensor, y_image: Tensor | None = None) -> Tensor:
        """Returns the estimate of grad log q(x_t), shape as x_t; arguments as of `eps`."""
        return self.schedule.score_from_eps(self.eps(x_t, t, y_image), t)


class FrozenPrior(nn.Module):
    """s_theta: a score model whose weights never change and never see a gradient.

    Args:
        model: anything with `eps(x_t, t)` and `score(x_t, t)`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)

    @torch.no_grad()
    def eps(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Returns the predicted noise without graph, shape as x_t."""
        return self.model.eps(x_t, t)

    @torch.no_grad()
    def score(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Returns grad log p_theta(x_t) without graph, shape as x_t."""
        return self.model.score(x_t, t)
