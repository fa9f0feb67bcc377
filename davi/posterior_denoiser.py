"""E[x0 | x_t, y]: a denoiser that is shown a measurement, with what y says of x0 built in.

Under a white prior of deviation tau, p(x0 | y) is N(m0, M), m0 = M A^T y / sigma^2 and
M = V (S^2 / sigma^2 + 1 / tau^2)^-1 V^T. The network learns what the white prior does not know.
"""

import torch
from torch import Tensor, nn

from davi.operators.measurement import MeasurementChannels, lift
from davi.operators.svd import SVDOperator
from davi.schedule import Schedule
from davi.system.errors import InputError
from davi.system.runtime import autocast


class PosteriorDenoiser(nn.Module):
    """D(x_t, t, y) = m0 + M / (M + s) (x - m0) + (M s / (M + s))^(1/2) F, with x = x_t / sqrt(abar).

    s = (1 - abar) / abar. F is what the network says of x_t, t, m0 and where y is silent; it has
    the size of one deviation at every t, and 0 means the white prior.

    Args:
        network: (x_t and further channels, t) -> (B, >= C, H, W); the first C channels are F.
        schedule: the diffusion that x_t comes from.
        operator: A, one for all images.
        sigma: of the noise in y, on the [-1, 1] scale.
        deviation: tau.
        sees: how the network is shown m0.
        precision: fp32, bf16 or fp16; what the network runs in. Results are float32.
        resize: how measurements come to the image grid, see `measurement.lift`.

    Raises:
        InputError: y cannot be read back from the image grid.
    """

    variance: Tensor  # M, of each singular direction

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        operator: SVDOperator,
        sigma: float,
        deviation: float,
        sees: MeasurementChannels,
        precision: str = "fp32",
        resize: str = "nearest",
    ) -> None:
        super().__init__()
        self.network, self.schedule, self.operator = network, schedule, operator
        self.sigma, self.precision, self.sees = sigma, precision, sees
        values = operator.singular_values.float()
        variance = 1 / ((values / sigma).square() + deviation**-2)
        self.register_buffer("variance", variance, persistent=False)
        probe = torch.linspace(-1, 1, operator.A(torch.zeros(1, *operator.image_shape)).numel())
        y = operator.project(probe.view(1, *operator.measurement_shape))
        if not torch.allclose(self._measurement(lift(y, operator.image_shape, resize)), y, atol=1e-4):
            raise InputError(
                f"operator: {type(operator).__name__} cannot be read back from the image grid "
                f"with bridge.resize: {resize}, which a conditional teacher needs"
            )

    def white_mean(self, y_image: Tensor) -> Tensor:
        """Returns m0 of measurements on the image grid, both (B, C, H, W)."""
        back = self.operator.U_adjoint(self._measurement(y_image))
        values = self.operator.singular_values.to(y_image.dtype)
        return self.operator.V(self.variance * values * back / self.sigma**2)

    def spread(self, image: Tensor, s: Tensor | float) -> Tensor:
        """Returns (M + s)^(1/2) of images (B, C, H, W)."""
        return self._scale(image, (self.variance + s).sqrt())

    def standardised(self, x0: Tensor, x_t: Tensor, t: Tensor, mean: Tensor) -> Tensor:
        """Returns the F with which D is x0, (B, C, H, W); `mean` is m0."""
        x, s = self._split(x_t, t)
        guess = self._white_guess(x, s, mean)
        return self._scale(x0 - guess, ((self.variance + s) / (self.variance * s)).sqrt())

    def residual(self, x_t: Tensor, t: Tensor, mean: Tensor) -> Tensor:
        """Returns F, (B, C, H, W).

        Args:
            x_t: (B, C, H, W) noised images.
            t: (B,) int64 index.
            mean: (B, C, H, W) m0, see `white_mean`.
        """
        network_input = self.sees.append(x_t, mean)
        with autocast(x_t.device, self.precision):
            return self.network(network_input, t)[:, : x_t.shape[1]].to(x_t.dtype)

    def denoise(self, x_t: Tensor, t: Tensor, mean: Tensor) -> Tensor:
        """Returns D, (B, C, H, W); arguments as of `residual`."""
        x, s = self._split(x_t, t)
        scale = (self.variance * s / (self.variance + s)).sqrt()
        return self._white_guess(x, s, mean) + self._scale(self.residual(x_t, t, mean), scale)

    def _split(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return x_t / self.schedule.alpha_bar_t(t, x_t).sqrt(), self.schedule.noise_ratio(t, x_t)

    def _white_guess(self, x: Tensor, s: Tensor, mean: Tensor) -> Tensor:
        return mean + self._scale(x - mean, self.variance / (self.variance + s))

    def _scale(self, image: Tensor, spectrum: Tensor) -> Tensor:
        return self.operator.V(spectrum * self.operator.V_adjoint(image))

    def _measurement(self, y_image: Tensor) -> Tensor:
        same = self.operator.measurement_shape == self.operator.image_shape
        return y_image if same else self.operator.A(y_image)
