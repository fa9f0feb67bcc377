"""Tiny networks and runs made of configs/tiny.yaml."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from davi.config.schema import PriorRunConfig, RunConfig
from davi.config.yaml_file import load_config
from davi.runs.build import build_trainer
from davi.system.world import World
from davi.trainer import DaviTrainer
from davi.weights.network_file import GENERATOR, PRIOR, save_weights
from guided_diffusion.presets import create_unet
from tests.conftest import REPOSITORY

ALONE = World(0, 1, torch.device("cpu"))


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Within the block new tensors have this dtype unless they say otherwise."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def tiny_prior_config(*overrides: str) -> PriorRunConfig:
    """configs/tiny_prior.yaml."""
    return load_config(REPOSITORY / "configs/tiny_prior.yaml", PriorRunConfig, overrides)


def tiny_config(prior: Path, *overrides: str) -> RunConfig:
    """configs/tiny.yaml with the given prior."""
    overrides = (f"prior.checkpoint={prior}", *overrides)
    return load_config(REPOSITORY / "configs/tiny.yaml", RunConfig, overrides)


def write_tiny_prior(path: Path, *overrides: str) -> Path:
    """Writes a prior of random weights, zero-initialised ones included, and returns its path."""
    config = tiny_prior_config(*overrides)
    torch.manual_seed(3)
    network = create_unet(config.network.unet())
    weights = {
        key: value + 0.02 * torch.randn_like(value) for key, value in network.state_dict().items()
    }
    save_weights(
        path,
        weights,
        kind=PRIOR,
        config=config.model_dump(mode="json"),
        iteration=0,
        dtype="float32",
    )
    return path


def tiny_trainer(prior: Path, *overrides: str) -> DaviTrainer:
    """The trainer of configs/tiny.yaml on the CPU."""
    return build_trainer(tiny_config(prior, *overrides), ALONE)


@torch.no_grad()
def move_fake_score(trainer: DaviTrainer) -> None:
    """Moves s_psi away from the prior, where it begins and the direction to a posterior is 0."""
    for parameter in trainer.fake_score.parameters():
        parameter *= 1.2


def write_tiny_generator(path: Path, prior: Path, *overrides: str) -> Path:
    """Writes the generator of a freshly built trainer, and returns its path."""
    config = tiny_config(prior, *overrides)
    trainer = build_trainer(config, ALONE)
    save_weights(
        path,
        trainer.generator.network.state_dict(),
        kind=GENERATOR,
        config=config.model_dump(mode="json"),
        iteration=0,
        dtype="float32",
    )
    return path
