"""Samples of the recipes posterior and energy against exact posteriors of Gaussian images.

Images of 16x16 whose spectrum falls as 1 / (1 + f^2), pixels of deviation 0.5. Small networks are
trained by the real trainer. Means and spreads are compared in the singular directions of A: what is
measured and what is not.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial

import pytest
import scipy.stats
import torch
from torch import Tensor, nn

from davi.bridge import PosteriorBridge, end_cdf
from davi.likelihood import PosteriorTarget, denoising_error
from davi.metrics.ensembles import rank_histogram
from davi.operators.denoising import Denoising
from davi.operators.gaussian_blur import GaussianBlur
from davi.operators.inpainting import Inpainting, centred_box
from davi.operators.measurement import ForwardModel, MeasurementChannels
from davi.operators.noise import GaussianNoise
from davi.operators.super_resolution import SuperResolution
from davi.operators.svd import SVDOperator
from davi.priors.analytic import GaussianMixturePrior
from davi.sampler import posterior_sample
from davi.schedule import Schedule
from davi.score import FrozenPrior, ScoreModel
from davi.trainer import DaviTrainer, LossWeights
from davi.training.ema import Ema
from davi.training.learning_rate import RateShape
from davi.training.network_optimizer import NetworkOptimizer
from guided_diffusion.nn import timestep_embedding
from guided_diffusion.presets import UNetConfig, create_unet
from tests.tiny import ALONE

pytestmark = pytest.mark.slow

SIZE, DEVIATION, SIGMA = 16, 0.5, 0.1
SHAPE, DIM = (1, SIZE, SIZE), SIZE**2
SCHEDULE = Schedule.named("linear")
BATCH, NUM_ITERATIONS = 256, 1500
NUM_UNET_ITERATIONS = 600
OPERATORS = {
    "inpainting": lambda: Inpainting(SHAPE, centred_box(SIZE, SIZE, 8)),
    "super_resolution": lambda: SuperResolution(SHAPE, 4),
    "gaussian_blur": lambda: GaussianBlur(SHAPE, 9, 1.5),
    "denoising": lambda: Denoising(SHAPE),
}
CASES = [*((task, "posterior") for task in OPERATORS), ("denoising", "energy")]
MEASURED = 0.1  # singular values from here on count as measured; the blur's fall to 0


def image_covariance() -> Tensor:
    """(DIM, DIM) float64; circulant, so that the Fourier transform makes it diagonal."""
    frequency = torch.fft.fftfreq(SIZE, dtype=torch.float64) * SIZE
    spectrum = 1 / (1 + frequency[:, None] ** 2 + frequency[None, :] ** 2)
    correlation = torch.fft.ifft2(spectrum).real
    correlation *= DEVIATION**2 / correlation[0, 0]
    rows, columns = torch.arange(DIM) // SIZE, torch.arange(DIM) % SIZE
    apart = [(axis[:, None] - axis[None, :]) % SIZE for axis in (rows, columns)]
    return correlation[apart[0], apart[1]]


def analytic_prior() -> GaussianMixturePrior:
    covariance = image_covariance().float()
    return GaussianMixturePrior(torch.ones(1), torch.zeros(1, DIM), covariance[None], SCHEDULE)


class Mlp(nn.Module):
    """A linear map and a small network of several images and a time, 0 at the start."""

    def __init__(self, num_images: int, width: int = 256, embedding: int = 32) -> None:
        super().__init__()
        self.embedding = embedding
        self.linear = nn.Linear(num_images * DIM, DIM)
        self.scale = nn.Linear(embedding, num_images * DIM)  # the linear map depends on the time
        self.layers = nn.Sequential(
            nn.Linear(num_images * DIM + embedding, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, DIM),
        )
        for layer in (self.linear, self.scale, self.layers[-1]):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor, t: Tensor) -> Tensor:
        flat, time = images.flatten(1), timestep_embedding(t, self.embedding)
        linear = self.linear(flat * (1 + self.scale(time)))
        return (linear + self.layers(torch.cat([flat, time], dim=1))).view(-1, *SHAPE)


def small_unet(num_images: int) -> nn.Module:
    """An ADM UNet of 0.8 M parameters, 0 at the start."""
    return create_unet(
        UNetConfig(
            image_size=SIZE,
            in_channels=num_images,
            model_channels=32,
            out_channels=1,
            num_res_blocks=1,
            attention_resolutions=(8,),
            channel_mult=(1, 2),
            num_head_channels=32,
            resblock_updown=True,
        )
    )


class WhiteStart(nn.Module):
    """A generator that begins as the posterior under a white prior."""

    def __init__(
        self, operator: SVDOperator, sees: MeasurementChannels, network: nn.Module
    ) -> None:
        super().__init__()
        self.network = network
        self.operator, self.sees = operator, sees
        values = operator.singular_values.float()
        self.register_buffer("variance", 1 / (values.square() / SIGMA**2 + DEVIATION**-2))

    def forward(self, y_a: Tensor, a: Tensor, y_image: Tensor) -> Tensor:
        operator, z = self.operator, y_a - y_image
        y = y_image if operator.measurement_shape == SHAPE else operator.A(y_image)
        back = operator.V_adjoint(operator.A_adjoint(y)) / SIGMA**2
        mean = operator.V(self.variance * back)
        moved = z + self.network(torch.cat([mean, z], dim=1), torch.zeros_like(a))
        return mean + operator.V(self.variance.sqrt() * moved)


class AroundPrior(nn.Module):
    """A noise prediction that begins as the prior's, `difference` being 0."""

    def __init__(self, prior: FrozenPrior, difference: nn.Module) -> None:
        super().__init__()
        self.prior, self.difference = prior, difference

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        alpha_bar = SCHEDULE.alpha_bar_t(t, x)
        x_t, y = x[:, :1], x[:, 1:]  # y is empty if it is not shown
        scaled = x_t / (1 - alpha_bar + alpha_bar * DEVIATION**2).sqrt()
        return self.prior.eps(x_t, t) + self.difference(torch.cat([scaled, y], dim=1), t)


