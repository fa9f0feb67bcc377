"""MCG and MCG as it ran: in dense matrices, and what they do to Gaussian posteriors."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from davi.benchmarks.gaussian_posterior import (
    draw_samples,
    gaussian_problem,
    posterior_distance,
    smooth_covariance,
)
from davi.operators.denoising import Denoising
from davi.operators.noise import GaussianNoise, PoissonNoise
from davi.operators.svd import SVDOperator
from davi.schedule import Schedule
from davi.solvers.mcg import Mcg
from davi.solvers.prior import CountedPrior
from davi.system.errors import InputError
from davi.system.runtime import normal_each
from tests.davi.solvers.spectral_problems import (
    COORDINATES,
    IMAGE,
    Known,
    five_operators,
    gain_and_spread,
    isotropic_prior,
    matrix_of,
    restore,
    rngs_of,
)

EXACT = ["super_resolution", "inpainting", "denoising", "colorization"]


def mcg_in_its_own_words(y: Tensor, operator: SVDOperator, zeta: float, as_run: bool) -> Tensor:
    """Three steps with matrices under the prior of smooth images, whose x0 is K x_t."""
    A, C, rngs = matrix_of(operator), smooth_covariance(IMAGE), rngs_of(range(2))
    eye, one = torch.eye(len(C)).double(), torch.ones(()).double()
    pinv = torch.linalg.pinv(A)
    levels = [*Schedule.named("linear").alpha_bar[[999, 500, 0]], one]
    x, y = normal_each(IMAGE, rngs).double().flatten(1), y.flatten(1)
    for now, after in pairwise(levels):
        K = now.sqrt() * C @ torch.linalg.inv(now * C + (1 - now) * eye)
        residual = y - x @ K @ A.T
        G = -(residual / residual.norm(dim=1, keepdim=True)) @ A @ K
        alpha = now / after
        sample = after.sqrt() * (1 - alpha) * (x @ K) + alpha.sqrt() * (1 - after) * x
        sample = sample / (1 - now)
        if after < 1:
            variance = (1 - alpha) * (1 - after) / (1 - now)
            sample = sample + variance.sqrt() * normal_each(IMAGE, rngs).double().flatten(1)
        if as_run:
            z = normal_each(operator.measurement_shape, rngs).double().flatten(1)
            noised = now.sqrt() * y + (1 - now).sqrt() * z
            sample = sample - zeta * G
            if y.shape == x.shape:
                x = noised - noised @ A.T - sample @ A.T
            else:  # the nearest pixel of block means is their pseudo-inverse
                x = sample + (noised - sample @ A.T) @ pinv.T
        else:
            z = normal_each(IMAGE, rngs).double().flatten(1)
            noised = after.sqrt() * y + (1 - after).sqrt() * z @ A.T
            sample = sample - zeta * G @ (eye - pinv @ A)
            x = sample + (noised - sample @ A.T) @ pinv.T
    return x.view(2, *IMAGE)


@pytest.mark.parametrize(
    ("projection", "task"),
    [
        *(("exact", task) for task in EXACT),
        *(("as_run", task) for task in ("super_resolution", "inpainting", "gaussian_blur")),
    ],
)
def test_mcg_is_its_algorithm(projection: str, task: str) -> None:
    operator = five_operators()[task]
    prior = CountedPrior(gaussian_problem(operator, 0.1, smooth_covariance(IMAGE)).prior)
    y = operator.project(torch.randn(2, *operator.measurement_shape, dtype=torch.float64))
    solver = Mcg(num_steps=3, zeta=0.7, projection=projection, clip=False)
    found = solver(y, operator, GaussianNoise(0.1, 0.1), prior, rngs_of(range(2)))
    expected = mcg_in_its_own_words(y, operator, 0.7, projection == "as_run")
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("task", EXACT)
def test_mcg_needs_no_decomposition(task: str) -> None:
    operator = five_operators()[task]
    y = operator.project(torch.randn(2, *operator.measurement_shape, dtype=torch.float64))
    solver = Mcg(num_steps=4, zeta=0.5)
    found, expected = (restore(solver, y, each, 0.1) for each in (Known(operator), operator))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("zeta", [0.0, 0.5])
def test_independent_coordinates_get_least_squares(zeta: float) -> None:
    """The gradient has no part in what A does not see, and the last projection is y itself."""
    solver = Mcg(num_steps=5, zeta=zeta, clip=False)
    found = [gain_and_spread(solver, *each, shape=(3, 8, 8)) for each in COORDINATES]
    for (gain, spread), expected in zip(found, [1.01, 1.16, 1.16, 3.56], strict=True):
        assert gain == pytest.approx(expected, abs=1e-6)
        assert spread < 1e-9


@pytest.mark.parametrize("task", EXACT)
def test_the_measurement_is_met_exactly(task: str) -> None:
    operator = five_operators()[task]
    y = operator.project(torch.randn(2, *operator.measurement_shape, dtype=torch.float64))
    x = restore(Mcg(num_steps=4, zeta=0.5), y, operator, 0.1)
    torch.testing.assert_close(operator.A(x), y)


def test_the_gradient_carries_the_measurement_into_the_hole() -> None:
    """Against the same without the gradient: the mean error falls."""
    problem = gaussian_problem(five_operators()["inpainting"], 0.05, smooth_covariance(IMAGE))
    errors = [
        posterior_distance(
            draw_samples(Mcg(num_steps=50, zeta=zeta, clip=False), problem, 100), problem
        ).mean_error
        for zeta in (0.0, 0.2)
    ]
    assert errors == pytest.approx([0.342, 0.256], abs=0.02)


def test_mcg_as_it_ran_puts_noise_into_the_hole() -> None:
    operator = five_operators()["inpainting"]
    hole = (operator.singular_values == 0).expand(2, *IMAGE)
    x = restore(Mcg(num_steps=4, zeta=0.1, projection="as_run"), torch.ones(2, *IMAGE), operator, 0)
    assert x[hole].std().item() == pytest.approx(0.01, rel=0.2)


def test_mcg_takes_any_noise_and_as_run_not_every_task() -> None:
    y, problem = torch.zeros(1, *IMAGE), (Denoising(IMAGE), PoissonNoise(1.0))
    x = Mcg(num_steps=2, zeta=0.1)(y, *problem, isotropic_prior(), rngs_of(range(1)))
    assert x.isfinite().all()
    as_run = Mcg(num_steps=2, zeta=0.1, projection="as_run")
    with pytest.raises(InputError, match=r"no projection for Denoising.*set projection to exact"):
        as_run(y, *problem, isotropic_prior(), rngs_of(range(1)))
