"""Configuration values -> data sets and trainers. Nothing else happens here."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.utils.data import Dataset

from davi.build import (
    build_bridge,
    build_forward_model,
    build_generator,
    build_sight,
    conditional_settings,
    image_shape,
)
from davi.config.other_runs import I2SBRunConfig, TeacherRunConfig
from davi.config.schema import LoopConfig, PriorRunConfig, RunConfig
from davi.data.batches import open_images, validation_batch
from davi.likelihood import PosteriorTarget, denoising_error, has_diagonal_gram
from davi.operators.inpainting import RandomInpainting
from davi.operators.measurement import ForwardModel
from davi.operators.svd import SVDOperator
from davi.priors.teacher_trainer import TeacherTrainer, begin_as_prior
from davi.priors.trainer import PriorTrainer
from davi.priors.weight_file import read_prior_file, read_teacher_file
from davi.release.discriminator import PatchDiscriminator
from davi.schedule import Schedule
from davi.score import FrozenPrior, PosteriorDenoiser, ScoreModel
from davi.solvers.i2sb_bridge import I2SBBridge, I2SBModel
from davi.solvers.i2sb_trainer import I2SBTrainer
from davi.system.errors import InputError
from davi.system.parallel import replicated, sharded
from davi.system.runtime import keyed_rng, normal_each
from davi.system.world import World
from davi.trainer import DaviTrainer, LossWeights
from davi.training.adversary import Adversary
from davi.training.ema import Ema
from davi.training.learning_rate import RateShape
from davi.training.network_optimizer import NetworkOptimizer
from davi.weights.layouts import read_weight_file
from guided_diffusion.checkpoint import unet_from_weights, with_input_channels, without_variance
from guided_diffusion.presets import Architecture

AnyRunConfig = RunConfig | PriorRunConfig | I2SBRunConfig | TeacherRunConfig
ERROR_TIMES = 24  # at which the prior's denoising error is measured
TARGET_SETTINGS = {"likelihood", "spectral_power", "image_deviation"}  # of the section loss
COMPILED_VARIANTS = 1000  # more than blocks of four networks, with and without gradients


def build_images(config: AnyRunConfig, split: str) -> Dataset:
    """Returns the "train" or "validation" images of a run.

    Raises:
        InputError: the source is not set, missing or empty, or the network's images no pictures.
    """
    source = getattr(config.data, split)
    if source is None:
        raise InputError(
            f"data.{split} is not set: give a folder of images with --set data.{split}=DIR"
        )
    return open_images(source, image_shape(config)[1], image_shape(config)[0])


def build_validation_batch(config: AnyRunConfig) -> torch.Tensor:
    """Returns the fixed validation images of a run, (B, 3, S, S) in [-1, 1]."""
    return validation_batch(build_images(config, "validation"), config.train.num_validation_images)


def _read_prior(config: RunConfig | TeacherRunConfig) -> torch.nn.Module:
    return read_prior_file(config.prior.path, config.network).network()


def build_trainer(config: RunConfig, world: World) -> DaviTrainer:
    """Returns the trainer of a run, with its prior and its validation images.

    Raises:
        InputError, CheckpointError: data or prior weights are missing or do not fit.
    """
    if config.prior.sees_measurement:
        prior = read_teacher_file(config.prior.path, config)
    else:
        prior = _read_prior(config)
    return assemble_trainer(config, prior, build_validation_batch(config), world)


def assemble_trainer(
    config: RunConfig, prior: torch.nn.Module, validation: torch.Tensor, world: World
) -> DaviTrainer:
    """Returns the trainer of Algorithm 1, all three networks initialised from the prior.

    Args:
        config: the run.
        prior: on the CPU; becomes the trainer's own.
        validation: (B, 3, S, S) images in [-1, 1].
        world: the processes to train on.

    Raises:
        InputError: the batch is too small for the processes, or a patch does not fit the images.
    """
    _require_loss(config)
    common, train = _common(config, validation, world), config.train
    generator_network, score_network = (
        _from_prior(prior, config.unet(section))
        for section in (config.generator, config.fake_score)
    )
    bridge = build_bridge(config.bridge, Schedule.named(config.schedule)).to(world.device)
    forward_model = build_forward_model(config, image_shape(config), world.device)
    generator = build_generator(
        generator_network, config, bridge, forward_model.operator, train.precision
    )
    generator.to(world.device)
    ema = Ema(generator, train.ema_decay, train.ema_policy)
    for model in (generator, ema.module):
        model.network = _distributed(model.network, train, world)
    score_network = _distributed(score_network, train, world)
    prior.requires_grad_(False)
    prior = (_distributed if train.shard_prior else _replicated)(prior, train, world)
    if config.prior.sees_measurement:
        around = partial(
            PosteriorDenoiser,
            **conditional_settings(config, forward_model.operator, config.loss.image_deviation),
            precision=train.precision,
        )
        frozen, target, fake_score = None, around(prior), around(score_network)
    else:
        around = _score_model(config)
        frozen = FrozenPrior(around(prior))
        target = _build_target(config, frozen, forward_model, validation)
        fake_score = around(score_network, sees=build_sight(config.fake_score, config))
    return DaviTrainer(
        generator=generator,
        fake_score=fake_score,
        prior=frozen,
        target=target,
        ema=ema,
        generator_optimizer=_optimizer(generator.network, train, train.learning_rate),
        fake_score_optimizer=_optimizer(score_network, train, train.fake_score_learning_rate),
        forward_model=forward_model,
        bridge=bridge,
        weights=LossWeights(**config.loss.model_dump(exclude=TARGET_SETTINGS)),
        adversary=_build_adversary(config, world) if config.adversarial.enabled else None,
        shared_sample=train.shared_sample,
        draws=train.draws,
        **common,
    )


def _require_loss(config: RunConfig) -> None:
    """Refuses patches that do not fit, and a loss of which nothing is left."""
    loss = config.loss
    aimed = loss.likelihood != "none" or config.prior.sees_measurement
    if aimed and not (loss.ikl or loss.energy):
        raise InputError(
            "loss.ikl: 0 leaves no loss where a likelihood or a teacher is the target; set ikl or "
            "energy above 0"
        )
    _, height, width = image_shape(config)
    wrong = [side for side in loss.energy_patches if height % side or width % side]
    if loss.energy and wrong:
        raise InputError(
            f"loss.energy_patches: sides must divide those of the images, {height}x{width}; "
            f"{wrong[0]} does not"
        )


def _build_target(
    config: RunConfig, prior: FrozenPrior, forward_model: ForwardModel, images: torch.Tensor
) -> PosteriorTarget | None:
    """The posterior to be reached, if it is the target; the prior's error is measured on images."""
    loss, operator = config.loss, forward_model.operator
    if loss.likelihood == "none":
        return None
    spectral = loss.spectral_power is not None or loss.likelihood != "sample"
    if spectral and not isinstance(operator, SVDOperator | RandomInpainting):
        raise InputError(
            f"operator: {type(operator).__name__} has no singular values; for it set "
            "loss.likelihood to sample (or none), and loss.spectral_power to null"
        )
    device = next(prior.parameters()).device
    if config.noise.name == "poisson" and loss.likelihood != "sample":
        one = operator.sample([torch.Generator(device).manual_seed(0)])  # of a random family
        if not has_diagonal_gram(one, device):
            raise InputError(
                f"loss.likelihood: {loss.likelihood} with Poisson noise needs a diagonal A A^T, "
                "as of denoising, inpainting, colorization and super-resolution by averaging, not "
                f"of {type(one).__name__}; set it to sample"
            )
    error = None
    if loss.likelihood == "denoised":
        rngs = [keyed_rng("cpu", config.seed, "denoising error", i) for i in range(len(images))]
        eps = normal_each(images.shape[1:], rngs)
        error = denoising_error(prior, images.to(device), eps.to(device), ERROR_TIMES).to(device)
    return PosteriorTarget(
        prior=prior,
        form=loss.likelihood,
        error=error,
        spectral_power=loss.spectral_power,
        image_deviation=loss.image_deviation,
    )


