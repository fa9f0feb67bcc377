"""Configuration values -> operators, noise, bridge. Nothing else happens here."""

import hashlib
import inspect
import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from davi.bridge import PosteriorBridge, beta_cdf, end_cdf, uniform_cdf
from davi.config.other_runs import I2SBRunConfig, TeacherRunConfig
from davi.config.problem import (
    BksConfig,
    ColorizationConfig,
    ConvolutionConfig,
    CustomOperatorConfig,
    DenoisingConfig,
    GaussianBlurConfig,
    GaussianNoiseConfig,
    HdrConfig,
    ImpulseNoiseConfig,
    InpaintingConfig,
    JpegConfig,
    NoiseConfig,
    NoiseMixtureConfig,
    NonlinearBlurConfig,
    OperatorConfig,
    PhaseRetrievalConfig,
    PoissonNoiseConfig,
    SpeckleNoiseConfig,
    SuperResolutionConfig,
)
from davi.config.python_file import only_class, run_file
from davi.config.schema import BridgeConfig, FakeScoreConfig, GeneratorConfig, RunConfig
from davi.data.measurement_files import read_mask, require_mask
from davi.generator import ConditionalGenerator, DenoisingGenerator, ImplicitGenerator
from davi.networks.kernel_wizard import read_kernel_wizard
from davi.operators.bks import Bks
from davi.operators.checking import BATCH, check_svd
from davi.operators.colorization import Colorization
from davi.operators.convolution import RandomConvolution
from davi.operators.denoising import Denoising
from davi.operators.gaussian_blur import (
    GaussianBlur,
    ReleaseGaussianBlur,
    circular_gaussian_blur,
)
from davi.operators.hdr import Hdr
from davi.operators.inpainting import (
    Inpainting,
    RandomInpainting,
    centred_box,
    random_box,
    random_pixels,
)
from davi.operators.jpeg import Jpeg
from davi.operators.kernels import motion_kernel, random_gaussian_kernel
from davi.operators.mask_text import is_mask_text, mask_from_text, mask_to_text
from davi.operators.measurement import ForwardModel, MeasurementChannels
from davi.operators.noise import (
    ClippedNoise,
    GaussianNoise,
    ImpulseNoise,
    Noise,
    NoiseMixture,
    PoissonNoise,
    SpeckleNoise,
)
from davi.operators.nonlinear_blur import NonlinearBlur
from davi.operators.operator import ImageShape, Operator, RandomOperator
from davi.operators.phase_retrieval import PhaseRetrieval
from davi.operators.super_resolution import SuperResolution
from davi.operators.svd import SVDOperator
from davi.schedule import Schedule
from davi.system.errors import InputError
from davi.system.files import sha256_of
from davi.system.runtime import keyed_rng

BLURS = {
    "exact": GaussianBlur,
    "circular": circular_gaussian_blur,
    "release": ReleaseGaussianBlur,
}
START_NOISE = 40.0  # at which a generator begins as its teacher: all of an image is hidden

ProblemConfig = RunConfig | I2SBRunConfig | TeacherRunConfig


def image_shape(config: ProblemConfig) -> ImageShape:
    """Returns (C, H, W) of the images of a run."""
    unet = config.network.unet()
    return unet.in_channels, unet.image_size, unet.image_size


def build_operator(config: OperatorConfig, shape: ImageShape) -> Operator | RandomOperator:
    """Returns the operator of an inverse problem for images of the given (C, H, W).

    Raises:
        InputError: the operator does not fit the image size, or its file cannot be used.
    """
    try:
        match config:
            case DenoisingConfig():
                return Denoising(shape)
            case ColorizationConfig():
                return Colorization(shape, config.weights)
            case SuperResolutionConfig():
                return SuperResolution(shape, config.factor, config.kernel)
            case GaussianBlurConfig():
                return BLURS[config.variant](shape, config.kernel_size, config.sigma)
            case InpaintingConfig():
                return _build_inpainting(config, shape)
            case NonlinearBlurConfig():
                return NonlinearBlur(shape, **config.model_dump(exclude={"name"}))
            case HdrConfig():
                return Hdr(shape, config.factor)
            case PhaseRetrievalConfig():
                return PhaseRetrieval(shape, config.oversample)
            case JpegConfig():
                return Jpeg(shape, config.quality, config.subsampling)
            case BksConfig():
                return Bks(shape, read_kernel_wizard(Path(config.weights)), config.seed)
            case ConvolutionConfig():
                return _build_convolution(config, shape)
            case CustomOperatorConfig():
                return _build_custom(config, shape)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"operator: {error}") from error


def _build_inpainting(config: InpaintingConfig, shape: ImageShape) -> Inpainting | RandomInpainting:
    _, height, width = shape
    noise_in_hole = config.noise_in_hole
    if config.mask == "random_pixels":
        draw = partial(random_pixels, height, width, config.hole_rate)
        return RandomInpainting(shape, draw, noise_in_hole, same_everywhere=True)
    if config.mask == "file":
        return Inpainting(shape, mask_of(config.path, (height, width)), noise_in_hole)
    if config.box_size > min(height, width):
        raise ValueError(f"box_size={config.box_size} is larger than the {height}x{width} image")
    if config.mask == "centred_box":
        return Inpainting(shape, centred_box(height, width, config.box_size), noise_in_hole)
    draw = partial(random_box, height, width, config.box_size)
    return RandomInpainting(shape, draw, noise_in_hole)


