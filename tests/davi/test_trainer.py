"""One step of Algorithm 1 against the same step written out, and what must not depend on what."""

import copy
import dataclasses
import functools
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from davi.build_training import build_trainer
from davi.data import open_images
from davi.errors import InputError
from davi.learning_rate import RateShape
from davi.measurement import lift
from davi.run_folder import RunFolder
from davi.trainer import DaviTrainer, StepInputs
from davi.training_loop import run_training
from tests.tiny import tiny_config, tiny_trainer

OPERATORS = {
    "super_resolution": "{name: super_resolution}",
    "gaussian_blur": "{name: gaussian_blur, kernel_size: 5, sigma: 1.0}",
    "inpainting": "{name: inpainting, mask: random_box, box_size: 8}",
    "denoising": "{name: denoising}",
    "colorization": "{name: colorization}",
}
NOISES = {"gaussian": "{name: gaussian, sigma: 0.05}", "poisson": "{name: poisson}"}


@functools.cache
def clean_batch(count: int = 4) -> Tensor:
    images = open_images("photos:train", 16)
    return torch.stack([images[100 * i] for i in range(count)])


def gradients(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def expected_gradients(
    trainer: DaviTrainer, inputs: StepInputs
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Algorithm 1 written out on copies; plain autograd, nothing shared with the trainer's step."""
    weights, schedule = trainer.weights, trainer.schedule
    generator = copy.deepcopy(trainer.generator)
    fake_score = copy.deepcopy(trainer.fake_score)
    x0, t, eps = inputs.x0, inputs.t, inputs.eps
    abar = schedule.alpha_bar[t].float().view(-1, 1, 1, 1)

    y_image = lift(inputs.y, x0.shape[1:])
    y_a = trainer.bridge.perturb(x0, y_image, inputs.a, inputs.z)
    frozen_x0_hat = generator(y_a, inputs.a).detach()
    x_t = abar.sqrt() * frozen_x0_hat + (1 - abar).sqrt() * eps
    F.mse_loss(fake_score.network(x_t, t)[:, :3], eps).backward()
    psi_gradients = gradients(fake_score)
    optimizer = torch.optim.AdamW(fake_score.parameters(), lr=1e-4, weight_decay=0.01)
    optimizer.step()

    with torch.no_grad():
        eps_gap = trainer.prior.model.network(x_t, t) - fake_score.network(x_t, t)
    x0_hat = generator(y_a, inputs.a)
    noise_weight = trainer.forward_model.noise.consistency_weight(inputs.y)
    residual = inputs.y - inputs.operator.A(x0_hat)
    # The default w(t) leaves the plain gap of the noises as gradient with respect to x0_hat.
    total = (
        weights.gamma * (noise_weight * residual**2).mean()
        + weights.ikl * (eps_gap[:, :3] * x0_hat).mean()
        + weights.reg * ((x0 - x0_hat) ** 2).mean()
    )
    total.backward()
    return psi_gradients, gradients(generator)


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize("task", OPERATORS)
def test_step_is_algorithm_1(task: str, noise: str, tiny_prior: Path) -> None:
    trainer = tiny_trainer(
        tiny_prior, f"operator={OPERATORS[task]}", f"noise={NOISES[noise]}", "loss.gamma=2.0"
    )
    inputs = trainer.draw(clean_batch(), "test")
    expected_psi, expected_phi = expected_gradients(trainer, inputs)
    trainer.step(inputs)
    # psi: had the generator's turn reached s_psi, its gradient would have been added here.
    torch.testing.assert_close(gradients(trainer.fake_score), expected_psi)
    torch.testing.assert_close(gradients(trainer.generator), expected_phi, rtol=1e-4, atol=1e-7)


def test_the_prior_never_changes_and_never_gets_a_gradient(tiny_prior: Path) -> None:
    trainer = tiny_trainer(tiny_prior)
    before = copy.deepcopy(trainer.prior.state_dict())
    for iteration in range(3):
        trainer.train_step(clean_batch(), iteration)
    after = trainer.prior.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert all(parameter.grad is None for parameter in trainer.prior.parameters())


def test_both_trained_networks_start_as_the_prior_and_change(tiny_prior: Path) -> None:
    trainer = tiny_trainer(tiny_prior)
    prior = trainer.prior.model.network.state_dict()
    for network in (trainer.generator.network, trainer.fake_score.network):
        assert all(torch.equal(network.state_dict()[key], value) for key, value in prior.items())
    trainer.train_step(clean_batch(), 0)
    for network in (trainer.generator.network, trainer.fake_score.network):
        changed = [not torch.equal(network.state_dict()[k], v) for k, v in prior.items()]
        assert sum(changed) > 0.9 * len(changed)


def test_the_generator_runs_once_per_iteration(tiny_prior: Path) -> None:
    trainer = tiny_trainer(tiny_prior)
    calls = {"generator": 0, "fake_score": 0, "prior": 0}
    for name, network in (
        ("generator", trainer.generator.network),
        ("fake_score", trainer.fake_score.network),
        ("prior", trainer.prior.model.network),
    ):

        def count(*_: object, name: str = name) -> None:
            calls[name] += 1

        network.register_forward_hook(count)
    trainer.train_step(clean_batch(), 0)
    assert calls == {"generator": 1, "fake_score": 2, "prior": 1}


def test_draws_belong_to_seed_iteration_and_position(tiny_prior: Path) -> None:
    trainer, x0 = tiny_trainer(tiny_prior), clean_batch()
    inputs = trainer.draw(x0, "train", 5)
    fewer = trainer.draw(x0[:2], "train", 5)
    later = trainer.draw(x0, "train", 6)
    other_seed = tiny_trainer(tiny_prior, "seed=1").draw(x0, "train", 5)
    for name in ("y", "a", "z", "t", "eps"):
        assert torch.equal(getattr(inputs, name)[:2], getattr(fewer, name))
        assert not torch.equal(getattr(inputs, name), getattr(later, name))
        assert not torch.equal(getattr(inputs, name), getattr(other_seed, name))
    assert not torch.equal(inputs.z[0], inputs.z[1])
    assert not torch.equal(inputs.z, inputs.eps)


def test_diffusion_times_stay_below_t_ikl(tiny_prior: Path) -> None:
    trainer = tiny_trainer(tiny_prior, "loss.t_ikl=3")
    t = torch.cat([trainer.draw(clean_batch(), "train", i).t for i in range(30)])
    assert set(t.tolist()) == {0, 1, 2}


def test_training_lowers_the_distance_to_the_truth(tiny_prior: Path) -> None:
    trainer = tiny_trainer(tiny_prior, "train.learning_rate=1e-3")
    first = trainer.validate()[0]["psnr"]
    for iteration in range(20):
        trainer.train_step(clean_batch(), iteration)
    assert trainer.validate()[0]["psnr"] > first + 3


def test_the_learning_rate_rises_stays_and_falls(tiny_prior: Path) -> None:
    shape = RateShape(warmup=4, cooldown=2, total=10)
    expected = [0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 0.5]
    assert [shape.factor(iteration) for iteration in range(10)] == expected
    assert RateShape(warmup=0, cooldown=0, total=10).factor(9) == 1
    trainer = tiny_trainer(
        tiny_prior, "train.warmup_iterations=4", "train.fake_score_learning_rate=4e-4"
    )
    trainer.train_step(clean_batch(), 1)
    assert trainer.generator_optimizer.param_groups[0]["lr"] == 0.5e-4
    assert trainer.fake_score_optimizer.param_groups[0]["lr"] == 2e-4


def run(folder: Path, prior: Path, *overrides: str) -> dict:
    """Trains as scripts/train.py does; returns the newest checkpoint."""
    config = tiny_config(prior, *overrides)
    run_folder = RunFolder(folder, config, {})
    run_training(
        tiny_trainer(prior, *overrides),
        open_images("photos:train", 16),
        run_folder,
        seed=config.seed,
        data=config.data,
        settings=config.train,
    )
    return run_folder.load_newest()


def assert_same(first: object, second: object) -> None:
    """Bit-equality of nested containers of tensors."""
    assert type(first) is type(second)
    if isinstance(first, Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key, value in first.items():
            assert_same(value, second[key])
    elif isinstance(first, (list, tuple)):
        for a, b in zip(first, second, strict=True):
            assert_same(a, b)
    else:
        assert first == second


def test_a_resumed_run_ends_bit_identical(tmp_path: Path, tiny_prior: Path) -> None:
    unbroken = run(tmp_path / "unbroken", tiny_prior, "data.flip=true")
    run(tmp_path / "resumed", tiny_prior, "data.flip=true", "train.num_iterations=2")
    resumed = run(tmp_path / "resumed", tiny_prior, "data.flip=true")
    assert_same(unbroken, resumed)
    lines = [
        (tmp_path / name / "stats.jsonl").read_text().splitlines()
        for name in ("unbroken", "resumed")
    ]
    # The shorter run validated once more, at its own end.
    assert [line for line in lines[1] if "psnr" not in line or '"iteration": 4' in line] == lines[0]


def test_statistics_after_the_last_checkpoint_are_written_anew(
    tmp_path: Path, tiny_prior: Path
) -> None:
    run(tmp_path, tiny_prior)
    before = (tmp_path / "stats.jsonl").read_text()
    (tmp_path / "checkpoints/iteration_0000004.pt").unlink()  # as if killed before this save
    run(tmp_path, tiny_prior)
    assert (tmp_path / "stats.jsonl").read_text() == before


def test_a_run_killed_before_its_first_checkpoint_begins_anew(
    tmp_path: Path, tiny_prior: Path
) -> None:
    run(tmp_path, tiny_prior)
    before = (tmp_path / "stats.jsonl").read_text()
    for path in (tmp_path / "checkpoints").iterdir():
        path.unlink()
    run(tmp_path, tiny_prior)
    assert (tmp_path / "stats.jsonl").read_text() == before


def test_a_diverged_run_stops_and_keeps_its_sound_checkpoints(
    tmp_path: Path, tiny_prior: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = DaviTrainer.train_step

    def diverge(self: DaviTrainer, x0: Tensor, iteration: int) -> dict[str, Tensor]:
        losses = original(self, x0, iteration)
        return losses if iteration < 2 else {**losses, "consistency": torch.tensor(torch.nan)}

    monkeypatch.setattr(DaviTrainer, "train_step", diverge)
    with pytest.raises(InputError, match="consistency not finite after iteration 4"):
        run(tmp_path, tiny_prior)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["iteration_0000002.pt"]
    assert "NaN" not in (tmp_path / "stats.jsonl").read_text()


def test_training_in_bf16_follows_fp32(tiny_prior: Path) -> None:
    found = []
    for precision in ("fp32", "bf16"):
        trainer = tiny_trainer(tiny_prior, f"train.precision={precision}")
        trainer.step(trainer.draw(clean_batch(), "test"))
        found.append(torch.cat([g.flatten() for g in gradients(trainer.generator).values()]))
    exact, rounded = found
    assert 0 < (rounded - exact).norm() / exact.norm() < 0.05


@pytest.mark.gpu
def test_a_step_on_a_gpu_waits_for_nothing(tiny_prior: Path) -> None:
    trainer = build_trainer(tiny_config(tiny_prior), torch.device("cuda"))
    x0 = clean_batch().cuda()
    trainer.train_step(x0, 0)  # tables are copied, optimisers set up
    torch.cuda.set_sync_debug_mode("error")
    try:
        trainer.train_step(x0, 1)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("task", OPERATORS)
def test_a_step_on_a_gpu_gives_the_gradients_of_the_cpu(
    task: str, precision: str, tiny_prior: Path
) -> None:
    overrides = (f"operator={OPERATORS[task]}", f"train.precision={precision}")
    trainer = tiny_trainer(tiny_prior, *overrides)
    inputs = trainer.draw(clean_batch(), "test")
    trainer.step(inputs)
    on_gpu = build_trainer(tiny_config(tiny_prior, *overrides), torch.device("cuda"))
    moved = {
        field.name: getattr(inputs, field.name).to("cuda") for field in dataclasses.fields(inputs)
    }
    on_gpu.step(StepInputs(**moved))
    exact, found = (
        torch.cat([g.flatten().cpu() for g in gradients(t.generator).values()])
        for t in (trainer, on_gpu)
    )
    assert (found - exact).norm() / exact.norm() < {"fp32": 2e-3, "bf16": 5e-2}[precision]


def test_without_the_optimiser_state_a_resumed_run_differs(
    tmp_path: Path, tiny_prior: Path
) -> None:
    """A control: the comparison above can fail."""
    unbroken = run(tmp_path / "unbroken", tiny_prior)
    run(tmp_path / "resumed", tiny_prior, "train.num_iterations=2")
    path = tmp_path / "resumed/checkpoints/iteration_0000002.pt"
    content = torch.load(path, weights_only=True)
    content["generator_optimizer"]["state"] = {}
    torch.save(content, path)
    with pytest.raises(AssertionError):
        assert_same(unbroken, run(tmp_path / "resumed", tiny_prior))
