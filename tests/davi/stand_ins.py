"""Small networks with the interfaces of those whose weights have to be downloaded."""

import numpy as np
import torch
from torch import Tensor


class Distance:
    """In the place of LPIPS: the mean absolute difference, other variants multiples of it."""

    FACTORS = {"release": 1, "vgg": 2, "alex": 3}  # noqa: RUF012

    def __init__(self, variant: str, _: torch.device) -> None:
        self.factor = self.FACTORS[variant]

    def __call__(self, x: Tensor, reference: Tensor) -> Tensor:
        return self.factor * (x - reference).abs().mean(dim=(1, 2, 3))


class Features:
    """In the place of Inception: eight means of each image.

    Attributes:
        seen: how many images all of them were given.
    """

    DIMENSION = 8
    seen = 0

    def __init__(self, _: torch.device) -> None:
        self.weights_sha256 = "weights"

    def __call__(self, x: Tensor) -> np.ndarray:
        Features.seen += len(x)
        bands = x[:, :2, :, :4].mean(dim=2).flatten(1)
        return bands.cpu().numpy()
