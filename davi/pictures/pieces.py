"""Measurements of one size, cut into pieces of the size that a network takes."""

from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from davi.operators.operator import ImageShape
from davi.pictures.tiling import Tiling, mirrored
from davi.system.runtime import normal_each


class Pieces:
    """The pieces of measurements and of their images, which are cut at the same places.

    Args:
        y: (B, *measured) measurements, or (B, C', h, w) of other sizes.
        measured: (C', h', w') of a piece; a measurement that is smaller is continued to that.
        image: (C, H, W) of a piece of an image, its sides a multiple of those of `measured` where
            there is more than one piece.
    """

    def __init__(self, y: Tensor, measured: ImageShape, image: ImageShape) -> None:
        self.channels, self.tiling = image[0], None
        if tuple(y.shape[1:]) == tuple(measured):  # of any shape: it may be no picture
            self.y = list(y.float())
        else:
            self.y = [mirrored(each.float(), measured[1:]) for each in y]
            self.tiling = Tiling.of(self.y[0].shape[1:], measured[1:])
        if self.tiling is None or len(self.tiling) == 1:
            self.of_image = Tiling.of(image[1:], image[1:])
        else:
            self.of_image = self.tiling.scaled(factors(measured, image))

    def __len__(self) -> int:
        return len(self.y) * len(self.of_image)

    def pairs(self, rngs: list[torch.Generator]) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields pieces of measurements (C', h', w') and of standard normal noise (C, H, W).

        Args:
            rngs: one for each measurement, whose noise is drawn as one field.
        """
        for y, rng in zip(self.y, rngs, strict=True):
            z = normal_each((self.channels, *self.of_image.size), [rng])[0]
            cut = [y] if self.tiling is None else self.tiling.pieces(y)
            yield from zip(cut, self.of_image.pieces(z), strict=True)

    def blend(self, restored: Iterator[Tensor], images: Tensor) -> None:
        """Fills images (B, C, H, W), of which the continuation is left out.

        Args:
            restored: pieces (C, H, W) in the order of `pairs`.
            images: what is filled.
        """
        for image in images:
            whole = self.of_image.blend(islice(restored, len(self.of_image)))
            image.copy_(whole[:, : image.shape[1], : image.shape[2]])


def factors(measured: ImageShape, image: ImageShape) -> tuple[int, int]:
    """Returns how many times the rows and columns of a measurement its image has."""
    return image[1] // measured[1], image[2] // measured[2]
