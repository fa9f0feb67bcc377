"""One step of Algorithm 1 against the same step written out, and what must not depend on what."""

import copy
import dataclasses
import functools
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from davi.data.batches import KeyedOrder, open_images
from davi.data.images import save_image
from davi.generator import ImplicitGenerator
from davi.likelihood import at_noised, posterior_weight
from davi.operators.inpainting import Inpainting
from davi.operators.measurement import lift
from davi.runs.build import build_images, build_trainer
from davi.runs.finite import FiniteWatch
from davi.runs.loop import run_training
from davi.runs.run_folder import RunFolder
from davi.score import ScoreModel
from davi.system.errors import InputError
from davi.system.files import sha256_of
from davi.system.world import World
from davi.trainer import DaviTrainer
from davi.training.inputs import InputDraws, StepInputs
from davi.training.learning_rate import RateShape
from davi.weights.network_file import read_training_checkpoint
from tests.same import assert_same
from tests.tiny import ALONE, move_fake_score, tiny_config, tiny_trainer

OPERATORS = {
    "super_resolution": "{name: super_resolution}",
    "gaussian_blur": "{name: gaussian_blur, kernel_size: 5, sigma: 1.0}",
    "inpainting": "{name: inpainting, mask: random_box, box_size: 8}",
    "denoising": "{name: denoising}",
    "colorization": "{name: colorization}",
}
POSTERIOR = (
    "recipe=posterior",
    "bridge.h=0.3",
    "loss.likelihood=noised",
)
RECIPES = {"paper": (), "posterior": ("recipe=posterior",), "energy": ("recipe=energy",)}
GPU = World(0, 1, torch.device("cuda"))
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
    weights, schedule = trainer.weights, trainer.fake_score.schedule
    generator = copy.deepcopy(trainer.generator)
    fake_score = copy.deepcopy(trainer.fake_score)
    x0, t, eps = inputs.x0, inputs.t, inputs.eps
    abar = schedule.alpha_bar[t].float().view(-1, 1, 1, 1)

    y_image = lift(inputs.y, x0.shape[1:])
    y_a = trainer.bridge.perturb(x0, y_image, inputs.a, inputs.z)
    shown = y_image  # what networks that see the measurement are shown
    if isinstance(inputs.operator, Inpainting):
        shown = torch.cat([y_image, inputs.operator.singular_values.float()], dim=1)

    def with_shown(x: Tensor, model: ImplicitGenerator | ScoreModel) -> Tensor:
        return x if model.sees is None else torch.cat([x, shown], dim=1)

    def generated() -> Tensor:
        eps_hat = generator.network(with_shown(y_a, generator), inputs.a)[:, :3]
        return y_a - (1 - schedule.alpha_bar[inputs.a]).sqrt().float().view(-1, 1, 1, 1) * eps_hat

    x_t = abar.sqrt() * generated().detach() + (1 - abar).sqrt() * eps
    F.mse_loss(fake_score.network(with_shown(x_t, fake_score), t)[:, :3], eps).backward()
    psi_gradients = gradients(fake_score)
    optimizer = torch.optim.AdamW(fake_score.parameters(), lr=1e-4, weight_decay=0.01)
    optimizer.step()

    with torch.no_grad():
        eps_gap = trainer.prior.model.network(x_t, t)
        eps_gap -= fake_score.network(with_shown(x_t, fake_score), t)
    x0_hat = generated()
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
    assert_step_is_algorithm_1(tiny_prior, f"operator={OPERATORS[task]}", f"noise={NOISES[noise]}")


@pytest.mark.parametrize("task", ["super_resolution", "inpainting"])
@pytest.mark.parametrize("section", ["generator", "fake_score"])
def test_step_is_algorithm_1_for_networks_that_see_the_measurement(
    section: str, task: str, tiny_prior: Path
) -> None:
    sees = f"{section}.sees_measurement=true"
    assert_step_is_algorithm_1(tiny_prior, f"operator={OPERATORS[task]}", sees)


