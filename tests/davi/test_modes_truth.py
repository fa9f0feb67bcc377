"""Recipes `conditional_teacher` and `energy` against exact posteriors of several modes.

Images of 16x16 are drawn from a mixture of Gaussians whose means differ in the hole of inpainting
and, a little, around it, so that the measurement changes the weights of the modes. Small networks
are trained by the real trainers. The control has the likelihood in its target (recipe `posterior`).
"""

import copy
import math
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from davi.generator import ConditionalGenerator
from davi.likelihood import PosteriorTarget
from davi.operators.inpainting import Inpainting, centred_box
from davi.operators.measurement import ForwardModel, MeasurementChannels
from davi.operators.noise import GaussianNoise
from davi.priors.analytic import GaussianMixturePrior
from davi.priors.sampling import conditional_sample
from davi.priors.teacher_trainer import TeacherTrainer
from davi.sampler import posterior_sample
from davi.score import FrozenPrior, PosteriorDenoiser, ScoreModel
from davi.system.runtime import keyed_rng
from davi.trainer import DaviTrainer, LossWeights
from davi.training.ema import Ema
from davi.training.learner import Learner
from davi.training.learning_rate import RateShape
from davi.training.network_optimizer import NetworkOptimizer
from guided_diffusion.nn import timestep_embedding
from tests.davi.test_posterior_truth import (
    DIM,
    SCHEDULE,
    SHAPE,
    SIGMA,
    SIZE,
    AroundPrior,
    WhiteStart,
    bridge_to_noise,
    image_covariance,
    posterior_target,
)
from tests.tiny import ALONE

pytestmark = pytest.mark.slow

BATCH, TEACHER_ITERATIONS, GENERATOR_ITERATIONS = 256, 3400, 1300
WHITE_DEVIATION = 0.5
WEIGHTS = {2: [0.5, 0.5], 4: [0.4, 0.3, 0.2, 0.1]}
OPERATOR = Inpainting(SHAPE, centred_box(SIZE, SIZE, 8))
SEEN = OPERATOR.singular_values.expand(SHAPE).flatten() > 0
NUM_MEASUREMENTS, NUM_SAMPLES, NUM_STEPS = 16, 400, 60
COMMON = {
    "schedule": SCHEDULE,
    "operator": OPERATOR,
    "sigma": SIGMA,
    "deviation": WHITE_DEVIATION,
    "sees": MeasurementChannels(with_mask=False),
}


@cache
def prior_of(num_modes: int) -> GaussianMixturePrior:
    """Modes of pixel deviation 0.3 around edges of 4 directions that fade out around the hole."""
    offset = torch.arange(SIZE) - (SIZE - 1) / 2
    hole = torch.cos(math.pi * offset / 8).clamp(min=0) * (offset.abs() < 4)
    around = torch.exp(-offset.square() / 50)
    edge = offset.sign()[None].expand(SIZE, SIZE)
    means = []
    for signs in (edge, -edge, edge.T, -edge.T)[:num_modes]:
        inside, outside = (signs * shape[:, None] * shape for shape in (hole, around))
        means.append(4 * (inside / inside.norm() + 0.1 * outside / outside.norm()).flatten())
    covariance = (0.3 / 0.5) ** 2 * image_covariance().float()
    covariances = covariance.expand(num_modes, -1, -1).clone()
    weights = torch.tensor(WEIGHTS[num_modes])
    return GaussianMixturePrior(weights, torch.stack(means), covariances, SCHEDULE)


def images_of(num_modes: int, count: int, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return prior_of(num_modes).sample(count, rng).view(-1, *SHAPE)


class Mlp(nn.Module):
    """A linear map and a residual network of x_t, m0 and the time; 0 at the start."""

    def __init__(self, width: int = 512, embedding: int = 64) -> None:
        super().__init__()
        self.embedding = embedding
        self.time = nn.Sequential(nn.Linear(embedding, width), nn.SiLU(), nn.Linear(width, width))
        self.first, self.last = nn.Linear(2 * DIM, width), nn.Linear(width, DIM)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width),
                nn.SiLU(),
                nn.Linear(width, width),
                nn.SiLU(),
                nn.Linear(width, width),
            )
            for _ in range(2)
        )
        self.linear, self.scale = nn.Linear(2 * DIM, DIM), nn.Linear(width, 2 * DIM)
        for layer in (self.linear, self.last, self.scale):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor, t: Tensor) -> Tensor:
        flat, time = images.flatten(1), self.time(timestep_embedding(t, self.embedding))
        hidden = self.first(flat) + time
        for block in self.blocks:
            hidden = hidden + block(hidden + time)
        linear = self.linear(flat * (1 + self.scale(time)))
        return (linear + self.last(nn.functional.silu(hidden))).view(-1, *SHAPE)


