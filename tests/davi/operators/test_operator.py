"""Operators that are not linear: their derivative, and who works with them."""

import pytest
import torch
from torch import Tensor

from davi.likelihood import at_sample
from davi.operators.checking import check_vjp
from davi.operators.linear import LinearOperator
from davi.operators.measurement import image_of
from davi.operators.noise import GaussianNoise
from davi.operators.operator import Operator
from davi.solvers import solver_file
from davi.solvers.base import Solver
from davi.solvers.dmplug import Dmplug
from davi.solvers.dps import Dps
from davi.solvers.gaussian_variational import GaussianVariational
from davi.solvers.prior import CountedPrior
from davi.solvers.red_diff import RedDiff
from davi.system.errors import InputError
from davi.system.runtime import keyed_rng
from tests.conftest import BLIND
from tests.davi.solvers.spectral_problems import IsotropicPrior, five_operators

IMAGE = (3, 8, 8)
NOISE = GaussianNoise(0.1, 0.1)


class Cube(Operator):
    """A x = x^3 of the upper half."""

    def __init__(self, image_shape: tuple[int, int, int] = IMAGE) -> None:
        super().__init__(image_shape, (3, 4, 8))

    def A(self, x: Tensor) -> Tensor:
        return x[:, :, :4] ** 3


def test_vjp_is_the_transposed_derivative() -> None:
    x, r = torch.randn(2, *IMAGE), torch.randn(2, 3, 4, 8)
    expected = torch.zeros_like(x)
    expected[:, :, :4] = 3 * x[:, :, :4] ** 2 * r
    with torch.no_grad():
        found = Cube().vjp(x, r)
    torch.testing.assert_close(found, expected)
    assert not found.requires_grad
    assert check_vjp(Cube()) < 1e-6


@pytest.mark.parametrize("task", five_operators())
def test_of_a_linear_operator_it_is_the_adjoint(task: str) -> None:
    operator = five_operators()[task]
    x = torch.randn(2, *IMAGE, dtype=torch.float64)
    r = torch.randn(2, *operator.measurement_shape, dtype=torch.float64)
    assert operator.vjp(x, r).equal(operator.A_adjoint(r))
    torch.testing.assert_close(Operator.vjp(operator, x, r), operator.A_adjoint(r))
    assert check_vjp(operator) < 1e-6


class Wrong(Cube):
    """Has another factor in vjp."""

    def vjp(self, x: Tensor, r: Tensor) -> Tensor:
        return super().vjp(x, r) * 1.01


class Rounded(Cube):
    """Computes in float32."""

    def A(self, x: Tensor) -> Tensor:
        return super().A(x).float()


class Steps(Cube):
    """Has no derivative."""

    def A(self, x: Tensor) -> Tensor:
        return super().A(x.detach())