def posterior_target(
    prior: FrozenPrior, images: Tensor, noise: Tensor, deviation: float
) -> PosteriorTarget:
    """The target of recipe `posterior`; the error of the prior is measured on the images."""
    return PosteriorTarget(
        prior=prior,
        form="denoised",
        error=denoising_error(prior, images, noise, 24),
        spectral_power=1,
        image_deviation=deviation,
    )


def bridge_to_noise() -> PosteriorBridge:
    """At whose end a generator is given y + z."""
    return PosteriorBridge(
        mixing="linear",
        perturbation="constant",
        h=1.0,
        time_cdf=end_cdf(),
        extra_noise=False,
        resize="nearest",
        schedule=SCHEDULE,
    )


def build_trainer(
    task: str,
    sees: bool = True,
    network: Callable[[int], nn.Module] = Mlp,
    rates: tuple[float, float] = (3e-4, 1e-2),
    batch_size: int = BATCH,
    num_iterations: int = NUM_ITERATIONS,
) -> DaviTrainer:
    """The trainer of a task; `network` makes one that sees so many images."""
    torch.manual_seed(0)
    operator, prior = OPERATORS[task](), FrozenPrior(analytic_prior())
    channels = MeasurementChannels(with_mask=False)
    generator = WhiteStart(operator, channels, network(2))
    around_prior = AroundPrior(prior, network(1 + sees))
    fake_score = ScoreModel(around_prior, SCHEDULE, sees=channels if sees else None)
    optimizer = partial(
        NetworkOptimizer,
        weight_decay=0.0,
        rate_shape=RateShape(warmup=0, cooldown=num_iterations // 2, total=num_iterations),
        precision="fp32",
        betas=(0.0, 0.99),
    )
    images, noise = images_of(64, 1), torch.randn(64, *SHAPE)
    return DaviTrainer(
        generator=generator,
        fake_score=fake_score,
        prior=prior,
        target=posterior_target(prior, images, noise, DEVIATION),
        ema=Ema(generator, 0.99),
        generator_optimizer=optimizer(generator.network, learning_rate=rates[0]),
        fake_score_optimizer=optimizer(fake_score.network.difference, learning_rate=rates[1]),
        forward_model=ForwardModel(operator, GaussianNoise(SIGMA, SIGMA)),
        bridge=bridge_to_noise(),
        weights=LossWeights(
            gamma=0.0,
            ikl=1.0,
            reg=0.0,
            t_ikl=1000,
            ikl_weight="constant",
            noise_range=(0.02, 0.5),
        ),
        seed=0,
        batch_size=batch_size,
        num_micro_batches=1,
        validation=torch.zeros(1, *SHAPE),
        world=ALONE,
    )


def images_of(count: int, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return analytic_prior().sample(count, rng).view(-1, *SHAPE)


@torch.no_grad()
def compare(trainer: DaviTrainer, count: int = 32, num_samples: int = 400) -> dict[str, float]:
    """Spreads relative to the exact posterior's and errors of the mean in its deviations."""
    operator = trainer.forward_model.operator
    rngs = [torch.Generator().manual_seed(i) for i in range(count)]
    y, _ = trainer.forward_model.measure(images_of(count, 2), rngs)
    identity = torch.eye(DIM, dtype=torch.float64).view(-1, *SHAPE)
    A, axes = operator.A(identity).flatten(1).T, operator.V(identity).flatten(1).T
    covariance = torch.linalg.inv(A.T @ A / SIGMA**2 + torch.linalg.inv(image_covariance()))
    exact_mean = y.flatten(1).double() @ A @ covariance / SIGMA**2
    y_image = y if y.shape[1:] == SHAPE else nn.functional.interpolate(y, SIZE)
    z = torch.randn(num_samples, count, *SHAPE, generator=torch.Generator().manual_seed(3))
    generator = trainer.ema.module
    samples = torch.stack([posterior_sample(generator, trainer.bridge, y_image, one) for one in z])
    mean = samples.mean(dim=0).flatten(1).double()
    deviations = (samples - samples.mean(dim=0)).flatten(2).double()

    spread = (deviations @ axes).square().mean(dim=(0, 1)).sqrt()
    exact = ((covariance @ axes) * axes).sum(dim=0).sqrt()
    error = ((mean - exact_mean) @ axes / exact).square().mean(dim=0)
    error -= (spread / exact).square() / num_samples  # what the mean of so few adds by chance
    pixels = deviations.square().mean(dim=(0, 1)).sqrt() / covariance.diagonal().sqrt()
    measured = operator.singular_values.expand(SHAPE).flatten() >= MEASURED
    return {
        "measured": (spread / exact)[measured].mean().item(),
        "unmeasured": (spread / exact)[~measured].mean().item() if (~measured).any() else 1.0,
        "lowest pixel": pixels.quantile(0.05).item(),
        "highest pixel": pixels.quantile(0.95).item(),
        "mean error": math.sqrt(error.mean().item()),
    }


def train(trainer: DaviTrainer, num_iterations: int = NUM_ITERATIONS) -> DaviTrainer:
    for iteration in range(num_iterations):
        trainer.train_step(images_of(trainer.batch_size, 100 + iteration), iteration)
    return trainer


@cache
def trained(task: str, recipe: str) -> DaviTrainer:
    if recipe == "posterior":
        return train(build_trainer(task))
    trainer = build_trainer(task, rates=(1e-3, 0.0))
    trainer.target, trainer.prior = None, None
    trainer.weights = replace(
        trainer.weights, ikl=0.0, energy=1.0, energy_patches=(1, 2, 4, 8), noise_range=None
    )
    return train(trainer)


@pytest.mark.parametrize(("task", "recipe"), [*CASES, ("super_resolution", "energy")])
def test_samples_are_posterior_samples(task: str, recipe: str) -> None:
    found = compare(trained(task, recipe))
    print({name: round(value, 3) for name, value in found.items()})
    assert 0.95 < found["measured"] < 1.05
    assert 0.95 < found["unmeasured"] < 1.05
    assert found["lowest pixel"] > 0.90
    assert found["highest pixel"] < 1.08
    assert found["mean error"] < 0.18


def share_of_uneven_directions(samples: Tensor, truth: Tensor, operator: SVDOperator) -> float:
    """In how many singular directions the ranks of the truth are not uniform, at a level of 1 %.

    Args:
        samples: (N, B, *SHAPE), N of 8 k - 1.
        truth: (B, *SHAPE).
        operator: A, whose directions are looked at.
    """
    directions = [operator.V_adjoint(images).flatten(1).T for images in (truth, *samples)]
    truth, *samples = (each[:, None, None] for each in directions)  # (DIM, 1, 1, B)
    counts = rank_histogram(torch.stack(samples), truth).unflatten(1, (8, -1)).sum(dim=2)
    return float((scipy.stats.chisquare(counts, axis=1).pvalue < 0.01).mean())


@torch.no_grad()
def samples_of(trainer: DaviTrainer, truth: Tensor, count: int) -> Tensor:
    rngs = [torch.Generator().manual_seed(i) for i in range(len(truth))]
    y, _ = trainer.forward_model.measure(truth, rngs)
    y_image = y if y.shape[1:] == SHAPE else nn.functional.interpolate(y, SIZE)
    z = torch.randn(count, *truth.shape, generator=torch.Generator().manual_seed(3))
    generator = trainer.ema.module
    return torch.stack([posterior_sample(generator, trainer.bridge, y_image, one) for one in z])


@pytest.mark.parametrize(("task", "recipe"), CASES)
def test_the_truth_has_every_rank_among_the_samples_equally_often(task: str, recipe: str) -> None:
    """Simulation-based calibration (Talts et al. 2018) in every singular direction."""
    trainer, truth = trained(task, recipe), images_of(500, 4)
    operator = trainer.forward_model.operator
    samples = samples_of(trainer, truth, 31)
    mean = samples.mean(dim=0)
    uneven = {
        width: share_of_uneven_directions(mean + width * (samples - mean), truth, operator)
        for width in (1.0, 0.8, 1.25)
    }
    print({width: round(share, 3) for width, share in uneven.items()})
    assert uneven[1.0] < 0.1  # denoising has 0.05: its spread is 4 % too small
    assert uneven[0.8] > 0.5  # too sure
    assert uneven[1.25] > 0.5  # not sure enough


def test_samples_of_unets_are_posterior_samples() -> None:
    trainer = build_trainer(
        "inpainting",
        network=small_unet,
        rates=(3e-4, 2e-3),
        batch_size=64,
        num_iterations=NUM_UNET_ITERATIONS,
    )
    found = compare(train(trainer, NUM_UNET_ITERATIONS))
    print({name: round(value, 3) for name, value in found.items()})
    assert 0.93 < found["measured"] < 1.05
    assert 0.85 < found["unmeasured"] < 1.05


def test_under_the_objective_of_the_paper_samples_collapse() -> None:
    """Its consistency term is the likelihood at x0_hat, and s_psi is not given y."""
    trainer = build_trainer("inpainting", sees=False)
    trainer.target = None
    trainer.weights = replace(trainer.weights, gamma=1 / (2 * SIGMA**2), reduction="sum")
    found = compare(train(trainer, 800))
    print({name: round(value, 3) for name, value in found.items()})
    assert found["measured"] < 0.5
