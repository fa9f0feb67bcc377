"""DDRM, DDNM+, DiffPIR and FPS, step by step and against known results for a Gaussian prior."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from davi.operators.denoising import Denoising
from davi.operators.gaussian_blur import CircularBlur
from davi.operators.noise import GaussianNoise
from davi.operators.super_resolution import SuperResolution
from davi.schedule import NUM_STEPS
from davi.solvers.base import Solver
from davi.solvers.ddnm_plus import DDNMPlus, regularised_step, travel
from davi.solvers.ddrm import DDRM
from davi.solvers.diffpir import DiffPIR, quadratic_times
from davi.solvers.fps import FPS, condition, diffused, log_weights, resample, with_particles
from davi.solvers.grids import steps_of, stride_times
from davi.solvers.spectral import Observation, observe
from davi.system.runtime import normal_each
from tests.davi.solvers.spectral_problems import (
    IMAGE,
    PRIOR_STD,
    Known,
    five_operators,
    isotropic_prior,
    restore,
    rngs_of,
)

DIFFPIR = {"clip": False, "num_steps": 100}
# Solver, then gain E x / m and spread std x / sqrt(v) of the posterior N(m, v) of one coordinate.
# Columns: (s, sigma_y) = (1, 0.05), (1, 0.2), (1/4, 0.05), (1/4, 0.2), and the spread for s = 0.
# From an independent implementation of each update; 1 is exact, none is.
BENCH = [
    (DDRM(), (0.910, 2.71), (0.863, 0.84), (0.863, 0.84), (1.144, 0.53), 0.76),
    (DDRM(eta=1.0), (0.898, 3.03), (0.702, 1.24), (0.703, 1.24), (0.071, 0.73), 0.62),
    (DDRM(num_steps=100), (0.991, 0.91), (0.998, 0.58), (0.998, 0.58), (1.705, 0.47), 0.84),
    (DDNMPlus(), (0.991, 0.91), (0.998, 0.58), (0.998, 0.58), (1.704, 0.47), 0.84),
    (DiffPIR(lam=1, **DIFFPIR), (1.0, 0.87), (1.022, 0.88), (1.022, 0.88), (1.352, 0.9), 0.94),
    (
        DiffPIR(lam=1.75, **DIFFPIR),
        (0.993, 1.15),
        (0.946, 1.11),
        (0.947, 1.11),
        (0.960, 0.97),
        0.94,
    ),
    (DiffPIR(lam=7, **DIFFPIR), (0.951, 2.28), (0.652, 1.73), (0.651, 1.73), (0.327, 1.06), 0.94),
    (
        DiffPIR(lam=1, zeta=1.0, **DIFFPIR),
        (1.0, 0.64),
        (1.007, 0.66),
        (1.007, 0.66),
        (1.112, 0.68),
        0.69,
    ),
    (FPS(clip=False), (0.998, 0.78), (1.011, 0.73), (1.011, 0.73), (1.137, 0.75), 0.78),
]


def bench_id(row: tuple) -> str:
    solver, *_ = row
    values = "-".join(f"{value}" for value in solver.model_dump(exclude_defaults=True).values())
    return f"{type(solver).__name__}-{values}"


def bench_row(solver: Solver) -> list[float]:
    """Gain and spread of the four columns, then that of what super-resolution does not see."""
    found, unseen = [], []
    for operator in (Denoising((3, 32, 32)), SuperResolution((3, 64, 64), 4)):
        for sigma_y in (0.05, 0.2):
            seen = (operator.singular_values > 0).expand(*operator.image_shape)
            y = operator.U(seen.float()[None]).expand(8, *operator.measurement_shape)
            spectrum = operator.V_adjoint(restore(solver, y, operator, sigma_y))
            s = operator.singular_values.max().item()
            variance = 1 / (1 / PRIOR_STD**2 + s**2 / sigma_y**2)
            mean = variance * s / sigma_y**2
            x = spectrum[:, seen]
            found += [x.mean().item() / mean, x.std().item() / variance**0.5]
            unseen.append(spectrum[:, ~seen])
    return [*found, unseen[-1].std().item() / PRIOR_STD]


each_row = pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=bench_id(row), marks=pytest.mark.slow if row[0].num_steps > 20 else ())
        for row in BENCH
    ],
)


@each_row
def test_gain_and_spread_of_every_coordinate_for_a_gaussian_prior(row: tuple) -> None:
    solver, *columns, unseen = row
    expected = [value for column in columns for value in column] + [unseen]
    assert bench_row(solver) == pytest.approx(expected, abs=0.03)


@each_row
def test_coordinates_of_a_circular_blur_are_like_any_other(row: tuple) -> None:
    """The kernel shifts: the singular values are 1/4, and every frequency has a phase."""
    kernel = torch.zeros(4, 6)
    kernel[0, 1] = 0.25
    operator = CircularBlur((3, 64, 64), kernel)
    y = operator.U(torch.ones(8, 3, 64, 64))
    found = operator.V_adjoint(restore(row[0], y, operator, 0.05))
    variance = 1 / (1 / PRIOR_STD**2 + 0.25**2 / 0.05**2)
    mean = variance * 0.25 / 0.05**2
    gain, spread = found.mean().item() / mean, found.std().item() / variance**0.5
    assert (gain, spread) == pytest.approx(row[3], abs=0.03)


@pytest.mark.parametrize(
    "solver",
    [
        DDRM(),
        DDNMPlus(num_steps=20, num_repeats=2),
        DiffPIR(num_steps=20, clip=False),
        FPS(num_steps=20, clip=False, num_particles=3),
    ],
    ids=lambda solver: solver.label,
)
def test_only_the_ratio_of_signal_and_noise_matters(solver: Solver) -> None:
    """A / 4 with a quarter of the noise is the same problem."""
    weak = Denoising(IMAGE)
    weak._set_singular_values(weak.singular_values / 4)
    y = torch.randn(2, *IMAGE, dtype=torch.float64)
    strong_x = restore(solver, y, Denoising(IMAGE), 0.2)
    torch.testing.assert_close(restore(solver, y / 4, weak, 0.05), strong_x)


def ddnm_in_its_own_words(y: Tensor, task: str, sigma_y: float, num_steps: int) -> Tensor:
    """DDNM+ as its paper writes it, with A^+, lambda and gamma, in image coordinates."""
    operator, prior, rngs, eta = five_operators()[task], isotropic_prior(), rngs_of(range(2)), 0.85
    s = operator.singular_values
    inverse = torch.where(s > 0, 1 / s, 0)
    x = operator.V(normal_each(IMAGE, rngs).double())
    for t, after in steps_of(stride_times(num_steps)):
        z = normal_each(IMAGE, rngs).double()
        root, std = prior.alpha_bar(after) ** 0.5, (1 - prior.alpha_bar(after)) ** 0.5
        x0, eps, _ = prior.predict(x, t)
        noisy = root * sigma_y * inverse
        lam = torch.where(std >= noisy, 1.0, s * std * (1 - eta**2) ** 0.5 / (root * sigma_y))
        residual = operator.V(inverse * operator.U_adjoint(operator.A(x0) - y))
        corrected = x0 - operator.V(lam * operator.V_adjoint(residual))
        d1 = torch.where(std > noisy, (std**2 - noisy**2).clamp(min=0).sqrt(), eta * std)
        d1 = torch.where(s > 0, d1, eta * std)
        d2 = torch.where(s > 0, 0.0, (1 - eta**2) ** 0.5 * std)
        x = root * corrected + operator.V(d1 * z + d2 * operator.V_adjoint(eps))
    return x


def ddrm_in_its_own_words(y: Tensor, task: str, sigma_y: float, num_steps: int) -> Tensor:
    """DDRM as its paper writes it, in coordinates y / s of x_t / sqrt(alpha_bar)."""
    operator, prior, rngs, eta = five_operators()[task], isotropic_prior(), rngs_of(range(2)), 0.85
    s, spectral_y = operator.singular_values, operator.U_adjoint(y)
    bar = torch.where(s > 0, spectral_y / s, 0)
    times = stride_times(num_steps)
    first, z = prior.sigma(times[0]), normal_each(IMAGE, rngs).double()
    topped = (first**2 - sigma_y**2 / s**2).clamp(min=0).sqrt()
    x_bar = torch.where(s * first > sigma_y, bar + topped * z, first * z)
    for t, after in steps_of(times):
        x0, eps, _ = prior.predict(operator.V(x_bar) * prior.alpha_bar(t) ** 0.5, t)
        x0, eps = operator.V_adjoint(x0), operator.V_adjoint(eps)
        z, sigma = normal_each(IMAGE, rngs).double(), prior.sigma(after)
        kept = (1 - eta**2) ** 0.5 * sigma
        missing = x0 + kept * eps + eta * sigma * z
        noisier = x0 + kept * (spectral_y - s * x0) / sigma_y + eta * sigma * z
        topped = (sigma**2 - sigma_y**2 / s**2).clamp(min=0).sqrt()
        x_bar = torch.where(s > 0, noisier, missing)
        x_bar = torch.where(s * sigma > sigma_y, bar + topped * z, x_bar)
    return operator.V(x_bar)


@pytest.mark.parametrize("task", ["super_resolution", "inpainting", "denoising", "colorization"])
def test_ddrm_and_ddnm_are_their_papers_updates(task: str) -> None:
    for num_steps in (1, 7):
        operator = five_operators()[task]
        y = operator.project(torch.randn(2, *operator.measurement_shape, dtype=torch.float64))
        found = restore(DDRM(num_steps=num_steps), y, operator, 0.2)
        torch.testing.assert_close(found, ddrm_in_its_own_words(y, task, 0.2, num_steps))
        found = restore(DDNMPlus(num_steps=num_steps), y, operator, 0.2)
        torch.testing.assert_close(found, ddnm_in_its_own_words(y, task, 0.2, num_steps))


def test_ddrm_and_ddnm_differ_in_nothing_but_the_start() -> None:
    """Where nothing is seen at the first level both start from pure noise."""
    operator = Denoising(IMAGE)
    too_weak = 0.1 / isotropic_prior().sigma(950)
    operator._set_singular_values(torch.full((1, 1, 1), too_weak, dtype=torch.float64))
    y = torch.randn(2, *IMAGE, dtype=torch.float64)
    same = restore(DDRM(), y, operator, 0.11), restore(DDNMPlus(num_steps=20), y, operator, 0.11)
    torch.testing.assert_close(*same)
    assert not torch.equal(same[0], restore(DDRM(), 2 * y, operator, 0.11))  # yet y counts later


@pytest.mark.parametrize(
    ("num_steps", "jump_length", "num_repeats", "evaluations"),
    [
        (100, 1, 1, 100),
        (100, 1, 2, 199),
        (100, 1, 3, 298),
        (100, 2, 2, 198),
        (100, 10, 3, 280),
        (50, 1, 2, 99),
        (25, 1, 4, 97),
        (1, 1, 3, 1),
        (4, 9, 5, 4),
    ],
)
def test_time_travel_costs_what_it_should(
    num_steps: int, jump_length: int, num_repeats: int, evaluations: int
) -> None:
    walk = travel(num_steps, jump_length, num_repeats)
    moves = [after - now for now, after in pairwise(walk)]
    assert (walk[0], walk[-1]) == (num_steps - 1, -1)
    assert walk.count(-1) == 1
    assert set(moves) <= {-1, jump_length}
    assert moves.count(-1) == evaluations
    prior, noise = isotropic_prior(), GaussianNoise(0.1, 0.1)
    solver = DDNMPlus(num_steps=num_steps, jump_length=jump_length, num_repeats=num_repeats)
    solver(torch.zeros(2, *IMAGE), Denoising(IMAGE), noise, prior, rngs_of(range(2)))
    assert prior.evaluations.forward == 2 * evaluations


def test_a_climb_of_time_travel_diffuses_the_last_estimate_anew() -> None:
    """Two levels: down to the lower one, up again, down to the end, replayed by hand."""
    y, operator, prior = torch.zeros(1, *IMAGE), Denoising(IMAGE), isotropic_prior()
    operator._set_singular_values(torch.zeros(1, 1, 1, dtype=torch.float64))  # sees nothing
    solver = DDNMPlus(num_steps=2, num_repeats=2, eta=1.0)
    found = restore(solver, y, operator, 0.1)
    x_500, z_0, z_500, z_again, _ = (normal_each(IMAGE, rngs) for rngs in [rngs_of(range(1))] * 5)
    x0 = prior.predict(x_500, 500).x0
    x_500 = prior.alpha_bar(500) ** 0.5 * x0 + (1 - prior.alpha_bar(500)) ** 0.5 * z_500
    x0 = prior.predict(x_500, 500).x0
    x_0 = prior.alpha_bar(0) ** 0.5 * x0 + (1 - prior.alpha_bar(0)) ** 0.5 * z_again
    assert z_0.std() > 0  # drawn, then forgotten by the climb
    torch.testing.assert_close(found, prior.predict(x_0, 0).x0)


@pytest.mark.parametrize("task", ["super_resolution", "inpainting", "denoising", "colorization"])
def test_ddnm_without_noise_meets_the_measurement(task: str) -> None:
    operator = five_operators()[task]
    y = operator.A(torch.rand(2, *IMAGE) - 0.5)
    x = restore(DDNMPlus(num_steps=10, num_repeats=2), y, operator, 0.0)
    torch.testing.assert_close(operator.A(x), y, atol=1e-5, rtol=0)


@pytest.mark.parametrize("task", five_operators())
def test_diffpir_needs_only_a_and_its_adjoint(task: str) -> None:
    """The draws are the same, so the restorations differ by the tolerance of the iteration."""
    operator = five_operators()[task]
    x = torch.rand(2, *IMAGE, dtype=torch.float64) - 0.5
    y = operator.project(operator.A(x) + 0.2 * torch.randn(2, *operator.measurement_shape))
    solver = DiffPIR(num_steps=50, clip=False)
    exact, found = (restore(solver, y, each, 0.2) for each in (operator, Known(operator)))
    torch.testing.assert_close(found, exact, atol=1e-3, rtol=0)


@pytest.mark.parametrize("task", five_operators())
def test_a_regularised_step_leaves_the_noise_of_its_level(task: str) -> None:
    """In every coordinate, seen or not: that of y, what is added to it, and what is drawn."""
    operator, sigma_y, x0, rngs = five_operators()[task], 0.1, torch.rand(IMAGE), rngs_of(range(4))
    for alpha_bar in (0.05, 0.8, 0.995):
        z = [torch.randn(2000, *IMAGE, generator=rng, dtype=torch.float64) for rng in rngs[:2]]
        n, z_y = (torch.randn(2000, *operator.measurement_shape, generator=rng) for rng in rngs[2:])
        y = operator.A(x0[None].double()) + sigma_y * operator.project(n)
        start = x0.expand(2000, *IMAGE).double()
        x = regularised_step(start, *z, z_y.double(), y, Known(operator), sigma_y, alpha_bar)
        noise = operator.V_adjoint(x - alpha_bar**0.5 * start)
        deviation = noise.std(dim=0) / (1 - alpha_bar) ** 0.5
        torch.testing.assert_close(deviation, torch.ones_like(deviation), atol=0.08, rtol=0)
        assert noise.mean(dim=0).abs().max() < 0.1


@pytest.mark.parametrize("task", ["super_resolution", "inpainting", "denoising", "colorization"])
def test_ddnm_needs_only_a_and_its_adjoint(task: str) -> None:
    """Without noise it meets y; with little noise, its x has what y says and the prior's rest."""
    operator = five_operators()[task]
    y = operator.A(torch.rand(2, *IMAGE) - 0.5)
    solver = DDNMPlus(num_steps=10, num_repeats=2)
    x = restore(solver, y, Known(operator), 0.0)
    torch.testing.assert_close(operator.A(x), y, atol=1e-4, rtol=0)
    x = restore(solver, y, Known(operator), 1e-3)
    assert (operator.A(x) - y).std() < 0.02  # of the last level's noise
    spread = restore(solver, y, operator, 1e-3).std()
    assert x.std().item() == pytest.approx(spread.item(), rel=0.2)


