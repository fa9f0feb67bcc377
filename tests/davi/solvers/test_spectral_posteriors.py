"""DDRM, DDNM+, DiffPIR and FPS on all five tasks: distance from the truth, and good behaviour."""

from itertools import product

import pytest
import torch

from davi.benchmarks.gaussian_posterior import (
    draw_samples,
    gaussian_problem,
    posterior_distance,
    smooth_covariance,
)
from davi.operators.denoising import Denoising
from davi.operators.inpainting import Inpainting, random_pixels
from davi.operators.noise import GaussianNoise
from davi.solvers.base import Solver
from davi.solvers.ddnm_plus import DDNMPlus
from davi.solvers.ddrm import DDRM
from davi.solvers.diffpir import DiffPIR
from davi.solvers.fps import FPS
from davi.solvers.spectral import observe
from tests.davi.solvers.spectral_problems import (
    IMAGE,
    Known,
    five_operators,
    isotropic_prior,
    restore,
    rngs_of,
)

NUM_SAMPLES = 500  # exact samples have a mean error of 0.045
# Mean error, gain and spread for every operator; 0, 1 and 1 are exact. None of these methods is.
DISTANCES = {
    # Twenty steps denoise too little: the noise of y stays in, most where the measurement is good
    # (inpainting). Where it is bad (blur) the noise of y replaces that of x_t in every sample,
    # which moves their mean. Fresh noise at a rate of 0.85 leaves too little spread at the end.
    "DDRM": (
        DDRM(),
        {
            "gaussian_blur": (0.45, 1.006, 0.646),
            "super_resolution": (0.07, 0.973, 0.777),
            "inpainting": (0.44, 0.909, 0.978),
            "denoising": (0.27, 0.947, 0.766),
            "colorization": (0.12, 0.976, 0.785),
        },
    ),
    # As DDRM with more steps, which trust the measurement fully at more levels: less spread for
    # denoising, and a mean that the noise of y moves further for the blur.
    "DDNM+": (
        DDNMPlus(),
        {
            "gaussian_blur": (0.84, 1.032, 0.687),
            "super_resolution": (0.03, 0.996, 0.838),
            "inpainting": (0.20, 0.979, 0.898),
            "denoising": (0.07, 1.002, 0.565),
            "colorization": (0.04, 0.997, 0.820),
        },
    ),
    # The proximal step counts y anew at every level, as if its noise were independent: a gain
    # above 1 and too little spread where y is noisy; the noise of the last level where it is not.
    "DiffPIR": (
        DiffPIR(lam=1.0, clip=False),
        {
            "gaussian_blur": (0.07, 1.008, 0.930),
            "super_resolution": (0.05, 0.994, 0.940),
            "inpainting": (0.24, 0.976, 1.023),
            "denoising": (0.20, 1.015, 0.868),
            "colorization": (0.03, 1.001, 0.924),
        },
    ),
    # The y_t share the noise of y but are taken as independent, and renoising at a rate of c
    # contracts: three quarters of the spread. A hundred of the thousand steps leave noise of y in.
    "FPS": (
        FPS(num_steps=100, clip=False),
        {
            "gaussian_blur": (0.04, 0.999, 0.742),
            "super_resolution": (0.04, 0.991, 0.750),
            "inpainting": (0.19, 0.977, 0.820),
            "denoising": (0.09, 0.983, 0.767),
            "colorization": (0.05, 0.992, 0.753),
        },
    ),
}
SLOW = {"DDNM+", "DiffPIR", "FPS"}
SHORT = [
    DDRM(num_steps=5),
    DDNMPlus(num_steps=5, num_repeats=2),
    DiffPIR(num_steps=5),
    FPS(num_steps=5),
    FPS(num_steps=5, num_particles=3),
]
each_short_solver = pytest.mark.parametrize("solver", SHORT, ids=lambda solver: solver.label)


def sigma_of(task: str) -> float:
    return 0.2 if task == "denoising" else 0.05


@pytest.mark.parametrize(
    "method",
    [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in DISTANCES],
)
def test_the_distance_from_the_exact_posterior_is_known(method: str) -> None:
    solver, distances = DISTANCES[method]
    for task, operator in five_operators().items():
        problem = gaussian_problem(operator, sigma_of(task), smooth_covariance(IMAGE))
        distance = posterior_distance(draw_samples(solver, problem, NUM_SAMPLES), problem)
        found = distance.mean_error, distance.gain, distance.spread
        assert found == pytest.approx(distances[task], abs=0.02), task


@pytest.mark.parametrize(
    "solver",
    [
        DDRM(),
        DDNMPlus(),
        DDNMPlus(num_steps=25, num_repeats=4),
        DiffPIR(clip=False),
        FPS(num_steps=100, clip=False),
    ],
    ids=lambda solver: solver.label,
)
def test_a_nearly_noiseless_image_comes_back(solver: Solver) -> None:
    """Up to the noise of std 0.01 of the diffusion's last level."""
    y = torch.rand(32, *IMAGE, dtype=torch.float64) - 0.5
    x = restore(solver, y, Denoising(IMAGE), 1e-3)
    assert abs(((x - y) * y).mean() / y.square().mean()) < 3e-3
    assert 0 < (x - y).std() < 0.011


@each_short_solver
def test_results_are_finite_for_every_task_and_seed(solver: Solver) -> None:
    for operator in five_operators().values():
        for sigma_y, seed in product((0.0, 0.05), range(3)):
            y = operator.A(torch.rand(2, *IMAGE) - 0.5)
            y = y + sigma_y * torch.randn(y.shape)
            x = restore(solver, y, operator, sigma_y, seed)
            assert x.dtype == torch.float32
            assert x.shape == (2, *IMAGE)
            assert x.abs().max() < 5