def optimizer(
    network: nn.Module, rate: float, total: int, cooldown: int, betas: tuple[float, float]
) -> NetworkOptimizer:
    return NetworkOptimizer(
        network,
        learning_rate=rate,
        weight_decay=0.0,
        betas=betas,
        rate_shape=RateShape(warmup=0, cooldown=cooldown, total=total),
        precision="fp32",
    )


def run(trainer: Learner, num_modes: int, num_iterations: int) -> None:
    for iteration in range(num_iterations):
        trainer.train_step(images_of(num_modes, BATCH, 100 + iteration), iteration)


def common_of(forward_model: ForwardModel, seed: int) -> dict:
    return {
        "forward_model": forward_model,
        "seed": seed,
        "batch_size": BATCH,
        "num_micro_batches": 1,
        "validation": torch.zeros(1, *SHAPE),
        "world": ALONE,
    }


FORWARD_MODEL = ForwardModel(OPERATOR, GaussianNoise(SIGMA, SIGMA))


@cache
def teacher_of(num_modes: int) -> PosteriorDenoiser:
    torch.manual_seed(0)
    network, total = Mlp(), TEACHER_ITERATIONS
    ema = Ema(network, 0.99)
    trainer = TeacherTrainer(
        model=PosteriorDenoiser(network, **COMMON),
        averaged_model=PosteriorDenoiser(ema.module, **COMMON),
        ema=ema,
        optimizer=optimizer(network, 1.5e-3, total, total - 400, (0.9, 0.999)),
        noise_range=(0.015, 40.0),
        **common_of(FORWARD_MODEL, seed=0),
    )
    run(trainer, num_modes, total)
    return trainer.averaged_model.requires_grad_(False)


def generator_of(num_modes: int) -> DaviTrainer:
    teacher = teacher_of(num_modes)
    own, score = (copy.deepcopy(teacher.network).requires_grad_(True) for _ in range(2))
    generator = ConditionalGenerator(own, **COMMON, endpoint_scale=1.0, start=40.0)
    fake_score = PosteriorDenoiser(score, **COMMON)
    return trained(num_modes, generator, fake_score, score, teacher, (0.02, 20.0))


def generator_by_likelihood(num_modes: int) -> DaviTrainer:
    """By the target of recipe `posterior`, with the exact prior."""
    torch.manual_seed(1)
    prior = FrozenPrior(prior_of(num_modes))
    around = AroundPrior(prior, Mlp())
    images, noise = images_of(num_modes, 64, 1), torch.randn(64, *SHAPE)
    target = posterior_target(prior, images, noise, WHITE_DEVIATION)
    generator = WhiteStart(OPERATOR, COMMON["sees"], Mlp())
    fake_score = ScoreModel(around, SCHEDULE, sees=COMMON["sees"])
    return trained(num_modes, generator, fake_score, around.difference, target, (0.02, 5.0))


def generator_by_energy(num_modes: int) -> DaviTrainer:
    """From pairs alone; of the fake score nothing is trained."""
    torch.manual_seed(1)
    generator, score = WhiteStart(OPERATOR, COMMON["sees"], Mlp()), Mlp()
    fake_score = ScoreModel(score, SCHEDULE, sees=COMMON["sees"])
    optimized = (5e-4, (0.9, 0.99))
    weights = {"ikl": 0.0, "energy": 1.0, "energy_patches": (1, 2, 4, 8, 16)}
    return trained(num_modes, generator, fake_score, score, None, None, optimized, **weights)


