"""UNets of diffusers as priors: against the library's own network, betas and steps."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import davi
from davi.config.network import parse_network
from davi.config.schema import RunConfig
from davi.config.yaml_file import load_config, to_yaml
from davi.folders.generating import load_prior
from davi.networks.diffusers_unet import DiffusersNetwork, DiffusersUNet
from davi.operators.noise import GaussianNoise
from davi.operators.super_resolution import SuperResolution
from davi.priors.weight_file import read_prior_file
from davi.runs.build import build_trainer
from davi.schedule import Schedule
from davi.solvers.dps import Dps
from davi.solvers.prior import CountedPrior
from davi.system.errors import InputError
from davi.weights.network_file import GENERATOR, save_weights
from tests.tiny import ALONE, tiny_config, tiny_trainer

diffusers = pytest.importorskip("diffusers", reason="needs pip install 'davi[diffusers]'")

CPU = torch.device("cpu")
SIZES = {
    "sample_size": 16,
    "block_out_channels": [16, 32],
    "norm_num_groups": 8,
    "layers_per_block": 1,
    "attention_head_dim": 8,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}


def write_folder(folder: Path, scheduler: dict[str, Any], **sizes: Any) -> Any:
    """A pipeline's folder with random weights; returns its UNet."""
    torch.manual_seed(1)
    unet = diffusers.UNet2DModel(**SIZES, **sizes).eval()
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler(**scheduler)).save_pretrained(folder)
    return unet


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pipeline")
    write_folder(path, {"beta_schedule": "squaredcos_cap_v2"})
    return path


def imported(command: object, folder: Path, output: Path) -> Path:
    code, text = command("import", folder, "--output", output)
    assert code == 0, text
    assert "davi prior, from a UNet of diffusers" in text
    return output


@pytest.fixture
def prior(command: object, folder: Path, tmp_path: Path) -> Path:
    return imported(command, folder, tmp_path / "prior.safetensors")


@pytest.mark.parametrize(
    ("prediction", "betas"),
    [
        ("epsilon", {"beta_schedule": "linear"}),
        ("epsilon", {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}),
        ("v_prediction", {"beta_schedule": "squaredcos_cap_v2"}),
        ("sample", {"beta_schedule": "scaled_linear"}),
    ],
)
def test_a_ddim_step_is_that_of_the_library(
    command: object, tmp_path: Path, prediction: str, betas: dict[str, Any]
) -> None:
    unet = write_folder(tmp_path / "pipeline", {"prediction_type": prediction, **betas})
    path = imported(command, tmp_path / "pipeline", tmp_path / "prior.safetensors")
    model, image_shape = load_prior(path, CPU, "fp32")
    assert image_shape == (3, 16, 16)
    theirs = diffusers.DDIMScheduler(clip_sample=False, prediction_type=prediction, **betas)
    theirs.set_timesteps(20)
    for time in (50, 300, 700, 950):
        x_t, t = torch.randn(2, 3, 16, 16), torch.full((2,), time)
        with torch.no_grad():
            expected = theirs.step(unet(x_t, t).sample, time, x_t).prev_sample
            eps = model.eps(x_t, t)
        x0 = model.schedule.x0_from_eps(x_t, t, eps)
        found = model.schedule.add_noise(x0, t - 50, eps)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("recipe", ["paper", "release"])
def test_davi_is_trained_from_it_and_restores(
    prior: Path, folder: Path, tmp_path: Path, recipe: str
) -> None:
    """The generator's network begins as the prior, and a step of training moves it."""
    network = f"network={{name: diffusers, folder: {folder}}}"
    config = tiny_config(
        prior, network, f"recipe={recipe}", "loss.variational_bound=false", "train.precision=bf16"
    )
    assert config.schedule == ("cosine" if recipe == "paper" else "quadratic")
    trainer = build_trainer(config, ALONE)
    generator = trainer.generator.network
    before = {key: value.clone() for key, value in generator.state_dict().items()}
    assert all(torch.equal(read_prior_file(prior).weights[key], before[key]) for key in before)
    losses = trainer.train_step(torch.rand(4, 3, 16, 16) * 2 - 1, 0)
    assert all(torch.isfinite(value) for value in losses.values())
    assert any(not torch.equal(value, before[key]) for key, value in generator.state_dict().items())
    path = tmp_path / "generator.safetensors"
    values = {"kind": GENERATOR, "config": config.model_dump(mode="json")}
    save_weights(path, generator.state_dict(), iteration=1, dtype="float32", **values)
    y = torch.rand(2, 3, 4, 4) * 2 - 1
    exact, half = (davi.load(path, "cpu", precision).restore(y) for precision in ("fp32", "bf16"))
    assert exact.shape == (1, 2, 3, 16, 16)
    torch.testing.assert_close(half, exact, rtol=0, atol=0.05)
    assert not torch.equal(half, exact)


