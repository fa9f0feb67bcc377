"""DMPS against its formula in dense matrices, and what it does to Gaussian posteriors."""

import pytest
import torch
from torch import Tensor

from davi.operators.svd import SVDOperator
from davi.schedule import Schedule
from davi.solvers.dmps import Dmps
from davi.system.runtime import normal_each
from tests.davi.solvers.spectral_problems import (
    COORDINATES,
    IMAGE,
    PRIOR_STD,
    five_operators,
    gain_and_spread,
    matrix_of,
    restore,
    rngs_of,
)

TIMES = [999, 666, 333, 0]


def dmps_in_its_own_words(y: Tensor, operator: SVDOperator, sigma_y: float, lam: float) -> Tensor:
    """The paper's update with matrices, in four steps, for the isotropic prior."""
    A, abar, rngs = matrix_of(operator), Schedule.named("linear").alpha_bar, rngs_of(range(2))
    x = normal_each(IMAGE, rngs).double().flatten(1)
    for t, s in zip(TIMES, [*TIMES[1:], None], strict=True):
        before = abar[s] if s is not None else torch.ones(()).double()
        alpha = abar[t] / before
        x0 = abar[t].sqrt() * PRIOR_STD**2 * x / (abar[t] * PRIOR_STD**2 + 1 - abar[t])
        x = (before.sqrt() * (1 - alpha) * x0 + alpha.sqrt() * (1 - before) * x) / (1 - abar[t])
        if s is not None:
            variance = (1 - alpha) * (1 - before) / (1 - abar[t])
            x = x + variance.sqrt() * normal_each(IMAGE, rngs).double().flatten(1)
        sigma_t2 = (1 - abar[t]) / abar[t]
        covariance = sigma_y**2 * torch.eye(len(A)).double() + sigma_t2 * A @ A.T
        residual = y.flatten(1) - x @ A.T / abar[t].sqrt()
        score = torch.linalg.solve(covariance, residual.T).T @ A / abar[t].sqrt()
        x = x + lam * (1 - alpha) / alpha.sqrt() * score
    return x.view(2, *IMAGE)


@pytest.mark.parametrize("task", five_operators())
def test_dmps_is_its_papers_update(task: str) -> None:
    operator = five_operators()[task]
    y = operator.project(torch.randn(2, *operator.measurement_shape, dtype=torch.float64))
    found = restore(Dmps(num_steps=4, weight=0.7, clip=False), y, operator, 0.2)
    torch.testing.assert_close(found, dmps_in_its_own_words(y, operator, 0.2, 0.7))


# Gain and spread of `COORDINATES`. A flat prior counts y too much: gain above 1 where y is noisy.
# With weight 1.75 and few steps the samples hardly differ.
BENCH = [
    (Dmps(num_steps=20, weight=1.0, clip=False), [0.981, 0.04, 0.959, 0.20, 1.418, 0.46]),
    (Dmps(num_steps=100, weight=1.0, clip=False), [0.978, 0.38, 0.913, 0.63, 1.272, 0.73]),
    (Dmps(num_steps=100, clip=False), [1.006, 0.05, 1.039, 0.37, 1.726, 0.61]),
    (Dmps(weight=1.0, clip=False), [0.973, 0.85, 0.900, 0.84, 1.241, 0.82]),
    (Dmps(clip=False), [0.999, 0.49, 1.020, 0.59, 1.679, 0.71]),
]


@pytest.mark.parametrize(
    ("solver", "expected"),
    [pytest.param(*row, marks=pytest.mark.slow if row[0].num_steps > 20 else ()) for row in BENCH],
)
def test_dmps_on_an_isotropic_gaussian(solver: Dmps, expected: list[float]) -> None:
    a, b, c, d = (gain_and_spread(solver, *each) for each in COORDINATES)
    assert [*a, *b, *d] == pytest.approx(expected, abs=0.02)
    assert c == pytest.approx(b, abs=1e-3)
