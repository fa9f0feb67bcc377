"""Gaussian deblurring: a separable blur with zero padding (Sec. 5.1: 61 taps, sigma 3).

Beside it the circular blur, by any kernel.
"""

import torch
from torch import Tensor

from davi.operators.operator import ImageShape
from davi.operators.separable import PINV_FLOOR, SeparableOperator
from davi.operators.svd import SVDOperator

NOTHING = 1e-10  # gains of a circular blur below this share of the largest are rounding errors


def gaussian_kernel(kernel_size: int, sigma: float) -> Tensor:
    """Returns the sampled 1-D Gaussian, (kernel_size,) float64, sum 1, sigma in pixels."""
    offsets = torch.arange(kernel_size, dtype=torch.float64) - (kernel_size - 1) / 2
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    return kernel / kernel.sum()


def convolution_matrix(kernel: Tensor, size: int) -> Tensor:
    """Returns the (size, size) matrix of a centred 1-D convolution with zero padding."""
    centre = len(kernel) // 2
    offset = torch.arange(size)[None, :] - torch.arange(size)[:, None] + centre
    inside = (offset >= 0) & (offset < len(kernel))
    return torch.where(inside, kernel[offset.clamp(0, len(kernel) - 1)], 0.0)


class GaussianBlur(SeparableOperator):
    """The exact blur: A x is the convolution of every channel with the Gaussian, zero-padded.

    A_dagger inverts only 1-D singular values of at least 3e-2, without which it would return
    nothing but amplified noise.

    Args:
        image_shape: (C, H, W).
        kernel_size: taps of the 1-D kernel, odd.
        sigma: standard deviation in pixels.
        floor: 1-D singular values below it count as 0 in A itself; 0 is the exact convolution.

    Raises:
        ValueError: even kernel size.
    """

    same_everywhere = True

    def __init__(
        self, image_shape: ImageShape, kernel_size: int = 61, sigma: float = 3.0, floor: float = 0.0
    ) -> None:
        _require_centre(kernel_size)
        kernel = self._kernel(kernel_size, sigma)
        matrices = (convolution_matrix(kernel, size) for size in image_shape[1:])
        super().__init__(image_shape, *matrices, floor=floor)

    def _kernel(self, kernel_size: int, sigma: float) -> Tensor:
        return gaussian_kernel(kernel_size, sigma)


class ReleaseGaussianBlur(GaussianBlur):
    """The blur as the authors' release computes it: not a Gaussian of the nominal width.

    Deviation (docs/fidelity.md, "blur"): singular values below 3e-2 are dropped from A itself,
    the last tap is left out, and the sorted singular values are dealt out channel by channel to
    coefficients that are stored pixel by pixel, so that coefficient n of channel c gets the gain
    number (C n + c) mod (H W). Nearly equal singular values make the outcome depend on the
    library; ties are broken here by position.
    """

    same_everywhere = False

    def __init__(self, image_shape: ImageShape, kernel_size: int = 61, sigma: float = 3.0) -> None:
        super().__init__(image_shape, kernel_size, sigma, floor=PINV_FLOOR)
        self.reorder(torch.argsort(self.singular_values.flatten(), descending=True, stable=True))

    # Once the singular values are dealt out anew, A is no longer K x K^T.
    A, A_adjoint, A_dagger = SVDOperator.A, SVDOperator.A_adjoint, SVDOperator.A_dagger

    def _kernel(self, kernel_size: int, sigma: float) -> Tensor:
        kernel = gaussian_kernel(kernel_size, sigma)
        kernel[-1] = 0.0
        return kernel

    def reorder(self, order: Tensor) -> None:
        """Deals out the separable singular values in the release's way.

        Args:
            order: (H * W,) row-major positions of the separable singular values, largest first.
        """
        channels, height, width = self.image_shape
        sorted_values = self.singular_values.flatten()[order]
        rank = torch.arange(height * width)[None, :] * channels + torch.arange(channels)[:, None]
        dealt = torch.empty(channels, height * width, dtype=torch.float64)
        dealt[:, order] = sorted_values[rank % (height * width)]
        self._set_singular_values(dealt.view(channels, height, width))


