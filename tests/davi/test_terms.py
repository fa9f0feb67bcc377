"""Each term of the losses, for given draws and weights, against the release's way to compute it."""

import copy
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from davi.operators.inpainting import Inpainting
from davi.operators.noise import GaussianNoise, PoissonNoise
from davi.operators.super_resolution import SuperResolution
from davi.release.variational_bound import gaussian_kl, grey_level_log_likelihood, variational_bound
from davi.schedule import Schedule
from davi.score import FrozenPrior, ScoreModel
from davi.terms import (
    consistency_term,
    fake_score_term,
    generate,
    ikl_term,
    regulariser_term,
)
from davi.trainer import DaviTrainer
from tests.tiny import tiny_trainer

QUADRATIC = Schedule.named("quadratic")
TIMES = torch.tensor([0, 1, 400, 999])


@pytest.fixture
def trainer(tiny_prior_with_variance: Path) -> DaviTrainer:
    """A trainer of the release's recipe, its networks apart from each other, in float64."""
    trainer = tiny_trainer(tiny_prior_with_variance, *RELEASE)
    torch.manual_seed(5)
    for network in (trainer.generator.network, trainer.fake_score.network):
        for parameter in network.parameters():
            parameter.data += 0.02 * torch.randn_like(parameter)
    for model in (trainer.generator, trainer.fake_score, trainer.prior):
        model.double()
    return trainer


RELEASE = (
    "recipe=release",
    "network.out_channels=6",
    "train.precision=fp32",
    "adversarial.enabled=false",
)


def images(count: int, rng: torch.Generator) -> Tensor:
    """(count, 4, 3, 16, 16) random images in [-1, 1]."""
    return 2 * torch.rand(count, 4, 3, 16, 16, generator=rng, dtype=torch.float64) - 1


def at(table: np.ndarray) -> Tensor:
    """A recorded table at `TIMES`, to broadcast against images."""
    return torch.from_numpy(table)[TIMES].view(-1, 1, 1, 1)


def test_generate_is_the_releases_forward(
    trainer: DaviTrainer, rng: torch.Generator, golden_schedules: dict
) -> None:
    x0, y, z = images(3, rng)  # y lies on the image grid
    found = generate(trainer.generator, trainer.bridge, x0, y, TIMES, z)
    y_a = at(golden_schedules["mu_x0"]) * x0 + at(golden_schedules["mu_x1"]) * y
    y_a = y_a + 0.1 * at(golden_schedules["ppb_scale_h1"]) * z
    eps = trainer.generator.network(y_a, TIMES)[:, :3]
    torch.testing.assert_close(found, (y_a - at(golden_schedules["std_fwd"]) * eps).tanh())


def test_ikl_has_value_and_gradient_of_the_release(
    trainer: DaviTrainer, rng: torch.Generator, golden_schedules: dict
) -> None:
    x0_hat, eps = images(2, rng)
    x0_hat.requires_grad_()
    loss, _ = ikl_term(trainer.fake_score, trainer.prior, x0_hat, TIMES, eps)
    (gradient,) = torch.autograd.grad(loss, x0_hat)

    abar = at(golden_schedules["quadratic_alphas_cumprod"])
    x_t = (abar.sqrt() * x0_hat + (1 - abar).sqrt() * eps).detach()
    with torch.no_grad():
        eps_psi, eps_theta = (
            model(x_t, TIMES)[:, :3]
            for model in (trainer.fake_score.network, trainer.prior.model.network)
        )
    x0_psi, x0_theta = ((x_t - (1 - abar).sqrt() * e) / abar.sqrt() for e in (eps_psi, eps_theta))
    snr = at(golden_schedules["ikl_weight_snr"])
    torch.testing.assert_close(loss, (snr * (x0_psi - x0_theta) * x0_hat).mean())
    torch.testing.assert_close(gradient, (eps_theta - eps_psi) / x0_hat.numel())


