"""Pictures of pictures: rows of images, with or without titles."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from davi.data.images import from_uint8, to_uint8

SPACING = 2  # pixels between images
TITLE_MARGIN, FONT_SIZE = 10, 16  # pixels


def image_grid(rows: list[Tensor]) -> Tensor:
    """Returns one picture (3, H, W) in [-1, 1] with a row for each batch of images.

    Args:
        rows: batches (N, 1 or 3, h, w) in [-1, 1]; all have the same N. A gray batch becomes
            colour, a smaller one is enlarged (nearest) to the size of the largest.
    """
    from torchvision.utils import make_grid  # here: its import takes a second

    size = max((row.shape[-2:] for row in rows), key=lambda shape: shape[0] * shape[1])
    prepared = [
        F.interpolate(row.float().cpu(), size=size, mode="nearest").expand(-1, 3, -1, -1)
        for row in rows
    ]
    images = torch.cat(prepared).clamp(-1, 1)
    return make_grid(images, nrow=len(rows[0]), padding=SPACING, pad_value=1.0)


def titled_grid(rows: dict[str, Tensor], scale: int = 1) -> Tensor:
    """Returns `image_grid` of the rows with their titles to the left, (3, H, W) in [-1, 1].

    Args:
        rows: {title: batch (N, 1 or 3, h, w) in [-1, 1]}.
        scale: enlargement (nearest) of every image.
    """
    grid = image_grid([F.interpolate(row, scale_factor=scale) for row in rows.values()])
    height, width = grid.shape[1:]
    font = ImageFont.load_default(FONT_SIZE)
    left = 2 * TITLE_MARGIN + math.ceil(max(font.getlength(title) for title in rows))
    canvas = Image.new("RGB", (left + width, height), "white")
    canvas.paste(Image.fromarray(to_uint8(grid).permute(1, 2, 0).numpy()), (left, 0))
    draw = ImageDraw.Draw(canvas)
    for index, title in enumerate(rows):
        middle = (index + 0.5) * height / len(rows)
        draw.text((left - TITLE_MARGIN, middle), title, "black", font, anchor="rm")
    return from_uint8(torch.from_numpy(np.array(canvas))).permute(2, 0, 1)
