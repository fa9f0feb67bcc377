"""BlindDPS and blind DMPlug: with a known kernel or image they are methods that know it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from davi.data.kernels import picture_of
from davi.metrics.scores import kernel_similarity
from davi.operators.convolution import Convolution, UnknownConvolution
from davi.operators.denoising import Denoising
from davi.operators.kernels import motion_kernel
from davi.operators.noise import GaussianNoise
from davi.priors.sampling import ancestral_step, spaced_schedule, spaced_times
from davi.schedule import Schedule
from davi.solvers import blind_dps
from davi.solvers.blind import BlindSolver
from davi.solvers.blind_dps import BlindDps, kernel_of, load_kernel_prior, taps_of
from davi.solvers.dmplug import Dmplug
from davi.solvers.dmplug_blind import DmplugBlind
from davi.solvers.dps import Dps
from davi.solvers.prior import CountedPrior
from davi.solvers.residual_gradient import predict_and_pull
from davi.system.errors import InputError
from davi.system.runtime import keyed_rng, normal_each
from tests.davi.solvers.spectral_problems import PRIOR_STD, IsotropicPrior, isotropic_prior, rngs_of
from tests.tiny import write_tiny_prior

SHAPE, SIDE, TAPS = (3, 16, 16), 8, 5
NOISE = GaussianNoise(0.01, 0.01)


class Knows(nn.Module):
    """A prior under which there is one image only."""

    def __init__(self, x0: Tensor) -> None:
        super().__init__()
        self.schedule, self.x0 = Schedule.named("linear"), x0

    def eps_and_variance(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        abar = self.schedule.alpha_bar_t(t, x_t)
        return (x_t - abar.sqrt() * self.x0) / (1 - abar).sqrt(), x_t[:, :0]


@pytest.fixture
def problem() -> tuple[Tensor, Tensor, Tensor]:
    """Image (2, 3, 16, 16), kernel (2, 1, 5, 5), measurement."""
    x = normal_each(SHAPE, rngs_of(range(2), seed=1)).mul(0.4).clamp(-1, 1)
    kernel = torch.stack([motion_kernel(TAPS, rng, 0.8) for rng in rngs_of(range(2), 5)])[:, None]
    return x, kernel, Convolution(SHAPE, kernel).A(x)


@pytest.fixture
def kernel_prior(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets BlindDPS find a white prior of pictures of kernels."""
    monkeypatch.setattr(blind_dps, "load_kernel_prior", lambda *_: (IsotropicPrior(), SIDE))


BLIND = [
    BlindDps(checkpoint="white", num_steps=5, sparsity=0.1),
    DmplugBlind(num_iterations=3, learning_rate=0.1),
]
each_solver = pytest.mark.parametrize("solver", BLIND, ids=lambda solver: solver.label)


@each_solver
@pytest.mark.usefixtures("kernel_prior")
def test_nobody_tells_it_the_kernel(solver: BlindSolver, problem: tuple[Tensor, ...]) -> None:
    _, kernel, y = problem
    operators = Convolution(SHAPE, kernel), Convolution(SHAPE, kernel.flip(0)).unknown()
    pairs = [
        solver.restore_with_kernel(y, operator, NOISE, isotropic_prior(), rngs_of(range(2)))
        for operator in operators
    ]
    for known, unknown in zip(*pairs, strict=True):
        assert torch.equal(known, unknown)
    x, found = pairs[0]
    assert torch.equal(solver(y, operators[0], NOISE, isotropic_prior(), rngs_of(range(2))), x)
    assert x.shape == (2, *SHAPE)
    assert found.shape == (2, 1, TAPS, TAPS)
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(dim=(1, 2, 3)), torch.ones(2))


@each_solver
@pytest.mark.usefixtures("kernel_prior")
def test_an_image_does_not_depend_on_the_batch(
    solver: BlindSolver, problem: tuple[Tensor, ...]
) -> None:
    y, operator = problem[2], UnknownConvolution(SHAPE, TAPS)
    together = solver.restore_with_kernel(y, operator, NOISE, isotropic_prior(), rngs_of(range(2)))
    alone = solver.restore_with_kernel(
        y[1:], operator, NOISE, isotropic_prior(), rngs_of(range(2))[1:]
    )
    for one, both in zip(alone, together, strict=True):
        torch.testing.assert_close(one, both[1:])


