"""Networks that estimate a score: the frozen prior s_theta and the fake score s_psi.

Both are networks that predict the noise, or v or x0, from which it follows; then
s = -eps / sqrt(1 - alpha_bar_t). A conditional teacher, and the fake score beside it, predict the
clean image instead (`PosteriorDenoiser`).
"""

import torch
from torch import Tensor, nn

from davi.operators.measurement import MeasurementChannels, lift
from davi.operators.svd import SVDOperator
from davi.schedule import Schedule
from davi.system.errors import InputError
from davi.system.runtime import autocast

RESIZE = "nearest"  # of a small y to the image grid, so that it can be read back from there


class ScoreModel(nn.Module):
    """A network that knows the noise in x_t, seen as a score.

    Args:
        network: (x_t, t) -> (B, >= C, H, W); the first C channels are the prediction, C further
            ones a learned variance.
        schedule: the diffusion that x_t comes from.
        precision: fp32, bf16 or fp16; what the network runs in. Results are float32.
        sees: how the network is shown the measurement, which makes it the score of
            q(x_t | y); None: not at all, as in the paper.
        prediction: "eps", the noise, as ADM's networks; "v", which at high noise says more of the
            clean image, see `Schedule.v`; or "x0", the clean image itself.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        precision: str = "fp32",
        sees: MeasurementChannels | None = None,
        prediction: str = "eps",
    ) -> None:
        super().__init__()
        self.network = network
        self.schedule = schedule
        self.precision = precision
        self.sees = sees
        self.prediction = prediction

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
        predicted, variance = self.predict(x_t, t, y_image)
        return self.schedule.eps_of(self.prediction, x_t, t, predicted), variance

    def predict(
        self, x_t: Tensor, t: Tensor, y_image: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns what the network says, eps, v or x0, and its further channels."""
        network_input = x_t if self.sees is None else self.sees.append(x_t, y_image)
        with autocast(x_t.device, self.precision):
            output = self.network(network_input, t).to(x_t.dtype)
        channels = x_t.shape[1]
        return output[:, :channels], output[:, channels:]

    def wanted(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """Returns what `predict` is trained to say of x_t = `Schedule.add_noise`(x0, t, eps)."""
        return {"eps": eps, "v": self.schedule.v(x0, t, eps), "x0": x0}[self.prediction]

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


class PosteriorDenoiser(nn.Module):
    """E[x0 | x_t, y] from a network that is shown the measurement, with what y says built in.

    Under a white prior of deviation tau, p(x0 | y) is N(m0, M) with m0 = M A^T y / sigma^2 and
    M = V (S^2 / sigma^2 + 1 / tau^2)^-1 V^T. With x = x_t / sqrt(abar) and s = (1 - abar) / abar

        D(x_t, t, y) = m0 + M / (M + s) (x - m0) + (M s / (M + s))^(1/2) F.

    F is what the network says of x_t, t and m0; it has the size of one deviation at every t, and 0
    means the white prior.

    Args:
        network: (x_t and further channels, t) -> (B, >= C, H, W); the first C channels are F.
        schedule: the diffusion that x_t comes from.
        operator: A, one for all images.
        sigma: of the noise in y, on the [-1, 1] scale.
        deviation: tau.
        sees: how the network is shown m0.
        precision: fp32, bf16 or fp16; what the network runs in. Results are float32.

    Raises:
        InputError: A has no singular values, differs from image to image, or y cannot be read back
            from the image grid.
    """

    variance: Tensor  # M in each singular direction

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        operator: SVDOperator,
        sigma: float,
        deviation: float,
        sees: MeasurementChannels,
        precision: str = "fp32",
    ) -> None:
        super().__init__()
        _require_readable(operator)
        self.network, self.schedule, self.operator = network, schedule, operator
        self.sigma, self.deviation = sigma, deviation
        self.sees, self.precision = sees, precision
        values = operator.singular_values.float()
        variance = 1 / ((values / sigma).square() + deviation**-2)
        self.register_buffer("variance", variance, persistent=False)

    def white_mean(self, y_image: Tensor) -> Tensor:
        """Returns m0 (B, C, H, W) of measurements on the image grid, see `measurement.lift`."""
        back = self.operator.A_adjoint(_read_back(y_image, self.operator))
        return self.scale(back / self.sigma**2, self.variance)

    def residual(self, x_t: Tensor, t: Tensor, mean: Tensor) -> Tensor:
        """Returns F, (B, C, H, W).

        Args:
            x_t: (B, C, H, W) noised images.
            t: (B,) int64 index.
            mean: (B, C, H, W) m0, see `white_mean`.
        """
        network_input = self.sees.append(x_t, mean)
        with autocast(x_t.device, self.precision):
            output = self.network(network_input, t)
        return output[:, : x_t.shape[1]].to(x_t.dtype)

    def denoise(self, x_t: Tensor, t: Tensor, mean: Tensor) -> Tensor:
        """Returns D, (B, C, H, W); arguments as of `residual`."""
        s = self.schedule.noise_ratio(t, x_t)
        step = self.scale(
            self.residual(x_t, t, mean), (self.variance * s / (self.variance + s)).sqrt()
        )
        return self._white_guess(x_t, t, mean) + step

    def residual_of(self, x0: Tensor, x_t: Tensor, t: Tensor, mean: Tensor) -> Tensor:
        """Returns the F with which D would be x0, (B, C, H, W)."""
        s = self.schedule.noise_ratio(t, x_t)
        spectrum = ((self.variance + s) / (self.variance * s)).sqrt()
        return self.scale(x0 - self._white_guess(x_t, t, mean), spectrum)

    def scale(self, image: Tensor, spectrum: Tensor) -> Tensor:
        """Returns V spectrum V^T of images (B, C, H, W)."""
        return self.operator.V(spectrum * self.operator.V_adjoint(image))

    def _white_guess(self, x_t: Tensor, t: Tensor, mean: Tensor) -> Tensor:
        x = x_t / self.schedule.alpha_bar_t(t, x_t).sqrt()
        share = self.variance / (self.variance + self.schedule.noise_ratio(t, x_t))
        return mean + self.scale(x - mean, share)


def _read_back(y_image: Tensor, operator: SVDOperator) -> Tensor:
    """The measurement that lies on the image grid."""
    same = operator.measurement_shape == operator.image_shape
    return y_image if same else operator.A(y_image)


def _require_readable(operator: SVDOperator) -> None:
    """Refuses operators for which the image grid does not hold all of y."""
    if not isinstance(operator, SVDOperator):
        raise InputError(
            f"operator: a conditional teacher needs one operator with singular values for all "
            f"images; {type(operator).__name__} is none"
        )
    shape = torch.Size(operator.measurement_shape)
    ramp = torch.linspace(-1, 1, shape.numel(), dtype=torch.float32)
    y = operator.project(ramp.view(1, *shape).to(operator.singular_values.device))
    read = _read_back(lift(y, operator.image_shape, RESIZE), operator)
    if not torch.allclose(read, y, atol=1e-4):
        raise InputError(
            f"operator: {type(operator).__name__}: a conditional teacher sees measurements on the "
            "image grid, from which these cannot be read back; for super-resolution take "
            "kernel: average"
        )
