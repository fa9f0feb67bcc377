"""Enlargement by interpolation, by Pillow."""

from typing import ClassVar, Literal

import numpy as np
from PIL import Image
from torch import Tensor

from davi.operators.super_resolution import SuperResolution
from davi.solvers.base import SUPER_RESOLUTION, Noise, Rngs, Solver
from davi.solvers.classical import each_channel
from davi.solvers.prior import CountedPrior

KERNELS = {"bicubic": Image.Resampling.BICUBIC, "lanczos": Image.Resampling.LANCZOS}


class Enlargement(Solver):
    """x = y on a finer grid, with half-pixel centres.

    Fields:
        kernel: bicubic (Keys' with a = -0.5) or lanczos (three lobes).
    """

    label: ClassVar[str] = "enlargement"
    needs: ClassVar[frozenset[str]] = frozenset({SUPER_RESOLUTION})
    kernel: Literal["bicubic", "lanczos"] = "bicubic"

    def solve(
        self, y: Tensor, operator: SuperResolution, noise: Noise, prior: CountedPrior, rngs: Rngs
    ) -> Tensor:
        """See `Solver.solve`."""
        _, height, width = operator.image_shape

        def enlarge(channel: np.ndarray) -> np.ndarray:
            picture = Image.fromarray(channel.astype(np.float32))
            return np.array(picture.resize((width, height), KERNELS[self.kernel]))

        return each_channel(enlarge, y)
