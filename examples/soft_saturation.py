"""A sensor that saturates softly: an operator that is not linear and knows only A."""

import torch
from torch import Tensor

from davi.operators.operator import Operator


class SoftSaturation(Operator):
    """A x = tanh(gain x): bright and dark places lose their contrast.

    Args:
        image_shape: (C, H, W).
        gain: slope at middle grey, above 0.
    """

    same_everywhere = True

    def __init__(self, image_shape: tuple[int, int, int], gain: float = 2.0) -> None:
        super().__init__(image_shape, measurement_shape=image_shape)
        self.gain = gain

    def A(self, x: Tensor) -> Tensor:
        """Returns the saturated images."""
        return torch.tanh(self.gain * x)

    def A_dagger(self, y: Tensor) -> Tensor:
        """Returns an image to start from: what A would have made y of, within [-1, 1]."""
        return (torch.atanh(y.clamp(-0.999, 0.999)) / self.gain).clamp(-1, 1)