def _score_model(config: RunConfig | PriorRunConfig) -> Callable[..., ScoreModel]:
    return partial(
        ScoreModel,
        schedule=Schedule.named(config.schedule),
        precision=config.train.precision,
        prediction=config.network.prediction,
    )


def _from_prior(prior: torch.nn.Module, unet: Architecture) -> torch.nn.Module:
    """A network to train that begins as the prior, whatever further input it has."""
    weights = with_input_channels(prior.state_dict(), unet)
    return unet_from_weights(weights, unet, "the prior").train()


def _build_adversary(config: RunConfig, world: World) -> Adversary:
    if config.train.compile:  # its adaptive weight goes through the generator's graph once more
        torch._functorch.config.donated_buffer = False
    torch.manual_seed(config.seed)  # the initialisation is the one draw without a key
    network = PatchDiscriminator(config.network.unet().in_channels)
    if world.distributed and world.device.type == "cuda":  # it has no CPU implementation
        network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
    network = replicated(network, world)
    return Adversary(
        network=network,
        optimizer=_optimizer(network, config.train, config.adversarial.learning_rate),
        precision=config.train.precision,
        **config.adversarial.model_dump(exclude={"enabled", "learning_rate"}),
    )


def build_prior_trainer(config: PriorRunConfig, world: World) -> PriorTrainer:
    """Returns the trainer of a prior, which begins with the weights of `init` or random ones.

    Raises:
        InputError, CheckpointError: data or weights are missing or do not fit.
    """
    torch.manual_seed(config.seed)  # weight initialisation is the one draw without a key
    network = config.network.unet().create()
    if config.init is not None:  # whatever it predicted
        weights = read_weight_file(config.init_path).part("prior")
        network = unet_from_weights(weights, config.network.unet(), config.init)
    validation = build_validation_batch(config)
    settings = _regression(config, network, _score_model(config), validation, world)
    return PriorTrainer(noise_range=config.noise_range, **settings)