@pytest.mark.parametrize(
    "solver",
    [
        DDRM(num_steps=1),
        DDNMPlus(num_steps=1),
        DiffPIR(num_steps=1, last_step="denoised"),
        FPS(num_steps=1),
    ],
    ids=lambda solver: solver.label,
)
def test_one_step_is_enough_to_run(solver: Solver) -> None:
    for operator in five_operators().values():
        prior = isotropic_prior()
        y = torch.rand(2, *operator.measurement_shape) - 0.5
        x = solver(y, operator, GaussianNoise(0.05, 0.05), prior, rngs_of(range(2)))
        assert x.shape == (2, *IMAGE)
        assert (prior.evaluations.forward, prior.evaluations.backward) == (2, 0)


@pytest.mark.parametrize(
    ("solver", "evaluations"),
    [
        (DDRM(), 20),
        (DDRM(num_steps=30), 30),
        (DDNMPlus(), 100),
        (DiffPIR(), 99),
        (FPS(), 1000),
        (FPS(num_steps=10, num_particles=5), 9 * 5 + 1),
    ],
    ids=lambda value: getattr(value, "label", str(value)),
)
def test_evaluations_of_the_network(solver: Solver, evaluations: int) -> None:
    prior, noise = isotropic_prior(), GaussianNoise(0.05, 0.05)
    solver(torch.zeros(3, 3, 2, 2), Denoising((3, 2, 2)), noise, prior, rngs_of(range(3)))
    assert (prior.evaluations.forward, prior.evaluations.backward) == (3 * evaluations, 0)


@each_short_solver
def test_a_restoration_does_not_depend_on_the_batch(solver: Solver) -> None:
    """With one mask per image, as random inpainting has it."""
    masks = torch.stack([random_pixels(8, 8, 0.4, rng) for rng in rngs_of(range(3))])[:, None]
    y = torch.rand(3, *IMAGE) * masks
    noise, prior = GaussianNoise(0.05, 0.05), isotropic_prior()

    def solve(chosen: list[int]) -> torch.Tensor:
        rngs = [rngs_of(range(3))[index] for index in chosen]
        return solver(y[chosen], Inpainting(IMAGE, masks[chosen]), noise, prior, rngs)

    together = solve([0, 1, 2])
    torch.testing.assert_close(solve([2]), together[2:])
    torch.testing.assert_close(solve([1, 0]), together[[1, 0]])


class HardlySeen(Denoising):
    """Denoising that sees the channels with three singular values."""

    def __init__(self, values: list[float]) -> None:
        super().__init__(IMAGE)
        self._set_singular_values(torch.tensor(values, dtype=torch.float64)[:, None, None])


@each_short_solver
def test_what_is_hardly_seen_counts_as_missing(solver: Solver) -> None:
    """Coordinates with s = 1e-12 and 1e-30 get what those with s = 0 get, bounded in float32."""
    for sigma_y in (0.0, 0.05):
        y = torch.rand(2, *IMAGE) - 0.5
        hardly = restore(solver, y, HardlySeen([1.0, 1e-12, 1e-30]), sigma_y)
        y[:, 1:] = 0
        missing = restore(solver, y, HardlySeen([1.0, 0.0, 0.0]), sigma_y)
        torch.testing.assert_close(hardly, missing)


def test_no_weight_amplifies_a_weak_coordinate() -> None:
    """An exact blur, whose smallest singular values are rounding errors."""
    operator = five_operators()["gaussian_blur"]
    assert operator.singular_values.min() < 1e-12
    y = torch.rand(1, *IMAGE)
    for sigma_y in (0.0, 1e-3, 0.05):
        noise = GaussianNoise(sigma_y, sigma_y)
        observation = observe(y, operator, noise, isotropic_prior())
        seen = observation.values > 0
        assert (observation.values[seen] * 158 > max(sigma_y, 1e-7)).all()
        assert (observation.coefficients[~seen.expand(1, *IMAGE)] == 0).all()


@each_short_solver
def test_what_is_needed_is_asked_for(solver: Solver) -> None:
    y, rngs = torch.zeros(1, *IMAGE), rngs_of(range(1))
    known = GaussianNoise(0.1, 0.1)
    if isinstance(solver, DDRM | FPS):
        with pytest.raises(ValueError, match="singular value"):
            solver(y, Known(Denoising(IMAGE)), known, isotropic_prior(), rngs)
    with pytest.raises(ValueError, match="one known sigma"):
        solver(y, Denoising(IMAGE), GaussianNoise(0.1, 0.2), isotropic_prior(), rngs)


@pytest.mark.parametrize(
    ("solver", "clipped"),
    [(DDRM, False), (DDNMPlus, False), (DiffPIR, True), (FPS, True)],
)
def test_x0_is_clipped_where_the_method_does(solver: type[Solver], clipped: bool) -> None:
    assert solver().clip == clipped
    y = torch.full((1, *IMAGE), 3.0)
    short = {"num_steps": 5} | ({"last_step": "denoised"} if solver is DiffPIR else {})
    kept = restore(solver(**short, clip=True), y, Denoising(IMAGE), 0.2)
    free = restore(solver(**short, clip=False), y, Denoising(IMAGE), 0.2)
    assert (kept - free).abs().max() > 0.01
