"""I2SB's bridge, and its two solvers against what is known of ideal networks."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from davi.benchmarks.gaussian_posterior import (
    GaussianProblem,
    PosteriorDistance,
    draw_samples,
    gaussian_problem,
    posterior_distance,
    smooth_covariance,
)
from davi.operators.colorization import Colorization
from davi.operators.denoising import Denoising
from davi.operators.gaussian_blur import GaussianBlur
from davi.operators.inpainting import Inpainting, centred_box
from davi.operators.linear import LinearOperator
from davi.operators.measurement import lift
from davi.operators.noise import GaussianNoise
from davi.operators.super_resolution import SuperResolution
from davi.operators.svd import SVDOperator
from davi.schedule import Schedule
from davi.score import ScoreModel
from davi.solvers.cddb import CDDB, corrected
from davi.solvers.i2sb import I2SB
from davi.solvers.i2sb_bridge import (
    I2SBBridge,
    I2SBModel,
    degraded_end,
    known_pixels,
    sampling_grid,
)
from davi.solvers.i2sb_file import TrainedI2SB
from davi.solvers.prior import CountedPrior
from davi.system.errors import InputError
from davi.system.runtime import keyed_rng

IMAGE = (3, 8, 8)
OPERATORS = {
    "denoising": Denoising(IMAGE),
    "inpainting": Inpainting(IMAGE, centred_box(8, 8, 4)),
    "super_resolution": SuperResolution(IMAGE, 4),
    "gaussian_blur": GaussianBlur(IMAGE, 9, 1.0),
    "colorization": Colorization(IMAGE),
}
each_task = pytest.mark.parametrize("task", OPERATORS)
STOCHASTIC = I2SBBridge(0.3, ot_ode=False)


def index_of(times: Tensor) -> int:
    """The index that a network is told of as a time; one for the batch."""
    return round((times[0].item() / 1000 - 1e-4) / (1 - 1e-4) * 999)


class Half(nn.Module):
    """A slope that is half of the input."""

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        return x / 2


class Oracle(nn.Module):
    """Knows the clean image."""

    def __init__(self, x0: Tensor) -> None:
        super().__init__()
        self.x0 = x0

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        return STOCHASTIC.slope(x, self.x0, torch.full((len(x),), index_of(times)))


class IdealForWhite(nn.Module):
    """E[x_0 | x_k] as a slope, for x_0 ~ N(0, tau^2) and y = x_0 + n."""

    def __init__(self, bridge: I2SBBridge, sigma_y: float, tau: float = 0.5) -> None:
        super().__init__()
        self.bridge, self.sigma_y, self.tau = bridge, sigma_y, tau

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        k = index_of(times)
        noise = (self.bridge.mu1[k] * self.sigma_y) ** 2
        noise += 0 if self.bridge.ot_ode else self.bridge.std[k] ** 2
        x0 = self.tau**2 / (self.tau**2 + noise) * x
        return self.bridge.slope(x, x0, torch.full((len(x),), k))


class IdealForGaussian(nn.Module):
    """The same for x_0 ~ N(0, C) and any operator. It is not told x_1, as I2SB's networks."""

    def __init__(self, problem: GaussianProblem) -> None:
        super().__init__()
        self.problem = problem

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        k = index_of(times)
        x0 = (x.flatten(1) @ self.gain(k).T).view_as(x)
        return STOCHASTIC.slope(x, x0, torch.full((len(x),), k))

    def gain(self, k: int) -> Tensor:
        """C B^T (B C B^T + N)^-1, where x_k = B x_0 + N(0, N)."""
        operator, C = self.problem.operator, self.problem.prior_covariance
        mu0, mu1, std = (getattr(STOCHASTIC, name)[k].item() for name in ("mu0", "mu1", "std"))
        identity = torch.eye(len(C), dtype=torch.float64)
        if isinstance(operator, Inpainting):
            mask = operator.singular_values.expand(*IMAGE).flatten()
            B = torch.diag(mask + mu0 * (1 - mask))
            N = torch.diag(self.problem.sigma_y**2 * mask + mu1**2 * (1 - mask))
        else:
            basis = identity.view(-1, *IMAGE)
            size = operator.measurement_shape
            pixels = torch.eye(torch.Size(size).numel(), dtype=torch.float64).view(-1, *size)
            lifting = lift(pixels, IMAGE, "nearest").flatten(1).T
            B = mu0 * identity + mu1 * lifting @ operator.A(basis).flatten(1).T
            N = (mu1 * self.problem.sigma_y) ** 2 * lifting @ lifting.T
        return C @ B.T @ torch.linalg.inv(B @ C @ B.T + N + std**2 * identity)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> object:
    """Returns give(network, operator): lets both solvers find this network in every file."""

    def give(network: nn.Module, operator: SVDOperator, bridge: I2SBBridge = STOCHASTIC) -> None:
        model = I2SBModel(network, bridge)
        trained = TrainedI2SB("a file", model, "a task", operator)
        monkeypatch.setattr("davi.solvers.i2sb.load_i2sb", lambda *_: trained)

    return give


