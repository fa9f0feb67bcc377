"""The forward model y = A x + n, and its way back to the image grid."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from davi.operators.linear import LinearOperator
from davi.operators.noise import Noise
from davi.operators.operator import LARGEST_VALUE, ImageShape, Operator, RandomOperator
from davi.system.errors import InputError

INSTEAD = "for others set resize (bridge.resize of a run) to adjoint or pseudo_inverse"


@dataclass(frozen=True)
class ForwardModel:
    """Draws measurements of clean images.

    Attributes:
        operator: A, or a family of which every batch gets its own.
        noise: the distribution of y given A x.
    """

    operator: Operator | RandomOperator
    noise: Noise

    def measure(self, x0: Tensor, rngs: list[torch.Generator]) -> tuple[Tensor, Operator]:
        """Returns measurements (B, *measurement_shape) and the operator they were made with.

        Args:
            x0: (B, C, H, W) clean images in [-1, 1].
            rngs: one generator per image, on the device of x0.

        Raises:
            InputError: A gives complex numbers.
        """
        return self.measure_with_deviation(x0, rngs)[:2]

    def measure_with_deviation(
        self, x0: Tensor, rngs: list[torch.Generator]
    ) -> tuple[Tensor, Operator, Tensor]:
        """Returns what `measure` does, and the deviation of the noise, see the noise models."""
        operator = self.operator.sample(rngs)
        clean = operator.A(x0)
        if clean.is_complex():
            raise InputError(
                f"{type(operator).__name__}.A returns complex numbers; give real and imaginary "
                "parts (torch.view_as_real)"
            )
        y, sigma = self.noise.sample(clean, rngs)
        return operator.project(y), operator, sigma


@dataclass(frozen=True)
class MeasurementChannels:
    """Shows a network the measurement, in input channels behind those of the prior.

    Attributes:
        with_mask: one more channel is 1 where a pixel is measured. For inpainting, whose hole is
            exactly 0 in every channel of y.
    """

    with_mask: bool

    def append(self, x: Tensor, y_image: Tensor) -> Tensor:
        """Returns x with the further channels, (B, 2 C or 2 C + 1, H, W).

        Args:
            x: (B, C, H, W) input of the network.
            y_image: (B, C, H, W) measurements on the image grid, see `lift`.
        """
        parts = [x, y_image]
        if self.with_mask:
            parts.append((y_image != 0).any(dim=1, keepdim=True).to(x.dtype))
        return torch.cat(parts, dim=1)


def require_measurement_scale(y: Tensor, where: str, largest: float = LARGEST_VALUE) -> None:
    """Refuses values that cannot be measurements on the [-1, 1] scale.

    Args:
        y: floating point, any shape.
        where: begins the message.
        largest: absolute value that is believed, see `Operator.largest_value`.

    Raises:
        InputError: NaN, infinity, or a larger value.
    """
    if not torch.isfinite(y).all():
        raise InputError(f"{where}: holds NaN or infinity")
    if y.numel() and (found := y.abs().max().item()) > largest:
        raise InputError(
            f"{where}: values up to {found:.4g}; measurements are on the [-1, 1] scale"
        )


def image_of(y: Tensor, operator: Operator, resize: str) -> Tensor:
    """Returns what stands for the measurement on the image grid, (B, C, H, W).

    Args:
        y: (B, *measurement_shape).
        operator: A.
        resize: "adjoint", A^T y; "pseudo_inverse", `Operator.A_dagger`; or how `lift`
            enlarges.

    Raises:
        InputError: as `lift`, as `Operator.A_dagger`, or there is no adjoint.
    """
    if resize == "adjoint":
        require_adjoint(operator, "bridge.resize")
        return operator.A_adjoint(y)
    if resize == "pseudo_inverse":
        return operator.A_dagger(y)
    try:
        return lift(y, operator.image_shape, resize)
    except InputError as error:  # who calls `lift` itself has no such choice
        raise InputError(f"{error}; {INSTEAD}") from error


def require_adjoint(operator: Operator, field: str) -> None:
    """Refuses an operator that is not linear, where a field asks for its adjoint.

    Raises:
        InputError: names the field.
    """
    if not isinstance(operator, LinearOperator):
        raise InputError(
            f"{field}: adjoint: {type(operator).__name__} is not linear and has none; set "
            "pseudo_inverse, which is its A_dagger"
        )


def lift(y: Tensor, image_shape: ImageShape, resize: str = "bilinear") -> Tensor:
    """Returns the measurement on the image grid, (B, C, H, W): what the generator sees.

    A smaller measurement is enlarged, a gray one repeated in every channel.

    Args:
        y: (B, C', h, w) with C' = C or 1.
        image_shape: (C, H, W).
        resize: "bilinear" (with half-pixel centres) or "nearest".

    Raises:
        InputError: measurements of another shape, or of another ratio of height and width.
    """
    if resize not in ("bilinear", "nearest"):
        raise ValueError(f"resize={resize!r}: bilinear or nearest")
    channels, height, width = image_shape
    if y.ndim != 4 or y.shape[1] not in (1, channels):
        raise InputError(
            f"measurements of shape {tuple(y.shape[1:])}: to lie on the image grid they must be "
            f"images, of 1 or {channels} channels"
        )
    if y.shape[-2] * width != y.shape[-1] * height:
        raise InputError(
            f"measurements of {y.shape[-2]}x{y.shape[-1]}: to make images of {height}x{width} of "
            "them would stretch them"
        )
    if y.shape[-2:] != (height, width):
        y = F.interpolate(y, size=(height, width), mode=resize)
    return y.expand(-1, channels, -1, -1)
