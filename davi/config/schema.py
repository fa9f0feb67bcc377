"""What a run configuration may say: one frozen model per section, with defaults and sources.

`davi.config.yaml_file` reads it from YAML; `davi.build` hands its values to the classes that do the
work, which know nothing of configurations.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from davi.config.network import AnyNetworkConfig
from davi.config.problem import (
    ConvolutionConfig,
    CustomOperatorConfig,
    GaussianNoiseConfig,
    InpaintingConfig,
    NoiseConfig,
    OperatorConfig,
    PoissonNoiseConfig,
)
from davi.config.recipes import PAPER, RECIPES
from davi.config.section import (
    BatchSize,
    Count,
    FilePath,
    LearningRate,
    Pixels,
    Section,
    Seed,
    TermWeight,
    Text,
)
from davi.schedule import Schedule
from davi.system.shipped import CHECKPOINTS, find
from guided_diffusion.presets import Architecture

Fraction = Annotated[float, Field(ge=0, lt=1)]
Shape = Annotated[float, Field(ge=0.01, le=100)]
Deviation = Annotated[float, Field(ge=0.001, le=100)]


def _known_schedule(name: str) -> str:
    Schedule.named(name)
    return name


ScheduleName = Annotated[Text, AfterValidator(_known_schedule)]


def _rising(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] >= bounds[1]:
        raise ValueError("the first must be the smaller one")
    return bounds


# to 1000: above that of the last time, 158 with linear betas
NoiseBound = Annotated[float, Field(ge=0.001, le=1000)]
NoiseRange = Annotated[tuple[NoiseBound, NoiseBound], AfterValidator(_rising)]


class DataConfig(Section):
    """Where clean images come from: a folder, .zip, .tar shards, photos:NAME, kernels:NAME."""

    train: FilePath | None = None  # images to train on
    validation: FilePath | None = None  # images that training only scores and shows
    flip: bool = False  # mirror half of the images; the release mirrors none
    num_workers: int = Field(2, ge=0, le=256)  # processes that read images in the background
    on_error: Literal["fail", "skip"] = "fail"  # skip: another image stands in for a broken one


class LoopConfig(Section):
    """What the training of a prior and of a generator have in common."""

    num_iterations: Count  # K, the number of steps
    batch_size: BatchSize  # of all processes together
    learning_rate: LearningRate = 1e-4  # of AdamW, supplement C.1
    warmup_iterations: int = Field(0, ge=0, le=10**9)  # the learning rate rises first; paper: none
    cooldown_iterations: int = Field(0, ge=0, le=10**9)  # it falls to 0 at the end; paper: none
    weight_decay: float = Field(0.01, ge=0, le=1)  # of AdamW, its default, as in the release
    adam_betas: tuple[Fraction, Fraction] = (0.9, 0.999)  # of AdamW, its defaults
    ema_decay: float = Field(0.9999, ge=0, lt=1)  # of the average of the weights; release
    ema_policy: Literal["warmup", "release"] = "warmup"  # how it gets there: davi/training/ema.py
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"  # of the networks' passes
    compile: bool = False  # torch.compile; pays after some minutes
    parallel: Literal["ddp", "fsdp"] = "ddp"  # under torchrun, see davi/system/parallel.py
    num_micro_batches: BatchSize = 1  # pieces of a process's share of the batch, for memory
    on_not_finite: Literal["stop", "skip"] = "stop"  # at NaN or infinity; skip: leave the step out
    num_validation_images: Count = 8  # spread evenly over them
    log_every: Count = 10  # iterations between two lines of stats.jsonl
    validate_every: Count = 1000  # iterations between two panels with scores
    save_every: Count = 1000  # iterations between two checkpoints
    keep_checkpoints: int = Field(2, ge=2, le=10**6)  # the newest ones; the best is kept besides
    save_in_background: bool = False  # train on while a copy in host memory is written
    wandb_project: Text | None = None  # mirror curves and panels to Weights & Biases

    @model_validator(mode="after")
    def _batch_can_be_cut(self) -> "LoopConfig":
        if self.batch_size < self.num_micro_batches:
            raise ValueError(
                f"batch_size={self.batch_size} is less than num_micro_batches="
                f"{self.num_micro_batches}"
            )
        return self


class PriorRunConfig(Section):
    """A run of davi train-prior."""

    seed: Seed = 0  # of every random number of the run
    network: AnyNetworkConfig
    # weights that training starts from, a file or the name of a shipped one; null: random ones
    init: FilePath | None = None
    # the betas of the diffusion: linear, quadratic or cosine; with the first and the last of them
    # as in linear:0.0015:0.0195
    schedule: ScheduleName = "linear"
    # bounds of the noise deviation of x_t / sqrt(alpha_bar_t), drawn log-uniformly; null: every
    # time is as likely
    noise_range: NoiseRange | None = None
    data: DataConfig
    train: LoopConfig

    @property
    def init_path(self) -> Path | None:
        """The file of `init`: the user's own, or the shipped one of this name."""
        return None if self.init is None else find(self.init, CHECKPOINTS)


