"""JPEG: A compresses and decompresses, with a gradient through a smooth stand-in for rounding."""

import io
import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from davi.operators.operator import ImageShape, Operator

BLOCK = 8
# R, G, B to luma and two chromas, and back: JFIF, that is ITU-R BT.601.
TO_YCC = torch.tensor(
    [
        [0.299, 0.587, 0.114],
        [-0.168736, -0.331264, 0.5],
        [0.5, -0.418688, -0.081312],
    ],
    dtype=torch.float64,
)


class Jpeg(Operator):
    """A x is the image after Pillow wrote it as JPEG and read it again.

    The codec has no derivative. The gradient is that of `smooth`, the same steps without the
    rounding to 8 bits, where a coefficient c of a block in units of its quantum is replaced by
    c - sin(2 pi c) / (2 pi) instead of round(c). Both are c at whole numbers; the slope is 0 there,
    so that coefficients that the file holds as 0 stay free.

    Args:
        image_shape: (C, H, W), C 1 or 3; sides are multiples of 16 (of 8 with `subsampling` 0 or
            one channel).
        quality: of Pillow, 1 to 100.
        subsampling: 2 halves the sides of the chroma channels, as usual; 0 leaves them.

    Raises:
        ValueError: another number of channels, or other sides.
    """

    def __init__(self, image_shape: ImageShape, quality: int = 10, subsampling: int = 2) -> None:
        super().__init__(image_shape, image_shape)
        channels, height, width = image_shape
        self.quality, self.subsampling = quality, subsampling
        self.halves = channels == 3 and subsampling == 2
        multiple = 2 * BLOCK if self.halves else BLOCK
        if channels not in (1, 3) or height % multiple or width % multiple:
            raise ValueError(
                f"JPEG of {channels} channels of {height}x{width}: 1 or 3 channels are needed, and "
                f"sides that are multiples of {multiple}"
            )
        self.register_buffer("quanta", self._tables(), persistent=False)
        self.register_buffer("to_ycc", TO_YCC, persistent=False)
        self.register_buffer("from_ycc", torch.linalg.inv(TO_YCC), persistent=False)
        self.register_buffer("dct", dct_matrix(BLOCK), persistent=False)

    def A(self, x: Tensor) -> Tensor:
        """Returns what the codec makes of images; its gradient is that of `smooth`."""
        smooth = self.smooth(x)
        return smooth + (self.codec(x) - smooth).detach()

    @torch.no_grad()
    def codec(self, x: Tensor) -> Tensor:
        """Returns images (B, C, H, W) as they come back from JPEG files, in x's dtype."""
        pixels = (255 * (x + 1) / 2).round().clamp(0, 255).to(torch.uint8)
        decoded = [self._decoded(image) for image in pixels.permute(0, 2, 3, 1).cpu().numpy()]
        levels = torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).to(x)
        return 2 * levels / 255 - 1

    def smooth(self, x: Tensor) -> Tensor:
        """Returns the stand-in for the codec that has a derivative, (B, C, H, W)."""
        levels = 255 * (x.clamp(-1, 1) + 1) / 2
        if self.image_shape[0] == 1:
            return 2 * (self._quantised(levels - 128, 0) + 128).clamp(0, 255) / 255 - 1
        luma, chroma = self._mixed(levels, self.to_ycc).split([1, 2], dim=1)
        chroma = F.avg_pool2d(chroma, 2) if self.halves else chroma
        luma, chroma = self._quantised(luma - 128, 0) + 128, self._quantised(chroma, 1)
        if self.halves:
            chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear")
        levels = self._mixed(torch.cat([luma, chroma], dim=1), self.from_ycc)
        return 2 * levels.clamp(0, 255) / 255 - 1

    def _quantised(self, plane: Tensor, table: int) -> Tensor:
        """Planes (B, C, h, w) whose blocks have softly rounded coefficients."""
        dct, quanta = self.dct.to(plane.dtype), self.quanta[table].to(plane.dtype)
        blocks = plane.unflatten(3, (-1, BLOCK)).unflatten(2, (-1, BLOCK)).transpose(3, 4)
        steps = dct @ blocks @ dct.T / quanta
        steps = steps - torch.sin(2 * math.pi * steps) / (2 * math.pi)
        blocks = dct.T @ (steps * quanta) @ dct
        return blocks.transpose(3, 4).reshape(plane.shape)

    def _mixed(self, image: Tensor, matrix: Tensor) -> Tensor:
        return torch.einsum("kc,bchw->bkhw", matrix.to(image.dtype), image)

    def _file(self, image: np.ndarray) -> Image.Image:
        """The picture in the JPEG file of an image (H, W, C) uint8."""
        file = io.BytesIO()
        picture = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
        picture.save(file, "JPEG", quality=self.quality, subsampling=self.subsampling)
        return Image.open(file)

    def _decoded(self, image: np.ndarray) -> np.ndarray:
        return np.asarray(self._file(image)).reshape(image.shape)

    def _tables(self) -> Tensor:
        """The quanta of luma and, if there are any, of chromas as the codec has them, (K, 8, 8)."""
        blank = np.zeros((BLOCK, BLOCK, self.image_shape[0]), np.uint8)
        tables = self._file(blank).quantization
        tables = [tables[key] for key in sorted(tables)]
        return torch.tensor(tables, dtype=torch.float64).view(-1, BLOCK, BLOCK)


def dct_matrix(size: int) -> Tensor:
    """Returns the orthonormal matrix (size, size) float64 of the discrete cosine transform."""
    index = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi / size * torch.outer(index, index + 0.5)) * (2 / size) ** 0.5
    matrix[0] /= 2**0.5
    return matrix