def test_quadratic_times_are_dense_near_zero() -> None:
    for num_steps in (1, 2, 20, 100, 500):
        times = quadratic_times(num_steps)
        assert len(times) == len(set(times)) == num_steps
        assert times == sorted(times, reverse=True)
        assert times[0] == NUM_STEPS - 1
        assert num_steps == 1 or times[-1] == 0


def test_quadratic_times_are_the_official_ones() -> None:
    assert quadratic_times(100)[:6] == [999, 899, 857, 825, 798, 775]
    assert quadratic_times(100)[-5:] == [20, 15, 10, 5, 0]
    assert quadratic_times(20)[:4] == [999, 770, 675, 602]
    assert quadratic_times(20)[-4:] == [82, 54, 26, 0]


def test_the_last_step_of_diffpir_is_a_choice() -> None:
    y, counts = torch.rand(2, *IMAGE, dtype=torch.float64) - 0.5, {}
    found = {}
    for last_step in ("official", "denoised"):
        prior, noise = isotropic_prior(), GaussianNoise(1e-3, 1e-3)
        solver = DiffPIR(num_steps=20, last_step=last_step)
        found[last_step] = solver(y, Denoising(IMAGE), noise, prior, rngs_of(range(2)))
        counts[last_step] = prior.evaluations.forward
    assert counts == {"official": 2 * 19, "denoised": 2 * 20}
    assert (found["official"] - y).std().item() == pytest.approx(0.01, rel=0.2)
    assert (found["denoised"] - y).std().item() < 1e-3
    with pytest.raises(ValueError, match="pure noise"):
        DiffPIR(num_steps=1)


