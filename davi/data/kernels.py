"""Pictures of blur kernels, made as they are read: what a prior over kernels is trained on."""

from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from davi.data.image_sets import ImageSet
from davi.data.images import match_channels
from davi.operators.kernels import gaussian_kernel_2d, motion_kernel
from davi.system.errors import InputError
from davi.system.runtime import keyed_rng

COUNTS = {"train": 60_000, "held_out": 600}
GAUSSIAN_EVERY = 6  # 10 of 60 thousand, as in BlindDPS; the others are of motion
INTENSITIES = (0.2, 1.0)  # of motion
WIDTHS = (0.01, 0.08)  # deviations of Gaussians as shares of the size; BlindDPS: 0.1 to 5 of 64


class KernelPictures(ImageSet):
    """Kernels of motion and Gaussian ones, a function of split and index.

    The largest tap of a picture is 1, and what is black, -1: see `picture_of`.

    Args:
        name: KERNEL_SIZE:SPLIT, the split being a key of `COUNTS`.
        image_size: side of the pictures, at least that of the kernels.

    Raises:
        InputError: another name, or kernels larger than the pictures.
    """

    def __init__(self, name: str, image_size: int) -> None:
        size, _, self.split = name.partition(":")
        if not (size.isascii() and size.isdigit() and int(size) % 2 and self.split in COUNTS):
            raise InputError(
                f"kernels:{name}: write kernels:SIZE:SPLIT, an odd number of taps and one of "
                f"{', '.join(COUNTS)}, as in kernels:17:train"
            )
        self.kernel_size = int(size)
        if self.kernel_size > image_size:
            raise InputError(f"kernels:{name}: larger than image_size={image_size}")
        names = (f"{index:05d}" for index in range(COUNTS[self.split]))
        super().__init__(Path("kernels"), names, image_size)

    def __getitem__(self, index: int) -> Tensor:
        """Returns picture `index` as (channels, S, S) float32 in [-1, 1]."""
        index = range(len(self))[index]
        rng = keyed_rng("cpu", "kernels", self.split, index)
        share = torch.rand((), generator=rng, dtype=torch.float32).item()
        if index % GAUSSIAN_EVERY == 0:
            kernel = gaussian_kernel_2d(
                self.kernel_size, self.kernel_size * _between(WIDTHS, share)
            )
        else:
            kernel = motion_kernel(self.kernel_size, rng, _between(INTENSITIES, share))
        picture = picture_of(kernel[None, None], self.image_size)[0]
        return match_channels(picture, self.channels, self.source(index))

    def files(self) -> Iterator[Path]:
        """Yields no file: there is none."""
        return iter(())

    def _read(self, index: int) -> bytes:
        return self[index].numpy().tobytes()

    def _facts(self, index: int) -> tuple[int, ...]:
        return (self.image_size, self.kernel_size)


def picture_of(kernel: Tensor, image_size: int) -> Tensor:
    """Returns kernels (B, 1, k, k) as pictures (B, 1, S, S) in [-1, 1], the largest tap white.

    The middle tap lies at row and column (S - 1) // 2.
    """
    before = (image_size - 1) // 2 - kernel.shape[-1] // 2
    after = image_size - kernel.shape[-1] - before
    white = kernel / kernel.amax(dim=(-2, -1), keepdim=True)
    return F.pad(2 * white - 1, (before, after, before, after), value=-1.0)


def _between(bounds: tuple[float, float], share: float) -> float:
    return bounds[0] + share * (bounds[1] - bounds[0])