def build_i2sb_trainer(config: I2SBRunConfig, world: World) -> I2SBTrainer:
    """Returns the trainer of an I2SB network, with its prior and its validation images.

    Raises:
        InputError, CheckpointError: data or prior weights are missing or do not fit.
    """
    unet, path = config.network.unet(), config.prior.path
    weights = without_variance(read_prior_file(path, config.network).weights, unet)
    network = unet_from_weights(weights, unet, str(path))
    return assemble_i2sb_trainer(config, network, build_validation_batch(config), world)


def build_teacher_trainer(config: TeacherRunConfig, world: World) -> TeacherTrainer:
    """Returns the trainer of a conditional teacher, which begins with the weights of a prior.

    Raises:
        InputError, CheckpointError: data or prior weights are missing or do not fit.
    """
    return assemble_teacher_trainer(
        config, _read_prior(config), build_validation_batch(config), world
    )


def assemble_teacher_trainer(
    config: TeacherRunConfig, prior: torch.nn.Module, validation: torch.Tensor, world: World
) -> TeacherTrainer:
    """Returns the trainer of a conditional teacher.

    Args:
        config: the run.
        prior: on the CPU; becomes the trainer's own.
        validation: (B, 3, S, S) images in [-1, 1].
        world: the processes to train on.

    Raises:
        InputError: the batch is too small for the processes, or the operator does not allow it.
    """
    unet = config.seeing_unet()
    network = _from_prior(prior, unet)
    last_layer = network.get_submodule(unet.last_layer)
    begin_as_prior(last_layer, config.network.prediction, config.teacher.image_deviation)
    forward_model = build_forward_model(config, image_shape(config), world.device)
    model = partial(
        PosteriorDenoiser,
        **conditional_settings(config, forward_model.operator, config.teacher.image_deviation),
        precision=config.train.precision,
    )
    return TeacherTrainer(
        forward_model=forward_model,
        noise_range=config.teacher.noise_range,
        **_regression(config, network, model, validation, world),
    )