def test_diffpir_without_fresh_noise_depends_on_the_start_alone() -> None:
    solver, operator = DiffPIR(num_steps=3, zeta=0.0, clip=False), Denoising(IMAGE)
    y, prior = torch.rand(1, *IMAGE), isotropic_prior()
    x = normal_each(IMAGE, rngs_of(range(1)))
    for t, s in steps_of(quadratic_times(3))[:-1]:
        rho = 1.75 * 0.1**2 / prior.sigma(t) ** 2
        x0 = (y + rho * prior.predict(x, t).x0) / (1 + rho)
        eps = (x - prior.alpha_bar(t) ** 0.5 * x0) / (1 - prior.alpha_bar(t)) ** 0.5
        x = prior.alpha_bar(s) ** 0.5 * x0 + (1 - prior.alpha_bar(s)) ** 0.5 * eps
    torch.testing.assert_close(restore(solver, y, operator, 0.1), x)


def test_the_measurements_of_fps_have_the_variance_of_diffused_ones() -> None:
    s, prior = 0.25, isotropic_prior()
    y = torch.full((1, 1, 200, 200), 0.3)
    observation = Observation(torch.full((1, 1, 1), s).double(), y, 0.05)
    u = torch.randn(y.shape, generator=rngs_of(range(1))[0])
    for t in (900, 500, 100):
        alpha_bar = prior.alpha_bar(t)
        noise = diffused(observation, u, alpha_bar).coefficients - alpha_bar**0.5 * y
        assert noise.var().item() == pytest.approx((1 - alpha_bar) * s**2, rel=0.03)
        assert diffused(observation, u, alpha_bar).sigma_y == 0.05 * alpha_bar**0.5


