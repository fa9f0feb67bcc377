"""Whether an operator keeps its promises, for those who write one."""

import torch
from torch import Tensor

from davi.operators.linear import LinearOperator
from davi.operators.operator import Operator
from davi.operators.svd import SVDOperator
from davi.system.errors import InputError

TOLERANCE = 1e-3  # rounding in float32 stays below 1e-5
BATCH = 2
STEP = 1e-6  # of central differences, in float64


def check_adjoint(operator: LinearOperator, seed: int = 0, batch: int = BATCH) -> float:
    """Checks that <A x, y> = <x, A^T y>, which also fails for an A that is not linear.

    Args:
        operator: on the CPU; of a family, one that `sample` returned for two generators.
        seed: of the standard normal x and y.
        batch: number of images, where every one has its own operator.

    Returns:
        The relative error: the difference over the usual size of the two sides.

    Raises:
        InputError: A or A_adjoint fails or returns something complex or of another shape than it
            should, or the relative error is above 1e-3.
    """
    x, y = _random_pair(operator, seed, batch)
    Ax = _applied(operator, "A", y.shape, x)
    Aty = _applied(operator, "A_adjoint", x.shape, y)
    Ax, y, x, Aty = (each.double().flatten() for each in (Ax, y, x, Aty))
    usual = Ax.norm() * y.norm() / len(y) ** 0.5  # of <A x, y>, as x and y are independent
    error = ((Ax @ y - x @ Aty).abs() / usual).item()
    if not error <= TOLERANCE:  # NaN, too
        raise InputError(
            f"{type(operator).__name__}: <A x, y> and <x, A^T y> differ by {error:.2g} of their "
            f"usual size, more than {TOLERANCE}: A_adjoint is not the transpose of A, or A is not "
            "linear"
        )
    return error


def check_vjp(operator: Operator, seed: int = 0, batch: int = BATCH) -> float:
    """Checks that <J h, r> = <h, J^T r>, with J h by central differences of A, J^T r by `vjp`.

    In float64, at images that are uniform in [-1, 1]: A has to take them and to be smooth there.

    Args:
        operator: as of `check_adjoint`.
        seed: of the images, and of standard normal h and r.
        batch: number of images.

    Returns:
        The relative error: the difference over the usual size of the two sides.

    Raises:
        InputError: A or vjp fails or returns something complex or of another shape than it should,
            or the relative error is above 1e-3.
    """
    h, r = (each.double() for each in _random_pair(operator, seed, batch))
    rng = torch.Generator().manual_seed(seed)
    x = (2 * torch.rand(h.shape, generator=rng, dtype=torch.float64) - 1).to(h)
    ahead = _applied(operator, "A", r.shape, x + STEP * h)
    behind = _applied(operator, "A", r.shape, x - STEP * h)
    Jh = (ahead - behind).double() / (2 * STEP)
    Jtr = _applied(operator, "vjp", x.shape, x, r)
    usual = Jh.norm() * r.norm() / r.numel() ** 0.5  # of <J h, r>, as J h and r are independent
    error = (((Jh * r).sum() - (h * Jtr).sum()).abs() / usual).item()
    if not error <= TOLERANCE:  # NaN, too
        raise InputError(
            f"{type(operator).__name__}: <J h, r> and <h, J^T r> differ by {error:.2g} of their "
            f"usual size, more than {TOLERANCE}: vjp is not the transpose of A's derivative, or A "
            "jumps or computes in less than float64"
        )
    return error