def a_prior() -> CountedPrior:
    return CountedPrior(ScoreModel(nn.Identity(), Schedule.named("linear")))


def rngs_for(names: range, seed: int = 0) -> list[torch.Generator]:
    return [keyed_rng("cpu", seed, name) for name in names]


def run(
    solver: I2SB,
    y: Tensor,
    operator: LinearOperator,
    seed: int = 0,
    prior: CountedPrior | None = None,
) -> Tensor:
    noise = GaussianNoise(0.05, 0.05)
    return solver(y, operator, noise, prior or a_prior(), rngs_for(range(len(y)), seed))


def measured(operator: LinearOperator, batch: int = 3) -> Tensor:
    rng = torch.Generator().manual_seed(1)
    x0 = torch.rand(batch, *operator.image_shape, generator=rng, dtype=torch.float64) - 0.5
    return operator.project(operator.A(x0))


# b_499, the sum of all rates, f_999
@pytest.mark.parametrize(
    ("beta_max", "peak", "total", "last"),
    [(0.3, 1.865e-4, 0.14103, 0.37554), (1.0, 4.327e-4, 0.24693, 0.49692)],
)
def test_the_schedule_has_the_numbers_of_the_authors_code(
    beta_max: float, peak: float, total: float, last: float
) -> None:
    bridge = I2SBBridge(beta_max, ot_ode=False)
    rates = bridge.forward_std.square().diff(prepend=torch.zeros(1, dtype=torch.float64))
    assert rates[499].item() == pytest.approx(peak, rel=1e-3)
    assert rates.max().item() == pytest.approx(peak, rel=1e-3)
    torch.testing.assert_close(rates, rates.flip(0))
    assert rates.sum().item() == pytest.approx(total, rel=1e-4)
    assert bridge.forward_std[0].item() == pytest.approx(0.01, rel=1e-6)
    assert bridge.forward_std[-1].item() == pytest.approx(last, rel=1e-4)
    torch.testing.assert_close(bridge.backward_std, bridge.forward_std.flip(0))
    highest = {0.3: 0.188, 1.0: 0.249}[beta_max]
    assert bridge.std.max().item() == pytest.approx(highest, abs=1e-3)
    torch.testing.assert_close(bridge.mu0 + bridge.mu1, torch.ones(1000, dtype=torch.float64))
    assert bridge.times[[0, -1]].tolist() == pytest.approx([0.1, 1000])


def test_the_share_of_the_last_state_is_that_of_the_authors_code() -> None:
    shares = {1: 0.0007, 20: 0.019, 100: 0.090}
    for num_steps, share in shares.items():
        last, end = sampling_grid(num_steps)[-2:]
        found = (STOCHASTIC.forward_std[end] / STOCHASTIC.forward_std[last]).item() ** 2
        assert found == pytest.approx(share, rel=0.05)


