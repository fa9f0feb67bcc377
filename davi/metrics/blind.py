"""Scores of blind deblurring, where image and kernel may be shifted against each other."""

import torch
import torch.nn.functional as F
from torch import Tensor

from davi.metrics.scores import psnr

REACH = 8  # pixels; half of a kernel of 17 taps


def aligned_psnr(x: Tensor, reference: Tensor, reach: int = REACH) -> Tensor:
    """Returns the PSNR of each image after its best whole shift, in dB, (B,) float64.

    Every shift is scored on the same pixels of the reference, those `reach` away from its borders,
    so that none gains from what it leaves out.

    Args:
        x: (B, C, H, W), clipped to [-1, 1].
        reference: shape as x, in [-1, 1].
        reach: largest shift in rows and in columns.

    Raises:
        ValueError: nothing is left between the borders.
    """
    height, width = (side - 2 * reach for side in reference.shape[-2:])
    if min(height, width) < 1:
        raise ValueError(
            f"images of {tuple(reference.shape[-2:])}: too small for shifts of {reach}"
        )
    middle = reference[..., reach : reach + height, reach : reach + width]
    shifts = range(2 * reach + 1)
    scores = [
        psnr(x[..., top : top + height, left : left + width], middle)
        for top in shifts
        for left in shifts
    ]
    return torch.stack(scores).amax(dim=0)


def kernel_similarity(kernel: Tensor, reference: Tensor) -> Tensor:
    """Returns the maximum of normalized convolution (MNC) of each pair of kernels, (B,) float64.

    max over shifts s of sum_i k(i) k'(i + s) / (|k| |k'|), 1 if and only if one is a shift of the
    other times a factor. Source: Hu & Yang 2012, Good Regions to Deblur.

    Args:
        kernel: (B, 1, k, k), not negative.
        reference: (B, 1, k, k).
    """
    kernel, reference = kernel.double(), reference.double()
    # Kernels lie where convolutions have their channels, each a group of its own.
    products = F.conv2d(
        reference.transpose(0, 1), kernel, padding=kernel.shape[-1] - 1, groups=len(kernel)
    )
    lengths = [each.flatten(1).norm(dim=1) for each in (kernel, reference)]
    return products[0].amax(dim=(-2, -1)) / (lengths[0] * lengths[1])