def assemble_i2sb_trainer(
    config: I2SBRunConfig, network: torch.nn.Module, validation: torch.Tensor, world: World
) -> I2SBTrainer:
    """Returns the trainer of an I2SB network.

    Args:
        config: the run.
        network: what training starts from, on the CPU; becomes the trainer's own.
        validation: (B, 3, S, S) images in [-1, 1].
        world: the processes to train on.

    Raises:
        InputError: the batch is too small for the processes.
    """
    bridge = I2SBBridge(**config.bridge.model_dump()).to(world.device)
    model = partial(I2SBModel, bridge=bridge, precision=config.train.precision)
    return I2SBTrainer(
        forward_model=build_forward_model(config, image_shape(config), world.device),
        **_regression(config, network.train(), model, validation, world),
    )


def _regression(
    config: PriorRunConfig | I2SBRunConfig | TeacherRunConfig,
    network: torch.nn.Module,
    model_around: Callable[[torch.nn.Module], torch.nn.Module],
    validation: torch.Tensor,
    world: World,
) -> dict[str, Any]:
    """The arguments of `RegressionTrainer`."""
    common, train = _common(config, validation, world), config.train
    ema = Ema(network, train.ema_decay, train.ema_policy)
    ema.module = _distributed(ema.module, train, world)
    network = _distributed(network, train, world)
    return {
        "model": model_around(network),
        "averaged_model": model_around(ema.module),
        "ema": ema,
        "optimizer": _optimizer(network, train, train.learning_rate),
        **common,
    }


def _common(config: AnyRunConfig, validation: torch.Tensor, world: World) -> dict[str, Any]:
    """The arguments of every `Learner` but for `ema`."""
    train = config.train
    pieces = world.size * train.num_micro_batches
    if train.batch_size < pieces:
        raise InputError(
            f"train.batch_size={train.batch_size} is the batch of all processes together; "
            f"{world.size} of them with {train.num_micro_batches} micro-batches each need at "
            f"least {pieces}"
        )
    return {
        "seed": config.seed,
        "batch_size": train.batch_size,
        "num_micro_batches": train.num_micro_batches,
        "validation": validation,
        "world": world,
    }


def _distributed(network: torch.nn.Module, config: LoopConfig, world: World) -> torch.nn.Module:
    """The network over the processes, in the way of the configuration."""
    if config.parallel == "ddp" or not world.distributed:
        return _replicated(network, config, world)
    blocks = getattr(network, "blocks", [])  # of a network of one's own perhaps none
    if config.compile:
        # Each block gathers its weights between compiled pieces. They share their code, of which
        # the compiler by default makes eight variants at most.
        torch._dynamo.config.recompile_limit = COMPILED_VARIANTS
        for block in blocks:
            block.compile()
    return sharded(network, blocks, world)


def _replicated(network: torch.nn.Module, config: LoopConfig, world: World) -> torch.nn.Module:
    if config.compile:
        network.compile()
    return replicated(network, world)


def _optimizer(network: torch.nn.Module, config: LoopConfig, rate: float) -> NetworkOptimizer:
    shape = RateShape(
        warmup=config.warmup_iterations,
        cooldown=config.cooldown_iterations,
        total=config.num_iterations,
    )
    return NetworkOptimizer(
        network,
        learning_rate=rate,
        weight_decay=config.weight_decay,
        betas=config.adam_betas,
        rate_shape=shape,
        precision=config.precision,
    )
