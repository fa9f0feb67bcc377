"""ADMM-PnP, DMPS, MCG, ReSample, ILVR: good behaviour, and the distance from the truth."""

import pytest
import torch
from torch import Tensor, nn

from davi.benchmarks.gaussian_posterior import (
    draw_samples,
    gaussian_problem,
    posterior_distance,
    smooth_covariance,
)
from davi.operators.denoising import Denoising
from davi.operators.hdr import Hdr
from davi.operators.inpainting import Inpainting, random_pixels
from davi.operators.noise import GaussianNoise, PoissonNoise
from davi.operators.operator import Operator
from davi.priors.sampling import ddpm_sample
from davi.schedule import Schedule
from davi.score import ScoreModel
from davi.solvers.admm_pnp import AdmmPnp
from davi.solvers.base import Solver
from davi.solvers.dmps import Dmps
from davi.solvers.ilvr import Ilvr
from davi.solvers.mcg import Mcg
from davi.solvers.prior import CountedPrior
from davi.solvers.resample import ReSample
from davi.system.errors import InputError
from davi.system.runtime import normal_each
from tests.davi.solvers.spectral_problems import (
    IMAGE,
    Known,
    five_operators,
    isotropic_prior,
    restore,
    rngs_of,
)

SHORT = [
    AdmmPnp(num_iterations=5),
    Dmps(num_steps=5),
    Mcg(num_steps=5, zeta=0.1),
    ReSample(num_steps=10, resample_every=2),
    Ilvr(num_steps=5, factor=4),
]
each_short_solver = pytest.mark.parametrize("solver", SHORT, ids=lambda solver: solver.label)


class Half(nn.Module):
    """Predicts half of its input as noise, and a third of it as variance."""

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return torch.cat([x_t / 2, x_t / 3], dim=1)


@each_short_solver
def test_a_restoration_does_not_depend_on_the_batch(solver: Solver) -> None:
    """With one mask per image, as random inpainting has it."""
    masks = torch.stack([random_pixels(8, 8, 0.4, rng) for rng in rngs_of(range(3))])[:, None]
    y = torch.rand(3, *IMAGE) * masks
    noise, prior = GaussianNoise(0.05, 0.05), isotropic_prior()

    def solve(chosen: list[int]) -> Tensor:
        rngs = [rngs_of(range(3))[index] for index in chosen]
        return solver(y[chosen], Inpainting(IMAGE, masks[chosen]), noise, prior, rngs)

    together = solve([0, 1, 2])
    torch.testing.assert_close(solve([2]), together[2:])
    torch.testing.assert_close(solve([1, 0]), together[[1, 0]])


@each_short_solver
def test_results_are_bounded_with_and_without_noise(solver: Solver) -> None:
    for operator in five_operators().values():
        for sigma_y in (0.0, 0.05):
            y = operator.A(torch.rand(2, *IMAGE) - 0.5)
            y = y + sigma_y * torch.randn(y.shape)
            x = restore(solver, y, operator, sigma_y)
            assert (x.dtype, x.shape) == (torch.float32, (2, *IMAGE))
            amplified = operator.A_dagger(y).abs().max() if isinstance(solver, Mcg) else 0
            assert x.abs().max() < 5 + amplified


@pytest.mark.parametrize(
    ("solver", "forward", "backward"),
    [
        (AdmmPnp(num_iterations=1), 1, 0),
        (AdmmPnp(num_iterations=30), 30, 0),
        (Dmps(num_steps=1), 1, 0),
        (Dmps(), 1000, 0),
        (Ilvr(num_steps=20, factor=1), 20, 0),
        (ReSample(), 665, 500),
        (ReSample(num_steps=20, resample_every=2, inner_steps=2), 34, 20),
        (Mcg(num_steps=20, zeta=0.1), 20, 20),
    ],
    ids=lambda value: getattr(value, "label", str(value)),
)
def test_evaluations_per_image(solver: Solver, forward: int, backward: int) -> None:
    prior, noise = isotropic_prior(), GaussianNoise(0.05, 0.05)
    solver(torch.zeros(2, 3, 2, 2), Denoising((3, 2, 2)), noise, prior, rngs_of(range(2)))
    assert (prior.evaluations.forward, prior.evaluations.backward) == (2 * forward, 2 * backward)


@pytest.mark.parametrize(
    ("solver", "operator", "noise", "lacking"),
    [
        (AdmmPnp(), Denoising(IMAGE), PoissonNoise(1.0), "one known sigma"),
        (Dmps(), Denoising(IMAGE), GaussianNoise(0.1, 0.2), "one known sigma"),
        (Mcg(zeta=0.1), Hdr(IMAGE), PoissonNoise(1.0), "linear"),
    ],
)
def test_what_is_needed_is_asked_for(
    solver: Solver, operator: Operator, noise: object, lacking: str
) -> None:
    with pytest.raises(InputError, match=f"{solver.label} needs .*{lacking}"):
        solver(torch.zeros(1, *IMAGE), operator, noise, isotropic_prior(), rngs_of(range(1)))


