"""Least squares of operators that know only A and its adjoint, against those that know more."""

import pytest
import torch
from torch import Tensor

from davi.operators.inpainting import Inpainting, random_pixels
from davi.operators.linear import MAX_ITERATIONS, conjugate_gradients
from davi.system.runtime import keyed_rng
from tests.davi.solvers.spectral_problems import IMAGE, Known, five_operators

each_task = pytest.mark.parametrize("task", five_operators())


def measurements(task: str, batch: int = 3) -> tuple[Known, Tensor]:
    """An operator that knows only A and its adjoint, and y that have nothing to do with A."""
    operator = five_operators()[task]
    rng = torch.Generator().manual_seed(0)
    y = torch.randn(batch, *operator.measurement_shape, generator=rng, dtype=torch.float64)
    return Known(operator), operator.project(y)


@each_task
@pytest.mark.parametrize("rho", [1.0, 0.01])
def test_least_squares_are_those_of_the_dense_matrix(task: str, rho: float) -> None:
    known, y = measurements(task)
    basis = torch.eye(192, dtype=torch.float64).view(192, *IMAGE)
    A = known.A(basis).flatten(1).T
    expected = torch.linalg.solve(A.T @ A + rho * torch.eye(192), A.T @ y.flatten(1).T)
    expected = expected.T.view(3, *IMAGE)
    torch.testing.assert_close(known.operator.least_squares(y, rho), expected)
    found = known.least_squares(y, rho)
    assert (found - expected).norm() < 1e-3 * expected.norm()


@each_task
def test_the_proximal_point_is_where_the_gradient_is_zero(task: str) -> None:
    known, y = measurements(task)
    x0, rho = torch.randn(3, *IMAGE, dtype=torch.float64), 0.3
    for operator, tolerance in ((known, 1e-3), (known.operator, 1e-9)):
        x = operator.proximal(x0, y, rho)
        gradient = operator.A_adjoint(operator.A(x) - y) + rho * (x - x0)
        assert gradient.norm() < tolerance * x0.norm()


@each_task
def test_the_pseudo_inverse_is_the_exact_one(task: str) -> None:
    known, y = measurements(task)
    if task == "gaussian_blur":  # where it is known, but for what neither inverts
        y = known.A(known.A_adjoint(y))
        found, expected = known.A(known.A_dagger(y)), y
    else:
        found, expected = known.A_dagger(y), known.operator.A_dagger(y)
    assert (found - expected).norm() < 1e-2 * expected.norm()


def test_an_image_does_not_depend_on_its_company() -> None:
    """One that is done at once, and one that is nothing, beside one that takes its time."""
    known, y = measurements("gaussian_blur")
    y[1] = 0
    y[2] = 1e4 * known.A(torch.ones(1, *IMAGE, dtype=torch.float64))[0]
    for y_dtype in (y, y.float()):
        together = known.least_squares(y_dtype, 1e-3)
        assert (together[1] == 0).all()
        for index in range(3):
            alone = known.least_squares(y_dtype[index : index + 1], 1e-3)
            assert torch.equal(alone[0], together[index])


def test_every_image_has_its_own_mask() -> None:
    masks = torch.stack([random_pixels(8, 8, 0.5, keyed_rng("cpu", i)) for i in range(3)])[:, None]
    operator, y = Inpainting(IMAGE, masks), torch.randn(3, *IMAGE)
    torch.testing.assert_close(Known(operator).A_dagger(y), operator.A_dagger(y))


def test_it_takes_no_more_steps_than_it_needs_or_may() -> None:
    calls = []

    def counted(A: object) -> object:
        return lambda x: calls.append(1) or A(x)

    for task, expected in (("super_resolution", 1), ("denoising", 1), ("gaussian_blur", None)):
        known, y = measurements(task)
        calls.clear()
        rho, tolerance = (0.1, 1e-4) if expected else (0.0, 0.0)
        conjugate_gradients(counted(known.A), known.A_adjoint, y, rho, tolerance)
        assert len(calls) == (expected or MAX_ITERATIONS)
