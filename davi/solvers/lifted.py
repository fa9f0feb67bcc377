"""No restoration: the measurement on the image grid, what DAVI's generator starts from."""

from typing import ClassVar, Literal

from torch import Tensor

from davi.operators.measurement import image_of
from davi.operators.operator import Operator
from davi.solvers.base import Noise, Rngs, Solver
from davi.solvers.prior import CountedPrior


class Lifted(Solver):
    """x = y on the image grid, see `measurement.image_of`."""

    label: ClassVar[str] = "measurement"
    resize: Literal["bilinear", "nearest", "adjoint", "pseudo_inverse"] = "bilinear"

    def solve(
        self, y: Tensor, operator: Operator, noise: Noise, prior: CountedPrior, rngs: Rngs
    ) -> Tensor:
        """See `Solver.solve`."""
        return image_of(y, operator, self.resize)
