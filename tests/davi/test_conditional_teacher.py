"""The conditional teacher, its sampler and the generator that begins as it, in closed form."""

import pytest
import torch
from torch import Tensor, nn

from davi.generator import ConditionalGenerator
from davi.operators.gaussian_blur import GaussianBlur
from davi.operators.inpainting import Inpainting, RandomInpainting, centred_box, random_pixels
from davi.operators.measurement import MeasurementChannels, lift
from davi.operators.super_resolution import SuperResolution
from davi.priors.sampling import conditional_sample
from davi.schedule import Schedule
from davi.score import PosteriorDenoiser
from davi.system.errors import InputError
from davi.terms import teacher_term

SHAPE, SIGMA, DEVIATION = (1, 4, 4), 0.1, 0.5
DIM = 16
SCHEDULE = Schedule.named("linear")
SEES = MeasurementChannels(with_mask=False)
OPERATORS = {
    "inpainting": lambda: Inpainting(SHAPE, centred_box(4, 4, 2)),
    "super_resolution": lambda: SuperResolution(SHAPE, 2),
    "gaussian_blur": lambda: GaussianBlur(SHAPE, 3, 0.8),
}


class Scaled(nn.Module):
    """Says F = factor times the first channels of its input."""

    def __init__(self, factor: float = 0.0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, images: Tensor, t: Tensor) -> Tensor:
        return self.factor * images[:, :1]


def denoiser_of(task: str, factor: float = 0.0) -> PosteriorDenoiser:
    return PosteriorDenoiser(Scaled(factor), SCHEDULE, OPERATORS[task](), SIGMA, DEVIATION, SEES)


def white_posterior(denoiser: PosteriorDenoiser, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (B, DIM) and covariance (DIM, DIM) by dense algebra, float64."""
    A = denoiser.operator.A(torch.eye(DIM, dtype=torch.float64).view(-1, *SHAPE)).flatten(1).T
    covariance = torch.linalg.inv(
        A.T @ A / SIGMA**2 + torch.eye(DIM, dtype=torch.float64) / DEVIATION**2
    )
    return y.flatten(1).double() @ A @ covariance / SIGMA**2, covariance


def measured(denoiser: PosteriorDenoiser, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images, measurements, and those on the image grid."""
    rng = torch.Generator().manual_seed(0)
    operator = denoiser.operator
    x0 = DEVIATION * torch.randn(count, *SHAPE, generator=rng)
    y = operator.A(x0)
    y = operator.project(y + SIGMA * torch.randn(y.shape, generator=rng))
    return x0, y, lift(y, SHAPE, "nearest")


@pytest.mark.parametrize("task", OPERATORS)
def test_without_a_word_of_the_network_it_is_the_white_prior(task: str) -> None:
    denoiser = denoiser_of(task)
    x0, y, y_image = measured(denoiser, 3)
    mean = denoiser.white_mean(y_image)
    exact_mean, covariance = white_posterior(denoiser, y)
    torch.testing.assert_close(mean.flatten(1).double(), exact_mean, rtol=0, atol=1e-5)

    t = torch.tensor([20, 150, 600])
    x_t = SCHEDULE.add_noise(x0, t, torch.randn(x0.shape))
    for number, s in enumerate(SCHEDULE.noise_ratio(t, x0.double()).flatten()):
        x = x_t[number].flatten().double() / (1 / (1 + s)).sqrt()
        precision = torch.linalg.inv(covariance) + torch.eye(DIM, dtype=torch.float64) / s
        wanted = torch.linalg.solve(
            precision, torch.linalg.solve(covariance, exact_mean[number]) + x / s
        )
        found = denoiser.denoise(x_t, t, mean)[number].flatten().double()
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize("task", OPERATORS)
def test_the_residual_of_an_image_gives_the_image(task: str) -> None:
    denoiser = denoiser_of(task, factor=0.7)
    x0, _, y_image = measured(denoiser, 3)
    t, mean = torch.tensor([20, 150, 600]), denoiser.white_mean(y_image)
    x_t = SCHEDULE.add_noise(x0, t, torch.randn(x0.shape))
    denoised = denoiser.denoise(x_t, t, mean)
    residual = denoiser.residual_of(denoised, x_t, t, mean)
    torch.testing.assert_close(residual, denoiser.residual(x_t, t, mean), rtol=0, atol=2e-3)


def test_the_residual_has_the_size_of_one_deviation_at_every_noise() -> None:
    denoiser = denoiser_of("inpainting")
    x0, _, y_image = measured(denoiser, 4000)
    mean = denoiser.white_mean(y_image)
    for time in (20, 150, 600):
        t = torch.full((len(x0),), time)
        x_t = SCHEDULE.add_noise(x0, t, torch.randn(x0.shape, generator=torch.Generator()))
        spread = denoiser.residual_of(x0, x_t, t, mean).std(dim=0)
        assert (spread - 1).abs().max() < 0.05


@pytest.mark.parametrize("num_steps", [3, 12])
def test_samples_of_a_white_prior_are_posterior_samples(num_steps: int) -> None:
    denoiser, count = denoiser_of("inpainting"), 20000
    _, y, y_image = measured(denoiser, 1)
    mean = denoiser.white_mean(y_image).expand(count, -1, -1, -1)
    rng = torch.Generator().manual_seed(1)
    noises = [torch.randn(mean.shape, generator=rng) for _ in range(num_steps)]
    samples = conditional_sample(denoiser, mean, noises).flatten(1).double()
    exact_mean, covariance = white_posterior(denoiser, y)
    deviation = covariance.diagonal().sqrt()
    # The last evaluation takes the mean, which leaves out noise of 0.015.
    assert ((samples.mean(dim=0) - exact_mean[0]) / deviation).abs().max() < 0.05
    assert (samples.std(dim=0) / deviation - 1).abs().max() < 0.04


def test_a_generator_begins_as_its_teacher_with_the_spread_of_what_is_measured() -> None:
    operator, h = OPERATORS["inpainting"](), 0.8
    generator = ConditionalGenerator(
        Scaled(), SCHEDULE, operator, SIGMA, DEVIATION, SEES, endpoint_scale=h, start=40.0
    )
    y_image, count = measured(denoiser_of("inpainting"), 1)[2], 20000
    z = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(1))
    y_image = y_image.expand(count, -1, -1, -1)
    with torch.no_grad():
        samples = generator(y_image + h * z, torch.zeros(count, dtype=torch.int64), y_image)
    seen = operator.singular_values.expand(SHAPE) > 0
    exact = (1 / SIGMA**2 + 1 / DEVIATION**2) ** -0.5
    assert (samples.std(dim=0)[seen] / exact - 1).abs().max() < 0.06
    assert samples.std(dim=0)[~seen].max() < 0.02  # where y is silent a mean, as a teacher's


