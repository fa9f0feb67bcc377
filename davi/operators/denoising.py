"""Denoising: A is the identity."""

import torch
from torch import Tensor

from davi.operators.operator import ImageShape
from davi.operators.svd import SVDOperator


class Denoising(SVDOperator):
    """A x = x.

    Args:
        image_shape: (C, H, W).
    """

    same_everywhere = True

    def __init__(self, image_shape: ImageShape) -> None:
        super().__init__(image_shape, image_shape)
        self._set_singular_values(torch.ones(1, 1, 1, dtype=torch.float64))

    def U(self, spectrum: Tensor) -> Tensor:
        """Returns its argument."""
        return spectrum

    U_adjoint = V = V_adjoint = U