class Longer(Cube):
    """Returns another shape than it says."""

    def A(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Wrong, r"Wrong: <J h, r> and <h, J\^T r> differ by"),
        (Rounded, "computes in less than float64"),
        (Steps, "Steps.vjp fails"),
        (Longer, r"Longer.A returns \(2, 3, 8, 8\), \(2, 3, 4, 8\) is needed"),
    ],
)
def test_check_vjp_names_what_is_wrong(wrong: type[Operator], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_vjp(wrong())


def test_the_likelihood_at_a_sample_is_differentiated() -> None:
    x0 = torch.randn(2, *IMAGE, dtype=torch.float64, requires_grad=True)
    y, alpha_bar = torch.randn(2, 3, 4, 8, dtype=torch.float64), torch.tensor(0.64)
    sigma = torch.rand(2, 3, 4, 8, dtype=torch.float64) + 0.5
    for deviation in (torch.tensor([[[[0.3]]]]).expand(2, 1, 1, 1), sigma):
        log_likelihood = -((y - Cube().A(x0)) / deviation).square().sum() / 2
        (expected,) = torch.autograd.grad(log_likelihood, x0)
        found = at_sample(y, Cube(), deviation, x0.detach(), alpha_bar)
        torch.testing.assert_close(found, expected / 0.8)


def test_what_an_operator_makes_of_a_measurement() -> None:
    class Same(Cube):
        def __init__(self) -> None:
            Operator.__init__(self, IMAGE, IMAGE)

    y = torch.randn(2, *IMAGE)
    assert Same().A_dagger(y).equal(y)
    assert image_of(y, Same(), "pseudo_inverse").equal(y)
    with pytest.raises(InputError, match=r"Cube makes no image of measurements of \(3, 4, 8\)"):
        image_of(y[:, :, :4], Cube(), "pseudo_inverse")
    with pytest.raises(InputError, match=r"bridge\.resize: adjoint: Cube is not linear"):
        image_of(y[:, :, :4], Cube(), "adjoint")


NEEDS_LINEARITY = {
    "admm_pnp", "cddb", "ddnm_plus", "ddrm", "diffpir", "dmps", "fps", "mcg", "pigdm",
    "pseudo_inverse",
}  # fmt: skip
TAKES_ANY = {
    "davi", "dmplug", "dps", "gaussian_variational", "i2sb", "ilvr", "lifted", "red_diff",
    "resample",
}  # fmt: skip
OF_ONE_TASK = {
    "biharmonic", "bm3d", "enlargement", "exact_denoising", "non_local_means", "richardson_lucy",
    "total_variation", "wiener",
}  # fmt: skip


def test_every_solver_says_whether_it_takes_operators_that_are_not_linear() -> None:
    found = set()
    for name in solver_file.solver_names():
        solver = solver_file.solver_class(name).model_construct()
        try:
            solver.require(Cube((3, 32, 32)), NOISE)
        except InputError as error:
            found.add(name)
            assert "\n" not in str(error)
    assert found == NEEDS_LINEARITY | OF_ONE_TASK | BLIND
    assert set(solver_file.solver_names()) == found | TAKES_ANY


class Bare(Operator):
    """Another operator, of which only A is known."""

    def __init__(self, operator: LinearOperator) -> None:
        super().__init__(operator.image_shape, operator.measurement_shape)
        self.operator, self.A_dagger = operator, operator.A_dagger

    def A(self, x: Tensor) -> Tensor:
        return self.operator.A(x)


@pytest.mark.parametrize(
    "solver",
    [
        RedDiff(num_steps=5),
        GaussianVariational(num_steps=5),
        Dps(num_steps=5, zeta=1.0),
        Dps(num_steps=5, zeta=1.0, guidance="annealed"),
        Dmplug(num_iterations=5),
    ],
    ids=lambda solver: f"{solver.label} {getattr(solver, 'guidance', '')}",
)
def test_a_linear_operator_of_which_only_A_is_known_is_solved_alike(solver: Solver) -> None:
    operator = five_operators()["super_resolution"]
    y = operator.A(torch.randn(2, *IMAGE, dtype=torch.float64))

    def solved(operator: Operator) -> Tensor:
        rngs = [keyed_rng("cpu", index) for index in range(2)]
        return solver(y, operator, NOISE, CountedPrior(IsotropicPrior()), rngs)

    torch.testing.assert_close(solved(Bare(operator)), solved(operator), rtol=1e-5, atol=1e-5)


def test_red_diff_goes_down_the_derivative() -> None:
    y, x0 = torch.randn(2, 3, 4, 8), torch.randn(2, *IMAGE, requires_grad=True)
    solver, prior = RedDiff(prior_weight=0), CountedPrior(IsotropicPrior())
    (expected,) = torch.autograd.grad((Cube().A(x0) - y).square().sum(), x0)
    found = solver.gradient(x0.detach(), 500, torch.randn_like(x0), y, Cube(), prior)
    torch.testing.assert_close(found, expected)  # d_x / (2 d_y) = 1


def test_red_diff_starts_from_no_adjoint_that_is_not_there() -> None:
    with pytest.raises(InputError, match="RED-diff: start: adjoint: Cube is not linear"):
        RedDiff(start="adjoint").require(Cube(), NOISE)
