"""Inpainting: A keeps the pixels outside a hole.

A measurement keeps the shape of the image, with 0 (or, as in the release, noise) in the hole.
Masks are 1 where a pixel is kept.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from davi.operators.operator import ImageShape, RandomOperator
from davi.operators.svd import SVDOperator
from davi.system.runtime import draw_each


class Inpainting(SVDOperator):
    """A x = mask * x.

    Args:
        image_shape: (C, H, W).
        mask: 1 or True where a pixel is kept; (H, W), (C, H, W) or one per image, (B, C, H, W).
        noise_in_hole: measurements have noise in the hole.
    """

    def __init__(self, image_shape: ImageShape, mask: Tensor, noise_in_hole: bool = False) -> None:
        super().__init__(image_shape, image_shape)
        self.noise_in_hole = noise_in_hole
        # Beside the singular values, which are float64: images seldom are, and A is nothing else.
        self.register_buffer("kept", mask.float(), persistent=False)
        self._set_singular_values(mask.double())

    def U(self, spectrum: Tensor) -> Tensor:
        """Returns its argument with the hole set to 0."""
        return spectrum * self.kept.to(spectrum.dtype)

    A = A_adjoint = A_dagger = U_adjoint = U

    def V(self, spectrum: Tensor) -> Tensor:
        """Returns its argument."""
        return spectrum

    V_adjoint = V

    def project(self, y: Tensor) -> Tensor:
        """Returns y with the hole set to 0, or y itself if noise belongs there."""
        return y if self.noise_in_hole else self.U(y)


class RandomInpainting(RandomOperator):
    """Inpainting with a new mask for every image.

    Args:
        image_shape: (C, H, W).
        draw_mask: returns an (H, W) mask from a generator.
        noise_in_hole: measurements have noise in the hole.
        same_everywhere: see `Operator`; of holes that may be at any place, in any number.
    """

    def __init__(
        self,
        image_shape: ImageShape,
        draw_mask: Callable[[torch.Generator], Tensor],
        noise_in_hole: bool = False,
        same_everywhere: bool = False,
    ) -> None:
        super().__init__(image_shape, image_shape)
        self.same_everywhere = same_everywhere
        self.draw_mask = draw_mask
        self.noise_in_hole = noise_in_hole

    def sample(self, rngs: list[torch.Generator]) -> Inpainting:
        """Returns inpainting with one mask per generator, (B, 1, H, W)."""
        masks = draw_each(self.draw_mask, rngs)[:, None]
        return Inpainting(self.image_shape, masks, self.noise_in_hole)


def centred_box(height: int, width: int, size: int) -> Tensor:
    """Returns an (H, W) mask with a centred square hole (Sec. 5.1: 128 of 256)."""
    top, left = (height - size) // 2, (width - size) // 2
    mask = torch.ones(height, width, dtype=torch.bool)
    mask[top : top + size, left : left + size] = False
    return mask


def random_box(height: int, width: int, size: int, rng: torch.Generator) -> Tensor:
    """Returns an (H, W) mask with a square hole anywhere inside (supplement B.3)."""

    def in_hole(extent: int) -> Tensor:
        start = torch.randint(extent - size + 1, (), generator=rng, device=rng.device)
        position = torch.arange(extent, device=rng.device) - start
        return (position >= 0) & (position < size)

    return ~(in_hole(height)[:, None] & in_hole(width)[None, :])


def random_pixels(height: int, width: int, hole_rate: float, rng: torch.Generator) -> Tensor:
    """Returns an (H, W) mask in which every pixel is missing with probability `hole_rate`."""
    return (
        torch.rand(height, width, generator=rng, device=rng.device, dtype=torch.float32)
        >= hole_rate
    )
