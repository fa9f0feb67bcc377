"""Configuration values -> data sets and trainers. Nothing else happens here."""

import copy
from pathlib import Path

import torch
from torch.utils.data import Dataset

from davi.build import build_bridge, build_forward_model, image_shape
from davi.config import InpaintingConfig, LoopConfig, PriorRunConfig, RunConfig
from davi.data import open_images, validation_batch
from davi.errors import InputError
from davi.files import sha256_of
from davi.generator import ImplicitGenerator
from davi.learning_rate import RateShape
from davi.prior_trainer import PriorTrainer
from davi.schedule import Schedule
from davi.score import FrozenPrior, ScoreModel
from davi.trainer import DaviTrainer, LossWeights
from davi.weights import GENERATOR, read_header
from guided_diffusion.checkpoint import load_adm
from guided_diffusion.presets import create_unet


def build_images(config: RunConfig | PriorRunConfig, split: str) -> Dataset:
    """Returns the "train" or "validation" images of a run.

    Raises:
        InputError: the source is not set, missing or empty.
    """
    source = getattr(config.data, split)
    if source is None:
        raise InputError(
            f"data.{split} is not set: give a folder of images with --set data.{split}=DIR"
        )
    return open_images(source, config.network.unet().image_size)


def build_validation_batch(config: RunConfig | PriorRunConfig) -> torch.Tensor:
    """Returns the fixed validation images of a run, (B, 3, S, S) in [-1, 1]."""
    return validation_batch(build_images(config, "validation"), config.train.num_validation_images)


def input_hashes(config: RunConfig) -> dict[str, str]:
    """Returns {key: SHA-256} of the files that a run's configuration names."""
    files = {"prior.checkpoint": config.prior.checkpoint}
    if isinstance(config.operator, InpaintingConfig) and config.operator.path is not None:
        files["operator.path"] = config.operator.path
    return {key: sha256_of(Path(path)) for key, path in files.items()}


def build_trainer(config: RunConfig, device: torch.device) -> DaviTrainer:
    """Returns the trainer of Algorithm 1, all three networks initialised from the prior.

    Raises:
        InputError, CheckpointError: data or prior weights are missing or do not fit.
    """
    validation = build_validation_batch(config)
    schedule = Schedule.named(config.schedule)
    precision = config.train.precision

    prior = _load_prior(config).to(device)
    generator_network, score_network = (copy.deepcopy(prior).train() for _ in range(2))
    parametrisation = config.generator.parametrisation
    generator = ImplicitGenerator(generator_network, parametrisation, schedule, precision)
    return DaviTrainer(
        generator=generator.to(device),
        fake_score=ScoreModel(score_network, schedule, precision),
        prior=FrozenPrior(ScoreModel(prior, schedule, precision)),
        forward_model=build_forward_model(config, image_shape(config), device),
        bridge=build_bridge(config.bridge, schedule).to(device),
        schedule=schedule,
        weights=LossWeights(**config.loss.model_dump()),
        seed=config.seed,
        learning_rate=config.train.learning_rate,
        fake_score_learning_rate=config.train.fake_score_learning_rate,
        weight_decay=config.train.weight_decay,
        rate_shape=_rate_shape(config.train),
        ema_decay=config.train.ema_decay,
        validation=validation,
    )


def _load_prior(config: RunConfig) -> torch.nn.Module:
    path = Path(config.prior.checkpoint)
    if path.suffix == ".safetensors" and path.is_file() and read_header(path)[0] == GENERATOR:
        raise InputError(f"prior.checkpoint: {path} holds a {GENERATOR}; a prior is needed")
    return load_adm(path, config.network.unet())


def build_prior_trainer(config: PriorRunConfig, device: torch.device) -> PriorTrainer:
    """Returns the trainer of a prior, freshly initialised from the seed."""
    torch.manual_seed(config.seed)  # weight initialisation is the one draw without a key
    network = create_unet(config.network.unet()).to(device)
    return PriorTrainer(
        network,
        Schedule.named(config.schedule),
        seed=config.seed,
        learning_rate=config.train.learning_rate,
        weight_decay=config.train.weight_decay,
        rate_shape=_rate_shape(config.train),
        ema_decay=config.train.ema_decay,
        precision=config.train.precision,
        validation=build_validation_batch(config),
    )


def _rate_shape(config: LoopConfig) -> RateShape:
    return RateShape(
        warmup=config.warmup_iterations,
        cooldown=config.cooldown_iterations,
        total=config.num_iterations,
    )
