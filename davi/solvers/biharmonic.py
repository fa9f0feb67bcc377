"""Biharmonic inpainting, by scikit-image."""

from typing import ClassVar

import numpy as np
from skimage import restoration
from torch import Tensor

from davi.operators.inpainting import Inpainting
from davi.operators.linear import LinearOperator
from davi.solvers.base import INPAINTING, Noise, Rngs, Solver
from davi.solvers.classical import each_channel
from davi.solvers.prior import CountedPrior
from davi.system.errors import InputError


class Biharmonic(Solver):
    """Fills the hole with the surface whose bilaplacian is 0, clipped to the known pixels' range.

    The known pixels stay as they are, noise and all. Source: Damelin and Hoang 2018.
    """

    label: ClassVar[str] = "biharmonic"
    needs: ClassVar[frozenset[str]] = frozenset({INPAINTING})

    def require(self, operator: LinearOperator, noise: Noise) -> None:
        """Refuses what `Solver.require` does, and masks that hide everything.

        Raises:
            InputError: says what is lacking.
        """
        super().require(operator, noise)
        if not operator.singular_values.any():
            raise InputError("biharmonic needs a mask with known pixels; here is none")

    def solve(
        self, y: Tensor, operator: Inpainting, noise: Noise, prior: CountedPrior, rngs: Rngs
    ) -> Tensor:
        """See `Solver.solve`."""
        return each_channel(_fill, y, (operator.singular_values == 0).expand_as(y))


def _fill(channel: np.ndarray, hole: np.ndarray) -> np.ndarray:
    return restoration.inpaint_biharmonic(channel, hole.astype(bool))