def trained(
    num_modes: int,
    generator: nn.Module,
    fake_score: nn.Module,
    score: nn.Module,
    target: PosteriorDenoiser | PosteriorTarget | None,
    noise_range: tuple[float, float] | None,
    optimized: tuple[float, tuple[float, float]] = (2e-4, (0.0, 0.99)),
    **weights: object,
) -> DaviTrainer:
    """The trainer after training; `score` is what is trained of the fake score.

    `optimized` has the learning rate and the betas of the generator.
    """
    total = GENERATOR_ITERATIONS
    trainer = DaviTrainer(
        generator=generator,
        fake_score=fake_score,
        prior=None,
        target=target,
        ema=Ema(generator, 0.99),
        generator_optimizer=optimizer(
            generator.network, optimized[0], total, total // 2, optimized[1]
        ),
        fake_score_optimizer=optimizer(score, 1e-3, total, total // 2, (0.0, 0.99)),
        bridge=bridge_to_noise(),
        weights=LossWeights(
            gamma=0.0,
            reg=0.0,
            t_ikl=1000,
            ikl_weight="constant",
            noise_range=noise_range,
            **{"ikl": 1.0, **weights},
        ),
        **common_of(FORWARD_MODEL, seed=1),
    )
    run(trainer, num_modes, total)
    return trainer


def measurements_of(num_modes: int) -> Tensor:
    rngs = [keyed_rng("cpu", 0, "held out", index) for index in range(NUM_MEASUREMENTS)]
    return FORWARD_MODEL.measure(images_of(num_modes, NUM_MEASUREMENTS, 7), rngs)[0]


def exact_posterior(prior: GaussianMixturePrior, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (B, K), means (B, K, DIM) and the covariance of every mode, float64."""
    axes, means = prior.axes[0].double(), prior.means.double()
    covariance = axes @ torch.diag(prior.variances[0].double()) @ axes.T
    A = torch.eye(DIM, dtype=torch.float64)[SEEN]
    of_y = A @ covariance @ A.T + SIGMA**2 * torch.eye(len(A), dtype=torch.float64)
    residual = y.flatten(1)[:, SEEN].double()[:, None] - means @ A.T
    solved = torch.linalg.solve(of_y, residual.mT).mT
    weights = (prior.log_weights.double() - (residual * solved).sum(dim=-1) / 2).softmax(dim=-1)
    gain = torch.linalg.solve(of_y, A @ covariance)
    return weights, means + solved @ A @ covariance, covariance - covariance @ A.T @ gain


def compare(num_modes: int, samples: Tensor, y: Tensor) -> dict[str, float]:
    """What samples (B, N, *SHAPE) are, relative to the exact posterior."""
    prior, samples = prior_of(num_modes), samples.flatten(2).double()
    weights, means, covariance = exact_posterior(prior, y)
    mean = torch.einsum("bk,bkd->bd", weights, means)
    between = torch.einsum("bk,bkd->bd", weights, (means - mean[:, None]).square())
    spread = samples.std(dim=1) / (covariance.diagonal() + between).sqrt()
    apart = samples[:, :, None] - prior.means.double()
    rotated = torch.einsum("kij,bnki->bnkj", prior.axes.double(), apart)
    distance = (rotated.square() / prior.variances.double()).sum(dim=-1)
    found = (prior.log_weights.double() - distance / 2).softmax(dim=-1).mean(dim=1)
    missed = (samples - y.flatten(1)[:, None])[:, :, SEEN]
    result = {
        "total variation": (found - weights).abs().sum(dim=1).mean() / 2,
        "hole": spread[:, ~SEEN].mean(),
        "outside": spread[:, SEEN].mean(),
        "residual": missed.square().mean().sqrt() / SIGMA,
    }
    result = {name: round(value.item(), 3) for name, value in result.items()}
    print(num_modes, "modes:", result)
    return result


@torch.no_grad()
def judge(num_modes: int, trainer: DaviTrainer) -> dict[str, float]:
    y = measurements_of(num_modes)
    rng = torch.Generator().manual_seed(3)
    z = torch.randn(NUM_SAMPLES, *y.shape, generator=rng)
    samples = [posterior_sample(trainer.ema.module, trainer.bridge, y, one) for one in z]
    return compare(num_modes, torch.stack(samples, dim=1), y)


def test_the_comparison_accepts_the_exact_posterior() -> None:
    y, prior = measurements_of(4), prior_of(4)
    weights, means, covariance = exact_posterior(prior, y)
    rng = torch.Generator().manual_seed(5)
    modes = torch.multinomial(weights, NUM_SAMPLES, replacement=True, generator=rng)
    centres = torch.gather(means, 1, modes[..., None].expand(-1, -1, DIM))
    root = torch.linalg.cholesky(covariance)
    normal = torch.randn(centres.shape, generator=rng, dtype=torch.float64)
    found = compare(4, (centres + normal @ root.T).view(*modes.shape, *SHAPE), y)
    assert found["total variation"] < 0.05
    assert all(0.98 < found[name] < 1.02 for name in ("hole", "outside", "residual"))


def test_samples_of_the_teacher_are_posterior_samples() -> None:
    y, teacher = measurements_of(4), teacher_of(4)
    mean = teacher.white_mean(y).repeat_interleave(NUM_SAMPLES, dim=0)
    rng = torch.Generator().manual_seed(4)
    noises = [torch.randn(mean.shape, generator=rng) for _ in range(NUM_STEPS)]
    samples = conditional_sample(teacher, mean, noises)
    found = compare(4, samples.view(len(y), NUM_SAMPLES, *SHAPE), y)
    assert found["total variation"] < 0.10
    assert all(0.95 < found[name] < 1.05 for name in ("hole", "outside", "residual"))


def test_one_evaluation_finds_four_modes() -> None:
    found = judge(4, generator_of(4))
    assert found["total variation"] < 0.10
    assert 0.85 < found["hole"] < 1.05
    assert 0.93 < found["outside"] < 1.03
    assert 0.95 < found["residual"] < 1.03


def test_with_the_likelihood_in_the_target_it_finds_the_wrong_ones() -> None:
    assert judge(4, generator_by_likelihood(4))["total variation"] > 0.15


@pytest.mark.parametrize("num_modes", [2, 4])
def test_pairs_alone_find_the_modes(num_modes: int) -> None:
    found = judge(num_modes, generator_by_energy(num_modes))
    assert found["total variation"] < 0.10
    assert all(0.90 < found[name] < 1.08 for name in ("hole", "outside", "residual"))
