"""Phase retrieval: A keeps the amplitudes of the Fourier transform, without the phases."""

import torch
import torch.nn.functional as F
from torch import Tensor

from davi.operators.operator import ImageShape, Operator


class PhaseRetrieval(Operator):
    """A x = |F P x| in every channel: P adds a border of 0, F is the orthonormal FFT.

    Entry (0, 0) of a measurement is in its middle: frequencies are centred, and so is the image. An
    image, its negative, and both turned by 180 degrees have the same measurement, so that a method
    may return any of the four. Amplitudes are larger than pixels: the measurement has as large a
    norm as the image, and most of it lies in a few entries.

    Source: Chung et al. 2023, Diffusion Posterior Sampling.

    Args:
        image_shape: (C, H, W).
        oversample: border of oversample / 8 of the side at each side, in whole pixels; 2 adds half
            of the side.
    """

    def __init__(self, image_shape: ImageShape, oversample: float = 2.0) -> None:
        channels, height, width = image_shape
        rows, columns = (int(oversample / 8 * side) for side in (height, width))
        padded = height + 2 * rows, width + 2 * columns
        super().__init__(image_shape, (channels, *padded))
        self.border = columns, columns, rows, rows
        # A white image has height * width / sqrt(pixels of the padded one) in the middle.
        self.largest_value = 2 * height * width / (padded[0] * padded[1]) ** 0.5

    def A(self, x: Tensor) -> Tensor:
        """Returns the amplitudes (B, C, H + border, W + border)."""
        padded = torch.fft.ifftshift(F.pad(x, self.border), dim=(-2, -1))
        return torch.fft.fftshift(torch.fft.fft2(padded, norm="ortho"), dim=(-2, -1)).abs()

    def A_dagger(self, y: Tensor) -> Tensor:
        """Returns the middle of the image whose phases are all 0, (B, C, H, W).

        It is symmetric, with a peak in the middle, and no estimate of the true image.
        """
        spectrum = torch.fft.ifftshift(y, dim=(-2, -1))
        image = torch.fft.fftshift(torch.fft.ifft2(spectrum, norm="ortho").real, dim=(-2, -1))
        columns, _, rows, _ = self.border
        height, width = self.image_shape[1:]
        return image[..., rows : rows + height, columns : columns + width]
