"""The least an operator must offer, linear or not: A."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from davi.system.errors import InputError

ImageShape = tuple[int, int, int]
LARGEST_VALUE = 10.0  # of a believable measurement, noise included; 0..255 is another scale


class Operator(nn.Module, ABC):
    """What happens to images (B, C, H, W) in [-1, 1] before the noise; no trainable weights.

    Measurements are real and of any shape. Complex ones are given as real and imaginary parts
    (`torch.view_as_real`): so noise has one sigma for each, inner products are real, and files hold
    what every method works with.

    A is given by operations of PyTorch that differentiate: training and the solvers that go
    downhill need no more. It takes any images, those beyond [-1, 1], too, which solvers pass on
    their way.

    Args:
        image_shape: (C, H, W) of the images.
        measurement_shape: shape of one measurement, without batch.

    Attributes:
        largest_value: measurements with larger ones are refused as being on another scale.
        same_everywhere: a piece of a measurement is the measurement of a piece, but for its border,
            so that pictures of any size can be restored in pieces. The sides of an image must be
            those of its measurement, or a whole number of times them.
    """

    largest_value = LARGEST_VALUE
    same_everywhere = False

    def __init__(self, image_shape: ImageShape, measurement_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.measurement_shape = measurement_shape

    @abstractmethod
    def A(self, x: Tensor) -> Tensor:
        """Returns the noiseless measurement (B, *measurement_shape) of images (B, C, H, W)."""

    def vjp(self, x: Tensor, r: Tensor) -> Tensor:
        """Returns J^T r with the Jacobian J of A at x, (B, C, H, W), without graph.

        So vjp(x, A x - y) is the gradient of |y - A x|^2 / 2. Here by automatic differentiation.

        Args:
            x: (B, C, H, W).
            r: (B, *measurement_shape).
        """
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            (product,) = torch.autograd.grad(self.A(x), x, r)
        return product

    def A_dagger(self, y: Tensor) -> Tensor:
        """Returns an image (B, C, H, W) that the operator alone makes of y; if linear, A^+ y.

        Where methods may start. Here y itself, if it is an image.

        Raises:
            InputError: it is none.
        """
        if tuple(y.shape[1:]) != tuple(self.image_shape):
            raise InputError(
                f"{type(self).__name__} makes no image of measurements of {tuple(y.shape[1:])}, "
                f"where {tuple(self.image_shape)} is needed; give the class an A_dagger"
            )
        return y

    def project(self, y: Tensor) -> Tensor:
        """Returns y with the entries that A does not measure set to 0 (the hole of inpainting)."""
        return y

    def sample(self, rngs: list[torch.Generator]) -> "Operator":
        """Returns the operator of one batch; only operators with a random part differ from self.

        Args:
            rngs: one generator per image.
        """
        return self


class RandomOperator(ABC):
    """A family of operators; every image has its own, which `sample` draws.

    Attributes:
        largest_value, same_everywhere: of all members, see `Operator`.

    Args:
        image_shape: (C, H, W) of the images.
        measurement_shape: shape of one measurement, without batch.
    """

    largest_value = LARGEST_VALUE
    same_everywhere = False

    def __init__(self, image_shape: ImageShape, measurement_shape: tuple[int, ...]) -> None:
        self.image_shape = image_shape
        self.measurement_shape = measurement_shape

    @abstractmethod
    def sample(self, rngs: list[torch.Generator]) -> Operator:
        """Returns the operator of a batch, drawn by one generator per image on their device."""

    def to(self, device: torch.device) -> "RandomOperator":
        """Returns self: what is drawn is on the device of its generator."""
        return self

    def project(self, y: Tensor) -> Tensor:
        """Returns y: what of it counts, only y itself knows."""
        return y
