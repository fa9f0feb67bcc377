"""The least an operator must offer: A and its adjoint."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

ImageShape = tuple[int, int, int]


class LinearOperator(nn.Module, ABC):
    """A linear operator on images (B, C, H, W) in [-1, 1], without trainable weights.

    Args:
        image_shape: (C, H, W) of the images.
        measurement_shape: shape of one measurement, without batch.

    Attributes:
        same_everywhere: a piece of a measurement is the measurement of a piece, but for its border,
            so that pictures of any size can be restored in pieces. The sides of an image must be
            those of its measurement, or a whole number of times them.
    """

    same_everywhere = False

    def __init__(self, image_shape: ImageShape, measurement_shape: ImageShape) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.measurement_shape = measurement_shape

    @abstractmethod
    def A(self, x: Tensor) -> Tensor:
        """Returns the noiseless measurement (B, *measurement_shape) of images (B, C, H, W)."""

    @abstractmethod
    def A_adjoint(self, y: Tensor) -> Tensor:
        """Returns A^T y, an image (B, C, H, W)."""

    def project(self, y: Tensor) -> Tensor:
        """Returns y with the entries that A does not measure set to 0 (the hole of inpainting)."""
        return y

    def sample(self, rngs: list[torch.Generator]) -> "LinearOperator":
        """Returns the operator of one batch; only operators with a random part differ from self.

        Args:
            rngs: one generator per image.
        """
        return self