def assert_step_is_algorithm_1(prior: Path, *settings: str) -> None:
    trainer = tiny_trainer(prior, "loss.gamma=2.0", *settings)
    inputs = trainer.inputs.draw(clean_batch(), range(4), "test")
    expected_psi, expected_phi = expected_gradients(trainer, inputs)
    trainer.step([inputs])
    # psi: had the generator's turn reached s_psi, its gradient would have been added here.
    torch.testing.assert_close(gradients(trainer.fake_score), expected_psi)
    torch.testing.assert_close(gradients(trainer.generator), expected_phi, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("task", "noise"),
    [
        ("super_resolution", "gaussian"),
        ("inpainting", "gaussian"),
        ("super_resolution", "poisson"),
    ],
)
def test_step_towards_a_posterior(task: str, noise: str, tiny_prior: Path) -> None:
    """Both turns start from the networks as they were before the step."""
    problem = (f"operator={OPERATORS[task]}", f"noise={NOISES[noise]}")
    trainer = tiny_trainer(tiny_prior, *problem, "loss.ikl=0.5", *POSTERIOR)
    move_fake_score(trainer)
    inputs = trainer.inputs.draw(clean_batch(), range(4), "test")
    generator, fake_score = copy.deepcopy((trainer.generator, trainer.fake_score))
    y, operator, t, schedule = inputs.y, inputs.operator, inputs.t, fake_score.schedule
    y_image = lift(y, inputs.x0.shape[1:])
    abar = schedule.alpha_bar[t].float().view(-1, 1, 1, 1)

    sigma, largest = 0.05, 0.05
    if noise == "poisson":  # of 255 photons for white
        sigma, largest = 2 * (((y + 1) / 2).clamp(min=1 / 255) / 255).sqrt(), 2 / 255**0.5
    u = y_image + 0.3 * inputs.z
    deviation = (largest**2 + 0.3**2) ** 0.5
    ratio = (1 - schedule.alpha_bar) / schedule.alpha_bar
    time = (ratio < deviation**2).sum().expand(4)
    shown = (operator.singular_values.float(),) if task == "inpainting" else ()
    scaled = u / (1 + deviation**2) ** 0.5
    eps_u = generator.network(torch.cat([scaled, y_image, *shown], dim=1), time)[:, :3]
    x0_hat = u - deviation * eps_u

    x_t = abar.sqrt() * x0_hat.detach() + (1 - abar).sqrt() * inputs.eps
    likelihood = at_noised(y, operator, sigma, x_t, abar)
    eps_psi = fake_score.network(torch.cat([x_t, y_image, *shown], dim=1), t)[:, :3]
    F.mse_loss(eps_psi, inputs.eps + (1 - abar).sqrt() * likelihood).backward()
    s = (1 - abar) / abar
    direction = (trainer.prior.eps(x_t, t) - eps_psi.detach()) / s.sqrt()
    direction = posterior_weight(direction, s, operator, sigma, 0.5, 1)
    (0.5 * direction * x0_hat).mean().backward()

    trainer.step([inputs])
    torch.testing.assert_close(gradients(trainer.fake_score), gradients(fake_score))
    torch.testing.assert_close(
        gradients(trainer.generator), gradients(generator), rtol=1e-4, atol=1e-7
    )


def test_step_of_the_crps_of_two_samples(tiny_prior: Path) -> None:
    trainer = tiny_trainer(tiny_prior, "recipe=energy", "loss.energy_patches=[1, 2]")
    inputs = trainer.inputs.draw(clean_batch(), range(4), "test")
    generator, x0 = copy.deepcopy(trainer.generator), inputs.x0
    y_image = lift(inputs.y, x0.shape[1:])
    first, second = (
        generator(trainer.bridge.endpoint(y_image, z), inputs.a, y_image)
        for z in (inputs.z, inputs.other_z)
    )
    loss = 0
    for size in (1, 2):
        patches = [
            x.unfold(2, size, size).unfold(3, size, size).transpose(1, 3).flatten(3)
            for x in (first, x0, second.detach())
        ]
        sample, truth, other = patches
        to_truth, apart = (sample - truth).norm(dim=-1), (sample - other).norm(dim=-1)
        loss = loss + (to_truth - apart).mean() / size / 2
    loss.backward()

    trainer.step([inputs])
    assert not gradients(trainer.fake_score)
    torch.testing.assert_close(
        gradients(trainer.generator), gradients(generator), rtol=1e-4, atol=1e-7
    )


@pytest.mark.parametrize("recipe", RECIPES)
def test_micro_batches_make_no_difference(recipe: str, tiny_prior: Path) -> None:
    """Not even pieces of two sizes, whose means do not count alike."""
    found = []
    for pieces in (1, 2):
        settings = ("train.batch_size=3", f"train.num_micro_batches={pieces}")
        trainer = tiny_trainer(tiny_prior, *settings, *RECIPES[recipe])
        move_fake_score(trainer)
        terms = trainer.train_step(clean_batch(3), 0)
        networks = {"generator": trainer.generator, "fake_score": trainer.fake_score}
        found.append((terms, {name: gradients(part) for name, part in networks.items()}))
    (whole, whole_gradients), (terms, pieced_gradients) = found
    torch.testing.assert_close(terms, whole, rtol=1e-4, atol=0)
    for name, expected in whole_gradients.items():
        torch.testing.assert_close(pieced_gradients[name], expected, rtol=1e-4, atol=1e-6)


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
    inputs = trainer.inputs.draw(x0, range(4), "train", 5)
    fewer = trainer.inputs.draw(x0[:2], range(2), "train", 5)
    later = trainer.inputs.draw(x0, range(4), "train", 6)
    other_seed = tiny_trainer(tiny_prior, "seed=1").inputs.draw(x0, range(4), "train", 5)
    for name in ("y", "a", "z", "t", "eps"):
        assert torch.equal(getattr(inputs, name)[:2], getattr(fewer, name))
        assert not torch.equal(getattr(inputs, name), getattr(later, name))
        assert not torch.equal(getattr(inputs, name), getattr(other_seed, name))
    assert not torch.equal(inputs.z[0], inputs.z[1])
    assert not torch.equal(inputs.z, inputs.eps)