def test_grids_are_those_of_the_authors_code() -> None:
    assert sampling_grid(1) == [999, 0]
    assert sampling_grid(20)[::-1][:4] == [0, 50, 100, 150]
    assert sampling_grid(20)[:2] == [999, 949]
    assert sampling_grid(100)[::-1][:3] == [0, 10, 20]
    assert sampling_grid(999) == list(range(999, -1, -1))


@each_task
def test_the_bridge_ends_at_the_measurement_on_the_image_grid(task: str) -> None:
    operator = OPERATORS[task]
    y, hole = measured(operator), torch.randn(3, *IMAGE)
    x1 = degraded_end(y, operator, hole)
    expected = {
        "super_resolution": lambda: y.repeat_interleave(4, 2).repeat_interleave(4, 3),
        "colorization": lambda: y.repeat(1, 3, 1, 1),
        "inpainting": lambda: y + (y == 0) * hole,
    }.get(task, lambda: y)()
    torch.testing.assert_close(x1, expected, check_dtype=False)


@each_task
def test_with_an_oracle_every_number_of_steps_finds_the_image(task: str, given: object) -> None:
    for num_steps in (1, 20, 100, 999):
        operator = OPERATORS[task]
        x0 = torch.rand(2, *IMAGE, dtype=torch.float64) - 0.5
        given(Oracle(x0), operator)
        y = operator.project(operator.A(x0))
        x = run(I2SB(checkpoint="unused", num_steps=num_steps), y, operator)
        last = sampling_grid(num_steps)[-2]
        f_0, f_k = STOCHASTIC.forward_std[0].item(), STOCHASTIC.forward_std[last].item()
        if num_steps == 1:
            x1 = degraded_end(y, operator, torch.zeros(2, *IMAGE))
            known = known_pixels(operator)
            where = torch.ones(2, *IMAGE) if known is None else known.expand(2, *IMAGE)
            expected = (1 - (f_0 / f_k) ** 2) * x0 + (f_0 / f_k) ** 2 * x1
            torch.testing.assert_close(x[where > 0], expected[where > 0])
        else:  # x_k is some standard deviations of the bridge away from x_0, and a bit of x_1
            assert (x - x0).abs().max() < (f_0 / f_k) ** 2 * 6 * (f_k + 1e-3)


# Gain and spread of x against posterior mean and standard deviation, y = 1, prior N(0, 0.5^2).
# The ideal network does not see x_1, so that several steps do not sample the posterior but keep
# the spread of the prior.
IDEAL = {
    (1, 0.05): (1.000, 0.00),
    (1, 0.2): (1.000, 0.00),
    (20, 0.05): (0.786, 5.79),
    (20, 0.2): (0.848, 1.51),
    (100, 0.05): (0.778, 6.22),
    (100, 0.2): (0.843, 1.63),
    (999, 0.05): (0.777, 6.32),
}
# The same with a correction by an eighth of the residual.
IDEAL_CDDB = {
    (1, 0.05): (1.001, 0.00),
    (1, 0.2): (1.020, 0.00),
    (20, 0.05): (0.861, 4.04),
    (20, 0.2): (0.956, 1.07),
    (100, 0.05): (0.882, 3.70),
    (100, 0.2): (0.988, 0.98),
    (999, 0.05): (0.902, 3.21),
}


def gain_and_spread(solver: I2SB, sigma_y: float, given: object) -> tuple[float, float]:
    operator = Denoising((3, 128, 128))
    given(IdealForWhite(STOCHASTIC, sigma_y), operator)
    x = run(solver, torch.ones(4, 3, 128, 128, dtype=torch.float64), operator)
    variance = 1 / (1 / 0.5**2 + 1 / sigma_y**2)
    return (x.mean() / (variance / sigma_y**2)).item(), (x.std() / variance**0.5).item()


def bench(table: dict) -> list:
    return [
        pytest.param(*key, *value, marks=pytest.mark.slow if key[0] > 20 else ())
        for key, value in table.items()
    ]


@pytest.mark.parametrize(("num_steps", "sigma_y", "gain", "spread"), bench(IDEAL))
def test_the_ideal_network_has_the_known_gain_and_spread(
    num_steps: int, sigma_y: float, gain: float, spread: float, given: object
) -> None:
    found = gain_and_spread(I2SB(checkpoint="unused", num_steps=num_steps), sigma_y, given)
    assert found == pytest.approx((gain, spread), rel=0.005, abs=0.02)