def test_ikl_reports_the_weighted_gap(trainer: DaviTrainer, rng: torch.Generator) -> None:
    x0_hat, eps = images(2, rng)
    x_t = QUADRATIC.add_noise(x0_hat, TIMES, eps)
    with torch.no_grad():
        gap = trainer.fake_score.score(x_t, TIMES) - trainer.prior.score(x_t, TIMES)
    for name in ("constant", "variance"):
        _, found = ikl_term(trainer.fake_score, trainer.prior, x0_hat, TIMES, eps, ikl_weight=name)
        weight = QUADRATIC.ikl_weight(name, TIMES, x_t)
        torch.testing.assert_close(found, (weight * gap).square().mean())


def release_bound(x0: Tensor, x_t: Tensor, output: Tensor, tables: dict[str, np.ndarray]) -> Tensor:
    """The release's bound by torch's distributions and the exact normal distribution, per image."""
    eps, variance = output.split(3, dim=1)
    abar = at(tables["quadratic_alphas_cumprod"])
    x0_hat = (x_t - (1 - abar).sqrt() * eps.detach()) / abar.sqrt()
    low, high = at(tables["posterior_log_variance_clipped"]), at(tables["quadratic_betas"]).log()
    std = (0.5 * (low * (1 - variance) / 2 + high * (1 + variance) / 2)).exp()
    means = [
        at(tables["posterior_mean_coef1"]) * clean + at(tables["posterior_mean_coef2"]) * x_t
        for clean in (x0, x0_hat)
    ]
    normal = torch.distributions.Normal
    kl = torch.distributions.kl_divergence(normal(means[0], (low / 2).exp()), normal(means[1], std))
    cdf = normal(means[1], std).cdf
    upper = torch.where(x0 > 0.999, 1.0, cdf(x0 + 1 / 255))
    lower = torch.where(x0 < -0.999, 0.0, cdf(x0 - 1 / 255))
    likelihood = (upper - lower).clamp(min=1e-12).log()
    is_start = TIMES.view(-1, 1, 1, 1) == 0
    return torch.where(is_start, -likelihood, kl).mean(dim=(1, 2, 3)) / math.log(2)


def test_bound_is_the_releases(rng: torch.Generator, golden_schedules: dict) -> None:
    x0, noise = images(2, rng)
    x_t = QUADRATIC.add_noise(x0, TIMES, noise)
    output = torch.randn(4, 6, 16, 16, generator=rng, dtype=torch.float64)
    output[0, :3] = noise[0]  # at t = 0 the mean is near, so that no probability is at its floor
    bits = variational_bound(QUADRATIC, x0, x_t, TIMES, output[:, :3], output[:, 3:])
    expected = release_bound(x0, x_t, output, golden_schedules)
    found = bits.mean(dim=(1, 2, 3))
    torch.testing.assert_close(found[1:], expected[1:])
    # The release approximates the normal distribution, and so does the project.
    torch.testing.assert_close(found[:1], expected[:1], rtol=2e-3, atol=0)


def test_fake_score_term_adds_the_bound_and_trains_the_variance_only_by_it(
    trainer: DaviTrainer, rng: torch.Generator, golden_schedules: dict
) -> None:
    x0_hat, eps = images(2, rng)
    x0_hat.requires_grad_()
    plain, bounded = (
        fake_score_term(trainer.fake_score, x0_hat, TIMES, eps, with_bound=with_bound)
        for with_bound in (False, True)
    )
    abar = at(golden_schedules["quadratic_alphas_cumprod"])
    x_t = (abar.sqrt() * x0_hat + (1 - abar).sqrt() * eps).detach()
    output = trainer.fake_score.network(x_t, TIMES)
    torch.testing.assert_close(plain, (output[:, :3] - eps).square().mean())
    bits = release_bound(x0_hat, x_t, output, golden_schedules).mean()
    torch.testing.assert_close(bounded, plain + bits, rtol=2e-3, atol=0)

    last = trainer.fake_score.network.out[2].weight
    without, with_bound = (torch.autograd.grad(loss, last)[0] for loss in (plain, bounded))
    assert without[3:].abs().max() == 0
    assert with_bound[3:].abs().max() > 0
    torch.testing.assert_close(with_bound[:3], without[:3])  # the bound's mean is a constant
    assert x0_hat.grad is None