@pytest.mark.parametrize(
    "solver",
    [Dmps(num_steps=7, weight=0), Ilvr(num_steps=7, factor=1, range_t=999)],
    ids=lambda each: each.label,
)
def test_without_the_measurement_it_is_ancestral_sampling(solver: Solver) -> None:
    """With clipping and a learned variance."""
    model, rngs = ScoreModel(Half(), Schedule.named("linear")), rngs_of(range(2))
    expected = ddpm_sample(model, normal_each(IMAGE, rngs).double(), 7, rngs)
    y, noise = torch.rand(2, *IMAGE).double(), GaussianNoise(0.1, 0.1)
    found = solver(y, Denoising(IMAGE), noise, CountedPrior(model), rngs_of(range(2)))
    torch.testing.assert_close(found, expected)


# Mean error, gain and spread for images whose pixels resemble each other; 0, 1 and 1 are exact.
DISTANCES = {
    # On its way to the exact mean; one image, so no spread.
    "ADMM-PnP": (
        AdmmPnp(sigma_start=0.4, sigma_d=0.05, clip=False),
        {
            "gaussian_blur": (0.059, 0.985, 0.000),
            "super_resolution": (0.081, 0.984, 0.000),
            "inpainting": (0.323, 0.965, 0.000),
            "denoising": (0.000, 1.000, 0.000),
            "colorization": (0.000, 1.000, 0.000),
        },
    ),
    # The flat prior pulls whatever y says less than the prior knows: pixels of the hole are too
    # independent of those around it. Narrow where y says nearly all (denoising).
    "DMPS": (
        Dmps(num_steps=100, clip=False),
        {
            "gaussian_blur": (0.268, 1.024, 0.881),
            "super_resolution": (0.080, 0.984, 0.944),
            "inpainting": (0.404, 0.949, 1.066),
            "denoising": (0.283, 1.021, 0.382),
            "colorization": (0.047, 1.001, 0.876),
        },
    ),
    # Meets y, with all its noise: no spread in denoising, and far off where A^+ amplifies (blur).
    # Where A sees nothing it is nearly right.
    "MCG": (
        Mcg(num_steps=100, zeta=0.2, clip=False),
        {
            "gaussian_blur": (4.591, 1.145, 0.830),
            "super_resolution": (0.068, 1.016, 0.940),
            "inpainting": (0.246, 1.000, 1.025),
            "denoising": (0.860, 1.088, 0.000),
            "colorization": (0.078, 1.010, 0.887),
        },
    ),
    # The residual is that of the noise in every sample: narrow where y says nearly all (denoising).
    "ReSample": (
        ReSample(num_steps=100, resample_every=5, clip=False),
        {
            "gaussian_blur": (0.182, 0.942, 0.888),
            "super_resolution": (0.058, 1.002, 0.830),
            "inpainting": (0.252, 0.991, 0.886),
            "denoising": (0.400, 1.041, 0.389),
            "colorization": (0.074, 1.010, 0.816),
        },
    ),
    # A draw of the prior with coarse structures of y: nearly right for super-resolution alone.
    "ILVR": (
        Ilvr(num_steps=100, factor=4, clip=False),
        {
            "gaussian_blur": (0.533, 0.449, 1.012),
            "super_resolution": (0.105, 0.934, 0.961),
            "inpainting": (1.803, 0.355, 2.031),
            "denoising": (2.138, 0.522, 2.602),
            "colorization": (1.689, 0.487, 2.009),
        },
    ),
}
SLOW = set(DISTANCES) - {"ADMM-PnP"}


@pytest.mark.parametrize(
    "method",
    [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in DISTANCES],
)
def test_the_distance_from_the_exact_posterior_is_known(method: str) -> None:
    solver, distances = DISTANCES[method]
    for task, operator in five_operators().items():
        sigma_y = 0.2 if task == "denoising" else 0.05
        problem = gaussian_problem(operator, sigma_y, smooth_covariance(IMAGE))
        distance = posterior_distance(draw_samples(solver, problem, 300), problem)
        found = distance.mean_error, distance.gain, distance.spread
        assert found == pytest.approx(distances[task], abs=0.02), task


@pytest.mark.parametrize(
    "solver",
    [AdmmPnp(num_iterations=5, clip=False), Dmps(num_steps=5, clip=False)],
    ids=lambda each: each.label,
)
def test_an_operator_known_by_its_adjoint_alone_gives_the_same(solver: Solver) -> None:
    """To what conjugate gradients leave."""
    operator = five_operators()["super_resolution"]
    y = operator.A(torch.rand(2, *IMAGE).double() - 0.5)
    found = restore(solver, y, Known(operator), 0.1)
    torch.testing.assert_close(found, restore(solver, y, operator, 0.1), atol=2e-3, rtol=0)