@pytest.mark.parametrize(("num_steps", "sigma_y", "gain", "spread"), bench(IDEAL_CDDB))
def test_a_correction_by_an_eighth_has_the_known_gain_and_spread(
    num_steps: int, sigma_y: float, gain: float, spread: float, given: object
) -> None:
    solver = CDDB(checkpoint="unused", num_steps=num_steps, step_size=0.0625)
    found = gain_and_spread(solver, sigma_y, given)
    assert found == pytest.approx((gain, spread), rel=0.005, abs=0.02)


# Distance to the exact posterior, of 1000 samples with the ideal network and sigma_y = 0.05. One
# step gives the posterior mean. After 20 the samples have about the spread of the prior wherever y
# says much (denoising: 4.3 times the posterior's), since the network sees x_k only and forgets x_1:
# the bridge keeps the distribution over all y. In the hole of inpainting and for super-resolution y
# says little. CDDB corrects by an eighth of the residual in each step and takes part of that back.
DISTANCES = {
    ("I2SB", 1, "denoising"): PosteriorDistance(0.01, 1.0, 0.0, 1.0),
    ("I2SB", 1, "inpainting"): PosteriorDistance(0.07, 1.007, 0.002, 1.0),
    ("I2SB", 1, "super_resolution"): PosteriorDistance(0.0, 1.0, 0.0, 1.0),
    ("I2SB", 1, "gaussian_blur"): PosteriorDistance(0.01, 0.998, 0.0, 1.0),
    ("I2SB", 1, "colorization"): PosteriorDistance(0.0, 1.0, 0.0, 1.0),
    ("I2SB", 20, "denoising"): PosteriorDistance(2.06, 0.893, 4.31, 24.97),
    ("I2SB", 20, "inpainting"): PosteriorDistance(0.13, 1.001, 0.93, 0.12),
    ("I2SB", 20, "super_resolution"): PosteriorDistance(0.04, 0.983, 0.90, 0.30),
    ("I2SB", 20, "gaussian_blur"): PosteriorDistance(0.45, 0.879, 1.31, 1.01),
    ("I2SB", 20, "colorization"): PosteriorDistance(0.27, 0.939, 1.21, 0.66),
    ("CDDB", 20, "denoising"): PosteriorDistance(1.40, 0.929, 3.09, 11.98),
    ("CDDB", 20, "inpainting"): PosteriorDistance(0.13, 1.001, 0.93, 0.12),
    ("CDDB", 20, "super_resolution"): PosteriorDistance(0.03, 0.995, 0.89, 0.29),
    ("CDDB", 20, "gaussian_blur"): PosteriorDistance(0.41, 0.893, 1.25, 0.88),
    ("CDDB", 20, "colorization"): PosteriorDistance(0.17, 0.963, 1.04, 0.38),
}


@pytest.mark.slow
@each_task
def test_the_distance_to_the_exact_posterior_is_known(task: str, given: object) -> None:
    operator = OPERATORS[task]
    problem = gaussian_problem(operator, 0.05, smooth_covariance(IMAGE))
    given(IdealForGaussian(problem), operator)
    eighth = 1 / (16 * operator.singular_values.max().item() ** 2)
    solvers = {
        ("I2SB", 1): I2SB(checkpoint="unused", num_steps=1),
        ("I2SB", 20): I2SB(checkpoint="unused", num_steps=20),
        ("CDDB", 20): CDDB(checkpoint="unused", num_steps=20, step_size=eighth),
    }
    for name, solver in solvers.items():
        found = posterior_distance(draw_samples(solver, problem, 1000), problem)
        expected = vars(DISTANCES[(*name, task)])
        assert vars(found) == pytest.approx(expected, rel=0.05, abs=0.02), name