class PriorConfig(Section):
    """Weights that training starts from."""

    checkpoint: FilePath  # a weight file, or the name of a shipped one

    @property
    def path(self) -> Path:
        """The weight file: the user's own, or the shipped one of this name."""
        return find(self.checkpoint, CHECKPOINTS)


class FrozenPriorConfig(PriorConfig):
    """The frozen prior s_theta."""

    # it is a conditional teacher, trained with `method: teacher`: the score of p(x_t | y)
    sees_measurement: bool = False


class BridgeConfig(Section):
    """The Perturbed Posterior Bridge, Eq. 13."""

    h: float = Field(0.1, ge=0, le=10)  # deviation of the noise that is added to y
    h_sampling: float | None = Field(None, ge=0, le=10)  # at a = 1 outside training; null: h
    mixing: Literal["linear", "quadratic", "symmetric"] = "linear"  # which betas give sigma_a
    # how the noise grows along the bridge; constant: rows C to E of Table 5
    perturbation: Literal["monotone", "constant"] = "monotone"
    time: Literal["beta", "uniform", "end"] = "beta"  # p(a); end: always a = 1, no bridge
    beta_shape: tuple[Shape, Shape] = (3.0, 1.0)  # of p(a), supplement C.1
    index: Literal["truncated", "nearest"] = "truncated"  # how a becomes an index 0 .. 999
    extra_noise: bool = False  # sigma_a (1 - sigma_a) z of Eq. 14
    # how y comes to the image grid: enlarged, or as A^T y or A^+ y (A_dagger), for any shape of y
    resize: Literal["bilinear", "nearest", "adjoint", "pseudo_inverse"] = "bilinear"


class GeneratorConfig(Section):
    """The implicit generator I_phi,a."""

    # see docs/fidelity.md; denoiser: the prior's estimate of x0 in y + h z, at a = 1 only;
    # conditional: a conditional teacher's estimate at high noise, from y and z
    parametrisation: Literal["paper", "release", "denoiser", "conditional"] = "paper"
    sees_measurement: bool = False  # y itself in further input channels, besides y + h z


class FakeScoreConfig(Section):
    """The fake score s_psi."""

    sees_measurement: bool = False  # y in further input channels: the score of q(x_t | y)