def a_filter_problem() -> tuple[Tensor, float, Tensor, Observation]:
    rng = rngs_of(range(1))[0]
    mean, z = (torch.randn(2, 3, *IMAGE, generator=rng).double() for _ in range(2))
    operator = five_operators()["colorization"]
    y = torch.randn(2, *operator.measurement_shape, generator=rng).double()
    observation = observe(y, operator, GaussianNoise(0.4, 0.4), isotropic_prior())
    return mean, 0.7, z, with_particles(observation)


def test_a_step_of_fps_is_the_conditional_of_a_gaussian() -> None:
    mean, variance, z, observation = a_filter_problem()
    precision = 1 / variance + observation.values**2 / 0.4**2
    shift = mean / variance + observation.values * observation.coefficients / 0.4**2
    expected = shift / precision + z / precision.sqrt()
    torch.testing.assert_close(condition(mean, variance, z, observation), expected)


def test_the_weights_of_fps_are_the_official_ones() -> None:
    """Likelihood * transition / proposal, whatever was drawn, up to a factor per image."""
    mean, variance, z, observation = a_filter_problem()
    x = condition(mean, variance, z, observation)
    likelihood = (observation.coefficients - observation.values * x) ** 2 / 0.4**2
    official = -0.5 * (likelihood + (x - mean) ** 2 / variance - z**2).flatten(2).sum(dim=2)
    found = log_weights(mean, variance, observation)
    torch.testing.assert_close(found - found[:, :1], official - official[:, :1])


def test_resampling_follows_the_weights_of_each_image() -> None:
    particles = torch.arange(4.0).view(1, 4, 1).expand(2, 4, 1).repeat_interleave(500, dim=1)
    weights = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 1.0, 0.0]]).repeat_interleave(500, 1)
    drawn = resample(particles, weights.double().log(), rngs_of(range(2)))
    shares = torch.bincount(drawn[0].flatten().long(), minlength=4) / 2000
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.2, 0.3, 0.4]), atol=0.03, rtol=0)
    assert (drawn[1] == 2).all()
