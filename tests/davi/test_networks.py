"""The three roles of the network, the analytic prior, and the averaged weights."""

import pytest
import torch
from torch import Tensor, nn

from davi.generator import ImplicitGenerator
from davi.operators.measurement import MeasurementChannels
from davi.priors.analytic import GaussianMixturePrior
from davi.schedule import Schedule
from davi.score import FrozenPrior, ScoreModel
from davi.training.ema import Ema, warmup_decay

LINEAR = Schedule.named("linear")


class Recorder(nn.Module):
    """A network that returns a constant with six channels and notes what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(0.3))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        self.seen_time = t
        self.autocast = torch.is_autocast_enabled("cpu")
        return (self.value * torch.ones_like(x)).repeat(1, 2, 1, 1)


def gaussian_prior(dim: int = 3) -> GaussianMixturePrior:
    root = torch.randn(dim, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    covariance = root @ root.T / dim + 0.1 * torch.eye(dim, dtype=torch.float64)
    mean = torch.linspace(-1, 1, dim, dtype=torch.float64)
    return GaussianMixturePrior(
        torch.ones(1, dtype=torch.float64), mean[None], covariance[None], LINEAR
    )


def test_generator_is_equation_38_as_tweedie() -> None:
    network = Recorder()
    generator = ImplicitGenerator(network, "paper", LINEAR)
    y_a, a = torch.full((2, 3, 4, 4), 0.5), torch.tensor([0, 999])
    x0_hat = generator(y_a, a)
    for i, index in enumerate(a):
        variance = 1 - LINEAR.alpha_bar[index]
        score = -0.3 / variance.sqrt()
        torch.testing.assert_close(
            x0_hat[i].double(), (y_a[i].double() + variance * score).detach()
        )
    assert torch.equal(network.seen_time, a)


def test_release_generator_is_squashed_with_its_own_coefficient() -> None:
    generator = ImplicitGenerator(Recorder(), "release", LINEAR)
    x0_hat = generator(torch.full((1, 3, 4, 4), 0.5), torch.tensor([999]))
    expected = torch.tensor(0.5 - 1.481319 * 0.3).tanh()  # release: std_fwd[999]
    torch.testing.assert_close(x0_hat[0, 0, 0, 0], expected, rtol=0, atol=1e-6)


def test_networks_run_in_their_precision_and_return_float32() -> None:
    network, x, t = Recorder(), torch.zeros(1, 3, 4, 4), torch.tensor([1])
    for precision, used in (("fp32", False), ("bf16", True)):
        assert ScoreModel(network, LINEAR, precision).eps(x, t).dtype == torch.float32
        assert network.autocast == used
        assert ImplicitGenerator(network, "paper", LINEAR, precision)(x, t).dtype == torch.float32
        assert network.autocast == used


def test_score_model_drops_the_variance_channels_and_scales_to_a_score() -> None:
    model = ScoreModel(Recorder(), LINEAR)
    x, t = torch.zeros(1, 3, 4, 4), torch.tensor([400])
    assert model.eps(x, t).shape == x.shape
    expected = -0.3 / (1 - LINEAR.alpha_bar[400]).sqrt().float()
    torch.testing.assert_close(model.score(x, t)[0, 0, 0, 0].detach(), expected)


def test_measurement_channels_show_where_inpainting_measures() -> None:
    x, y = torch.full((2, 3, 4, 4), 0.5), torch.rand(2, 3, 4, 4) + 0.1
    y[0, :, :2] = 0  # a hole of one image
    y[1, 0, 3, 3] = 0  # one channel that happens to be 0
    shown = MeasurementChannels(with_mask=True).append(x, y)
    mask = torch.ones(2, 1, 4, 4)
    mask[0, :, :2] = 0
    assert torch.equal(shown, torch.cat([x, y, mask], dim=1))
    assert torch.equal(MeasurementChannels(with_mask=False).append(x, y), shown[:, :6])


def test_frozen_prior_gives_no_graph_and_has_no_trainable_weight() -> None:
    prior = FrozenPrior(ScoreModel(Recorder(), LINEAR))
    x = torch.zeros(1, 3, 4, 4, requires_grad=True)
    assert not prior.eps(x, torch.tensor([1])).requires_grad
    assert not prior.score(x, torch.tensor([1])).requires_grad
    assert not any(parameter.requires_grad for parameter in prior.parameters())


def test_mixture_score_is_the_gradient_of_the_diffused_density() -> None:
    first, second = gaussian_prior(), gaussian_prior()
    means = torch.cat([first.means, -2 * second.means])
    covariance = first.axes[0] @ first.variances[0].diag() @ first.axes[0].T
    covariances = torch.stack([covariance, 0.3 * covariance])
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64)
    prior = GaussianMixturePrior(weights, means, covariances, LINEAR)
    x = torch.randn(5, 3, 1, 1, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for time in (0, 300, 999):
        alpha_bar = LINEAR.alpha_bar[time]
        identity = torch.eye(3, dtype=torch.float64)
        components = torch.distributions.MultivariateNormal(
            alpha_bar.sqrt() * means, alpha_bar * covariances + (1 - alpha_bar) * identity
        )
        density = torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(weights), components
        )
        point = x.flatten(1).requires_grad_()
        (expected,) = torch.autograd.grad(density.log_prob(point).sum(), point)
        t = torch.full((5,), time)
        torch.testing.assert_close(prior.score(x, t).flatten(1), expected)
        torch.testing.assert_close(prior.eps(x, t), LINEAR.eps_from_score(prior.score(x, t), t))


def test_mixture_draws_have_its_moments(rng: torch.Generator) -> None:
    prior = gaussian_prior()
    x = prior.sample(50_000, rng)
    covariance = prior.axes[0] @ prior.variances[0].diag() @ prior.axes[0].T
    torch.testing.assert_close(x.mean(dim=0), prior.means[0], rtol=0, atol=0.02)
    torch.testing.assert_close(x.T.cov(), covariance, rtol=0, atol=0.03)


def test_ema_warms_up_and_then_follows_its_decay() -> None:
    assert [warmup_decay(0.9, n) for n in (0, 10, 1000)] == pytest.approx([0.1, 11 / 20, 0.9])
    network = nn.Linear(1, 1, bias=False)
    nn.init.ones_(network.weight)
    ema = Ema(network, decay=0.9)
    expected = 1.0
    for n in range(5):
        with torch.no_grad():
            network.weight += 1
        ema.update(network)
        expected += (1 - warmup_decay(0.9, n)) * (network.weight.item() - expected)
    assert ema.module.weight.item() == pytest.approx(expected)
    assert not any(parameter.requires_grad for parameter in ema.parameters())
