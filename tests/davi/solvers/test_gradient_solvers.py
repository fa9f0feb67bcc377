"""DPS, PiGDM and DMPlug: gradients through the prior, against Gaussians where all is known.

The numbers of the isotropic tables are those of independent implementations; what is asserted of
them to 0.02 are the gain E x / m and the spread std x / sqrt(v) of the exact posterior N(m, v).
"""

from itertools import pairwise, product

import pytest
import torch
from torch import Tensor, nn

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
from davi.operators.noise import ClippedNoise, GaussianNoise, PoissonNoise
from davi.operators.super_resolution import SuperResolution
from davi.operators.svd import SVDOperator
from davi.priors.sampling import ddpm_sample
from davi.priors.weight_file import read_prior_file
from davi.schedule import Schedule
from davi.score import ScoreModel
from davi.solvers.base import Solver
from davi.solvers.dmplug import Dmplug
from davi.solvers.dps import Dps
from davi.solvers.pigdm import Pigdm, ddim_coefficients
from davi.solvers.prior import CountedPrior
from davi.system.errors import InputError
from davi.system.runtime import keyed_rng, normal_each
from tests.tiny import write_tiny_prior

TAU = 0.5
SMALL, LARGE = (3, 8, 8), (3, 64, 64)
LINEAR = Schedule.named("linear")
TASKS = ["gaussian_blur", "super_resolution", "inpainting", "denoising", "colorization"]
SIGMAS = dict.fromkeys(TASKS, 0.05) | {"denoising": 0.2}


