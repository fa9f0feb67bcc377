"""The least-squares answer without a prior."""

from typing import ClassVar

from torch import Tensor

from davi.operators.linear import LinearOperator
from davi.solvers.base import LINEAR, Noise, Rngs, Solver
from davi.solvers.prior import CountedPrior


class PseudoInverse(Solver):
    """x = A^+ y."""

    label: ClassVar[str] = "pseudo-inverse"
    needs: ClassVar[frozenset[str]] = frozenset({LINEAR})

    def solve(
        self, y: Tensor, operator: LinearOperator, noise: Noise, prior: CountedPrior, rngs: Rngs
    ) -> Tensor:
        """See `Solver.solve`."""
        return operator.A_dagger(y)