class CircularBlur(SVDOperator):
    """A x is the circular convolution of every channel with a kernel, by FFT.

    With the transfer function h = |h| e^(i p) of the kernel, the singular values are |h|. V is the
    Hartley transform, Re - Im of the unitary Fourier transform F: real, symmetric and its own
    inverse. It diagonalises every convolution whose transfer function is real, as |h| is; U is V
    and then the convolution with e^(i p), which is real and orthogonal, since p is odd.

    Source: Bracewell, "Discrete Hartley transform" (1983).

    A_dagger inverts gains of at least 9e-4, the smallest that that of `GaussianBlur` inverts.

    Args:
        image_shape: (C, H, W).
        kernel: (h, w), its centre at (h // 2, w // 2). One larger than the image wraps around.
    """

    def __init__(self, image_shape: ImageShape, kernel: Tensor) -> None:
        super().__init__(image_shape, image_shape)
        size = image_shape[1:]
        rows, columns = (
            (torch.arange(taps) - taps // 2) % side
            for taps, side in zip(kernel.shape, size, strict=True)
        )
        wrapped = torch.zeros(size, dtype=torch.float64)
        wrapped.index_put_((rows[:, None], columns), kernel.double(), accumulate=True)
        gain = torch.fft.fft2(wrapped).abs()
        gain = torch.where(gain > NOTHING * gain.max(), gain, 0.0)
        self._set_singular_values(gain, gain >= PINV_FLOOR**2)
        half = size[1] // 2 + 1  # what rfft2 gives; the rest is conjugate to it
        transfer, gain = torch.fft.rfft2(wrapped), gain[:, :half]
        phase = torch.where(gain > 0, transfer / gain, 1.0)
        inverse = phase.conj() * self.inverse_singular_values[:, :half]
        for name, value in {"transfer": transfer, "phase": phase, "inverse": inverse}.items():
            self.register_buffer(name, value, persistent=False)

    def A(self, x: Tensor) -> Tensor:
        """Returns the blurred images, (B, C, H, W)."""
        return _filtered(x, self.transfer)

    def A_adjoint(self, y: Tensor) -> Tensor:
        """Returns the images blurred by the mirrored kernel, (B, C, H, W)."""
        return _filtered(y, self.transfer.conj())

    def A_dagger(self, y: Tensor) -> Tensor:
        """Returns the pseudo-inverse A^+ y, (B, C, H, W)."""
        return _filtered(y, self.inverse)

    def V(self, spectrum: Tensor) -> Tensor:
        """Returns the Hartley transform, (B, C, H, W)."""
        transformed = torch.fft.fft2(spectrum, norm="ortho")
        return transformed.real - transformed.imag

    V_adjoint = V

    def U(self, spectrum: Tensor) -> Tensor:
        """Returns the Hartley transform, every frequency with the phase of the kernel."""
        return _filtered(self.V(spectrum), self.phase)

    def U_adjoint(self, y: Tensor) -> Tensor:
        """Returns the coefficients of a measurement, 0 where A sees nothing."""
        return self.V(_filtered(y, self.phase.conj())) * (self.singular_values > 0)


def circular_gaussian_blur(image_shape: ImageShape, kernel_size: int, sigma: float) -> CircularBlur:
    """Returns the blur of `GaussianBlur`, but with an image that goes on at its other side.

    Raises:
        ValueError: even kernel size.
    """
    _require_centre(kernel_size)
    kernel = gaussian_kernel(kernel_size, sigma)
    return CircularBlur(image_shape, torch.outer(kernel, kernel))


def _filtered(image: Tensor, transfer: Tensor) -> Tensor:
    """An image, its real Fourier transform times a transfer function (H, W // 2 + 1)."""
    spectrum = torch.fft.rfft2(image)
    return torch.fft.irfft2(spectrum * transfer.to(spectrum.dtype), s=image.shape[-2:])


def _require_centre(kernel_size: int) -> None:
    if kernel_size % 2 == 0:
        raise ValueError(f"kernel_size={kernel_size}: must be odd, to have a centre")