def test_diffusion_times_stay_below_t_ikl(tiny_prior: Path) -> None:
    trainer = tiny_trainer(tiny_prior, "loss.t_ikl=3")
    t = torch.cat([trainer.inputs.draw(clean_batch(), range(4), "train", i).t for i in range(30)])
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
    assert trainer.generator_optimizer.optimizer.param_groups[0]["lr"] == 0.5e-4
    assert trainer.fake_score_optimizer.optimizer.param_groups[0]["lr"] == 2e-4


def run(folder: Path, prior: Path, *overrides: str) -> dict:
    """Trains as `davi train` does; returns the newest checkpoint."""
    config = tiny_config(prior, *overrides)
    run_folder = RunFolder(folder, config, {})
    run_training(
        tiny_trainer(prior, *overrides),
        build_images(config, "train"),
        run_folder,
        seed=config.seed,
        data=config.data,
        settings=config.train,
        world=ALONE,
    )
    return read_training_checkpoint(run_folder.find_newest())


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_resumed_run_ends_bit_identical(recipe: str, tmp_path: Path, tiny_prior: Path) -> None:
    """For a posterior the prior's error is measured again."""
    settings = ("data.flip=true", *RECIPES[recipe])
    unbroken = run(tmp_path / "unbroken", tiny_prior, *settings)
    run(tmp_path / "resumed", tiny_prior, *settings, "train.num_iterations=2")
    resumed = run(tmp_path / "resumed", tiny_prior, *settings)
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