def _build_convolution(config: ConvolutionConfig, shape: ImageShape) -> RandomConvolution:
    if config.kernel == "motion":
        draw = partial(motion_kernel, config.kernel_size, intensity=config.intensity)
    else:
        draw = partial(random_gaussian_kernel, config.kernel_size, *config.sigma)
    return RandomConvolution(shape, config.kernel_size, draw)


def mask_of(path: str, size: tuple[int, int] | None = None) -> Tensor:
    """Returns the (H, W) mask that `operator.path` names, or that it is (see `with_mask_inside`).

    Args:
        path: of a picture, or the text of a mask.
        size: (H, W) that it must have; None for any.

    Raises:
        InputError: see `read_mask`.
    """
    if not is_mask_text(path):
        return read_mask(Path(path), size)
    mask = mask_from_text(path)
    require_mask(mask, "the generator's mask", size)
    return mask


def mask_sha256(path: str) -> str:
    """Returns the SHA-256 of what `operator.path` names or is."""
    return (
        hashlib.sha256(path.encode()).hexdigest() if is_mask_text(path) else sha256_of(Path(path))
    )


def with_mask_inside(values: dict[str, Any]) -> dict[str, Any]:
    """Returns the values of a run's config, the mask itself in the place of its file's path.

    So weights that are written with them need no other file.
    """
    operator = values.get("operator") or {}
    if operator.get("name") != "inpainting" or operator["mask"] != "file":
        return values
    return {**values, "operator": {**operator, "path": mask_to_text(mask_of(operator["path"]))}}


def _build_custom(config: CustomOperatorConfig, shape: ImageShape) -> Operator:
    """The operator of the user's file, whose code runs here.

    Raises:
        InputError: the settings do not fit it, or its singular value decomposition is none.
    """
    found = only_class(run_file(Path(config.file), "operator"), Operator, config.file)
    try:
        inspect.signature(found).bind(shape, **config.settings)
    except TypeError as error:
        raise InputError(
            f"operator.settings: {found.__name__} of {config.file}: {error}; allowed after "
            f"image_shape: {inspect.signature(found)}"
        ) from error
    operator = found(shape, **config.settings)
    if isinstance(operator, SVDOperator):
        check_svd(operator.sample([keyed_rng("cpu", "check", index) for index in range(BATCH)]))
    return operator


def build_noise(config: NoiseConfig) -> Noise:
    """Returns the noise model."""
    match config:
        case NoiseMixtureConfig():
            return NoiseMixture(tuple(build_noise(kind) for kind in config.kinds))
        case ImpulseNoiseConfig():
            return ImpulseNoise(config.amount)
        case GaussianNoiseConfig():
            noise = GaussianNoise(*config.bounds)
        case PoissonNoiseConfig():
            noise = PoissonNoise(config.rate)
        case SpeckleNoiseConfig():
            noise = SpeckleNoise(config.sigma)
    return ClippedNoise(noise) if config.clip else noise


def build_forward_model(
    config: ProblemConfig, shape: ImageShape, device: torch.device
) -> ForwardModel:
    """Returns y = A x + n for images of the given (C, H, W)."""
    operator = build_operator(config.operator, shape).to(device)
    return ForwardModel(operator, build_noise(config.noise))


def build_generator(
    network: nn.Module,
    config: RunConfig,
    bridge: PosteriorBridge,
    operator: Operator | RandomOperator,
    precision: str,
) -> ImplicitGenerator | ConditionalGenerator:
    """Returns I_phi around a network.

    Args:
        network: of the architecture `config.unet(config.generator)`.
        config: the run.
        bridge: of the run; its h is the noise that a denoiser takes away, besides that of y.
        operator: A; only a generator that began as a conditional teacher asks.
        precision: fp32, bf16 or fp16; what the network runs in.
    """
    schedule, sees = Schedule.named(config.schedule), build_sight(config.generator, config)
    if config.generator.parametrisation == "conditional":
        return ConditionalGenerator(
            **conditional_settings(config, operator, config.loss.image_deviation),
            network=network,
            precision=precision,
            endpoint_scale=bridge.endpoint_scale,
            start=START_NOISE,
        )
    if config.generator.parametrisation == "denoiser":
        deviation = math.hypot(build_noise(config.noise).largest_deviation, bridge.endpoint_scale)
        prediction = config.network.prediction
        return DenoisingGenerator(network, schedule, deviation, precision, sees, prediction)
    return ImplicitGenerator(network, config.generator.parametrisation, schedule, precision, sees)


def conditional_settings(
    config: RunConfig | TeacherRunConfig, operator: Operator, deviation: float
) -> dict[str, Any]:
    """Returns the arguments of a `PosteriorDenoiser`, but for its network and precision."""
    return {
        "schedule": Schedule.named(config.schedule),
        "operator": operator,
        "sigma": config.noise.bounds[0],
        "deviation": deviation,
        "sees": MeasurementChannels(config.shows_mask),
    }


def build_sight(
    section: GeneratorConfig | FakeScoreConfig, config: RunConfig
) -> MeasurementChannels | None:
    """Returns how a network of the run is shown the measurement; None: not at all."""
    return MeasurementChannels(config.shows_mask) if section.sees_measurement else None


def build_bridge(config: BridgeConfig, schedule: Schedule) -> PosteriorBridge:
    """Returns the Perturbed Posterior Bridge, on the CPU."""
    time_cdf = {
        "beta": lambda: beta_cdf(config.beta_shape, config.index),
        "uniform": uniform_cdf,
        "end": end_cdf,
    }[config.time]()
    others = config.model_dump(exclude={"time", "beta_shape", "index"})
    return PosteriorBridge(**others, time_cdf=time_cdf, schedule=schedule)
