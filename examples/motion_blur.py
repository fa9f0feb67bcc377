"""Blur by a straight motion of the camera: an operator that knows only A and its adjoint."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from davi.operators.linear import LinearOperator


class MotionBlur(LinearOperator):
    """A averages `length` pixels along a line; outside the image is 0.

    Args:
        image_shape: (C, H, W).
        length: odd, in pixels.
        angle: of the motion in degrees, 0 for horizontal.
    """

    def __init__(self, image_shape: tuple[int, int, int], length: int, angle: float = 0.0) -> None:
        super().__init__(image_shape, measurement_shape=image_shape)
        if length < 1 or length % 2 == 0:
            raise ValueError(f"length={length}: an odd number of pixels is needed")
        self.reach = length // 2
        kernel = torch.zeros(length, length)
        for step in range(-self.reach, self.reach + 1):
            row = self.reach - round(step * math.sin(math.radians(angle)))
            column = self.reach + round(step * math.cos(math.radians(angle)))
            kernel[row, column] += 1 / length
        self.register_buffer("kernel", kernel.repeat(image_shape[0], 1, 1, 1))

    def A(self, x: Tensor) -> Tensor:
        """Returns the blurred images."""
        kernel = self.kernel.to(x.dtype)
        return F.conv2d(x, kernel, padding=self.reach, groups=x.shape[1])

    def A_adjoint(self, y: Tensor) -> Tensor:
        """Returns A^T y."""
        kernel = self.kernel.to(y.dtype)
        return F.conv_transpose2d(y, kernel, padding=self.reach, groups=y.shape[1])