def test_gaussian_divergence_against_torch(rng: torch.Generator) -> None:
    values = torch.randn(4, 50, generator=rng, dtype=torch.float64)
    normals = [
        torch.distributions.Normal(mean, (log_variance / 2).exp())
        for mean, log_variance in (values[:2], values[2:])
    ]
    expected = torch.distributions.kl_divergence(*normals)
    torch.testing.assert_close(gaussian_kl(*values), expected)


def test_grey_levels_have_probabilities_that_sum_to_1() -> None:
    levels = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    for mean, std in ((0.1, 0.02), (-1.0, 0.5), (0.97, 0.1)):
        mean, log_std = torch.tensor(mean), torch.tensor(std).log()
        log_p = grey_level_log_likelihood(levels, mean.double(), log_std.double())
        assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-6)
        exact = scipy.stats.norm(mean, std).cdf
        inner = levels[1:-1].numpy()
        expected = exact(inner + 1 / 255) - exact(inner - 1 / 255)
        np.testing.assert_allclose(log_p[1:-1].exp(), expected, atol=2e-4)


def test_consistency_is_over_all_entries_with_the_noise_in_the_hole(rng: torch.Generator) -> None:
    mask = torch.ones(16, 16)
    mask[4:12, 4:12] = 0
    x0_hat, y = images(2, rng)
    operator = Inpainting((3, 16, 16), mask, noise_in_hole=True)
    found = consistency_term(y, operator, GaussianNoise(0.05, 0.05), x0_hat)
    expected = sum(
        float((y[b, c, i, j] - (x0_hat[b, c, i, j] if mask[i, j] else 0)) ** 2)
        for b in range(4)
        for c in range(3)
        for i in range(16)
        for j in range(16)
    )
    assert found.item() == pytest.approx(expected / (4 * 3 * 16 * 16))


def test_kept_pixels_regulariser_is_the_releases(rng: torch.Generator) -> None:
    masks = (torch.rand(4, 1, 16, 16, generator=rng) > 0.3).expand(-1, 3, -1, -1)
    x0_hat, x0 = images(2, rng)
    operator = Inpainting((3, 16, 16), masks[:, :1])
    error = (x0 - x0_hat) ** 2
    found = regulariser_term(x0_hat, x0, operator, where="kept_pixels")
    torch.testing.assert_close(found, 0.1 * error.mean() + error[masks].mean())


def test_sums_are_means_times_the_number_of_entries(
    trainer: DaviTrainer, rng: torch.Generator
) -> None:
    x0_hat, x0, eps = images(3, rng)
    operator = SuperResolution((3, 16, 16), 4)
    y = operator.A(x0)
    mask = torch.ones(16, 16)
    mask[:8] = 0
    hole = Inpainting((3, 16, 16), mask)
    score, prior = trainer.fake_score, trainer.prior
    pairs = {
        reduction: [
            fake_score_term(score, x0_hat, TIMES, eps, with_bound=True, reduction=reduction),
            ikl_term(score, prior, x0_hat, TIMES, eps, reduction=reduction)[0],
            consistency_term(y, operator, PoissonNoise(1.0), x0_hat, reduction),
            regulariser_term(x0_hat, x0, operator, reduction=reduction),
        ]
        for reduction in ("mean", "sum")
    }
    for mean, total, entries in zip(*pairs.values(), (768, 768, 48, 768), strict=True):
        torch.testing.assert_close(total, entries * mean)
    error = (x0 - x0_hat) ** 2
    found = regulariser_term(x0_hat, x0, hole, where="kept_pixels", reduction="sum")
    torch.testing.assert_close(found, (0.1 * error.sum() + error[:, :, 8:].sum()) / 4)


def test_terms_do_not_change_the_networks(trainer: DaviTrainer, rng: torch.Generator) -> None:
    x0_hat, eps = images(2, rng)
    score, prior = trainer.fake_score, trainer.prior
    assert isinstance(score, ScoreModel)
    assert isinstance(prior, FrozenPrior)
    before = copy.deepcopy(score.state_dict())
    first, second = (ikl_term(score, prior, x0_hat, TIMES, eps)[0].item() for _ in range(2))
    assert first == second
    assert all(torch.equal(value, before[key]) for key, value in score.state_dict().items())
