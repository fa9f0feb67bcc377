"""Blur by a kernel of any form, of which every image may have its own: known, drawn or unknown."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from davi.operators.kernels import require_odd
from davi.operators.linear import LinearOperator
from davi.operators.operator import LARGEST_VALUE, ImageShape, RandomOperator
from davi.system.runtime import draw_each


class Convolution(LinearOperator):
    """A x = k * x, in every channel: cross-correlation with zero padding, of the size of x.

    Args:
        image_shape: (C, H, W).
        kernel: (1, 1, k, k) for all images or (B, 1, k, k), k odd.

    Raises:
        ValueError: a kernel of another shape.
    """

    same_everywhere = True

    def __init__(self, image_shape: ImageShape, kernel: Tensor) -> None:
        super().__init__(image_shape, image_shape)
        if kernel.ndim != 4 or kernel.shape[1] != 1 or kernel.shape[2] != kernel.shape[3]:
            raise ValueError(f"kernel of shape {tuple(kernel.shape)}: (B, 1, k, k) is needed")
        require_odd(kernel.shape[-1])
        self.register_buffer("kernel", kernel, persistent=False)

    def A(self, x: Tensor) -> Tensor:
        """See `LinearOperator.A`; differentiable in the kernel, too."""
        return self._apply_each(F.conv2d, x)

    def A_adjoint(self, y: Tensor) -> Tensor:
        """See `LinearOperator.A_adjoint`."""
        return self._apply_each(F.conv_transpose2d, y)

    def unknown(self) -> "UnknownConvolution":
        """Returns what is left of the operator if nobody tells its kernel."""
        return UnknownConvolution(self.image_shape, self.kernel.shape[-1])

    def _apply_each(self, convolve: Callable[..., Tensor], x: Tensor) -> Tensor:
        kernel = self.kernel.to(x.dtype).expand(len(x), -1, -1, -1)
        # Images lie where convolutions have their channels, each a group of its own.
        padding = kernel.shape[-1] // 2
        return convolve(x.transpose(0, 1), kernel, padding=padding, groups=len(x)).transpose(0, 1)


class UnknownConvolution:
    """A convolution whose kernel is not told: what a blind method is given.

    Attributes:
        image_shape, measurement_shape, largest_value, same_everywhere: as of a `LinearOperator`.
        kernel_size: taps of a side, all that is known of the kernel.

    Args:
        image_shape: (C, H, W).
        kernel_size: odd.

    Raises:
        ValueError: an even size.
    """

    largest_value = LARGEST_VALUE
    same_everywhere = True

    def __init__(self, image_shape: ImageShape, kernel_size: int) -> None:
        require_odd(kernel_size)
        self.image_shape = self.measurement_shape = image_shape
        self.kernel_size = kernel_size

    def with_kernel(self, kernel: Tensor) -> Convolution:
        """Returns the convolution with these kernels, (B, 1, k, k)."""
        return Convolution(self.image_shape, kernel)

    def unknown(self) -> "UnknownConvolution":
        """Returns itself."""
        return self

    def project(self, y: Tensor) -> Tensor:
        """Returns y."""
        return y


class RandomConvolution(RandomOperator):
    """Convolution with a new kernel for every image.

    Attributes:
        kernel_size: taps of a side.

    Args:
        image_shape: (C, H, W).
        kernel_size: k, odd.
        draw_kernel: returns a (k, k) kernel from a generator.
    """

    same_everywhere = True

    def __init__(
        self,
        image_shape: ImageShape,
        kernel_size: int,
        draw_kernel: Callable[[torch.Generator], Tensor],
    ) -> None:
        super().__init__(image_shape, image_shape)
        self.kernel_size = kernel_size
        self.draw_kernel = draw_kernel

    def sample(self, rngs: list[torch.Generator]) -> Convolution:
        """Returns convolution with one kernel per generator."""
        return Convolution(self.image_shape, draw_each(self.draw_kernel, rngs)[:, None])