class ExactScore(nn.Module):
    """The F of E[x0 | x_t, y] for samples `width` times as wide as the white posterior."""

    def __init__(
        self, teacher: PosteriorDenoiser, mean: Tensor, width: float, factor: float = 1
    ) -> None:
        super().__init__()
        self.teacher, self.mean, self.width, self.factor = teacher, mean, width, factor

    def forward(self, images: Tensor, t: Tensor) -> Tensor:
        x_t, s = images[:, :1], SCHEDULE.noise_ratio(t, images)
        x = x_t / SCHEDULE.alpha_bar_t(t, images).sqrt()
        variance = self.width**2 * self.teacher.variance
        x0 = self.mean + self.teacher.scale(x - self.mean, variance / (variance + s))
        return self.factor * self.teacher.residual_of(x0, x_t, t, self.mean)


@pytest.mark.parametrize(("width", "sign"), [(2.0, 1), (0.5, -1)])
def test_the_direction_draws_wide_samples_together_and_narrow_ones_apart(
    width: float, sign: int
) -> None:
    teacher, count = denoiser_of("inpainting"), 4000
    y_image = measured(teacher, 1)[2].expand(count, -1, -1, -1)
    mean = teacher.white_mean(y_image)
    rng = torch.Generator().manual_seed(2)
    z, eps = (torch.randn(count, *SHAPE, generator=rng) for _ in range(2))
    deviation = teacher.scale(z, width * teacher.variance.sqrt())

    def term(factor: float) -> tuple[Tensor, Tensor]:
        network = ExactScore(teacher, mean, width, factor)
        fake_score = PosteriorDenoiser(network, SCHEDULE, teacher.operator, SIGMA, DEVIATION, SEES)
        t = torch.full((count,), 100)
        return teacher_term(fake_score, teacher, mean + deviation, t, eps, y_image)

    loss, direction = term(1.0)
    assert sign * (direction * deviation).mean() > 0
    assert loss < min(term(0.9)[0], term(1.1)[0])  # no other multiple of it says x0 better


def test_a_copy_of_the_teacher_has_nothing_to_say() -> None:
    teacher, fake_score = (denoiser_of("gaussian_blur", factor=0.3) for _ in range(2))
    x0, _, y_image = measured(teacher, 3)
    t, eps = torch.tensor([20, 150, 600]), torch.randn(x0.shape)
    _, direction = teacher_term(fake_score, teacher, x0, t, eps, y_image)
    assert not direction.any()


def test_a_sample_that_is_far_off_counts_with_one_deviation() -> None:
    teacher, fake_score = denoiser_of("inpainting", factor=0.3), denoiser_of("inpainting")
    x0 = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    x0[1] *= 1e3
    t, none = torch.tensor([20, 20]), torch.zeros_like(x0)
    _, direction = teacher_term(fake_score, teacher, x0, t, none, none)
    found = teacher.scale(direction, 2 * teacher.variance.sqrt())  # in deviations
    seen = SCHEDULE.add_noise(x0, t, none)
    torch.testing.assert_close(found[0], -0.3 * seen[0])  # a near one as it is
    torch.testing.assert_close(found[1], -seen[1] / seen[1].square().mean().sqrt())


@pytest.mark.parametrize(
    "operator",
    [
        SuperResolution((1, 8, 8), 2, "bicubic"),
        RandomInpainting(SHAPE, lambda rng: random_pixels(4, 4, 0.5, rng)),
    ],
)
def test_measurements_that_the_image_grid_cannot_hold_are_refused(operator: object) -> None:
    with pytest.raises(InputError, match="conditional teacher"):
        PosteriorDenoiser(Scaled(), SCHEDULE, operator, SIGMA, DEVIATION, SEES)
