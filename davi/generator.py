"""The implicit generator I_phi,a: a point of the bridge -> a clean image, in one evaluation."""

from typing import Any

import torch
from torch import Tensor, nn

from davi.bridge import PosteriorBridge, symmetric_betas
from davi.operators.measurement import MeasurementChannels
from davi.schedule import Schedule
from davi.score import PosteriorDenoiser
from davi.system.runtime import autocast


def paper_coefficient(schedule: Schedule) -> Tensor:
    """Returns sqrt(1 - alpha_bar_a), (1000,): x0 = y_a - sqrt(1 - alpha_bar_a) eps.

    Source: Eq. 38. Deviation (docs/fidelity.md, "generator"): taken by the letter, its factor
    alpha_a vanishes at a = 1, where the network would have no say. "Score network-induced
    data-prediction" is Tweedie's formula x0 = y + sigma^2 score; with the bridge's variance
    sbar_a = 1 - alpha_bar_a and score = -eps / sqrt(sbar_a) it reads as above.
    """
    return (1 - schedule.alpha_bar).sqrt()


def release_coefficient(schedule: Schedule) -> Tensor:
    """Returns the release's `std_fwd`, (1000,): x0 = tanh(y_a - std_fwd_a eps).

    It is the root of the sum of its betas up to and including a.
    """
    return symmetric_betas().cumsum(0).sqrt()


# name: (coefficient table, whether tanh follows)
PARAMETRISATIONS = {"paper": (paper_coefficient, False), "release": (release_coefficient, True)}


class ImplicitGenerator(nn.Module):
    """I_phi,a. The bridge time enters the network where a prior takes its diffusion time.

    Its output is eps of Eq. 38, whatever the prior predicts: y_a is no point of the prior's
    diffusion, so that the prior's weights are a start and no more.

    Args:
        network: ADM UNet; its first C output channels are used.
        parametrisation: a key of `PARAMETRISATIONS`.
        schedule: gives alpha_bar.
        precision: what the network runs in; results are float32.
        sees: how the network is shown the measurement itself, beside y_a; None: not at all.

    Attributes:
        time: what the network is asked for in Algorithm 2, the same for all images.
    """

    time: int = PosteriorBridge.END
    coefficient: Tensor

    def __init__(
        self,
        network: nn.Module,
        parametrisation: str,
        schedule: Schedule,
        precision: str = "fp32",
        sees: MeasurementChannels | None = None,
    ) -> None:
        super().__init__()
        table, self.squash = PARAMETRISATIONS[parametrisation]
        self.network = network
        self.precision = precision
        self.sees = sees
        self.register_buffer("coefficient", table(schedule), persistent=False)

    def forward(self, y_a: Tensor, a: Tensor, y_image: Tensor | None = None) -> Tensor:
        """Returns x0_hat (B, C, H, W), nominally in [-1, 1].

        Source: Eq. 38.

        Args:
            y_a: (B, C, H, W) point of the bridge.
            a: (B,) int64 index of the bridge.
            y_image: (B, C, H, W) measurements on the image grid, for a network that sees them.
        """
        eps = self._output(y_a, a, y_image)
        x0_hat = y_a - self.coefficient[a].to(y_a.dtype)[:, None, None, None] * eps
        return x0_hat.tanh() if self.squash else x0_hat

    def _output(self, x: Tensor, time: Tensor, y_image: Tensor | None) -> Tensor:
        """What the network says of x at a time."""
        network_input = x if self.sees is None else self.sees.append(x, y_image)
        with autocast(x.device, self.precision):
            output = self.network(network_input, time)
        return output[:, : x.shape[1]].to(x.dtype)


class DenoisingGenerator(ImplicitGenerator):
    """I_phi at a = 1 alone: u = y + h z is denoised, at the time whose noise is that of u.

    With the weights of the prior it begins as E[x0 | u] of denoising. For recipes `posterior` and
    `energy`.

    Args:
        network, schedule, precision, sees: as of `ImplicitGenerator`.
        deviation: of the noise in u, sqrt(sigma_y^2 + h^2) with the largest sigma_y.
        prediction: what the prior says, see `ScoreModel`.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        deviation: float,
        precision: str = "fp32",
        sees: MeasurementChannels | None = None,
        prediction: str = "eps",
    ) -> None:
        super().__init__(network, "paper", schedule, precision, sees)
        self.deviation = deviation
        self.schedule, self.prediction = schedule, prediction
        self.time = int(schedule.index_of_noise(torch.tensor(deviation, dtype=torch.float64)))

    def forward(self, y_a: Tensor, a: Tensor, y_image: Tensor | None = None) -> Tensor:
        """See `ImplicitGenerator.forward`; y_a is u, whatever a is."""
        u = y_a / (1 + self.deviation**2) ** 0.5  # as the diffusion scales it
        time = torch.full_like(a, self.time)
        eps = self.schedule.eps_of(self.prediction, u, time, self._output(u, time, y_image))
        return y_a - self.deviation * eps


class ConditionalGenerator(PosteriorDenoiser):
    """I_phi that begins as a conditional teacher at one high noise, of variance s.

        x0_hat = D(m0 + (M + s)^(1/2) z, t, y) + M^(1/2) (1 - M / tau^2) z

    At that noise D is a mean where y speaks; the second term is the spread there, and 0 where y is
    silent. For recipe `conditional_teacher`.

    Args:
        endpoint_scale: h of the bridge, by which its endpoint y + h z holds z.
        start: deviation of the high noise, on the [-1, 1] scale.
        Further ones are those of `PosteriorDenoiser`.

    Attributes:
        time: of that noise.
    """

    def __init__(self, *args: Any, endpoint_scale: float, start: float, **others: Any) -> None:
        super().__init__(*args, **others)
        self.endpoint_scale = endpoint_scale
        self.time = int(self.schedule.index_of_noise(torch.tensor(start, dtype=torch.float64)))

    def forward(self, y_a: Tensor, a: Tensor, y_image: Tensor) -> Tensor:
        """See `ImplicitGenerator.forward`; y_a is y + h z."""
        z, mean = (y_a - y_image) / self.endpoint_scale, self.white_mean(y_image)
        t = torch.full_like(a, self.time)
        s = self.schedule.noise_ratio(t, z)
        x = mean + self.scale(z, (self.variance + s).sqrt())
        x_t = self.schedule.alpha_bar_t(t, z).sqrt() * x
        own = self.variance.sqrt() * (1 - self.variance / self.deviation**2)
        return self.denoise(x_t, t, mean) + self.scale(z, own)
