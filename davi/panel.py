"""Pictures of pictures: rows of images side by side."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.utils import make_grid

SPACING = 2  # pixels between images


def image_grid(rows: list[Tensor]) -> Tensor:
    """Returns one picture (3, H, W) in [-1, 1] with a row for each batch of images.

    Args:
        rows: batches (N, 1 or 3, h, w) in [-1, 1]; all have the same N. A gray batch becomes
            colour, a smaller one is enlarged (nearest) to the size of the largest.
    """
    size = max((row.shape[-2:] for row in rows), key=lambda shape: shape[0] * shape[1])
    columns = len(rows[0])
    prepared = [
        F.interpolate(row.float().cpu(), size=size, mode="nearest").expand(-1, 3, -1, -1)
        for row in rows
    ]
    return make_grid(torch.cat(prepared).clamp(-1, 1), nrow=columns, padding=SPACING, pad_value=1.0)
