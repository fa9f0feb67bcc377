"""The least-squares answer without a prior."""

from typing import ClassVar

from torch import Tensor

from davi.operators.svd import SVDOperator
from davi.solvers.base import PSEUDO_INVERSE, Noise, Rngs, Solver
from davi.solvers.prior import CountedPrior


class PseudoInverse(Solver):
    """x = A^+ y."""

    label: ClassVar[str] = "pseudo-inverse"
    needs: ClassVar[frozenset[str]] = frozenset({PSEUDO_INVERSE})

    def solve(
        self, y: Tensor, operator: SVDOperator, noise: Noise, prior: CountedPrior, rngs: Rngs
    ) -> Tensor:
        """See `Solver.solve`."""
        return operator.A_dagger(y)
