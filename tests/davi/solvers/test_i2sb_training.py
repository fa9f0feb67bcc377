"""Training of I2SB networks, and the files that come of it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from davi.config.other_runs import I2SBRunConfig
from davi.config.yaml_file import load_config, parse_config, read_method
from davi.data.batches import open_images, validation_batch
from davi.metrics.scores import psnr
from davi.operators.denoising import Denoising
from davi.operators.inpainting import Inpainting
from davi.operators.measurement import lift
from davi.operators.noise import GaussianNoise
from davi.operators.super_resolution import SuperResolution
from davi.priors.weight_file import read_prior_file
from davi.restorer import load
from davi.runs.build import build_i2sb_trainer, build_images
from davi.runs.loop import run_training
from davi.runs.run_folder import RunFolder
from davi.schedule import Schedule
from davi.score import ScoreModel
from davi.solvers.cddb import CDDB
from davi.solvers.i2sb import I2SB
from davi.solvers.i2sb_bridge import LAST
from davi.solvers.i2sb_file import load_i2sb
from davi.solvers.i2sb_trainer import I2SBTrainer
from davi.solvers.prior import CountedPrior
from davi.system.errors import InputError
from davi.system.runtime import keyed_rng
from davi.system.world import World
from davi.weights.network_file import read_header, read_training_checkpoint
from tests.conftest import REPOSITORY
from tests.processes import in_world
from tests.same import assert_same
from tests.tiny import ALONE, write_tiny_generator

# From photos_i2sb_super_resolution.yaml to the sizes of tiny.yaml.
TINY = (
    "network={preset: photos_64, image_size: 16, channel_mult: [1, 1], attention_resolutions: [2]}",
    "train.num_iterations=4",
    "train.batch_size=4",
    "train.precision=fp32",
    "train.cooldown_iterations=0",
    "train.num_validation_images=2",
    "train.log_every=2",
    "train.validate_every=4",
    "train.save_every=2",
)
INPAINTING = "operator={name: inpainting, box_size: 8}"


def config_of(prior: Path, *overrides: str) -> I2SBRunConfig:
    path = REPOSITORY / "configs/photos_i2sb_super_resolution.yaml"
    settings = (*TINY, f"prior.checkpoint={prior}", *overrides)
    return load_config(path, I2SBRunConfig, settings)


def trainer_of(prior: Path, *overrides: str) -> I2SBTrainer:
    return build_i2sb_trainer(config_of(prior, *overrides), ALONE)


def clean_batch(count: int = 4) -> Tensor:
    return validation_batch(open_images("photos:train", 16), count)


def run(folder: Path, prior: Path, *overrides: str) -> dict:
    """Trains as `davi train` does; returns the newest checkpoint."""
    config = config_of(prior, *overrides)
    run_folder = RunFolder(folder, config, {})
    run_training(
        build_i2sb_trainer(config, ALONE),
        build_images(config, "train"),
        run_folder,
        seed=config.seed,
        data=config.data,
        settings=config.train,
        world=ALONE,
    )
    return read_training_checkpoint(run_folder.find_newest())


def test_training_begins_with_the_prior_without_its_variance(
    tiny_prior_with_variance: Path,
) -> None:
    weights = read_prior_file(tiny_prior_with_variance).weights
    found = trainer_of(tiny_prior_with_variance).model.network.state_dict()
    assert found.keys() == weights.keys()
    for key, value in found.items():
        assert torch.equal(value, weights[key][: len(value)])
    assert len(weights["out.2.weight"]) == 6
    assert len(found["out.2.weight"]) == len(found["out.2.bias"]) == 3


@pytest.mark.parametrize("ot_ode", [False, True])
def test_points_lie_on_the_bridge_of_a_noisy_measurement(ot_ode: bool, tiny_prior: Path) -> None:
    trainer = trainer_of(tiny_prior, f"bridge.ot_ode={ot_ode}", "bridge.beta_max=1.0")
    x0 = clean_batch(64)
    drawn = trainer.draw(x0, range(64), "test")
    operator = SuperResolution((3, 16, 16), 4)
    noise = operator.A(drawn.x1) - operator.A(x0)
    assert noise.std().item() == pytest.approx(0.05, rel=0.05)
    torch.testing.assert_close(drawn.x1, lift(operator.A(drawn.x1), (3, 16, 16), "nearest"))
    root = torch.linspace(0.01, 0.001**0.5, 1000, dtype=torch.float64)[:500]
    rates = torch.cat([root, root.flip(0)]).square()
    f2, g2 = rates.cumsum(0)[drawn.k], rates.flip(0).cumsum(0).flip(0)[drawn.k]
    f2, g2 = f2[:, None, None, None], g2[:, None, None, None]
    z = drawn.x_k - (g2 * x0 + f2 * drawn.x1) / (f2 + g2)
    if ot_ode:
        assert z.abs().max() < 1e-5
    else:
        z = z / (f2 * g2 / (f2 + g2)).sqrt()
        assert z.mean().abs() < 0.02
        assert z.std().item() == pytest.approx(1, rel=0.02)
    torch.testing.assert_close(drawn.slope.double(), (drawn.x_k - x0) / f2.sqrt())
    assert drawn.k.min() < 100
    assert drawn.k.max() > LAST - 100


def test_the_loss_is_the_mean_square_by_the_formula(tiny_prior: Path) -> None:
    trainer = trainer_of(tiny_prior)
    drawn = trainer.draw(clean_batch(), range(4), "test")
    with torch.no_grad():
        loss = trainer.loss(clean_batch(), range(4), "test")
        times = 0.1 + (1000 - 0.1) * drawn.k / 999
        slope = trainer.model.network(drawn.x_k, times.float())
    torch.testing.assert_close(loss, (slope - drawn.slope).square().sum() / slope.numel())


def test_inpainting_learns_the_hole_and_keeps_the_rest(tiny_prior: Path) -> None:
    trainer = trainer_of(tiny_prior, INPAINTING)
    x0 = clean_batch(32)
    drawn = trainer.draw(x0, range(32), "test")
    hole = torch.zeros(16, 16, dtype=torch.bool)
    hole[4:12, 4:12] = True
    assert drawn.x1[..., hole].std().item() == pytest.approx(1, rel=0.05)
    noise = (drawn.x1 - x0)[..., ~hole].std().item()
    assert noise == pytest.approx(0.05, rel=0.05)
    # What is known stays x_1 but for the bridge's noise.
    std = trainer.model.bridge.std[drawn.k][:, None, None].float()
    z = (drawn.x_k - drawn.x1)[..., ~hole] / std
    assert z.std().item() == pytest.approx(1, rel=0.02)
    with torch.no_grad():
        loss = trainer.loss(x0, range(32), "test")
        slope = trainer.model.slope(drawn.x_k, drawn.k)
    expected = (slope - drawn.slope)[..., hole].square().sum() / slope.numel()
    torch.testing.assert_close(loss, expected)


def test_micro_batches_make_no_difference(tiny_prior: Path) -> None:
    found = []
    for pieces in (1, 2):
        trainer = trainer_of(tiny_prior, f"train.num_micro_batches={pieces}")
        found.append(trainer.train_step(clean_batch(), 0))
    torch.testing.assert_close(*found, rtol=1e-4, atol=0)


def test_a_resumed_run_ends_bit_identical(tmp_path: Path, tiny_prior: Path) -> None:
    unbroken = run(tmp_path / "unbroken", tiny_prior)
    run(tmp_path / "resumed", tiny_prior, "train.num_iterations=2")
    resumed = run(tmp_path / "resumed", tiny_prior)
    assert_same(unbroken, resumed)
    assert (tmp_path / "unbroken/panels/iteration_0000004.png").exists()


def _two_steps(world: World, prior: Path, ways: tuple[str, ...]) -> list[list[dict]]:
    """Of each way: terms of two iterations, summed over the processes, and scores after them."""
    return [_two_steps_by(world, prior, parallel) for parallel in ways]


def _two_steps_by(world: World, prior: Path, parallel: str) -> list[dict]:
    trainer = build_i2sb_trainer(config_of(prior, f"train.parallel={parallel}"), world)
    share = slice(trainer.shares[0].start, trainer.shares[-1].stop)
    terms = [trainer.train_step(clean_batch()[share], iteration) for iteration in range(2)]
    sums = [{name: world.sum(value) for name, value in one.items()} for one in terms]
    return [*sums, trainer.validate()[0]]


@pytest.mark.slow
def test_two_processes_do_what_one_does(tiny_prior: Path) -> None:
    (alone,) = _two_steps(ALONE, tiny_prior, ("ddp",))
    for by_ddp, by_fsdp in in_world(2, _two_steps, tiny_prior, ("ddp", "fsdp")):
        torch.testing.assert_close(by_ddp, alone, rtol=1e-4, atol=0)
        torch.testing.assert_close(by_fsdp, alone, rtol=1e-4, atol=0)


@pytest.mark.slow
def test_a_short_training_learns_to_denoise(tiny_prior: Path) -> None:
    trainer = trainer_of(
        tiny_prior,
        "operator={name: denoising}",
        "noise.sigma=0.2",
        "train.num_iterations=60",
        "train.learning_rate=2e-3",
        "train.ema_decay=0.9",
        "train.num_validation_images=16",
    )
    before = trainer.validate()[0]
    for iteration in range(60):
        trainer.train_step(clean_batch(8)[iteration % 2 * 4 :][:4], iteration)
    scores = trainer.validate()[0]
    x0 = trainer.validation
    measured = trainer.draw(x0, range(len(x0)), "validation").x1
    assert scores["validation_loss"] < 0.7 * before["validation_loss"]
    assert scores["psnr"] > psnr(measured, x0).mean().item() + 1
    assert trainer.quality(scores) > trainer.quality(before)


def restored(source: Path, operator: object, solver: type[I2SB] = I2SB) -> Tensor:
    prior = CountedPrior(ScoreModel(torch.nn.Identity(), Schedule.named("linear")))
    y = torch.rand(2, *operator.measurement_shape, generator=keyed_rng("cpu", 5)) - 0.5
    rngs = [keyed_rng("cpu", 0, index) for index in range(2)]
    method = solver(checkpoint=str(source), num_steps=3)
    return method(y, operator, GaussianNoise(0.05, 0.05), prior, rngs)


@pytest.fixture
def finished(tmp_path: Path, tiny_prior: Path) -> Path:
    """The folder of a finished run of super-resolution."""
    run(tmp_path / "run", tiny_prior)
    return tmp_path / "run"


def test_a_run_its_checkpoint_and_its_export_restore_alike(
    finished: Path, tmp_path: Path, script: object
) -> None:
    output = tmp_path / "network.safetensors"
    code, text = script("export", finished, "--output", output, "--dtype", "float32")
    assert code == 0
    assert "davi i2sb after 4 iterations" in text
    kind, values, _ = read_header(output)
    assert kind == "davi i2sb"
    assert parse_config(values, I2SBRunConfig, "header") == load_config(
        finished / "config.yaml", I2SBRunConfig
    )
    operator = SuperResolution((3, 16, 16), 4)
    sources = (finished, finished / "checkpoints/iteration_0000004.pt", output)
    results = [restored(source, operator) for source in sources]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert torch.isfinite(restored(output, operator, CDDB)).all()
    averaged = read_training_checkpoint(sources[1])["ema"]["module.out.2.weight"]
    network = load_i2sb(str(output), "cpu", "fp32").model.network
    assert torch.equal(network.out[2].weight, averaged)
    assert not network.training


def test_networks_and_problems_do_not_mix(finished: Path, tmp_path: Path, tiny_prior: Path) -> None:
    with pytest.raises(InputError, match=r"\(super_resolution\); here are .* \(Denoising\)"):
        restored(finished, Denoising((3, 16, 16)))
    operator = SuperResolution((3, 16, 16), 4)
    generator = write_tiny_generator(tmp_path / "generator.safetensors", tiny_prior)
    for other, name in ((generator, "generator"), (tiny_prior, "prior")):
        with pytest.raises(InputError, match=f"a davi {name}, a davi i2sb is needed"):
            restored(other, operator)
    with pytest.raises(InputError, match="no such file"):
        restored(tmp_path / "absent", operator)
    with pytest.raises(InputError, match="a davi i2sb, a davi generator is needed"):
        load(finished / "checkpoints/iteration_0000004.pt", "cpu")
    with pytest.raises(InputError, match="a davi i2sb; a prior is needed"):
        read_prior_file(finished / "checkpoints/iteration_0000004.pt")


def test_a_network_for_random_masks_takes_any_mask(tmp_path: Path, tiny_prior: Path) -> None:
    run(tmp_path / "run", tiny_prior, "operator={name: inpainting, box_size: 8, mask: random_box}")
    mask = torch.rand(2, 1, 16, 16, generator=keyed_rng("cpu", 1)) > 0.3
    operator = Inpainting((3, 16, 16), mask)
    x = restored(tmp_path / "run", operator)
    y = torch.rand(2, 3, 16, 16, generator=keyed_rng("cpu", 5)) - 0.5
    assert (x - y)[mask.expand_as(x)].abs().max() < 0.1  # known, but for the bridge's noise
    assert (x - y)[~mask.expand_as(x)].abs().mean() > 0.1


def test_variance_channels_are_refused(tiny_prior: Path) -> None:
    with pytest.raises(InputError, match=r"network\.out_channels=6: an I2SB network predicts no"):
        config_of(tiny_prior, "network.out_channels=6")


def test_the_method_is_read_through_bases_and_overrides(tmp_path: Path) -> None:
    configs = REPOSITORY / "configs"
    assert read_method(configs / "imagenet_i2sb_super_resolution.yaml") == "i2sb"
    assert read_method(configs / "photos_denoising.yaml") is None
    assert read_method(configs / "photos_denoising.yaml", ["method=other"]) == "other"


def test_the_scripts_train_what_the_config_names(
    tmp_path: Path, tiny_prior: Path, script: object
) -> None:
    config = REPOSITORY / "configs/photos_i2sb_super_resolution.yaml"
    options = [f"--set={x}" for x in (*TINY, f"prior.checkpoint={tiny_prior}")]
    code, _ = script("train", config, "--run-dir", tmp_path / "run", "--device=cpu", *options)
    assert code == 0
    assert (tmp_path / "run/checkpoints/iteration_0000004.pt").exists()
    code, text = script("train_prior", config)
    assert (code, text.count("\n")) == (2, 1)
    assert "method: 'i2sb' is nothing this command trains; allowed: no such key" in text
    code, text = script("train", config, "--set=method=[ddrm]")
    assert (code, text.count("\n")) == (2, 1)
    assert "method: ['ddrm'] is nothing this command trains; allowed: i2sb" in text