@pytest.mark.parametrize(("sigma_y", "gain"), [(0.05, 1.010), (0.2, 1.160)])
def test_a_full_correction_is_least_squares(sigma_y: float, gain: float, given: object) -> None:
    found = gain_and_spread(CDDB(checkpoint="unused", num_steps=20), sigma_y, given)
    assert found[0] == pytest.approx(gain, abs=0.02)
    assert found[1] <= 0.14


@each_task
def test_one_correction_does_to_the_residual_what_it_must(task: str) -> None:
    operator, y = OPERATORS[task], measured(OPERATORS[task])
    x0 = torch.randn(3, *IMAGE, dtype=torch.float64)
    step = CDDB(checkpoint="unused").step_for(operator)
    assert 2 * step * operator.singular_values.max().item() ** 2 == pytest.approx(1)
    residual = operator.A(x0) - y
    expected = residual - 2 * step * operator.A(operator.A_adjoint(residual))
    found = corrected(x0, y, operator, step)
    torch.testing.assert_close(operator.A(found) - y, expected)
    with torch.enable_grad():
        tracked = x0.clone().requires_grad_(True)
        (gradient,) = torch.autograd.grad((operator.A(tracked) - y).square().sum(), tracked)
    torch.testing.assert_close(found, x0 - step * gradient)


@each_task
def test_without_a_step_cddb_is_i2sb(task: str, given: object) -> None:
    for deep in (False, True):
        operator, y = OPERATORS[task], measured(OPERATORS[task])
        given(Half(), operator)
        plain = run(I2SB(checkpoint="unused", num_steps=5), y, operator)
        zero = run(CDDB(checkpoint="unused", num_steps=5, step_size=0, deep=deep), y, operator)
        assert torch.equal(plain, zero)
        if task != "inpainting":  # where x_0 has the measured pixels already
            one = run(CDDB(checkpoint="unused", num_steps=5, step_size=0.4, deep=deep), y, operator)
            assert not torch.allclose(plain, one)


def test_deep_cddb_subtracts_the_gradient_by_the_state(given: object) -> None:
    operator, y = OPERATORS["super_resolution"], measured(OPERATORS["super_resolution"])
    given(Half(), operator)
    found = run(CDDB(checkpoint="unused", num_steps=1, step_size=0.5, deep=True), y, operator)
    x1 = degraded_end(y, operator, torch.zeros(1))
    f_0, f_k = STOCHASTIC.forward_std[[0, -1]].tolist()
    factor = 1 - f_k / 2  # of x0 by x
    gradient = 2 * factor * operator.A_adjoint(operator.A(factor * x1) - y)
    share = (f_0 / f_k) ** 2
    expected = (1 - share) * factor * x1 + share * x1 - 0.5 * gradient
    torch.testing.assert_close(found, expected)


def test_a_step_that_reflects_is_refused(given: object) -> None:
    operator = OPERATORS["denoising"]
    given(Half(), operator)
    with pytest.raises(InputError, match=r"step_size=1.0 reflects .* at most 0.5 / s_max\^2 = 0.5"):
        run(CDDB(checkpoint="unused", step_size=1.0), measured(operator), operator)
    given(Half(), OPERATORS["super_resolution"])
    small = measured(OPERATORS["super_resolution"])
    run(CDDB(checkpoint="unused", step_size=8.0), small, OPERATORS["super_resolution"])


@each_task
def test_one_step_and_ot_ode_are_deterministic(task: str, given: object) -> None:
    operator, y = OPERATORS[task], measured(OPERATORS[task])
    given(Half(), operator)
    for solver, same in (
        (I2SB(checkpoint="unused", num_steps=1), True),
        (I2SB(checkpoint="unused", num_steps=4, ot_ode=True), True),
        (I2SB(checkpoint="unused", num_steps=4), False),
    ):
        results = [run(solver, y, operator, seed) for seed in (1, 2)]
        # x_1 of inpainting has noise in the hole
        assert torch.allclose(*results) == (same and task != "inpainting")


