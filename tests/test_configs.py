"""Every shipped config: its networks at full size, a step of its training at small size."""

import functools
from pathlib import Path

import pytest
import torch

from davi.benchmarks.ladders import random_network
from davi.build import build_operator, image_shape
from davi.config.other_runs import I2SBRunConfig, TeacherRunConfig
from davi.config.recipes import CONDITIONAL_TEACHER, RECIPES, RELEASE
from davi.config.schema import PriorRunConfig, RunConfig
from davi.config.yaml_file import load_config
from davi.runs.build import (
    assemble_i2sb_trainer,
    assemble_teacher_trainer,
    assemble_trainer,
    build_prior_trainer,
)
from guided_diffusion.presets import PRESETS, UNetConfig, create_unet
from tests.davi.config.test_config import CONFIGS, TASKS, model_of
from tests.tiny import ALONE

PARAMETERS = {"ffhq_256": 93_563_910, "imagenet_256": 552_814_086, "photos_64": 4_361_475}
SMALL = (
    "network.image_size=16",
    "network.model_channels=32",
    "network.channel_mult=[1, 1]",
    "network.num_res_blocks=1",
    "network.attention_resolutions=[2]",
    "network.num_head_channels=32",
    "train.batch_size=2",
    "train.num_micro_batches=1",
    "train.num_validation_images=1",
)
SMALL_RUN = (*SMALL, "loss.energy_patches=[1, 4]")
# Sizes that would not fit 16x16 images, by what they are in.
SMALL_OPERATORS = {
    "inpainting": ("operator.box_size=8",),
    "gaussian_blur": ("operator.kernel_size=9", "operator.sigma=1.0"),
}
# The measurements of a conditional teacher must be readable from the image grid.
OTHER_RECIPES = [recipe for recipe in RECIPES if recipe != CONDITIONAL_TEACHER]
OTHER_NETWORKS = {"ffhq_gaussian_blur", "imagenet_super_resolution"}
RUNS, PRIORS, I2SB, TEACHERS = (
    [path for path in CONFIGS if model_of(path) is model]
    for model in (RunConfig, PriorRunConfig, I2SBRunConfig, TeacherRunConfig)
)
# At small size a config of another data set is its twin of the photographs, with another network.
STEPS = [
    (path, load_config(path, RunConfig).recipe)
    for path in RUNS
    if path.stem.startswith(("photos_", "tiny"))
]
STEPS += [(path, RELEASE) for path in RUNS if path.stem in {f"photos_{task}" for task in TASKS}]
STEPS += [(path, each) for path in RUNS if path.stem in OTHER_NETWORKS for each in OTHER_RECIPES]
by_name = {"ids": lambda path: path.stem}


def load(path: Path, *overrides: str) -> RunConfig | PriorRunConfig | I2SBRunConfig:
    return load_config(path, model_of(path), overrides)


@functools.cache
def parameters_at_full_size(unet: UNetConfig) -> int:
    """Builds the network and evaluates it, without values."""
    shape = (1, unet.in_channels, unet.image_size, unet.image_size)
    with torch.device("meta"):
        network = create_unet(unet)
        output = network(torch.empty(shape), torch.zeros(1, dtype=torch.int64))
    assert output.shape == (1, unet.out_channels, unet.image_size, unet.image_size)
    return sum(parameter.numel() for parameter in network.parameters())


build_once = functools.cache(build_operator)


def test_networks_and_operators_are_built_at_full_size() -> None:
    for path in CONFIGS:
        config = load(path)
        parameters = parameters_at_full_size(config.network.unet())
        if path.stem == "kernel_prior":
            assert parameters == 1_369_953
        elif not path.stem.startswith("tiny"):
            preset = PRESETS[config.network.preset]
            cut_off = (preset.out_channels - config.network.unet().out_channels) * (
                9 * preset.model_channels + 1  # a 3x3 convolution, and a bias
            )
            assert parameters == PARAMETERS[config.network.preset] - cut_off, path
        if not isinstance(config, PriorRunConfig):
            operator = build_once(config.operator, image_shape(config))
            assert operator.image_shape == image_shape(config), path


@pytest.mark.parametrize(
    ("path", "recipe"), STEPS, ids=[f"{path.stem}-{recipe}" for path, recipe in STEPS]
)
def test_a_step_of_training_changes_the_networks(path: Path, recipe: str) -> None:
    task = load(path).task
    config = load(path, f"recipe={recipe}", *SMALL_RUN, *SMALL_OPERATORS.get(task, ()))
    prior = random_network(config.unet(config.prior))
    trainer = assemble_trainer(config, prior, torch.zeros(1, 3, 16, 16), ALONE)
    networks = {
        "generator": trainer.generator.network,
        "fake score": trainer.fake_score.network,
        "prior": prior,
    }
    before = {name: network.out[-1].weight.clone() for name, network in networks.items()}
    x0 = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    losses = trainer.train_step(x0, 0)
    assert all(torch.isfinite(value) for value in losses.values())
    changed = {
        name
        for name, network in networks.items()
        if not torch.equal(network.out[-1].weight, before[name])
    }
    assert changed == ({"generator", "fake score"} if config.loss.ikl else {"generator"})


@pytest.mark.parametrize("path", PRIORS, **by_name)
def test_a_step_of_a_prior_changes_it(path: Path) -> None:
    small_kernels = ("data.validation=kernels:9:held_out",) if path.stem == "kernel_prior" else ()
    config = load(path, *SMALL, *small_kernels, "init=null")
    trainer = build_prior_trainer(config, ALONE)
    before = trainer.model.network.out[-1].weight.clone()
    channels = config.network.unet().in_channels
    loss = trainer.train_step(torch.zeros(2, channels, 16, 16), 1)["loss"]
    assert torch.isfinite(loss)
    assert not torch.equal(trainer.model.network.out[-1].weight, before)


@pytest.mark.parametrize("path", I2SB, **by_name)
def test_a_step_of_i2sb_changes_it(path: Path) -> None:
    config = load(path, *SMALL, *SMALL_OPERATORS.get(load(path).task, ()))
    trainer = assemble_i2sb_trainer(
        config, random_network(config.network.unet()), torch.zeros(1, 3, 16, 16), ALONE
    )
    before = trainer.model.network.out[-1].weight.clone()
    loss = trainer.train_step(torch.zeros(2, 3, 16, 16), 1)["loss"]
    assert torch.isfinite(loss)
    assert not torch.equal(trainer.model.network.out[-1].weight, before)


@pytest.mark.parametrize("path", TEACHERS, **by_name)
def test_a_step_of_a_teacher_changes_it(path: Path) -> None:
    config = load(path, *SMALL, *SMALL_OPERATORS.get(load(path).task, ()))
    prior = random_network(config.network.unet())
    trainer = assemble_teacher_trainer(config, prior, torch.zeros(1, 3, 16, 16), ALONE)
    assert not trainer.model.network.out[-1].weight.any()  # it begins as the white prior
    loss = trainer.train_step(torch.zeros(2, 3, 16, 16), 1)["loss"]
    assert torch.isfinite(loss)
    assert trainer.model.network.out[-1].weight.any()