def test_the_measurement_may_be_shown_to_it(prior: Path, folder: Path) -> None:
    """Further input channels, of weight 0 before training."""
    trainer = tiny_trainer(
        prior, f"network={{name: diffusers, folder: {folder}}}", "generator.sees_measurement=true"
    )
    wide = trainer.generator.network.unet.conv_in.weight
    narrow = read_prior_file(prior).weights["unet.conv_in.weight"]
    assert torch.equal(wide[:, :3], narrow)
    assert wide.shape[1] == 6
    assert not wide[:, 3:].any()


def test_a_solver_differentiates_it(prior: Path) -> None:
    model, _ = load_prior(prior, CPU, "fp32")
    counted, rngs = CountedPrior(model), [torch.Generator().manual_seed(0)]
    operator = SuperResolution((3, 16, 16), 4)
    x = Dps(num_steps=3, zeta=0.1)(
        torch.zeros(1, 3, 4, 4), operator, GaussianNoise(0.05, 0.05), counted, rngs
    )
    assert x.shape == (1, 3, 16, 16)
    assert counted.evaluations.backward == 3


def test_its_resolved_configuration_reads_as_it_is(prior: Path, folder: Path) -> None:
    """Without the folder, which may be gone when the run goes on."""
    config = tiny_config(prior, f"network={{name: diffusers, folder: {folder}}}")
    path = prior.with_name("resolved.yaml")
    path.write_text(to_yaml(config))
    assert str(folder) not in path.read_text()
    assert load_config(path, RunConfig) == config


def test_a_folder_that_only_a_weight_file_names_is_not_opened(folder: Path) -> None:
    with pytest.raises(InputError, match=r"x.safetensors: unknown key 'network.folder'"):
        parse_network({"name": "diffusers", "folder": str(folder)}, "x.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_class_embeds": 10}, "model.num_class_embeds: 10, but None is needed"),
        ({"time_embedding_type": "fourier"}, "'fourier', but positional is needed"),
        ({"in_channels": 1}, "model.in_channels: 1, but 3 is needed"),
        ({"sample_size": [16, 32]}, "the side of square images is needed, a multiple of 2"),
        ({"sample_size": 17}, "17, but the side of square images"),
        ({"widths": [8]}, "UNet2DModel of diffusers knows no widths"),
        ({"down_block_types": ["Down", "Down"]}, "diffusers refuses it"),
    ],
)
def test_networks_that_cannot_be_used_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DiffusersUNet.of_config({**SIZES, **changes}).empty()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_train_timesteps": 100}, "num_train_timesteps is 100; only 1000 is known"),
        ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr is True"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule is 'sigmoid'; known: linear"),
        ({"prediction_type": "flow"}, "prediction_type is 'flow'; known: epsilon"),
        (None, "scheduler_config.json: no such file; the folder of a diffusers pipeline"),
    ],
)
def test_other_diffusions_are_refused(
    command: object, folder: Path, tmp_path: Path, changes: dict | None, message: str
) -> None:
    (tmp_path / "unet").symlink_to(folder / "unet")
    if changes is not None:
        (tmp_path / "scheduler_config.json").write_text(json.dumps(changes))
    code, text = command("import", tmp_path, "--output", tmp_path / "prior.safetensors")
    assert (code, len(text.splitlines())) == (2, 1)
    assert message in text


def test_without_the_library_the_message_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(InputError, match=r"pip install 'davi\[diffusers\]'"):
        parse_network({"name": "diffusers", "model": SIZES}, "x.yaml")


def test_the_parts_that_training_asks_for() -> None:
    network = DiffusersUNet.of_config(SIZES).create()
    assert isinstance(network, DiffusersNetwork)
    assert {id(p) for block in network.blocks for p in block.parameters()} < {
        id(p) for p in network.parameters()
    }
    assert network.last_convolution.weight.shape == (16, 16, 3, 3)


def test_cosine_betas_begin_and_end_as_in_their_paper() -> None:
    betas = Schedule.named("cosine").betas
    assert betas[0].item() == pytest.approx(4.1e-5, rel=0.02)
    assert betas[-1].item() == 0.999
