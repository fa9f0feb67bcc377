"""ReSample in pixel space: its parts, replayed steps, and what it does to Gaussian posteriors."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from davi.benchmarks.gaussian_posterior import gaussian_problem, smooth_covariance
from davi.operators.denoising import Denoising
from davi.operators.noise import GaussianNoise, PoissonNoise
from davi.operators.operator import Operator
from davi.operators.svd import SVDOperator
from davi.schedule import Schedule
from davi.solvers.prior import CountedPrior
from davi.solvers.resample import ReSample, closest_fit, fit_by_descent, redraw
from davi.solvers.spectral import observe
from davi.system.runtime import normal_each
from tests.davi.solvers.spectral_problems import (
    COORDINATES,
    IMAGE,
    five_operators,
    gain_and_spread,
    isotropic_prior,
    matrix_of,
    rngs_of,
)

SHORT = {"num_steps": 100, "resample_every": 5, "clip": False}
D_20000 = (3, 82, 82)  # the gradient's size depends on the number of pixels


@pytest.mark.parametrize("task", five_operators())
def test_the_fit_is_a_proximal_point_with_the_residual_of_the_noise(task: str) -> None:
    operator, sigma_y, tolerance = five_operators()[task], 0.1, 0.7
    y = operator.project(torch.randn(2, *operator.measurement_shape).double())
    x = torch.randn(2, *IMAGE).double()
    observation = observe(y, operator, GaussianNoise(sigma_y, sigma_y), isotropic_prior())
    found = closest_fit(operator.V_adjoint(x), observation, tolerance)
    left = observation.coefficients - observation.values * found
    seen = (observation.values > 0).expand(IMAGE)
    rms = left[:, seen].square().mean(dim=1).sqrt()
    torch.testing.assert_close(rms, torch.full_like(rms, tolerance * sigma_y))
    # The gradients of |y - A x|^2 and of |x - x0|^2 have opposite directions.
    moved = (found - operator.V_adjoint(x)).flatten(1)
    pull = (observation.values * left).flatten(1)
    torch.testing.assert_close(torch.cosine_similarity(moved, pull), torch.ones(2).double())


def test_what_fits_is_left_alone_image_by_image() -> None:
    operator = Denoising(IMAGE)
    x = torch.randn(2, *IMAGE).double()
    y = x + torch.tensor([0.05, 0.5]).view(2, 1, 1, 1)
    observation = observe(y, operator, GaussianNoise(0.1, 0.1), isotropic_prior())
    found = closest_fit(x, observation, 1.0)
    torch.testing.assert_close(found[0], x[0])
    torch.testing.assert_close(found[1], y[1] - 0.1)


def test_the_new_state_is_the_product_of_two_gaussians() -> None:
    """N(sqrt(abar_s) x0*, 1 - abar_s) and N(x', S), with the S of the official code."""
    x0, x, n = torch.randn(3, 1, *IMAGE).double()
    a, a_next = 0.3, 0.4
    S = 40 * (1 - a_next) / (1 - a) * (1 - a / a_next)
    precision = 1 / (1 - a_next) + 1 / S
    expected = (a_next**0.5 * x0 / (1 - a_next) + x / S) / precision + n / precision**0.5
    torch.testing.assert_close(redraw(x0, x, n, a, a_next), expected)


def test_which_steps_are_resampled() -> None:
    """Those of the official code: 33, with 5 evaluations more each."""
    found = [index for index in range(500) if ReSample().resamples(index)]
    assert found == list(range(10, 340, 10))
    assert not ReSample().resamples(340)


def resample_in_its_own_words(y: Tensor, operator: SVDOperator, zeta: float) -> Tensor:
    """Four steps with matrices for smooth images, fitting y by the pseudo-inverse."""
    A, C, rngs = matrix_of(operator), smooth_covariance(IMAGE), rngs_of(range(2))
    pinv, y = torch.linalg.pinv(A), y.flatten(1)
    one = torch.ones(()).double()
    levels = [*Schedule.named("linear").alpha_bar[[750, 500, 250, 0]], one]

    def K(a: Tensor) -> Tensor:
        return a.sqrt() * C @ torch.linalg.inv(a * C + (1 - a) * torch.eye(len(C)).double())

    def ddim(x: Tensor, a: Tensor, a_next: Tensor) -> Tensor:
        eps = (x - a.sqrt() * x @ K(a)) / (1 - a).sqrt()
        return a_next.sqrt() * x @ K(a) + (1 - a_next).sqrt() * eps

    x = normal_each(IMAGE, rngs).double().flatten(1)
    for index, (a, a_next) in enumerate(pairwise(levels)):
        residual = y - x @ K(a) @ A.T
        gradient = -(residual / residual.norm(dim=1, keepdim=True)) @ A @ K(a)
        x = ddim(x, a, a_next) - zeta * a * gradient
        if index in (0, 1, 2):  # two further steps, or the one that is left
            ahead, now = x, a_next
            if index < 2:
                ahead, now = ddim(x, a_next, levels[index + 2]), levels[index + 2]
            x0 = ahead @ K(now)
            x0 = x0 + (y - x0 @ A.T) @ pinv.T
            n = normal_each(IMAGE, rngs).double().flatten(1)
            x = redraw(x0, x, n, a.item(), a_next.item())
    return (x + (y - x @ A.T) @ pinv.T).view(2, *IMAGE)


@pytest.mark.parametrize("task", ["super_resolution", "inpainting", "denoising", "colorization"])
def test_resample_is_its_algorithm(task: str) -> None:
    operator = five_operators()[task]
    y = operator.project(torch.randn(2, *operator.measurement_shape, dtype=torch.float64))
    solver = ReSample(
        num_steps=4, zeta=2.0, resample_every=1, inner_steps=2, tolerance=0, clip=False
    )
    prior = CountedPrior(gaussian_problem(operator, 0.1, smooth_covariance(IMAGE)).prior)
    found = solver(y, operator, GaussianNoise(0.1, 0.1), prior, rngs_of(range(2)))
    torch.testing.assert_close(found, resample_in_its_own_words(y, operator, 2.0))


# Gain and spread of `COORDINATES`. Fitting to the noise leaves gain and spread a little too small.
BENCH = [
    (ReSample(**SHORT), [0.980, 0.96, 0.924, 0.90, 0.922, 0.90, 0.880, 0.85]),
    (ReSample(**SHORT, tolerance=0), [1.01, 0, 1.16, 0, 1.16, 0, 3.56, 0]),
    (ReSample(clip=False), [0.988, 0.98, 0.945, 0.80, 0.913, 0.88, 0.841, 0.78]),
]


@pytest.mark.slow
@pytest.mark.parametrize(("solver", "expected"), BENCH)
def test_resample_on_an_isotropic_gaussian(solver: ReSample, expected: list[float]) -> None:
    """To 0.02, as 20000 pixels allow; from an independent implementation."""
    found = [value for each in COORDINATES for value in gain_and_spread(solver, *each, D_20000)]
    assert found == pytest.approx(expected, abs=0.02)


class UpperHalf(Operator):
    """A x = 3 tanh(x) of the rows above the middle."""

    def A(self, x: Tensor) -> Tensor:
        return 3 * torch.tanh(x[:, :, :4])


def test_without_singular_values_each_image_descends_until_it_fits() -> None:
    operator, wanted = UpperHalf(IMAGE, (3, 4, 8)), 0.1
    x0 = torch.rand(3, *IMAGE, dtype=torch.float64) - 0.5
    y = operator.A(x0) + torch.tensor([0.05, 0.3, 0.6]).view(3, 1, 1, 1)
    found = fit_by_descent(x0, y, operator, wanted, 200, 0.01)
    rms = (y - operator.A(found)).square().flatten(1).mean(dim=1).sqrt()
    assert found[0].equal(x0[0])  # fits
    assert ((rms[1:] <= wanted) & (rms[1:] > 0.5 * wanted)).all()
    assert found[:, :, 4:].equal(x0[:, :, 4:])  # not seen
    alone = fit_by_descent(x0[1:2], y[1:2], operator, wanted, 200, 0.01)
    torch.testing.assert_close(found[1:2], alone)
    stopped = fit_by_descent(x0, y, operator, 0.0, 1, 0.01)
    torch.testing.assert_close(stopped[:, :, :4], x0[:, :, :4] + 0.01)  # one step of Adam


@pytest.mark.parametrize("tolerance", [0.0, 1.0])
def test_resample_solves_what_is_not_linear(tolerance: float) -> None:
    operator, noise = UpperHalf(IMAGE, (3, 4, 8)), GaussianNoise(0.05, 0.05)
    y = operator.A(0.5 * torch.randn(2, *IMAGE).double())
    solver = ReSample(num_steps=4, resample_every=1, tolerance=tolerance)
    x = solver(y, operator, noise, isotropic_prior(), rngs_of(range(2)))
    rms = (y - operator.A(x)).square().mean().sqrt()
    assert rms <= 0.05 if tolerance else rms < 0.02


def test_only_without_a_tolerance_any_noise_will_do() -> None:
    y, problem = torch.zeros(1, *IMAGE), (Denoising(IMAGE), PoissonNoise(1.0))
    blind = ReSample(num_steps=3, tolerance=0)
    assert blind(y, *problem, isotropic_prior(), rngs_of(range(1))).isfinite().all()
    with pytest.raises(ValueError, match="ReSample needs Gaussian noise of one known sigma"):
        ReSample(num_steps=3)(y, *problem, isotropic_prior(), rngs_of(range(1)))