def poison(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Lets the measurements of iteration `at` be NaN."""
    original = InputDraws.draw

    def draw(self: InputDraws, x0: Tensor, positions: range, *key: int | str) -> StepInputs:
        inputs = original(self, x0, positions, *key)
        return dataclasses.replace(inputs, y=inputs.y * torch.nan) if key[-1] == at else inputs

    monkeypatch.setattr(InputDraws, "draw", draw)


def test_a_run_stops_before_a_step_that_is_not_finite(
    tmp_path: Path, tiny_prior: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, at=2)
    with pytest.raises(InputError, match=r"consistency, .*not finite in iteration 2"):
        run(tmp_path, tiny_prior)
    assert [path.name for path in (tmp_path / "checkpoints").glob("*.pt")] == [
        "iteration_0000002.pt"
    ]
    assert "NaN" not in (tmp_path / "stats.jsonl").read_text()
    report = json.loads((tmp_path / "not_finite.json").read_text())
    order = KeyedOrder(len(open_images("photos:train", 16)), seed=0, flip=False)
    assert report["image_indices"] == [order[8 + offset][0] for offset in range(4)]
    assert (report["iteration"], report["seed"]) == (2, 0)
    assert "generator_gradient" in report["not_finite"]


def test_a_step_that_is_not_finite_changes_no_weight_and_no_moment(
    tiny_prior: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, at=1)
    trainer = tiny_trainer(tiny_prior)
    trainer.train_step(clean_batch(), 0)
    before = trainer.state_dict(keep=True)
    terms = trainer.train_step(clean_batch(), 1)
    after = trainer.state_dict(keep=True)
    assert not terms["generator_gradient"].isfinite()
    for name in ("generator", "fake_score"):
        assert_same(before[name], after[name])
        assert_same(before[f"{name}_optimizer"]["state"], after[f"{name}_optimizer"]["state"])
    assert all(value.isfinite().all() for value in after["ema"].values())


def test_steps_that_are_not_finite_can_be_left_out_and_are_counted(
    tmp_path: Path, tiny_prior: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, at=2)
    skip = "train.on_not_finite=skip"
    unbroken = run(tmp_path / "unbroken", tiny_prior, skip, "train.log_every=1")
    assert unbroken["counters"]["skipped_steps"] == 1
    stats = [json.loads(line) for line in (tmp_path / "unbroken/stats.jsonl").open()]
    assert [line["skipped_steps"] for line in stats if "consistency" in line] == [0, 0, 1, 1]
    assert [line["consistency"] is None for line in stats if "consistency" in line][2]
    run(tmp_path / "resumed", tiny_prior, skip, "train.log_every=1", "train.num_iterations=3")
    resumed = run(tmp_path / "resumed", tiny_prior, skip, "train.log_every=1")
    assert_same(unbroken, resumed)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize(
    ("recipe", "bound"),
    # directions of differences make the gradient of the energy score; rounding turns short ones
    [("paper", 0.05), ("posterior", 0.05), ("energy", 0.1)],
)
def test_training_in_half_precision_follows_fp32(
    recipe: str, bound: float, precision: str, tiny_prior: Path
) -> None:
    found = []
    for each in ("fp32", precision):
        trainer = tiny_trainer(tiny_prior, f"train.precision={each}", *RECIPES[recipe])
        move_fake_score(trainer)
        trainer.step([trainer.inputs.draw(clean_batch(), range(4), "test")])
        found.append(torch.cat([g.flatten() for g in gradients(trainer.generator).values()]))
    exact, rounded = found
    assert 0 < (rounded - exact).norm() / exact.norm() < bound


@pytest.mark.slow
def test_a_compiled_step_is_the_same_step(tiny_prior: Path, graphs: list) -> None:
    found = []
    for compiled in ("false", "true"):
        trainer = tiny_trainer(tiny_prior, f"train.compile={compiled}")
        for iteration in range(2):
            terms = trainer.train_step(clean_batch(), iteration)
        found.append(terms)
        assert trainer.validate()
    assert graphs
    plain, compiled = found
    for name, value in plain.items():
        torch.testing.assert_close(compiled[name], value, rtol=1e-4, atol=0)


def test_unusable_images_are_replaced_and_counted(tmp_path: Path, tiny_prior: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        save_image(clean_batch()[number], folder / f"{number}.png")
    (folder / "broken.png").write_bytes(b"")
    settings = (f"data.train={folder}", "data.on_error=skip", "train.log_every=1")
    state = run(tmp_path / "unbroken", tiny_prior, *settings)
    counts = [
        json.loads(line).get("skipped_images")
        for line in (tmp_path / "unbroken/stats.jsonl").open()
    ]
    # Each epoch of four images meets the broken one once, and so does each batch of four.
    assert counts[:4] == [1, 2, 3, 4]
    assert state["counters"]["skipped_images"] == 4
    run(tmp_path / "resumed", tiny_prior, *settings, "train.num_iterations=2")
    assert_same(run(tmp_path / "resumed", tiny_prior, *settings), state)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_on_a_gpu_waits_for_nothing(precision: str, tiny_prior: Path) -> None:
    trainer = build_trainer(tiny_config(tiny_prior, f"train.precision={precision}"), GPU)
    x0 = clean_batch().cuda()
    watch = FiniteWatch()
    watch.observe(trainer.train_step(x0, 0), 0)  # tables are copied, optimisers set up
    torch.cuda.set_sync_debug_mode("error")
    try:
        watch.observe(trainer.train_step(x0, 1), 1)
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
    inputs = trainer.inputs.draw(clean_batch(), range(4), "test")
    trainer.step([inputs])
    on_gpu = build_trainer(tiny_config(tiny_prior, *overrides), GPU)
    moved = {
        field.name: getattr(inputs, field.name).to("cuda") for field in dataclasses.fields(inputs)
    }
    on_gpu.step([StepInputs(**moved)])
    exact, found = (
        torch.cat([g.flatten().cpu() for g in gradients(t.generator).values()])
        for t in (trainer, on_gpu)
    )
    assert (found - exact).norm() / exact.norm() < {"fp32": 2e-3, "bf16": 5e-2}[precision]


def test_without_keyed_draws_a_resumed_run_differs(
    tmp_path: Path, tiny_prior: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another control: draws of a generator that goes on, and whose state nobody saves."""

    def begin(*_: object) -> None:
        rng = torch.Generator().manual_seed(0)
        monkeypatch.setattr("davi.training.learner.keyed_rng", lambda *_: rng)

    begin()
    unbroken = run(tmp_path / "unbroken", tiny_prior)
    begin()
    run(tmp_path / "resumed", tiny_prior, "train.num_iterations=2")
    begin()
    with pytest.raises(AssertionError):
        assert_same(unbroken, run(tmp_path / "resumed", tiny_prior))


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
    manifest = path.with_name("manifest.json")
    entry = {**json.loads(manifest.read_text())[path.name], "bytes": path.stat().st_size}
    manifest.write_text(json.dumps({path.name: {**entry, "sha256": sha256_of(path)}}))
    with pytest.raises(AssertionError):
        assert_same(unbroken, run(tmp_path / "resumed", tiny_prior))
