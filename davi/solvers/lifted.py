"""No restoration: the measurement on the image grid, what DAVI's generator starts from."""

from typing import ClassVar, Literal

from torch import Tensor

from davi.operators.linear import LinearOperator
from davi.operators.measurement import lift
from davi.solvers.base import Noise, Rngs, Solver
from davi.solvers.prior import CountedPrior


class Lifted(Solver):
    """x = lift(y)."""

    label: ClassVar[str] = "measurement"
    resize: Literal["bilinear", "nearest"] = "bilinear"

    def solve(
        self, y: Tensor, operator: LinearOperator, noise: Noise, prior: CountedPrior, rngs: Rngs
    ) -> Tensor:
        """See `Solver.solve`."""
        return lift(y, operator.image_shape, self.resize)