@each_solver
def test_other_problems_are_refused(solver: BlindSolver) -> None:
    with pytest.raises(InputError, match="finds the kernel of a convolution; here is Denoising"):
        solver.require(Denoising(SHAPE), NOISE)
    for told in (Dps(zeta=1.0), Dmplug()):
        with pytest.raises(InputError, match="needs the kernel of the blur, which is unknown"):
            told.require(UnknownConvolution(SHAPE, TAPS), NOISE)


def test_blind_dps_with_a_prior_of_one_kernel_is_dps(
    problem: tuple[Tensor, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the step size sqrt(abar_t), and draws for the kernel between those for the image."""
    _, kernel, y = problem
    knows = Knows(picture_of(kernel, SIDE))
    monkeypatch.setattr(blind_dps, "load_kernel_prior", lambda *_: (knows, SIDE))
    prior, rngs, operator = isotropic_prior(), rngs_of(range(2)), Convolution(SHAPE, kernel)
    times = spaced_times(1000, 6)
    spaced = spaced_schedule(prior.schedule, times)
    x_t = normal_each(SHAPE, rngs)
    normal_each((SIDE, SIDE), rngs)
    for step, t in zip(reversed(range(6)), times, strict=True):
        x0, variance, gradient = predict_and_pull(x_t, t, y, operator, prior, True)
        moved = ancestral_step(spaced, step, x_t, x0, variance, rngs)
        x_t = moved - prior.alpha_bar(t) ** 0.5 * gradient
        if step:
            normal_each((SIDE, SIDE), rngs)
    solver, counted = BlindDps(checkpoint="known", num_steps=6), isotropic_prior()
    x, found = solver.restore_with_kernel(y, operator, NOISE, counted, rngs_of(range(2)))
    torch.testing.assert_close(x, x_t, rtol=0, atol=1e-4)
    torch.testing.assert_close(found, kernel, rtol=0, atol=1e-3)
    assert (counted.evaluations.forward, counted.evaluations.backward) == (24, 24)


def test_blind_dps_goes_down_the_residual_of_each_image(problem: tuple[Tensor, ...]) -> None:
    """Against the difference quotient, where the clean estimates are c x_t, of |y - k * x0|."""
    y, t, priors = problem[2].double(), 200, (isotropic_prior(), isotropic_prior())
    unknown = UnknownConvolution(SHAPE, TAPS)
    states, steps = (
        [normal_each(shape, rngs_of(range(2), seed)).double() for shape in (SHAPE, (1, SIDE, SIDE))]
        for seed in (2, 3)
    )
    abar = priors[0].alpha_bar(t)
    c = abar**0.5 * PRIOR_STD**2 / (abar * PRIOR_STD**2 + 1 - abar)

    def residual(x_t: Tensor, picture_t: Tensor) -> Tensor:
        taps = (1 + (c * picture_t[..., 1:6, 1:6]).clamp(-1, 1)) / 2
        kernel = taps / taps.sum(dim=(1, 2, 3), keepdim=True)
        blurred = Convolution(SHAPE, kernel).A((c * x_t).clamp(-1, 1))
        return (y - blurred).square().sum(dim=(1, 2, 3)).sqrt()

    clean, _, gradients = BlindDps(checkpoint="white")._pull(states, t, y, unknown, priors)
    torch.testing.assert_close(clean[0], (c * states[0]).clamp(-1, 1), rtol=1e-5, atol=1e-6)
    pairs = list(zip(states, steps, strict=True))
    for i, gradient in enumerate(gradients):
        moved = [
            residual(*(s + sign * 1e-5 * d if j == i else s for j, (s, d) in enumerate(pairs)))
            for sign in (1, -1)
        ]
        expected = (moved[0] - moved[1]) / 2e-5
        found = (gradient * steps[i]).sum(dim=(1, 2, 3))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("kernel_prior")
def test_blind_dps_finds_the_kernel_of_a_known_image(problem: tuple[Tensor, ...]) -> None:
    x, kernel, y = problem
    unknown, similar = UnknownConvolution(SHAPE, TAPS), []
    for kernel_zeta in (0.5, 0.0):
        solver = BlindDps(checkpoint="white", num_steps=200, kernel_zeta=kernel_zeta)
        restored, found = solver.restore_with_kernel(
            y, unknown, NOISE, CountedPrior(Knows(x)), rngs_of(range(2))
        )
        torch.testing.assert_close(restored, x, rtol=0, atol=1e-3)
        similar.append(kernel_similarity(found, kernel))
    assert similar[0].min() > 0.85
    assert similar[1].max() < 0.75


def test_sparsity_acts_on_the_taps_alone(problem: tuple[Tensor, ...]) -> None:
    """Its gradient is sparsity / 2 d x0 / d x_t, on the taps; the sum of k itself is constant."""
    y, t, sparsity = problem[2], 300, 0.3
    priors = isotropic_prior(), isotropic_prior()
    states = [0.1 * normal_each(shape, rngs_of(range(2))) for shape in (SHAPE, (1, SIDE, SIDE))]
    pulls = [
        BlindDps(checkpoint="white", sparsity=each)._pull(
            states, t, y, UnknownConvolution(SHAPE, TAPS), priors
        )[2]
        for each in (sparsity, 0.0)
    ]
    torch.testing.assert_close(pulls[0][0], pulls[1][0])
    abar = priors[0].alpha_bar(t)
    slope = abar**0.5 * PRIOR_STD**2 / (abar * PRIOR_STD**2 + 1 - abar)
    expected = torch.zeros(2, 1, SIDE, SIDE)
    expected[..., 1:6, 1:6] = sparsity / 2 * slope
    torch.testing.assert_close(pulls[0][1] - pulls[1][1], expected, rtol=1e-3, atol=1e-5)


def test_a_kernel_comes_back_from_its_picture() -> None:
    kernel = motion_kernel(17, keyed_rng("cpu", 3))[None, None]
    for side in (17, 20, 32):
        torch.testing.assert_close(kernel_of(taps_of(picture_of(kernel, side), 17)), kernel)
    assert torch.equal(kernel_of(torch.zeros(1, 1, 3, 3)), torch.zeros(1, 1, 3, 3))


def test_what_is_no_prior_of_kernels_is_refused(tmp_path: Path) -> None:
    colour = write_tiny_prior(tmp_path / "colour.safetensors")
    with pytest.raises(InputError, match=r"a prior of 3 channels; one of kernels has 1"):
        load_kernel_prior(str(colour), "cpu", "fp32")
    grey = write_tiny_prior(tmp_path / "grey.safetensors", "network.in_channels=1")
    assert load_kernel_prior(str(grey), "cpu", "fp32")[1] == 16
    solver = BlindDps(checkpoint=str(grey), num_steps=2)
    unknown = UnknownConvolution(SHAPE, 17)
    with pytest.raises(InputError, match=r"16x16, too small for kernels of 17 taps"):
        solver.restore_with_kernel(
            torch.zeros(1, *SHAPE), unknown, NOISE, isotropic_prior(), rngs_of(range(1))
        )


class StartsAtTheTruth(DmplugBlind):
    """Begins with logits that are told."""

    logits: list

    def first_logits(self, size: int, rngs: list[torch.Generator]) -> Tensor:
        return torch.tensor(self.logits)


def test_blind_dmplug_that_keeps_the_true_kernel_is_dmplug() -> None:
    kernel = normal_each((1, TAPS, TAPS), rngs_of(range(2))).flatten(1).softmax(1)
    kernel = kernel.view(2, 1, TAPS, TAPS)
    operator, settings = Convolution(SHAPE, kernel), {"num_iterations": 6, "learning_rate": 0.1}
    y = operator.A(normal_each(SHAPE, rngs_of(range(2), seed=1)))
    blind = StartsAtTheTruth(**settings, kernel_learning_rate=0, logits=kernel.log().tolist())
    x, found = blind.restore_with_kernel(y, operator, NOISE, isotropic_prior(), rngs_of(range(2)))
    told = Dmplug(**settings)(y, operator, NOISE, isotropic_prior(), rngs_of(range(2)))
    torch.testing.assert_close(x, told, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found, kernel)


def test_blind_dmplug_finds_the_kernel_of_a_known_image(problem: tuple[Tensor, ...]) -> None:
    x, kernel, y = problem
    restored, found = DmplugBlind(num_ddim_steps=1, num_iterations=400).restore_with_kernel(
        y, UnknownConvolution(SHAPE, TAPS), NOISE, CountedPrior(Knows(x)), rngs_of(range(2))
    )
    torch.testing.assert_close(restored, x, rtol=0, atol=1e-3)
    assert kernel_similarity(found, kernel).min() > 0.999
    assert (Convolution(SHAPE, found).A(x) - y).std() < NOISE.sigma_low