def test_the_network_says_whether_there_is_noise(given: object) -> None:
    operator, y = OPERATORS["denoising"], measured(OPERATORS["denoising"])
    given(Half(), operator, I2SBBridge(0.3, ot_ode=True))
    solver = I2SB(checkpoint="unused", num_steps=4)
    silent = [run(solver, y, operator, seed) for seed in (1, 2)]
    assert torch.equal(*silent)
    noisy = run(I2SB(checkpoint="unused", num_steps=4, ot_ode=False), y, operator)
    assert not torch.allclose(noisy, silent[0])


def test_almost_without_noise_the_measurement_comes_back(given: object) -> None:
    """In one step, without the bridge's noise, and with a full correction."""
    operator, y = OPERATORS["denoising"], measured(OPERATORS["denoising"])
    for solver, bridge in (
        (I2SB(checkpoint="unused", num_steps=1), STOCHASTIC),
        (I2SB(checkpoint="unused", num_steps=20), I2SBBridge(1.0, ot_ode=True)),
        (CDDB(checkpoint="unused", num_steps=20), STOCHASTIC),
    ):
        given(IdealForWhite(bridge, 1e-3), operator, bridge)
        assert (run(solver, y, operator) - y).abs().max() < 0.01


@each_task
def test_three_seeds_are_finite_and_the_batch_does_not_matter(task: str, given: object) -> None:
    for solver in (I2SB, CDDB):
        operator, y = OPERATORS[task], measured(OPERATORS[task])
        torch.manual_seed(0)
        given(Convolution(), operator)
        for num_steps in (1, 7):
            method = solver(checkpoint="unused", num_steps=num_steps, clip=True)
            for seed in range(3):
                together = run(method, y, operator, seed)
                rngs = rngs_for(range(2, 3), seed)
                alone = method(y[2:], operator, GaussianNoise(0.05, 0.05), a_prior(), rngs)
                torch.testing.assert_close(together[2:], alone)
                assert torch.isfinite(together).all()


class Convolution(nn.Conv2d):
    """A network of one layer."""

    def __init__(self) -> None:
        super().__init__(3, 3, 3, padding=1, dtype=torch.float64)
        self.requires_grad_(False)

    def forward(self, x: Tensor, times: Tensor) -> Tensor:
        return super().forward(x)


def test_evaluations_are_counted(given: object) -> None:
    operator, y = OPERATORS["denoising"], measured(OPERATORS["denoising"])
    given(Half(), operator)
    for solver, expected in (
        (I2SB(checkpoint="unused", num_steps=1), (3, 0)),
        (I2SB(checkpoint="unused", num_steps=20), (60, 0)),
        (CDDB(checkpoint="unused", num_steps=7), (21, 0)),
        (CDDB(checkpoint="unused", num_steps=7, deep=True), (21, 21)),
    ):
        prior = a_prior()
        run(solver, y, operator, prior=prior)
        assert (prior.evaluations.forward, prior.evaluations.backward) == expected


def test_clipped_estimates_stay_in_range(given: object) -> None:
    operator = OPERATORS["denoising"]
    given(Oracle(torch.full((3, *IMAGE), 5.0, dtype=torch.float64)), operator)
    y = measured(operator)
    assert run(I2SB(checkpoint="unused", num_steps=20), y, operator).min() > 4
    assert run(I2SB(checkpoint="unused", num_steps=20, clip=True), y, operator).max() < 1.1


def test_a_network_for_another_problem_is_refused(given: object) -> None:
    given(Half(), OPERATORS["gaussian_blur"])
    for other in ("denoising", "colorization", "super_resolution"):
        y = measured(OPERATORS[other])
        with pytest.raises(InputError, match=r"a file: restores .* \(a task\); here are"):
            run(I2SB(checkpoint="unused"), y, OPERATORS[other])
    larger = GaussianBlur((3, 16, 16), 9, 1.0)
    with pytest.raises(InputError, match="restores"):
        run(I2SB(checkpoint="unused"), measured(larger), larger)


def test_the_grid_is_walked_down() -> None:
    for num_steps in (1, 3, 20, 999):
        assert all(k > j for k, j in pairwise(sampling_grid(num_steps)))
