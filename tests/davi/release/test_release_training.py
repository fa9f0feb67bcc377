"""Training as the authors ran it: both turns, the adversarial game, draws and averages."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from davi.bridge import beta_cdf
from davi.data.batches import open_images
from davi.operators.measurement import lift
from davi.operators.super_resolution import SuperResolution
from davi.runs.build import build_trainer
from davi.system.errors import InputError
from davi.system.world import World
from davi.trainer import DaviTrainer
from davi.training.ema import Ema, release_decay
from davi.training.inputs import StepInputs
from tests.same import assert_same
from tests.tiny import tiny_config, tiny_trainer

RELEASE = ("recipe=release", "network.out_channels=6", "train.precision=fp32")
INPAINTING = "operator={name: inpainting, box_size: 8}"


def clean_batch(count: int = 4) -> Tensor:
    images = open_images("photos:train", 16)
    return torch.stack([images[100 * i] for i in range(count)])


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def restored(generator: nn.Module, trainer: DaviTrainer, inputs: StepInputs) -> Tensor:
    y_image = lift(inputs.y, inputs.x0.shape[1:])
    return generator(trainer.bridge.perturb(inputs.x0, y_image, inputs.a, inputs.z), inputs.a)


def expected_step(
    trainer: DaviTrainer, first: StepInputs, second: StepInputs
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """The release's iteration written out on copies: gradients of psi, discriminator and phi.

    Its variational bound is left to the tests of the terms.
    """
    generator, fake_score, judge = copy.deepcopy(
        (trainer.generator, trainer.fake_score, trainer.adversary.network)
    )
    weights, x0 = trainer.weights, first.x0
    alpha_bar = trainer.fake_score.schedule.alpha_bar.float()

    def noised(x: Tensor, inputs: StepInputs) -> Tensor:
        abar = alpha_bar[inputs.t].view(-1, 1, 1, 1)
        return abar.sqrt() * x + (1 - abar).sqrt() * inputs.eps

    x0_hat = restored(generator, trainer, first).detach()
    F.mse_loss(fake_score.network(noised(x0_hat, first), first.t)[:, :3], first.eps).backward()
    psi_gradients = gradients(fake_score)
    torch.optim.AdamW(fake_score.parameters(), lr=1e-4, weight_decay=0.01).step()
    hinge = F.relu(1 - judge(x0)[-1]).mean() + F.relu(1 + judge(x0_hat)[-1]).mean()
    (0.5 * hinge).backward()
    judge_gradients = gradients(judge)
    torch.optim.AdamW(judge.parameters(), lr=1e-4, weight_decay=0.01).step()

    x0_hat = restored(generator, trainer, second)
    x_t = noised(x0_hat, second).detach()
    with torch.no_grad():
        gap = trainer.prior.model.network(x_t, second.t) - fake_score.network(x_t, second.t)
    mask = second.operator.singular_values.bool().expand(4, 3, -1, -1)
    error = (x0 - x0_hat) ** 2
    regulariser = 0.1 * error.mean() + error[mask].mean()
    real, fake = judge(x0), judge(x0_hat)
    adversarial = -fake[-1].mean() + sum(
        (one - other.detach()).abs().mean() for one, other in zip(fake[:4], real[:4], strict=True)
    )
    layer = generator.network.output_blocks[-1][0].out_layers[-1].weight
    norms = [
        torch.autograd.grad(loss, layer, retain_graph=True)[0].norm()
        for loss in (regulariser, adversarial)
    ]
    weight = (norms[0] / (norms[1] + 1e-4)).clamp(0.01, 10)
    total = (
        weights.gamma * (second.y - mask * x0_hat).square().mean()
        + (gap[:, :3] * x0_hat).mean()
        + weights.reg * regulariser
        + weight * adversarial
    )
    total.backward()
    return psi_gradients, judge_gradients, gradients(generator)


@pytest.mark.parametrize("shared", [False, True])
def test_step_is_the_releases(shared: bool, tiny_prior_with_variance: Path) -> None:
    trainer = tiny_trainer(
        tiny_prior_with_variance, *RELEASE, INPAINTING, "loss.variational_bound=false"
    )
    first = trainer.inputs.draw(clean_batch(), range(4), "test")
    second = first if shared else trainer.inputs.redraw(first, range(4), "test")
    expected = expected_step(trainer, first, second)
    terms = trainer.step([first], None if shared else [second])
    networks = (trainer.fake_score, trainer.adversary.network, trainer.generator)
    for network, gradient in zip(networks, expected, strict=True):
        torch.testing.assert_close(gradients(network), gradient, rtol=1e-3, atol=1e-6)
    assert 0.01 <= terms["adversarial_weight"] <= 10
    assert {"adversarial", "discriminator_loss", "discriminator_gradient"} <= terms.keys()


def test_the_turns_share_the_measurement_and_nothing_else(
    tiny_prior_with_variance: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = tiny_trainer(tiny_prior_with_variance, *RELEASE)
    seen = []
    monkeypatch.setattr(trainer, "step", lambda *inputs: seen.append(inputs))
    trainer.train_step(clean_batch(), 3)
    (first,), (second,) = seen[0]
    assert first.y is second.y
    assert first.operator is second.operator
    for name in ("a", "z", "t", "eps"):
        assert not torch.equal(getattr(first, name), getattr(second, name))
    shared = tiny_trainer(tiny_prior_with_variance, *RELEASE, "train.shared_sample=true")
    monkeypatch.setattr(shared, "step", lambda *inputs: seen.append(inputs))
    shared.train_step(clean_batch(), 3)
    assert len(seen[1]) == 1


@pytest.mark.parametrize(("shared", "forwards"), [("true", 1), ("false", 2)])
def test_separate_turns_take_a_second_forward(shared: str, forwards: int, tiny_prior: Path) -> None:
    trainer = tiny_trainer(tiny_prior, f"train.shared_sample={shared}")
    calls = []
    trainer.generator.network.register_forward_hook(lambda *_: calls.append(1))
    trainer.train_step(clean_batch(), 0)
    assert len(calls) == forwards


@pytest.mark.parametrize("draws", ["per_image", "per_process"])
def test_processes_draw_alike_only_if_asked_to(
    draws: str, tiny_prior: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tiny_prior, f"train.draws={draws}")
    found = []
    for rank in range(2):
        trainer = build_trainer(config, World(0, 1, torch.device("cpu")))
        trainer.shares = World(rank, 2, torch.device("cpu")).share(4)
        monkeypatch.setattr(trainer, "step", lambda inputs: found.append(inputs[0]))
        trainer.train_step(clean_batch(2), 0)
    for name in ("y", "a", "z", "t", "eps"):
        values = [getattr(inputs, name) for inputs in found]
        assert torch.equal(*values) == (draws == "per_process")


def test_a_resumed_release_run_goes_on_as_if_unbroken(tiny_prior_with_variance: Path) -> None:
    unbroken, begun, resumed = (tiny_trainer(tiny_prior_with_variance, *RELEASE) for _ in range(3))
    for iteration in range(4):
        unbroken.train_step(clean_batch(), iteration)
    for iteration in range(2):
        begun.train_step(clean_batch(), iteration)
    resumed.load_state_dict(begun.state_dict(keep=True))
    for iteration in range(2, 4):
        resumed.train_step(clean_batch(), iteration)
    assert_same(unbroken.state_dict(keep=True), resumed.state_dict(keep=True))
    assert {"discriminator", "discriminator_optimizer"} <= unbroken.state_dict(keep=True).keys()


def test_the_discriminator_learns_to_tell_noisy_from_clean(
    tiny_prior_with_variance: Path, rng: torch.Generator
) -> None:
    adversary = tiny_trainer(tiny_prior_with_variance, *RELEASE).adversary
    x0 = clean_batch()
    noisy, losses = x0 + 0.2 * torch.randn(x0.shape, generator=rng), []
    for iteration in range(30):
        adversary.optimizer.begin(iteration)
        losses.append(adversary.discriminator_term(x0, noisy))
        adversary.optimizer.backward(losses[-1])
        adversary.optimizer.step()
    assert losses[0].item() == pytest.approx(1, abs=0.2)  # hinge, undecided
    assert losses[-1].item() < 0.1


def test_a_run_begun_without_a_discriminator_is_not_gone_on_with_by_one(
    tiny_prior_with_variance: Path,
) -> None:
    without = tiny_trainer(tiny_prior_with_variance, *RELEASE, "adversarial.enabled=false")
    trainer = tiny_trainer(tiny_prior_with_variance, *RELEASE)
    with pytest.raises(InputError, match="the checkpoint holds no discriminator"):
        trainer.load_state_dict(without.state_dict(keep=True))


@pytest.mark.slow
def test_a_compiled_release_step_is_the_same_step(
    tiny_prior_with_variance: Path, graphs: list
) -> None:
    plain, compiled = (
        tiny_trainer(tiny_prior_with_variance, *RELEASE, f"train.compile={each}")
        for each in ("false", "true")
    )
    expected, found = (each.train_step(clean_batch(), 0) for each in (plain, compiled))
    assert graphs
    for name, value in expected.items():
        # AdamW's first step of the discriminator is one of signs, which rounding may turn.
        torch.testing.assert_close(found[name], value, rtol=1e-2, atol=1e-6)


def test_the_generators_turn_leaves_the_discriminator_alone(
    tiny_prior_with_variance: Path,
) -> None:
    adversary = tiny_trainer(tiny_prior_with_variance, *RELEASE).adversary
    parameter = torch.ones((), requires_grad=True)
    x0 = clean_batch()
    loss, _ = adversary.generator_term(x0, parameter * x0, parameter.square(), parameter)
    loss.backward()
    assert parameter.grad is not None
    assert not gradients(adversary.network)
    assert all(each.requires_grad for each in adversary.network.parameters())


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_release_step_on_a_gpu_waits_for_nothing(
    precision: str, tiny_prior_with_variance: Path
) -> None:
    settings = (*RELEASE, INPAINTING, f"train.precision={precision}")
    config = tiny_config(tiny_prior_with_variance, *settings)
    trainer = build_trainer(config, World(0, 1, torch.device("cuda")))
    x0 = clean_batch().cuda()
    trainer.train_step(x0, 0)  # tables are copied, optimisers set up
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.train_step(x0, 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_noise_lies_in_the_hole_only_if_asked_for(tiny_prior: Path) -> None:
    for asked in (False, True):
        operator = f"operator={{name: inpainting, box_size: 8, noise_in_hole: {asked}}}"
        trainer = tiny_trainer(tiny_prior, operator)
        y = trainer.inputs.draw(clean_batch(), range(4), "test").y[:, :, 4:12, 4:12]
        assert y.std().item() == pytest.approx(0.05 if asked else 0, rel=0.1)


def test_release_average_copies_then_follows_every_fifth_step() -> None:
    found = [release_decay(0.9999, n) for n in (0, 3, 5, 100, 104, 105, 110)]
    assert found == pytest.approx([0, 1, 0, 0, 1, 0, 1 - 11 ** (-2 / 3)])
    measured = {6_000: 0.9969, 24_000: 0.9988, 42_000: 0.9992, 189_000: 0.9997}
    for n, decay in measured.items():
        assert release_decay(0.9999, n) == pytest.approx(decay, abs=6e-5)
    assert release_decay(0.9, 10**6) == 0.9
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    ema = Ema(network, decay=0.9999, policy="release")
    expected, values = 0.0, []
    for n in range(130):
        with torch.no_grad():
            network.weight += 1
        ema.update(network)
        if n % 5 == 0:
            decay = 0 if n <= 105 else 1 - (n - 99) ** (-2 / 3)
            expected = decay * expected + (1 - decay) * network.weight.item()
        values.append(ema.module.weight.item() == pytest.approx(expected, rel=1e-5))
    assert all(values)


def test_nearest_index_covers_both_ends_by_half_a_step() -> None:
    cdf = beta_cdf((1.0, 1.0), "nearest")  # uniform: the shares are lengths
    shares = torch.cat([cdf[:1], cdf.diff()]) * 999
    assert shares[0].item() == pytest.approx(0.5)
    assert shares[-1].item() == pytest.approx(0.5)
    torch.testing.assert_close(shares[1:-1], torch.ones(998, dtype=torch.float64))


def test_nearest_resizing_is_the_pseudo_inverse_of_block_means(rng: torch.Generator) -> None:
    operator = SuperResolution((3, 16, 16), 4)
    y = torch.randn(2, 3, 4, 4, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(lift(y, (3, 16, 16), "nearest"), operator.A_dagger(y))


def test_sampling_may_be_perturbed_otherwise_than_training(tiny_prior: Path) -> None:
    trainer = tiny_trainer(tiny_prior, "bridge.h=0.1", "bridge.h_sampling=0.01")
    zero, z = torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16)
    end = torch.tensor([999])
    in_training = trainer.bridge.perturb(zero, zero, end, z)
    torch.testing.assert_close(10 * trainer.bridge.endpoint(zero, z), in_training)
