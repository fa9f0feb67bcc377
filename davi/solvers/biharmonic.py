"""Biharmonic inpainting, by scikit-image."""

from typing import ClassVar

import numpy as np
from skimage import restoration
from torch import Tensor

from davi.operators.inpainting import Inpainting
from davi.solvers.base import INPAINTING, Noise, Rngs, Solver
from davi.solvers.classical import each_channel
from davi.solvers.prior import CountedPrior


class Biharmonic(Solver):
    """Fills the hole with the surface whose bilaplacian is 0, clipped to the known pixels' range.

    The known pixels stay as they are, noise and all. Source: Damelin and Hoang 2018.
    """

    label: ClassVar[str] = "biharmonic"
    needs: ClassVar[frozenset[str]] = frozenset({INPAINTING})

    def solve(
        self, y: Tensor, operator: Inpainting, noise: Noise, prior: CountedPrior, rngs: Rngs
    ) -> Tensor:
        """See `Solver.solve`."""
        return each_channel(_fill, y, (operator.singular_values == 0).expand_as(y))


def _fill(channel: np.ndarray, hole: np.ndarray) -> np.ndarray:
    return restoration.inpaint_biharmonic(channel, hole.astype(bool))
