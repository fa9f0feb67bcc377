"""Colorization: A mixes the channels into one."""

from collections.abc import Sequence

import torch
from torch import Tensor

from davi.operators.operator import ImageShape
from davi.operators.svd import SVDOperator


class Colorization(SVDOperator):
    """A x is a weighted mean of the channels, (B, 1, H, W).

    Args:
        image_shape: (C, H, W).
        weights: one per channel; the default is the plain mean. (DDRM writes 0.3333, 0.3334,
            0.3333.)

    Raises:
        ValueError: another number of weights than channels, or only zeros.
    """

    same_everywhere = True

    def __init__(self, image_shape: ImageShape, weights: Sequence[float] | None = None) -> None:
        channels, height, width = image_shape
        super().__init__(image_shape, (1, height, width))
        weights = [1 / channels] * channels if weights is None else list(weights)
        if len(weights) != channels or not any(weights):
            raise ValueError(f"weights={weights}: {channels} numbers needed, not all 0")
        row = torch.tensor([weights], dtype=torch.float64)
        U, values, Vh = torch.linalg.svd(row, full_matrices=True)
        # V has the gray direction first, the two (C - 1) invisible ones after it.
        self.register_buffer("mix", Vh * torch.where(torch.arange(channels) == 0, U, 1.0).T)
        singular_values = torch.zeros(channels, 1, 1, dtype=torch.float64)
        singular_values[0] = values
        self._set_singular_values(singular_values)
        self.weights = tuple(map(float, weights))
        self.register_buffer("row", row.view(-1, 1, 1), persistent=False)

    def A(self, x: Tensor) -> Tensor:
        """See `SVDOperator.A`."""
        first, *others = self.weights
        mixed = first * x[:, :1]
        for channel, weight in enumerate(others, start=1):
            mixed.add_(x[:, channel : channel + 1], alpha=weight)
        return mixed

    def A_adjoint(self, y: Tensor) -> Tensor:
        """See `SVDOperator.A_adjoint`."""
        return self.row.to(y.dtype) * y

    def A_dagger(self, y: Tensor) -> Tensor:
        """See `SVDOperator.A_dagger`."""
        return (self.row / self.row.square().sum()).to(y.dtype) * y

    def V_adjoint(self, x: Tensor) -> Tensor:
        """Returns the channels in the rotated basis, (B, C, H, W)."""
        return torch.einsum("kc,bchw->bkhw", self.mix.to(x.dtype), x)

    def V(self, spectrum: Tensor) -> Tensor:
        """Returns the image of rotated channels, (B, C, H, W)."""
        return torch.einsum("kc,bkhw->bchw", self.mix.to(spectrum.dtype), spectrum)

    def U(self, spectrum: Tensor) -> Tensor:
        """Returns the first rotated channel, (B, 1, H, W)."""
        return spectrum[:, :1]

    def U_adjoint(self, y: Tensor) -> Tensor:
        """Returns y as the first of C channels, the others 0."""
        invisible = y.new_zeros(len(y), self.image_shape[0] - 1, *y.shape[2:])
        return torch.cat([y, invisible], dim=1)