def operator_of(task: str, shape: tuple[int, int, int] = SMALL) -> SVDOperator:
    side = shape[1]
    return {
        "gaussian_blur": lambda: GaussianBlur(shape, 61, 1.5),
        "super_resolution": lambda: SuperResolution(shape, 4),
        "inpainting": lambda: Inpainting(shape, centred_box(side, side, side // 2)),
        "denoising": lambda: Denoising(shape),
        "colorization": lambda: Colorization(shape),
    }[task]()


class IsotropicPrior(nn.Module):
    """The exact score of N(0, TAU^2)."""

    schedule = LINEAR

    def eps_and_variance(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        abar = LINEAR.alpha_bar_t(t, x_t)
        return (1 - abar).sqrt() * x_t / (abar * TAU**2 + 1 - abar), x_t[:, :0]


class Half(nn.Module):
    """Predicts half of its input as noise, and a third of it as variance."""

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return torch.cat([x_t / 2, x_t / 3], dim=1)


class Scaled(SVDOperator):
    """A x = s x."""

    def __init__(self, shape: tuple[int, int, int], s: float) -> None:
        super().__init__(shape, shape)
        self._set_singular_values(torch.tensor(s, dtype=torch.float64))

    def U(self, spectrum: Tensor) -> Tensor:
        return spectrum

    U_adjoint = V = V_adjoint = U


class Blind(LinearOperator):
    """A x = 2 x, and nothing else is known of it."""

    def A(self, x: Tensor) -> Tensor:
        return 2 * x

    def A_adjoint(self, y: Tensor) -> Tensor:
        return 2 * y


def rngs_for(count: int, seed: int = 0) -> list[torch.Generator]:
    return [keyed_rng("cpu", seed, index) for index in range(count)]


def isotropic() -> CountedPrior:
    return CountedPrior(IsotropicPrior())


def solve(
    solver: Solver,
    y: Tensor,
    operator: LinearOperator,
    sigma_y: float = 0.05,
    prior: CountedPrior | None = None,
    seed: int = 0,
) -> Tensor:
    noise = GaussianNoise(sigma_y, sigma_y)
    return solver(y, operator, noise, prior or isotropic(), rngs_for(len(y), seed))


def gain_and_spread(solver: Solver, s: float, sigma_y: float, batch: int = 2) -> list[float]:
    """Of s x + noise, x from the prior; without a signal (s = 0) only the spread over TAU."""
    draws = normal_each((2, *LARGE), rngs_for(batch, seed=1))
    y = s * TAU * draws[:, 0] + sigma_y * draws[:, 1]
    x = solve(solver, y, Scaled(LARGE, s), sigma_y)
    if s == 0:
        return [(x.std() / TAU).item()]
    variance = 1 / (1 / TAU**2 + s**2 / sigma_y**2)
    mean = variance * s * y / sigma_y**2
    gain = (x * mean).sum() / mean.square().sum()
    return [gain.item(), ((x - gain * mean).std() / variance**0.5).item()]


COLUMNS = [(1.0, 0.05), (1.0, 0.2), (0.25, 0.05), (0.25, 0.2), (0.0, 0.05)]  # (s, sigma_y)


class OraclePigdm(Pigdm):
    """Knows the true variance of x_0 given x_t."""

    def conditional_variance(self, abar: float) -> float:
        return TAU**2 * (1 - abar) / (abar * TAU**2 + 1 - abar)


@pytest.mark.parametrize(
    ("solver", "expected"),
    [
        pytest.param(
            Pigdm(variant="noise_blind", eta=0),
            [1.01, 0, 1.16, 0, 1.16, 0, 3.56, 0, 0.98],
            marks=pytest.mark.slow,
        ),
        (Pigdm(variant="noise_blind"), [1.01, 0, 1.16, 0, 1.16, 0, 3.56, 0, 0.93]),
        (Pigdm(), [1.010, 0.47, 1.158, 0.46, 1.158, 0.46, 2.562, 0.63, 0.94]),
        pytest.param(
            Pigdm(variant="noise_aware_unscaled"),
            [1.010, 0.47, 1.159, 0.46, 1.159, 0.46, 2.751, 0.62, 0.94],
            marks=pytest.mark.slow,
        ),
        (
            Pigdm(variant="likelihood_score"),
            [0.988, 0.72, 0.910, 0.93, 0.910, 0.94, 0.889, 0.94, 0.94],
        ),
        pytest.param(
            Pigdm(variant="likelihood_score", num_steps=1000),
            [0.990, 0.95, 0.917, 1.04, 0.917, 1.04, 0.894, 1.00, 0.99],
            marks=pytest.mark.slow,
        ),
        pytest.param(
            OraclePigdm(variant="likelihood_score", num_steps=1000),
            [1.000, 0.93, 0.999, 0.98, 1.000, 0.98, 1.000, 0.99, 0.99],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_pigdm_on_an_isotropic_gaussian(solver: Solver, expected: list[float]) -> None:
    """Only s TAU / sigma_y matters: the second and the third column agree."""
    found = [number for column in COLUMNS for number in gain_and_spread(solver, *column)]
    assert found == pytest.approx(expected, abs=0.02)


DPS_TABLE = [
    (0.3, 1.0, 0.05, [0.498, 6.21]),
    (0.3, 1.0, 0.2, [0.560, 1.68]),
    (0.3, 0.25, 0.05, [0.138, 2.44]),
    (0.5, 1.0, 0.05, [0.783, 3.47]),
    (0.5, 1.0, 0.2, [0.872, 0.99]),
    (0.5, 0.25, 0.05, [0.237, 2.28]),
    (1.0, 1.0, 0.05, [1.010, 0.03]),
    (1.0, 1.0, 0.2, [1.160, 0.01]),
    (1.0, 0.25, 0.05, [0.469, 1.85]),
]


@pytest.mark.parametrize(
    ("zeta", "s", "sigma_y", "expected"),
    [DPS_TABLE[0], *(pytest.param(*row, marks=pytest.mark.slow) for row in DPS_TABLE[1:])],
)
def test_dps_on_an_isotropic_gaussian(
    zeta: float, s: float, sigma_y: float, expected: list[float]
) -> None:
    """Small zeta leaves the noise of the prior, large zeta returns y / s. Spread to 2 %."""
    found = gain_and_spread(Dps(zeta=zeta, clip=False), s, sigma_y)
    assert found[0] == pytest.approx(expected[0], abs=0.02)
    assert found[1] == pytest.approx(expected[1], abs=0.02, rel=0.02)


def test_dmplug_reconstructs_too_narrowly() -> None:
    """A standard normal z should become N(0, TAU^2), with a gain of 0.5."""
    for num_steps, gain in ((2, 0.084), (3, 0.165), (4, 0.225), (10, 0.374), (100, 0.486)):
        z = torch.randn(2, *SMALL)
        x = Dmplug(num_ddim_steps=num_steps, clip=False).reconstruct(z, isotropic())
        torch.testing.assert_close(x, gain * z, rtol=5e-3, atol=0)


@pytest.mark.parametrize("num_steps", [1, 7, pytest.param(1000, marks=pytest.mark.slow)])
def test_dps_without_guidance_is_ancestral_sampling(num_steps: int) -> None:
    model = ScoreModel(Half(), LINEAR)
    own = rngs_for(2)
    expected = ddpm_sample(model, normal_each(SMALL, own).double(), num_steps, own)
    y = torch.zeros(2, *SMALL).double()
    found = solve(Dps(num_steps=num_steps, zeta=0), y, Denoising(SMALL), prior=CountedPrior(model))
    torch.testing.assert_close(found, expected)


def test_the_guidance_of_dps_in_one_step() -> None:
    """J^T A^T r / |r| with J = kappa; the norm is that of each image."""
    for task in TASKS:
        operator, zeta = operator_of(task), 0.7
        y = torch.randn(3, *operator.measurement_shape).double()
        abar = LINEAR.alpha_bar[999]
        kappa = abar.sqrt() * TAU**2 / (abar * TAU**2 + 1 - abar)
        x0 = kappa * normal_each(SMALL, rngs_for(3)).double()
        residual = operator.A(x0) - operator.project(y)
        direction = residual / residual.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        expected = x0 - zeta * kappa * operator.A_adjoint(direction)
        found = solve(Dps(num_steps=1, zeta=zeta, clip=False), y, operator)
        torch.testing.assert_close(found, expected)


def test_the_guidance_of_dps_for_poisson_noise_in_one_step() -> None:
    """J^T A^T Lambda r / sqrt(r^T Lambda r), Lambda of Eq. 37 with intensities in [0, 1]."""
    operator, zeta = operator_of("super_resolution"), 0.7
    y = torch.rand(3, *operator.measurement_shape).double() * 1.8 - 0.9
    abar = LINEAR.alpha_bar[999]
    kappa = abar.sqrt() * TAU**2 / (abar * TAU**2 + 1 - abar)
    x0 = kappa * normal_each(SMALL, rngs_for(3)).double()
    residual = (operator.A(x0) - y) / 2  # of intensities
    weight = 1 / (2 * (y + 1) / 2)
    size = (weight * residual.square()).flatten(1).sum(dim=1).sqrt().view(-1, 1, 1, 1)
    expected = x0 - zeta * kappa * operator.A_adjoint(weight * residual / 2 / size)
    solver = Dps(num_steps=1, zeta=zeta, guidance="poisson", clip=False)
    for noise in (PoissonNoise(1.0), ClippedNoise(PoissonNoise(1.0))):
        found = solver(y, operator, noise, isotropic(), rngs_for(3))
        torch.testing.assert_close(found, expected)


def test_the_weighted_norm_is_for_poisson_noise() -> None:
    solver = Dps(num_steps=1, zeta=0.1, guidance="poisson")
    for noise in (GaussianNoise(0.1, 0.1), ClippedNoise(GaussianNoise(0.1, 0.1))):
        with pytest.raises(InputError, match="needs Poisson noise, here is GaussianNoise; set"):
            solver.require(Denoising(SMALL), noise)


def moments_of_annealed_dps(s: float, sigma_y: float, num_steps: int) -> list[float]:
    """Gain and spread of x = gain * mean + noise, one pixel and one linear step after the other."""
    alpha_bar = [*LINEAR.alpha_bar[torch.linspace(999, 0, num_steps).round().long()].tolist(), 1.0]
    share, variance = 0.0, 1.0  # of y in x, and what is not of y
    for abar, abar_next in pairwise(alpha_bar):
        kappa = abar**0.5 * TAU**2 / (abar * TAU**2 + 1 - abar)  # x0 of x_t
        alpha = abar / abar_next
        pull = (1 - alpha) / alpha**0.5 * s * kappa / (sigma_y**2 + (1 - abar) / abar)
        step = alpha**0.5 * (1 - abar_next) + abar_next**0.5 * (1 - alpha) * kappa
        keep = step / (1 - abar) - pull * s * kappa
        share = keep * share + pull
        variance = keep**2 * variance + (1 - alpha) * (1 - abar_next) / (1 - abar)
    exact = 1 / (1 / TAU**2 + s**2 / sigma_y**2)
    return [share * sigma_y**2 / (s * exact), (variance / exact) ** 0.5]


@pytest.mark.parametrize(("s", "sigma_y"), COLUMNS[:4])
def test_annealed_dps_on_an_isotropic_gaussian(s: float, sigma_y: float) -> None:
    """(0.93, 0.82), (0.80, 0.81), (0.11, 1.92), (0.21, 0.87): blind to a shrinking A."""
    solver = Dps(num_steps=20, guidance="annealed", zeta=1.0, clip=False)
    expected = moments_of_annealed_dps(s, sigma_y, 20)
    assert gain_and_spread(solver, s, sigma_y) == pytest.approx(expected, abs=0.02)


def test_annealed_dps_needs_the_noise_level() -> None:
    solver = Dps(num_steps=3, guidance="annealed", zeta=1.0)
    with pytest.raises(InputError, match="DPS needs Gaussian noise of one known sigma"):
        solver.require(Denoising(SMALL), PoissonNoise(1.0))


def test_clipped_pixels_give_dps_no_gradient() -> None:
    """At time 999 an estimate of half the noise makes nearly every x0 leave [-1, 1]."""
    prior = CountedPrior(ScoreModel(Half(), LINEAR))
    x = solve(Dps(num_steps=1, zeta=9.0), torch.zeros(2, *SMALL), Denoising(SMALL), prior=prior)
    assert (x.abs() == 1).float().mean() > 0.95


def test_the_residual_of_dps_falls_with_zeta() -> None:
    operator = operator_of("super_resolution")
    y = torch.randn(4, *operator.measurement_shape) * 0.3
    residuals = [
        (operator.A(solve(Dps(num_steps=50, zeta=zeta, clip=False), y, operator)) - y).norm()
        for zeta in (0.0, 0.05, 0.1, 0.2, 0.4)
    ]
    assert residuals == sorted(residuals, reverse=True)


def test_noise_blind_methods_take_any_noise_and_need_only_a() -> None:
    y = torch.randn(2, *SMALL) * 0.2
    for solver in (Dps(num_steps=3, zeta=0.1), Dmplug(num_iterations=2)):
        x = solver(y, Blind(SMALL, SMALL), PoissonNoise(1.0), isotropic(), rngs_for(2))
        assert x.shape == y.shape
    blind = Pigdm(num_steps=3, variant="noise_blind")
    assert blind(y, Denoising(SMALL), PoissonNoise(1.0), isotropic(), rngs_for(2)).isfinite().all()
    with pytest.raises(InputError, match="PiGDM needs Gaussian noise of one known sigma"):
        Pigdm()(y, Denoising(SMALL), PoissonNoise(1.0), isotropic(), rngs_for(2))


@pytest.mark.parametrize("variant", ["noise_blind", "noise_aware", "likelihood_score"])
def test_pigdm_needs_only_a_and_its_adjoint(variant: str) -> None:
    """A x = 2 x, with its singular values and without."""
    solver = Pigdm(num_steps=3, variant=variant)
    y, noise = torch.randn(2, *SMALL, dtype=torch.float64) * 0.2, GaussianNoise(0.1, 0.1)
    exact, found = (
        solver(y, operator, noise, isotropic(), rngs_for(2))
        for operator in (Scaled(SMALL, 2.0), Blind(SMALL, SMALL))
    )
    torch.testing.assert_close(found, exact)


def test_ddim_coefficients_stay_real() -> None:
    """What noise a step adds and keeps is what x_s has, until eta asks for more."""
    for num_steps, eta in product((20, 100, 1000), (0.0, 1.0, 1.5, 2.0)):
        times = [*range(0, 1000, 1000 // num_steps)]
        for s, t in pairwise(times):
            abar, abar_next = LINEAR.alpha_bar[t].item(), LINEAR.alpha_bar[s].item()
            c1, c2 = ddim_coefficients(abar, abar_next, eta)
            assert c2 >= 0
            assert (c1 == 0) == (eta == 0)
            assert c1**2 + c2**2 == pytest.approx(max(1 - abar_next, c1**2))
        assert ddim_coefficients(0.5, 1.0, eta) == (0, 0)


def test_an_eta_beyond_one_gives_images() -> None:
    assert solve(Pigdm(eta=2.0), torch.zeros(2, *SMALL), Denoising(SMALL)).abs().max() < 1


def test_pigdm_scales_its_guidance() -> None:
    """The last step alone: x = x0 + guidance sqrt(abar) J^T u, with J = kappa."""
    sigma_y, abar = 0.1, LINEAR.alpha_bar[0]
    y = torch.randn(2, *SMALL).double()
    kappa = abar.sqrt() * TAU**2 / (abar * TAU**2 + 1 - abar)
    shrink = 1 / (1 + sigma_y**2 / (1 - abar))
    x_t = abar.sqrt() * shrink * y + (1 - abar).sqrt() * normal_each(SMALL, rngs_for(2)).double()
    for guidance in (0.0, 1.0, 3.0):
        pull = kappa * shrink * (y - kappa * x_t)
        found = solve(Pigdm(num_steps=1, guidance=guidance), y, Denoising(SMALL), sigma_y)
        torch.testing.assert_close(found, kappa * x_t + guidance * abar.sqrt() * pull)


def test_dmplug_reconstructs_by_ddim() -> None:
    """Against the formulas of the schedule, clipping included."""
    z = normal_each(SMALL, rngs_for(2)).double()
    x_t = z
    for time, after in [(666, 333), (333, 0), (0, None)]:
        t = torch.full((2,), time)
        x0 = LINEAR.x0_from_eps(x_t, t, x_t / 2).clamp(-1, 1)
        if after is not None:
            x_t = LINEAR.add_noise(x0, torch.full((2,), after), LINEAR.eps_from_x0(x_t, t, x0))
    found = Dmplug().reconstruct(z, CountedPrior(ScoreModel(Half(), LINEAR)))
    torch.testing.assert_close(found, x0)
    assert (x0.abs() == 1).any()


def test_the_gradient_of_dmplug_against_finite_differences() -> None:
    shape = (1, 4, 4)
    operator, solver = SuperResolution(shape, 2), Dmplug(clip=False)
    prior = CountedPrior(gaussian_problem(operator, 0.1, smooth_covariance(shape)).prior)
    y = torch.randn(1, 1, 2, 2).double()
    z = torch.randn(1, *shape).double().requires_grad_(True)

    def loss(z: Tensor) -> Tensor:
        return (operator.A(solver.reconstruct(z, prior)) - y).square().mean()

    assert torch.autograd.gradcheck(loss, z, check_undefined_grad=False)


def test_dmplug_fits_what_is_measured_and_leaves_the_rest() -> None:
    """Pixels are independent: the hole keeps R(z_0), and everything else becomes the noisy y."""
    operator = operator_of("inpainting")
    y = operator.A(torch.rand(2, *SMALL) - 0.5)
    x = solve(Dmplug(num_iterations=150, learning_rate=0.3, clip=False), y, operator)
    start = 0.165 * normal_each(SMALL, rngs_for(2))
    kept = operator.singular_values.bool().expand_as(y)
    torch.testing.assert_close(x[kept], y[kept], rtol=0, atol=1e-3)
    torch.testing.assert_close(x[~kept], start[~kept], rtol=5e-3, atol=1e-6)


def test_dmplug_stops_each_image_by_itself() -> None:
    """One image stops, the other one does not; together they cost and give what they do alone."""
    operator, noise = Denoising(SMALL), GaussianNoise(0.05, 0.05)
    y = torch.stack([torch.full(SMALL, 0.05), torch.full(SMALL, 0.8)])
    solver = Dmplug(num_iterations=60, learning_rate=0.3, window=4, patience=2)
    together = isotropic()
    x = solver(y, operator, noise, together, rngs_for(2))
    spent = []
    for index in range(2):
        prior = isotropic()
        alone = solver(y[index : index + 1], operator, noise, prior, [rngs_for(2)[index]])
        torch.testing.assert_close(alone, x[index : index + 1])
        spent.append((prior.evaluations.forward, prior.evaluations.backward))
    (all_forward, all_backward), (forward, backward) = spent
    assert (all_forward, all_backward) == (183, 180)
    assert forward == backward < 150
    assert together.evaluations.forward == all_forward + forward
    assert together.evaluations.backward == all_backward + backward


@pytest.mark.parametrize(
    ("option", "forward"), [({"min_iterations": 60}, 183), ({"improvement": 0.99}, 3 * (4 + 2))]
)
def test_dmplug_says_when_to_stop(option: dict[str, float], forward: int) -> None:
    """After 60 of 60 iterations; or after the first window of 4 and a patience of 2."""
    settings = {"num_iterations": 60, "learning_rate": 0.3, "window": 4, "patience": 2}
    prior = isotropic()
    solve(Dmplug(**settings, **option), torch.full((1, *SMALL), 0.8), Denoising(SMALL), prior=prior)
    assert prior.evaluations.forward == forward


SOLVERS = {
    "dps": Dps(num_steps=3, zeta=0.3),
    "dps_annealed": Dps(num_steps=3, guidance="annealed", zeta=1.0),
    "pigdm": Pigdm(num_steps=3),
    "pigdm_score": Pigdm(num_steps=3, variant="likelihood_score"),
    "dmplug": Dmplug(num_iterations=3, learning_rate=0.1),
    "dmplug_early": Dmplug(num_iterations=3, learning_rate=0.1, window=2, patience=1),
}
each_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> CountedPrior:
    path = write_tiny_prior(tmp_path_factory.mktemp("tiny") / "prior.safetensors")
    return CountedPrior(ScoreModel(read_prior_file(path).network(), LINEAR))


@each_solver
def test_three_seeds_with_a_network(solver: Solver, tiny: CountedPrior) -> None:
    for task in TASKS:
        operator = operator_of(task, (3, 16, 16))
        y = torch.zeros(3, *operator.measurement_shape)
        x = solve(solver, y, operator, SIGMAS[task], tiny)
        assert x.shape == (3, 3, 16, 16)
        assert x.isfinite().all()
        assert not torch.allclose(x[0], x[1])


@each_solver
def test_an_image_does_not_depend_on_its_batch(solver: Solver) -> None:
    for task in TASKS:
        operator = operator_of(task)
        prior = CountedPrior(gaussian_problem(operator, 0.1, smooth_covariance(SMALL)).prior)
        y = normal_each(operator.measurement_shape, rngs_for(3)).double() * torch.tensor(
            [0.1, 0.3, 1.0]
        ).view(-1, 1, 1, 1)
        together = solve(solver, y, operator, prior=prior)
        noise = GaussianNoise(0.05, 0.05)
        for index, rng in enumerate(rngs_for(3)):
            alone = solver(y[index : index + 1], operator, noise, prior, [rng])
            torch.testing.assert_close(alone[0], together[index])


def test_what_is_in_the_hole_changes_nothing() -> None:
    operator = operator_of("inpainting")
    y = torch.randn(2, *SMALL)
    hole = ~operator.singular_values.bool()
    for solver in SOLVERS.values():
        torch.testing.assert_close(
            solve(solver, y, operator), solve(solver, y + 5 * hole, operator), rtol=0, atol=0
        )


@pytest.mark.parametrize(
    ("solver", "forward", "backward"),
    [
        (Dps(num_steps=1, zeta=0.1), 1, 1),
        pytest.param(Dps(zeta=0.1), 1000, 1000, marks=pytest.mark.slow),
        (Pigdm(num_steps=1), 1, 1),
        pytest.param(Pigdm(num_steps=1000), 1000, 1000, marks=pytest.mark.slow),
        (Pigdm(num_steps=20, variant="likelihood_score"), 20, 20),
        (Dmplug(num_iterations=1), 6, 3),
        (Dmplug(num_iterations=9), 30, 27),
        (Dmplug(num_iterations=5, num_ddim_steps=1), 6, 5),
    ],
)
def test_evaluations_per_image(solver: Solver, forward: int, backward: int) -> None:
    """DMPlug looks once more at the seed it ends with."""
    prior = isotropic()
    solve(solver, torch.zeros(2, *SMALL), Denoising(SMALL), prior=prior)
    assert prior.evaluations.forward == 2 * forward
    assert prior.evaluations.backward == 2 * backward


@pytest.mark.parametrize(
    ("solver", "atol"),
    [
        (Pigdm(variant="noise_blind"), 1e-4),
        (Pigdm(), 5e-3),
        (Pigdm(variant="likelihood_score"), 5e-3),
        (Dmplug(num_iterations=150, learning_rate=0.3), 2e-3),
        pytest.param(Dps(zeta=1.0, clip=False), 1e-2, marks=pytest.mark.slow),
    ],
)
def test_without_noise_the_identity_returns_the_measurement(solver: Solver, atol: float) -> None:
    """DPS without clipping: a pixel that leaves [-1, 1] has no gradient to bring it back."""
    y = normal_each(LARGE, rngs_for(1, seed=4)).clamp(-1.5, 1.5) * TAU
    x = solve(solver, y, Denoising(LARGE), sigma_y=1e-3)
    torch.testing.assert_close(x, y, rtol=0, atol=atol)


# What samples differ by from the exact posterior of smooth images: mean error, gain and spread of
# `PosteriorDistance`; 200 samples of a perfect solver have 0.07, 1 and 1. The biases are expected.
# DPS does not know the noise: zeta = 0.2 suits denoising, is too weak where A shrinks (blur, gray)
# and leaves part of the prior's spread there. So does annealed DPS, which knows it, and most where
# A averages (super-resolution). PiGDM takes a pixel of x_0 given x_t for independent
# of others and of variance 1 - abar, more than it has: it trusts y too much (gain above 1, spread
# below). With its guidance as a true score the gain is right where the weights of the default
# overshoot. DMPlug fits y without regard to noise, and its samples are too narrow.
DISTANCES = {
    "dps": (
        Dps(num_steps=250, zeta=0.2, clip=False),
        {
            "gaussian_blur": (0.500, 0.817, 1.163),
            "super_resolution": (0.111, 0.967, 0.978),
            "inpainting": (0.397, 0.987, 1.014),
            "denoising": (0.146, 0.998, 0.768),
            "colorization": (0.307, 0.928, 1.102),
        },
    ),
    "dps_annealed": (
        Dps(num_steps=250, guidance="annealed", zeta=1.0, clip=False),
        {
            "gaussian_blur": (0.665, 0.711, 1.230),
            "super_resolution": (0.596, 0.314, 1.113),
            "inpainting": (0.298, 0.956, 1.043),
            "denoising": (0.247, 0.951, 0.990),
            "colorization": (0.433, 0.835, 1.115),
        },
    ),
    "pigdm": (
        Pigdm(),
        {
            "gaussian_blur": (0.408, 1.067, 0.832),
            "super_resolution": (0.079, 1.023, 0.934),
            "inpainting": (0.231, 1.030, 0.847),
            "denoising": (0.395, 1.065, 0.547),
            "colorization": (0.071, 1.009, 0.880),
        },
    ),
    "pigdm_score": (
        Pigdm(variant="likelihood_score"),
        {
            "gaussian_blur": (0.078, 0.997, 0.929),
            "super_resolution": (0.078, 1.004, 0.940),
            "inpainting": (0.357, 1.006, 0.946),
            "denoising": (0.193, 0.977, 0.889),
            "colorization": (0.074, 0.994, 0.896),
        },
    ),
    "dmplug": (
        Dmplug(num_iterations=200, learning_rate=0.1, clip=False),
        {
            "gaussian_blur": (0.233, 0.969, 0.371),
            "super_resolution": (0.069, 1.011, 0.433),
            "inpainting": (0.540, 0.981, 0.462),
            "denoising": (0.310, 1.025, 0.194),
            "colorization": (0.174, 0.994, 0.291),
        },
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", DISTANCES)
def test_the_distance_from_the_exact_posterior(method: str) -> None:
    solver, expected = DISTANCES[method]
    for task in TASKS:
        problem = gaussian_problem(operator_of(task), SIGMAS[task], smooth_covariance(SMALL))
        found = posterior_distance(draw_samples(solver, problem, 200), problem)
        mean_error, gain, spread = expected[task]
        assert found.mean_error == pytest.approx(mean_error, abs=0.03)
        assert found.gain == pytest.approx(gain, abs=0.015)
        assert found.spread == pytest.approx(spread, abs=0.03)
