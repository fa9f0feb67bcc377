"""Whether an operator keeps its promises, for those who write one."""

import torch

from davi.operators.linear import LinearOperator
from davi.system.errors import InputError

TOLERANCE = 1e-3  # rounding in float32 stays below 1e-5
BATCH = 2


def check_adjoint(operator: LinearOperator, seed: int = 0) -> float:
    """Checks that <A x, y> = <x, A^T y>, which also fails for an A that is not linear.

    Args:
        operator: on the CPU; of a family, one that `sample` returned for two generators.
        seed: of the standard normal x and y.

    Returns:
        The relative error: the difference over the usual size of the two sides.

    Raises:
        InputError: A or A_adjoint returns another shape than it should, or the relative error
            is above 1e-3.
    """
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(BATCH, *operator.image_shape, generator=rng, dtype=torch.float32)
    y = operator.project(
        torch.randn(BATCH, *operator.measurement_shape, generator=rng, dtype=torch.float32)
    )
    Ax, Aty = operator.A(x), operator.A_adjoint(y)
    name = type(operator).__name__
    for method, found, expected in (("A", Ax, y), ("A_adjoint", Aty, x)):
        if found.shape != expected.shape:
            raise InputError(
                f"{name}.{method} returns {tuple(found.shape)}, {tuple(expected.shape)} is needed"
            )
    Ax, y, x, Aty = (each.double().flatten() for each in (Ax, y, x, Aty))
    usual = Ax.norm() * y.norm() / len(y) ** 0.5  # of <A x, y>, as x and y are independent
    error = ((Ax @ y - x @ Aty).abs() / usual).item()
    if not error <= TOLERANCE:  # NaN, too
        raise InputError(
            f"{name}: <A x, y> and <x, A^T y> differ by {error:.2g} of their usual size, more than "
            f"{TOLERANCE}: A_adjoint is not the transpose of A, or A is not linear"
        )
    return error