class LossConfig(Section):
    """The terms of Algorithm 1: their weights and forms."""

    # weight of data consistency, Table 12; unused with a likelihood or energy
    gamma: TermWeight
    reg: TermWeight  # weight of the l2 regulariser, Table 12; unused with a likelihood or energy
    t_ikl: int = Field(1000, gt=0, le=1000)  # T: times are 0 .. T-1, Table 12
    ikl: TermWeight = 1.0  # weight of the prior; 0: row A of Table 5
    # w(t) of Eq. 9; unused with a likelihood
    ikl_weight: Literal["sigma_over_alpha", "constant", "variance"] = "sigma_over_alpha"
    reduction: Literal["mean", "sum"] = "mean"  # over the entries of an image
    # where the l2 term counts; kept_pixels: the release's, for inpainting
    regulariser: Literal["everywhere", "kept_pixels"] = "everywhere"
    variational_bound: bool = False  # trains the learned variance of the fake score
    # grad log p(y | x_t) in the target of the fake score: what A is applied to (docs/objective.md)
    likelihood: Literal["none", "sample", "noised", "denoised"] = "none"
    # bounds of the noise deviation of x_t / sqrt(alpha_bar_t), drawn log-uniformly; null: t_ikl
    noise_range: NoiseRange | None = None
    # p of the weight that lets each singular direction learn at its own noise; null: no such weight
    spectral_power: int | None = Field(None, ge=0, le=4)
    # of the pixels under a white prior, in that weight; with a teacher it must be the teacher's
    image_deviation: Deviation = 0.5
    # weight of the energy score of two samples of each measurement, which takes the place of gamma
    # and reg (docs/objective.md)
    energy: TermWeight = 0.0
    # sides of the patches of which it is taken, in pixels
    energy_patches: tuple[Pixels, ...] = Field((1, 2, 4, 8), min_length=1)

    @model_validator(mode="after")
    def _target_is_whole(self) -> "LossConfig":
        if self.likelihood == "none":
            if self.spectral_power is not None:
                raise ValueError("spectral_power weighs what a likelihood asks for; set likelihood")
        elif self.variational_bound:
            raise ValueError(
                "variational_bound: true is for the paper's target; set likelihood: none"
            )
        return self


class AdversarialConfig(Section):
    """The release's patch discriminator; the paper has none."""

    enabled: bool = False  # train with it
    learning_rate: LearningRate = 1e-4  # release: FFHQ; on ImageNet 1e-3
    feature_matching: bool = True  # the generator also matches the discriminator's features
    min_weight: TermWeight = 0.01  # the adaptive weight is not below this
    max_weight: TermWeight = 10.0  # and not above this

    @model_validator(mode="after")
    def _is_a_range(self) -> "AdversarialConfig":
        if self.min_weight > self.max_weight:
            raise ValueError(f"min_weight={self.min_weight} is above max_weight={self.max_weight}")
        return self


class TrainConfig(LoopConfig):
    """Training of DAVI, Algorithm 1."""

    fake_score_learning_rate: LearningRate = 1e-4  # of s_psi, supplement C.1
    shard_prior: bool = False  # with fsdp: the frozen prior, too
    shared_sample: bool = True  # one forward of the generator serves both turns (Algorithm 1)
    # per_process: every process draws the same numbers, as in the release, which seeds them alike
    draws: Literal["per_image", "per_process"] = "per_image"

    @model_validator(mode="after")
    def _only_fsdp_shards(self) -> "TrainConfig":
        if self.shard_prior and self.parallel != "fsdp":
            raise ValueError("shard_prior needs parallel: fsdp")
        return self


class OfProblem:
    """What runs for an inverse problem have in common."""

    @property
    def task(self) -> str:
        """Name of the inverse problem."""
        if isinstance(self.operator, CustomOperatorConfig):
            return Path(self.operator.file).stem
        return self.operator.name

    @property
    def shows_mask(self) -> bool:
        """Whether y on the image grid shows what is measured: in a hole of inpainting it is 0."""
        return isinstance(self.operator, InpaintingConfig) and not self.operator.noise_in_hole

    def seeing_unet(self) -> Architecture:
        """Returns the architecture of the prior with further input channels for y."""
        unet = self.network.unet()
        return replace(unet, in_channels=2 * unet.in_channels + self.shows_mask)

    def _has_one_sigma(self) -> bool:
        is_plain = isinstance(self.noise, GaussianNoiseConfig) and not self.noise.clip
        return is_plain and 0 < self.noise.bounds[0] == self.noise.bounds[1]


