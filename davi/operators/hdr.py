"""Overexposure: A brightens the contrast of an image and cuts off what leaves the range."""

from torch import Tensor

from davi.operators.operator import ImageShape, Operator


class Hdr(Operator):
    """A x = clip(factor x, -1, 1): the task is to find again what was cut off.

    Source: Mardani et al. 2024, RED-diff, "HDR", with the factor 2. The gradient is 0 where a pixel
    is cut off.

    Args:
        image_shape: (C, H, W).
        factor: above 1.
    """

    same_everywhere = True

    def __init__(self, image_shape: ImageShape, factor: float = 2.0) -> None:
        super().__init__(image_shape, image_shape)
        self.factor = factor

    def A(self, x: Tensor) -> Tensor:
        """Returns the overexposed images."""
        return (self.factor * x).clamp(-1, 1)

    def A_dagger(self, y: Tensor) -> Tensor:
        """Returns y / factor: the image, but for what was cut off."""
        return y / self.factor
