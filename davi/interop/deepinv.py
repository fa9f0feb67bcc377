"""deepinv's operators here; our operators, generators and solvers there.

The one place where the scales meet. deepinv's images u lie in [0, 1], ours x = 2 u - 1 in [-1, 1].
A is the same for both, so that a measurement A u + n becomes y = 2 (A u + n) - A 1 = A x + 2 n: its
noise has twice the deviation.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from davi.operators.checking import BATCH, check_svd
from davi.operators.linear import LinearOperator
from davi.operators.noise import GaussianNoise
from davi.operators.operator import ImageShape
from davi.operators.svd import SVDOperator
from davi.restorer import Restorer
from davi.solvers.base import SVD, Solver
from davi.solvers.prior import CountedPrior
from davi.system.errors import InputError
from davi.system.runtime import keyed_rng

try:
    from deepinv import physics as theirs
    from deepinv.models import Reconstructor
except ImportError as error:
    raise InputError(f"deepinv cannot be used ({error}); pip install 'davi[deepinv]'") from error


class PhysicsOperator(LinearOperator):
    """Any linear physics of deepinv, in float32, on images (C, H, W); complex y as real pairs."""

    largest_value = torch.inf  # physics are on any scale

    def __init__(self, physics: theirs.LinearPhysics, image_shape: ImageShape) -> None:
        with torch.no_grad():
            y = physics.A(torch.zeros(1, *image_shape, device=physics.device))
        super().__init__(image_shape, (*y.shape[1:], *[2] * y.is_complex()))
        self.physics, self.is_complex = physics, y.is_complex()

    def A(self, x: Tensor) -> Tensor:
        """See `LinearOperator.A`."""
        return self.ours(self.physics.A(x.float())).to(x.dtype)

    def A_adjoint(self, y: Tensor) -> Tensor:
        """See `LinearOperator.A_adjoint`."""
        pairs = y.float().contiguous()
        back = self.physics.A_adjoint(torch.view_as_complex(pairs) if self.is_complex else pairs)
        return back.real.to(y.dtype)

    def ours(self, y: Tensor) -> Tensor:
        """Returns a measurement of the physics as the operator gives it."""
        return torch.view_as_real(y) if self.is_complex else y


def _of_physics(name: str) -> Callable[[SVDOperator, Tensor], Tensor]:
    """A method of the physics, in float32, as one of an operator."""
    return lambda operator, z: getattr(operator.physics, name)(z.float()).to(z.dtype)


class DecomposableOperator(PhysicsOperator, SVDOperator):
    """The same with its singular values; an InputError if they are none, see `check_svd`."""

    U, U_adjoint, V, V_adjoint = map(_of_physics, ("U", "U_adjoint", "V", "V_adjoint"))

    def __init__(self, physics: theirs.DecomposablePhysics, image_shape: ImageShape) -> None:
        super().__init__(physics, image_shape)
        mask = physics.mask
        self._set_singular_values(mask if mask.is_complex() else mask.double())
        check_svd(self, batch=len(mask) if mask.ndim == 4 and len(mask) > 1 else BATCH)


class OperatorPhysics(theirs.LinearPhysics):
    """One of our operators as physics of deepinv.

    Args:
        operator: of a family, one that `sample` returned.
        options: of `deepinv.physics.LinearPhysics`, such as the noise model, on [0, 1].
    """

    def __init__(self, operator: LinearOperator, **options: Any) -> None:
        super().__init__(img_size=operator.image_shape, **options)
        self.operator = operator
        self.A, self.A_adjoint = operator.A, operator.A_adjoint
        self.A_dagger = operator.A_dagger


class SVDPhysics(OperatorPhysics, theirs.DecomposablePhysics):
    """One of our operators with singular values; arguments as of `OperatorPhysics`."""

    def __init__(self, operator: SVDOperator, **options: Any) -> None:
        super().__init__(operator, mask=operator.singular_values.float(), **options)
        self.U, self.U_adjoint = operator.U, operator.U_adjoint
        self.V, self.V_adjoint = operator.V, operator.V_adjoint


class Model(Reconstructor):
    """A solver, or a generator, as a reconstructor of deepinv: `model(y, physics)` in [0, 1].

    Args:
        method: a restorer, whose generator was trained for the operator of the physics (only the
            shapes are compared), or a solver.
        prior: of a solver, on the device of the measurements.
        image_shape: of a solver, (C, H, W).
        seed: image number i of a batch has the same draws in every call.
    """

    def __init__(
        self,
        method: Restorer | Solver,
        prior: CountedPrior | None = None,
        image_shape: ImageShape | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.method, self.prior, self.seed = method, prior, seed
        self.image_shape = image_shape or method.image_shape

    def forward(self, y: Tensor, physics: theirs.LinearPhysics) -> Tensor:
        """Returns one restoration (C, H, W) for each measurement, a solver's unclipped."""
        is_generator = isinstance(self.method, Restorer)
        with_svd = not is_generator and SVD in self.method.needs
        operator = operator_of(physics, self.image_shape, with_svd)
        y = operator.ours(y) if isinstance(operator, PhysicsOperator) else y
        y = operator.project(2 * y - operator.A(y.new_ones(len(y), *self.image_shape)))
        if is_generator:
            return (self.method.restore(y, seed=self.seed)[0].to(y.device) + 1) / 2
        rngs = [keyed_rng(y.device, self.seed, "deepinv", index) for index in range(len(y))]
        return (self.method(y, operator, noise_of(physics), self.prior, rngs) + 1) / 2


def operator_of(physics: theirs.LinearPhysics, shape: ImageShape, svd: bool) -> LinearOperator:
    """Returns physics as an operator, with singular values where they are asked for and known."""
    if isinstance(physics, OperatorPhysics):
        return physics.operator
    decomposed = svd and isinstance(physics, theirs.DecomposablePhysics)
    return (DecomposableOperator if decomposed else PhysicsOperator)(physics, shape)


def noise_of(physics: theirs.LinearPhysics) -> GaussianNoise:
    """Returns the noise of physics, Gaussian or none (else an InputError), on our scale."""
    model = physics.noise_model
    if not isinstance(model, theirs.ZeroNoise | theirs.GaussianNoise):
        raise InputError(f"{type(model).__name__}: Gaussian noise, or none, is needed here")
    sigma = 2 * getattr(model, "sigma", torch.zeros(1))
    return GaussianNoise(sigma.min().item(), sigma.max().item())
