"""Super-resolution: A reduces the image by an integer factor, by block means or bicubically."""

import torch
import torch.nn.functional as F
from torch import Tensor

from davi.operators.operator import ImageShape
from davi.operators.separable import SeparableOperator

BICUBIC_A = -0.5  # Keys' cubic kernel, as in DDRM


def averaging_matrix(size: int, factor: int) -> Tensor:
    """Returns the (size / factor, size) float64 matrix of means over blocks of `factor`."""
    return torch.eye(size // factor, dtype=torch.float64).repeat_interleave(factor, dim=1) / factor


def cubic(x: Tensor) -> Tensor:
    """Returns Keys' cubic interpolation kernel at x, support [-2, 2]."""
    x = x.abs()
    inner = (BICUBIC_A + 2) * x**3 - (BICUBIC_A + 3) * x**2 + 1
    outer = BICUBIC_A * (x**3 - 5 * x**2 + 8 * x - 4)
    return torch.where(x <= 1, inner, torch.where(x < 2, outer, 0.0))


def bicubic_kernel(factor: int) -> Tensor:
    """Returns the antialiased bicubic reduction kernel, float64, sum 1.

    It has 4 * factor taps between pixels for an even factor, one less on pixels for an odd one.
    """
    num_taps = 4 * factor - factor % 2
    offsets = torch.arange(num_taps, dtype=torch.float64) - (num_taps - 1) / 2
    kernel = cubic(offsets / factor)
    return kernel / kernel.sum()


def bicubic_matrix(size: int, factor: int) -> Tensor:
    """Returns the (size / factor, size) float64 bicubic matrix, mirrored at the borders.

    The mirror repeats the border pixel: pixel -1 is pixel 0.
    """
    kernel = bicubic_kernel(factor)
    rows = torch.arange(size // factor)
    centre = factor * rows + (factor - 1) / 2
    first = (centre - (len(kernel) - 1) / 2).long()
    columns = first[:, None] + torch.arange(len(kernel))[None, :]
    columns = columns % (2 * size)
    columns = torch.minimum(columns, 2 * size - 1 - columns)
    matrix = torch.zeros(len(rows), size, dtype=torch.float64)
    return matrix.scatter_add_(1, columns, kernel.expand(len(rows), -1))


REDUCTIONS = {"average": averaging_matrix, "bicubic": bicubic_matrix}


class SuperResolution(SeparableOperator):
    """A x is the image reduced by `factor`, (B, C, H / factor, W / factor).

    Args:
        image_shape: (C, H, W); H and W are multiples of the factor.
        factor: reduction per axis.
        kernel: "average" (block means, Sec. 5.1) or "bicubic".

    Raises:
        ValueError: a size that is no multiple of the factor.
    """

    same_everywhere = True

    def __init__(self, image_shape: ImageShape, factor: int = 4, kernel: str = "average") -> None:
        if image_shape[1] % factor or image_shape[2] % factor:
            raise ValueError(
                f"image of {image_shape[1]}x{image_shape[2]}: both sides must be multiples of the "
                f"super-resolution factor {factor}"
            )
        matrices = (REDUCTIONS[kernel](size, factor) for size in image_shape[1:])
        super().__init__(image_shape, *matrices)
        self.factor = factor
        self.takes_means = kernel == "average"

    def A(self, x: Tensor) -> Tensor:
        """See `SVDOperator.A`."""
        return F.avg_pool2d(x, self.factor) if self.takes_means else super().A(x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        """See `SVDOperator.A_adjoint`."""
        if self.takes_means:
            return self.A_dagger(y / self.factor**2)
        return super().A_adjoint(y)

    def A_dagger(self, y: Tensor) -> Tensor:
        """See `SVDOperator.A_dagger`."""
        if self.takes_means:
            return F.interpolate(y, self.image_shape[1:], mode="nearest")
        return super().A_dagger(y)
