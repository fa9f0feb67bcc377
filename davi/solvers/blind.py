"""What a blind method is: it restores from y alone, and finds the kernel of the blur, too."""

from abc import abstractmethod

import torch
from torch import Tensor

from davi.operators.convolution import Convolution, UnknownConvolution
from davi.operators.operator import Operator
from davi.solvers.base import Noise, Rngs, Solver
from davi.solvers.prior import CountedPrior
from davi.system.errors import InputError


class BlindSolver(Solver):
    """A method for convolutions that is never told the kernel, whatever operator it is called with.

    Fields: hyperparameters.
    """

    @torch.no_grad()
    def restore_with_kernel(
        self,
        y: Tensor,
        operator: Convolution | UnknownConvolution,
        noise: Noise,
        prior: CountedPrior,
        rngs: Rngs,
    ) -> tuple[Tensor, Tensor]:
        """Returns what `__call__` does, and the kernels it found, (B, 1, k, k), each of sum 1.

        For its arguments and errors see `Solver.__call__`; of the operator the kernel may be
        unknown.
        """
        self.require(operator, noise)
        x, kernel = self.estimate(operator.project(y), operator.unknown(), noise, prior, rngs)
        self.require_finite(x)
        return x, kernel

    def require(self, operator: Operator | UnknownConvolution, noise: Noise) -> None:
        """See `Solver.require`; it takes any noise."""
        if not isinstance(operator, Convolution | UnknownConvolution):
            raise InputError(
                f"{self.label} finds the kernel of a convolution; here is "
                f"{type(operator).__name__}. Choose a solver that is told the operator"
            )

    def solve(
        self, y: Tensor, operator: Convolution, noise: Noise, prior: CountedPrior, rngs: Rngs
    ) -> Tensor:
        """See `Solver.solve`."""
        return self.estimate(y, operator.unknown(), noise, prior, rngs)[0]

    @abstractmethod
    def estimate(
        self, y: Tensor, operator: UnknownConvolution, noise: Noise, prior: CountedPrior, rngs: Rngs
    ) -> tuple[Tensor, Tensor]:
        """Does the work of `restore_with_kernel`, whose results it returns, without gradients."""