class RunConfig(OfProblem, Section):
    """A run of davi train."""

    recipe: Literal[RECIPES] = PAPER  # see davi/config/recipes.py
    seed: Seed = 0  # of every random number of the run
    network: AnyNetworkConfig
    # the betas of the diffusion: linear, quadratic or cosine; with the first and the last of them
    # as in linear:0.0015:0.0195
    schedule: ScheduleName = "linear"
    prior: FrozenPriorConfig
    operator: OperatorConfig  # A, what happens to the image
    noise: NoiseConfig  # n, what is added then
    bridge: BridgeConfig = BridgeConfig()
    generator: GeneratorConfig = GeneratorConfig()
    fake_score: FakeScoreConfig = FakeScoreConfig()
    loss: LossConfig
    adversarial: AdversarialConfig = AdversarialConfig()
    data: DataConfig
    train: TrainConfig

    @model_validator(mode="after")
    def _sections_fit(self) -> "RunConfig":
        """Refuses settings that exclude each other."""
        unet = self.network.unet()
        if self.loss.variational_bound and unet.out_channels < 2 * unet.in_channels:
            raise ValueError(
                f"loss.variational_bound needs {2 * unet.in_channels} output channels, the network "
                f"has {unet.out_channels}: no variance was learned; set it to false"
            )
        if self.loss.likelihood != "none":
            known = isinstance(self.noise, GaussianNoiseConfig | PoissonNoiseConfig)
            if not known or self.noise.clip or not getattr(self.noise, "bounds", (1.0,))[0]:
                raise ValueError(
                    "loss.likelihood needs noise.sigma above 0, or Poisson noise, without clip"
                )
            if not self.train.shared_sample:
                raise ValueError("loss.likelihood needs train.shared_sample: true")
        if self.generator.parametrisation == "denoiser" and (
            self.bridge.time != "end" or self.bridge.h_sampling is not None
        ):
            raise ValueError(
                "generator.parametrisation: denoiser needs bridge.time: end and no "
                "bridge.h_sampling"
            )
        self._require_conditional()
        varies = isinstance(self.operator, ConvolutionConfig) or (
            isinstance(self.operator, InpaintingConfig) and self.operator.mask.startswith("random")
        )
        if self.bridge.resize in ("adjoint", "pseudo_inverse") and varies:
            raise ValueError(
                f"bridge.resize: {self.bridge.resize} needs one operator for all images; here "
                "each has its own mask or kernel, and y lies on the image grid: set bilinear"
            )
        seeing = self.generator.sees_measurement or self.fake_score.sees_measurement
        if not unet.first_layer and (seeing or self.adversarial.enabled):
            raise ValueError(
                "sees_measurement and adversarial.enabled change or ask for layers of the network, "
                "which a network of one's own does not name: take network.name adm or diffusers"
            )
        if self.loss.regulariser == "kept_pixels" and self.task != "inpainting":
            raise ValueError("loss.regulariser: kept_pixels is for inpainting only")
        if self.adversarial.enabled and self.train.parallel == "fsdp":
            raise ValueError(
                "adversarial.enabled needs train.parallel: ddp, since its weight is found from "
                "gradients of one layer, which fsdp cuts up"
            )
        return self

    def _require_conditional(self) -> None:
        """Refuses half of a training towards a conditional teacher."""
        needed = {
            "prior.sees_measurement: true": self.prior.sees_measurement,
            "generator.parametrisation: conditional": (
                self.generator.parametrisation == "conditional"
            ),
        }
        if not any(needed.values()):
            return
        needed |= {
            "generator.sees_measurement: true": self.generator.sees_measurement,
            "fake_score.sees_measurement: true": self.fake_score.sees_measurement,
            "loss.likelihood: none": self.loss.likelihood == "none",
            "loss.variational_bound: false": not self.loss.variational_bound,
            "loss.noise_range": self.loss.noise_range is not None,
            "bridge.time: end": self.bridge.time == "end",
            "bridge.resize: nearest": self.bridge.resize == "nearest",
            "bridge.h above 0": self.bridge.h > 0,
            "no bridge.h_sampling": self.bridge.h_sampling is None,
            "train.shared_sample: true": self.train.shared_sample,
            "Gaussian noise of one sigma above 0": self._has_one_sigma(),
        }
        if missing := [what for what, there in needed.items() if not there]:
            raise ValueError(
                f"a conditional teacher needs {', '.join(missing)}; recipe: conditional_teacher "
                "sets all of it but the noise"
            )

    def unet(self, section: GeneratorConfig | FakeScoreConfig | FrozenPriorConfig) -> Architecture:
        """Returns the architecture of a network: that of an ordinary prior, wider if it sees y."""
        return self.seeing_unet() if section.sees_measurement else self.network.unet()
