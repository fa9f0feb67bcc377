"""RED-diff and the Gaussian posterior of supplement A.2, against closed forms and known numbers."""

import math
from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from davi.benchmarks.gaussian_posterior import (
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
from davi.operators.noise import GaussianNoise, PoissonNoise
from davi.operators.super_resolution import SuperResolution
from davi.priors.analytic import GaussianMixturePrior
from davi.schedule import Schedule
from davi.solvers.base import Solver
from davi.solvers.gaussian_variational import GaussianVariational, spread_times
from davi.solvers.prior import CountedPrior
from davi.solvers.red_diff import WEIGHTINGS, RedDiff
from davi.solvers.variational import VariationalSolver, noise_gap
from davi.system.errors import InputError
from davi.system.runtime import keyed_rng

IMAGE = (3, 8, 8)
TAU = 0.5  # standard deviation of the isotropic prior
OPERATORS = {
    "gaussian_blur": GaussianBlur(IMAGE, 5, 1.0),
    "super_resolution": SuperResolution(IMAGE, 4),
    "inpainting": Inpainting(IMAGE, centred_box(8, 8, 4)),
    "denoising": Denoising(IMAGE),
    "colorization": Colorization(IMAGE),
}
SIGMA_Y = {"denoising": 0.2}
each_solver = pytest.mark.parametrize("method", [RedDiff, GaussianVariational])
each_task = pytest.mark.parametrize("task", OPERATORS)


class IsotropicPrior(nn.Module):
    """The network of x_0 ~ N(0, TAU^2 I)."""

    schedule = Schedule.named("linear")

    def eps_and_variance(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha_bar = self.schedule.alpha_bar_t(t, x_t)
        variance = alpha_bar * TAU**2 + 1 - alpha_bar
        return (1 - alpha_bar).sqrt() * x_t / variance, x_t[:, :0]


class Scaled(Denoising):
    """A x = gain x."""

    def __init__(self, image_shape: tuple[int, int, int], gain: float) -> None:
        super().__init__(image_shape)
        self._set_singular_values(torch.full((1, 1, 1), gain, dtype=torch.float64))


class Blind(LinearOperator):
    """Half of the image, and only A and its adjoint are known."""

    def A(self, x: Tensor) -> Tensor:
        return x / 2

    def A_adjoint(self, y: Tensor) -> Tensor:
        return y / 2


def rngs_for(count: int, seed: int = 0) -> list[torch.Generator]:
    return [keyed_rng("cpu", seed, index) for index in range(count)]


def solve(
    solver: Solver, operator: LinearOperator, y: Tensor, sigma_y: float, seed: int = 0
) -> Tensor:
    noise, prior = GaussianNoise(sigma_y, sigma_y), CountedPrior(IsotropicPrior())
    return solver(y, operator, noise, prior, rngs_for(len(y), seed))


def quick(method: type[VariationalSolver], **fields: object) -> VariationalSolver:
    return method(**{"num_steps": 20, "start": "lifted", **fields})


def a_measurement(operator: LinearOperator, sigma_y: float, batch: int = 2) -> Tensor:
    rng = keyed_rng("cpu", "measurement")
    x0 = TAU * torch.randn(batch, *operator.image_shape, generator=rng)
    y = operator.A(x0)
    return operator.project(y + sigma_y * torch.randn(y.shape, generator=rng))


# From the official code under this prior, as slope over the posterior mean's and residual over
# sigma_y; all of them fit the noise. A slope of 1 would be exact.
OFFICIAL = [
    (0.25, 0.1, 1.0, 0.05, 1.010, 0.24),
    (0.25, 0.1, 1.0, 0.2, 1.160, 0.06),
    (0.25, 0.1, 0.25, 0.05, 1.139, 0.30),
    (1.0, 0.5, 1.0, 0.05, 1.010, 1.03),
    (1.0, 0.5, 1.0, 0.2, 1.162, None),
    (1.0, 0.5, 0.25, 0.05, 1.068, None),
]


@pytest.mark.parametrize(
    ("prior_weight", "learning_rate", "gain", "sigma_y", "slope", "residual"), OFFICIAL
)
def test_red_diff_has_the_official_slopes_and_residuals(
    prior_weight: float,
    learning_rate: float,
    gain: float,
    sigma_y: float,
    slope: float,
    residual: float | None,
) -> None:
    solver = RedDiff(prior_weight=prior_weight, learning_rate=learning_rate)
    operator = Scaled(IMAGE, gain)
    x = solve(solver, operator, torch.ones(8, *IMAGE).double(), sigma_y)
    assert x.mean().item() == pytest.approx(slope * posterior_slope(gain, sigma_y), rel=0.02)
    if residual:
        found = (operator.A(x).std() / sigma_y).item()
        assert found == pytest.approx(residual, rel=0.06)


@pytest.mark.parametrize(
    ("sigma_y", "slope", "residual"), [(0.05, 1.161, 0.07), (0.2, 3.558, 0.02)]
)
def test_red_diff_gives_least_squares_in_super_resolution(
    sigma_y: float, slope: float, residual: float
) -> None:
    """A block mean is 1/4 of a unit vector's coefficient; the 15 others of a block are unseen."""
    operator = SuperResolution((3, 16, 16), 4)
    x = solve(RedDiff(), operator, torch.ones(16, 3, 4, 4).double(), sigma_y)
    means = operator.A(x)
    assert means.mean().item() / 0.25 == pytest.approx(
        slope * posterior_slope(0.25, sigma_y), rel=0.02
    )
    assert ((means - 1).square().mean().sqrt() / sigma_y).item() == pytest.approx(residual, rel=0.2)
    unseen = x - operator.A_dagger(means)
    assert unseen.square().mean().sqrt().item() * (16 / 15) ** 0.5 == pytest.approx(
        0.53 * TAU, rel=0.05
    )


def posterior_slope(gain: float, sigma_y: float) -> float:
    """Posterior mean over y, of one coordinate y = gain x + n under N(0, TAU^2)."""
    return gain / sigma_y**2 / (1 / TAU**2 + gain**2 / sigma_y**2)


@each_solver
def test_without_a_prior_the_answer_is_least_squares(method: type[VariationalSolver]) -> None:
    for operator in OPERATORS.values():
        y = a_measurement(operator, 0.2).double()
        solver = quick(method, num_steps=400, prior_weight=0.0, learning_rate=0.02, **dirac(method))
        misfit = operator.A_adjoint(operator.A(solve(solver, operator, y, 0.2)) - y)
        assert misfit.abs().max() < 0.05 * operator.A_adjoint(y).abs().max()


def dirac(method: type[VariationalSolver]) -> dict[str, float]:
    return {"sigma": 0.0} if method is GaussianVariational else {}


# The data's part of a gradient is a matter of the task, the prior's one of time and weighting.
TASKS_AT_300 = [(task, 300) for task in OPERATORS]


def central_difference(loss: Callable[[Tensor], Tensor], x: Tensor, direction: Tensor) -> Tensor:
    return (loss(x + 1e-4 * direction) - loss(x - 1e-4 * direction)) / 2e-4


@pytest.mark.parametrize(("task", "t"), [*TASKS_AT_300, ("denoising", 0), ("denoising", 999)])
def test_red_diff_descends_its_loss(task: str, t: int) -> None:
    operator, prior = OPERATORS[task], CountedPrior(IsotropicPrior())
    y = a_measurement(operator, 0.05, batch=1).double()
    x0, eps, direction = torch.randn(3, 1, *IMAGE, dtype=torch.float64)
    alpha_bar = prior.alpha_bar(t)
    x_t = alpha_bar**0.5 * x0 + (1 - alpha_bar) ** 0.5 * eps
    gap = prior.predict(x_t, t).eps - eps  # a constant of the loss
    solver = RedDiff()

    def loss(x0: Tensor) -> Tensor:
        data = (y - operator.A(x0)).square().mean() / 2
        return solver.weight(prior.sigma(t)) * (gap * x0).mean() + data

    gradient = solver.gradient(x0, t, eps, y, operator, prior) / x0.numel()
    expected = central_difference(loss, x0, direction)
    torch.testing.assert_close((gradient * direction).sum(), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("task", "t", "weighting"),
    [
        *((task, t, "sigma_over_alpha") for task, t in TASKS_AT_300),
        *product(["denoising"], [0, 300, 999], ["constant", "variance"]),
        ("denoising", 0, "sigma_over_alpha"),
        ("denoising", 999, "sigma_over_alpha"),
    ],
)
def test_the_gaussian_descends_its_loss(task: str, weighting: str, t: int) -> None:
    """Under a Gaussian prior the gradient is linear in eps, so that eps = 0 gives its mean."""
    operator, prior = OPERATORS[task], CountedPrior(IsotropicPrior())
    y = a_measurement(operator, 0.05, batch=1).double()
    mean, direction = torch.randn(2, 1, *IMAGE, dtype=torch.float64)
    alpha_bar, sigma = prior.alpha_bar(t), 0.3
    weight = {"sigma_over_alpha": prior.sigma(t), "constant": 1, "variance": 1 - alpha_bar}

    def loss(mean: Tensor) -> Tensor:
        data = (y - operator.A(mean)).square().sum() / (2 * 0.05**2)
        q = Normal(alpha_bar**0.5 * mean, (alpha_bar * sigma**2 + 1 - alpha_bar) ** 0.5)
        p = Normal(torch.zeros_like(mean), (alpha_bar * TAU**2 + 1 - alpha_bar) ** 0.5)
        return data + 0.7 * weight[weighting] * kl_divergence(q, p).sum()

    solver = GaussianVariational(sigma=sigma, weighting=weighting, prior_weight=0.7)
    gradient = solver.gradient(mean, t, 0 * mean, y, operator, 0.05, prior)
    expected = central_difference(loss, mean, direction)
    torch.testing.assert_close((gradient * direction).sum(), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("sigma", [0.05, 0.4])
@pytest.mark.parametrize("t", [50, 300])
def test_the_gap_is_the_gradient_of_the_divergence_from_a_mixture(sigma: float, t: int) -> None:
    """One pixel, two modes: E over eps by quadrature against the divergence's integral."""
    modes = torch.tensor([[-0.5], [0.5]]).double()
    variances = torch.full((2, 1, 1), 0.04).double()
    schedule = Schedule.named("linear")
    prior = CountedPrior(
        GaussianMixturePrior(torch.tensor([0.3, 0.7]).double(), modes, variances, schedule)
    )
    alpha_bar = prior.alpha_bar(t)
    spread = (alpha_bar * sigma**2 + 1 - alpha_bar) ** 0.5
    eps = torch.linspace(-9, 9, 4001).double()
    density = Normal(0.0, 1.0).log_prob(eps).exp() * (eps[1] - eps[0])
    width = (alpha_bar * 0.04 + 1 - alpha_bar) ** 0.5

    def divergence(mean: float) -> float:
        x_t = alpha_bar**0.5 * mean + spread * eps
        log_p = Normal(alpha_bar**0.5 * modes, width).log_prob(x_t)
        log_p = (log_p + torch.tensor([[0.3], [0.7]]).double().log()).logsumexp(dim=0)
        return ((Normal(0.0, 1.0).log_prob(eps) - math.log(spread) - log_p) * density).sum().item()

    mean = torch.full((len(eps), 1, 1, 1), 0.1).double()
    gap = noise_gap(prior, mean, sigma, t, eps.view(-1, 1, 1, 1)).flatten()
    found = (gap * density).sum().item() * (alpha_bar / (1 - alpha_bar)) ** 0.5
    expected = (divergence(0.1001) - divergence(0.0999)) / 2e-4
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_gap_vanishes_draw_by_draw_where_the_posterior_is_the_prior() -> None:
    """The mean over eps does not see eta_t; a perfect fit does."""
    for t in (0, 300, 999):
        eps = torch.randn(2, *IMAGE).double()
        gap = noise_gap(CountedPrior(IsotropicPrior()), torch.zeros_like(eps), TAU, t, eps)
        torch.testing.assert_close(gap, torch.zeros_like(gap), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("task", "weighting"),
    [
        *((task, "sigma_over_alpha") for task in OPERATORS),
        ("colorization", "constant"),
        ("colorization", "variance"),
    ],
)
def test_the_gaussian_reaches_the_optimum_of_its_objective(task: str, weighting: str) -> None:
    """mu* = (A^T A / sigma_y^2 + Lambda)^-1 A^T y / sigma_y^2, whatever sigma is."""
    operator, sigma_y, weight = OPERATORS[task], 0.3, 10.0
    solver = quick(
        GaussianVariational, num_steps=500, weighting=weighting, sigma=0.1, prior_weight=weight
    )
    y = a_measurement(operator, sigma_y, batch=1).double()
    x = solve(solver, operator, y.expand(24, *y.shape[1:]), sigma_y)
    s = operator.singular_values
    spectrum = s * operator.U_adjoint(y) / sigma_y**2
    optimum = operator.V(spectrum / (s**2 / sigma_y**2 + prior_precision(weighting, weight)))
    noise_of_mean = (x.var(dim=0) / len(x)).mean().sqrt().item()
    assert (x.mean(dim=0) - optimum).square().mean().sqrt() < 0.01 + 1.2 * noise_of_mean
    assert noise_of_mean < 0.05


def prior_precision(weighting: str, prior_weight: float) -> float:
    """Lambda under the isotropic prior, 1 / TAU^2 if w(t) had all its weight at t = 0."""
    schedule = IsotropicPrior.schedule
    alpha_bar = schedule.alpha_bar[torch.tensor(spread_times(500))]
    weights = {
        "sigma_over_alpha": ((1 - alpha_bar) / alpha_bar).sqrt(),
        "constant": torch.ones_like(alpha_bar),
        "variance": 1 - alpha_bar,
    }[weighting]
    curvature = alpha_bar / (alpha_bar * TAU**2 + 1 - alpha_bar)
    return prior_weight * (weights * curvature).mean().item()


def test_the_dirac_is_the_limit_of_a_narrow_gaussian() -> None:
    operator, y = OPERATORS["gaussian_blur"], a_measurement(OPERATORS["gaussian_blur"], 0.1)
    found = [
        solve(quick(GaussianVariational, sigma=sigma), operator, y.double(), 0.1)
        for sigma in (1e-1, 1e-3, 1e-5, 0.0)
    ]
    gaps = [(x - found[-1]).abs().max().item() for x in found[:-1]]
    assert gaps[0] > 10 * gaps[1] > 100 * gaps[2] > 0
    assert gaps[2] < 1e-3
    # Where sigma_y is 1 and y is complete, its gradient is that of RED-diff with w_t = 1.
    prior = CountedPrior(IsotropicPrior())
    mean, eps = torch.randn(2, 2, *IMAGE).double()
    dirac = GaussianVariational(sigma=0.0).gradient(mean, 300, eps, y, operator, 1.0, prior)
    red = RedDiff(prior_weight=1.0, weighting="constant")
    torch.testing.assert_close(red.gradient(mean, 300, eps, y, operator, prior), dirac)


def test_the_gaussian_returns_a_draw() -> None:
    operator, sigma = Denoising((3, 32, 32)), 0.3
    y = a_measurement(operator, 0.1)
    x = solve(quick(GaussianVariational, num_steps=200, sigma=sigma), operator, y, 0.1)
    mean = solve(quick(GaussianVariational, num_steps=200, sigma=0.0), operator, y, 0.1)
    assert (x - mean).std().item() == pytest.approx(sigma, rel=0.03)


def test_times_fall_in_red_diff_and_are_spread_evenly_in_the_other() -> None:
    times = spread_times(1000)
    for part in (times, times[:100], times[450:500], spread_times(20)):
        bins = torch.histc(torch.tensor(part).double(), 10, 0, 1000)
        assert (bins - len(part) / 10).abs().max() <= 2
    seen = []
    prior = CountedPrior(IsotropicPrior())
    predict = prior.predict
    prior.predict = lambda x_t, t: (seen.append(t), predict(x_t, t))[1]
    quick(RedDiff)(
        torch.zeros(1, *IMAGE), Denoising(IMAGE), GaussianNoise(0.1, 0.1), prior, rngs_for(1)
    )
    assert seen == list(range(950, -1, -50))


def test_red_diff_returns_the_mean_before_the_last_step() -> None:
    operator, y = Denoising(IMAGE), a_measurement(Denoising(IMAGE), 0.1)
    torch.testing.assert_close(solve(RedDiff(num_steps=1), operator, y, 0.1), y)
    moved = solve(RedDiff(num_steps=2, learning_rate=0.01), operator, y, 0.1) - y
    assert moved.abs().max().item() == pytest.approx(0.01, rel=1e-3)  # one step of Adam


def test_red_diff_of_a_wide_posterior_returns_a_draw() -> None:
    y = a_measurement(Denoising((3, 32, 32)), 0.1)
    x = solve(RedDiff(num_steps=1, sigma_x0=0.3), Denoising((3, 32, 32)), y, 0.1)
    assert (x - y).std().item() == pytest.approx(0.3, rel=0.03)


def test_the_weightings_of_red_diff() -> None:
    assert RedDiff().weight(157.4) == pytest.approx(39.35)
    found = {name: weighting(4.0) for name, weighting in WEIGHTINGS.items()}
    assert found == pytest.approx(
        {
            "linear": 4,
            "square_root": 2,
            "square": 16,
            "log": math.log(5),
            "clipped": 1,
            "power_2_3": 4 ** (2 / 3),
            "constant": 1,
        }
    )


# How far 200 steps are from the posterior of a smooth Gaussian image: mean_error, gain, spread.
# Exact would be 0, 1, 1. Neither samples the posterior. RED-diff overfits: its gain exceeds 1
# where y is complete, and its spread is the jitter of Adam. The Gaussian's spread is sigma
# and jitter; with the paper's weight 1 it overfits as well, most of all the blur, whose small
# singular values least squares inverts; with 30 it shrinks too much where the noise is small.
DISTANCES = {
    ("gaussian_blur", RedDiff, 0.25): (0.34, 0.960, 0.60),
    ("super_resolution", RedDiff, 0.25): (0.05, 1.015, 0.53),
    ("inpainting", RedDiff, 0.25): (0.18, 0.999, 0.64),
    ("denoising", RedDiff, 0.25): (0.85, 1.089, 0.17),
    ("colorization", RedDiff, 0.25): (0.06, 1.010, 0.45),
    ("gaussian_blur", GaussianVariational, 1.0): (1.49, 1.119, 0.08),
    ("super_resolution", GaussianVariational, 1.0): (0.07, 0.998, 0.17),
    ("inpainting", GaussianVariational, 1.0): (0.44, 0.949, 0.24),
    ("denoising", GaussianVariational, 1.0): (0.82, 1.078, 0.07),
    ("colorization", GaussianVariational, 1.0): (0.05, 1.008, 0.12),
    ("gaussian_blur", GaussianVariational, 30.0): (0.33, 0.930, 0.22),
    ("super_resolution", GaussianVariational, 30.0): (0.12, 0.877, 0.20),
    ("inpainting", GaussianVariational, 30.0): (0.45, 0.933, 0.24),
    ("denoising", GaussianVariational, 30.0): (0.52, 0.868, 0.25),
    ("colorization", GaussianVariational, 30.0): (0.08, 0.970, 0.21),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "prior_weight"),
    [(RedDiff, 0.25), (GaussianVariational, 1.0), (GaussianVariational, 30.0)],
)
def test_the_distance_from_a_gaussian_posterior(
    method: type[VariationalSolver], prior_weight: float
) -> None:
    for task, operator in OPERATORS.items():
        problem = gaussian_problem(operator, SIGMA_Y.get(task, 0.05), smooth_covariance(IMAGE))
        start = "lifted" if task == "gaussian_blur" else "pseudo_inverse"  # as in configs/solvers/
        solver = method(num_steps=200, prior_weight=prior_weight, start=start)
        distance = posterior_distance(draw_samples(solver, problem, 200), problem)
        found = distance.mean_error, distance.gain, distance.spread
        assert found == pytest.approx(DISTANCES[task, method, prior_weight], abs=0.03), task


@each_solver
def test_results_do_not_depend_on_the_batch(method: type[VariationalSolver]) -> None:
    for operator in OPERATORS.values():
        solver = quick(method)
        y = a_measurement(operator, 0.05, batch=3)
        together = solve(solver, operator, y, 0.05)
        prior, noise = CountedPrior(IsotropicPrior()), GaussianNoise(0.05, 0.05)
        alone = solver(y[1:2], operator, noise, prior, rngs_for(3)[1:2])
        torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


@each_solver
def test_every_task_gives_finite_images_for_three_seeds(method: type[VariationalSolver]) -> None:
    for operator in OPERATORS.values():
        y = a_measurement(operator, 0.05)
        found = [solve(method(num_steps=10), operator, y, 0.05, seed) for seed in range(3)]
        assert all(x.shape == (2, *IMAGE) and x.isfinite().all() for x in found)
        assert not found[0].equal(found[1])


@each_solver
def test_the_identity_with_tiny_noise_returns_the_measurement(
    method: type[VariationalSolver],
) -> None:
    y = a_measurement(Denoising(IMAGE), 1e-3)
    solver = quick(method, num_steps=1000, learning_rate=0.01, **dirac(method))
    x = solve(solver, Denoising(IMAGE), y, 1e-3)
    assert (x - y).square().mean().sqrt() < 6e-3  # RED-diff keeps the jitter of Adam's last steps


@each_solver
def test_one_evaluation_a_step_and_no_gradient(method: type[VariationalSolver]) -> None:
    for num_steps in (1, 7, 30):
        prior = CountedPrior(IsotropicPrior())
        y = a_measurement(Denoising(IMAGE), 0.1, batch=3)
        solver = quick(method, num_steps=num_steps)
        x = solver(y, Denoising(IMAGE), GaussianNoise(0.1, 0.1), prior, rngs_for(3))
        assert (prior.evaluations.forward, prior.evaluations.backward) == (3 * num_steps, 0)
        assert x.dtype == y.dtype
        assert solve(solver, Denoising(IMAGE), y.double(), 0.1).dtype == torch.float64


def test_only_what_is_needed_is_demanded() -> None:
    y, prior, rngs = torch.ones(1, *IMAGE), CountedPrior(IsotropicPrior()), rngs_for(1)
    blind = Blind(IMAGE, IMAGE)
    for start, expected in (("lifted", y), ("adjoint", y / 2), ("pseudo_inverse", 2 * y)):
        x = RedDiff(num_steps=1, start=start)(y, blind, PoissonNoise(1.0), prior, rngs)
        torch.testing.assert_close(x, expected)
    with pytest.raises(InputError, match="one known sigma"):
        GaussianVariational()(y, Denoising(IMAGE), PoissonNoise(1.0), prior, rngs)
    with pytest.raises(InputError, match="sigma, which is 0"):
        GaussianVariational()(y, Denoising(IMAGE), GaussianNoise(0.0, 0.0), prior, rngs)