def check_svd(operator: SVDOperator, seed: int = 0, batch: int = BATCH) -> None:
    """Checks that U, s and V are a singular value decomposition, and that of A.

    Args:
        operator: as of `check_adjoint`.
        seed: of the standard normal images, coefficients and measurements.
        batch: number of images, where every one has its own singular values.

    Raises:
        InputError: names what is wrong: a method that fails or returns something complex or of
            another shape, singular values that are complex, negative, not finite or do not
            broadcast, U or V that are not orthogonal, an A, A_adjoint or A_dagger that is not made
            of them.
    """
    x, y = _random_pair(operator, seed, batch)
    c, _ = _random_pair(operator, seed + 1, batch)  # coefficients: one for each pixel
    s = _values(operator, "singular_values", c)
    inverse = _values(operator, "inverse_singular_values", c)
    Vt_x = _applied(operator, "V_adjoint", c.shape, x)
    V_c = _applied(operator, "V", x.shape, c)
    _require_same(operator, "|V_adjoint(x)|", Vt_x.norm(), "|x|", x.norm())
    _require_same(operator, "V(V_adjoint(x))", _applied(operator, "V", x.shape, Vt_x), "x", x)
    back = _applied(operator, "V_adjoint", c.shape, V_c)
    _require_same(operator, "V_adjoint(V(c))", back, "c", c)

    seen = c * (s > 0)
    Ut_y = _applied(operator, "U_adjoint", c.shape, y)
    back = _applied(operator, "U_adjoint", c.shape, _applied(operator, "U", y.shape, seen))
    _require_same(operator, "U_adjoint(U(c)) where s > 0", back * (s > 0), "c", seen)

    made_of = {
        "A": (x, operator.U(s * Vt_x), "U(s V_adjoint(x))"),
        "A_adjoint": (y, operator.V(s * Ut_y), "V(s U_adjoint(y))"),
        "A_dagger": (y, operator.V(inverse * Ut_y), "V(U_adjoint(y) / s)"),
    }
    for method, (argument, expected, text) in made_of.items():
        found = _applied(operator, method, expected.shape, argument)
        _require_same(operator, method, found, text, expected)
    check_adjoint(operator, seed, batch)


def _random_pair(operator: Operator, seed: int, batch: int) -> tuple[Tensor, Tensor]:
    """A standard normal image and measurement, float32."""
    rng = torch.Generator().manual_seed(seed)
    device = next((buffer.device for buffer in operator.buffers()), None)
    x, y = (
        torch.randn(batch, *shape, generator=rng, dtype=torch.float32).to(device)
        for shape in (operator.image_shape, operator.measurement_shape)
    )
    return x, operator.project(y)


def _applied(operator: Operator, method: str, shape: torch.Size, *arguments: Tensor) -> Tensor:
    """What a method returns, if it has the right shape and is real."""
    name = f"{type(operator).__name__}.{method}"
    try:
        found = getattr(operator, method)(*arguments)
    except (RuntimeError, ValueError, IndexError) as error:  # what wrong shapes lead to
        raise InputError(f"{name} fails for {tuple(arguments[0].shape)}: {error}") from error
    if found.shape != shape:
        raise InputError(f"{name} returns {tuple(found.shape)}, {tuple(shape)} is needed")
    if found.is_complex():
        raise InputError(
            f"{name} returns complex numbers; give real and imaginary parts (torch.view_as_real)"
        )
    return found


def _values(operator: SVDOperator, name: str, c: Tensor) -> Tensor:
    """Singular values or their inverses in the dtype of the coefficients c, if they can be used."""
    where, values = f"{type(operator).__name__}.{name}", getattr(operator, name, None)
    if values is None:
        raise InputError(f"{where} is missing; call _set_singular_values")
    try:
        fits = torch.broadcast_shapes(values.shape, c.shape) == c.shape
    except RuntimeError:
        fits = False
    if not fits:
        raise InputError(f"{where}: {tuple(values.shape)} does not broadcast to {tuple(c.shape)}")
    if values.is_complex() or not torch.isfinite(values).all() or (values < 0).any():
        raise InputError(
            f"{where}: real numbers of at least 0 are needed; put signs and phases into U"
        )
    return values.to(c.dtype)


def _require_same(
    operator: SVDOperator, found_text: str, found: Tensor, text: str, expected: Tensor
) -> None:
    """Refuses a difference of more than the tolerance, relative to what is expected."""
    size = max(expected.norm().item(), 1e-30)
    error = (found - expected).norm().item() / size
    if not error <= TOLERANCE:  # NaN, too
        raise InputError(
            f"{type(operator).__name__}: {found_text} is not {text}: they differ by {error:.2g} of "
            f"its size, more than {TOLERANCE}"
        )
