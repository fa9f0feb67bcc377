"""What the YAML of a run of davi train may say that trains another network than a generator."""

from typing import Literal

from pydantic import Field, model_validator

from davi.config.network import AnyNetworkConfig
from davi.config.problem import NoiseConfig, OperatorConfig
from davi.config.schema import (
    DataConfig,
    Deviation,
    LoopConfig,
    NoiseRange,
    OfProblem,
    PriorConfig,
    ScheduleName,
)
from davi.config.section import Section, Seed


class TeacherConfig(Section):
    """The conditional teacher, davi/score.py."""

    # of the pixels under the white prior that is built in; with 1 a prior that predicts v is a
    # start, otherwise training begins with a last layer of 0
    image_deviation: Deviation = 0.5
    # bounds of the noise deviation of x_t / sqrt(alpha_bar_t), drawn log-uniformly
    noise_range: NoiseRange = (0.015, 40.0)


class TeacherRunConfig(OfProblem, Section):
    """A run of davi train that trains a conditional teacher."""

    method: Literal["teacher"]
    seed: Seed = 0  # of every random number of the run
    network: AnyNetworkConfig  # of the prior
    schedule: ScheduleName = "linear"  # the betas of the diffusion, see the other runs
    prior: PriorConfig  # what training starts from, but for its last layer
    operator: OperatorConfig  # A, what happens to the image
    noise: NoiseConfig  # n, what is added then
    teacher: TeacherConfig = TeacherConfig()
    data: DataConfig
    train: LoopConfig

    @model_validator(mode="after")
    def _noise_fits(self) -> "TeacherRunConfig":
        if not self._has_one_sigma():
            raise ValueError("a conditional teacher needs Gaussian noise of one sigma above 0")
        if not self.network.unet().first_layer:
            raise ValueError("a conditional teacher needs network.name adm or diffusers")
        return self


class I2SBBridgeConfig(Section):
    """The bridge of I2SB, davi/solvers/i2sb_bridge.py."""

    beta_max: float = Field(0.3, gt=0, le=10)  # I2SB: 0.3, for blur and inpainting 1.0
    ot_ode: bool = False  # a bridge without noise; I2SB: for blur and inpainting


class I2SBRunConfig(OfProblem, Section):
    """A run of davi train that trains an I2SB network."""

    method: Literal["i2sb"]
    seed: Seed = 0  # of every random number of the run
    network: AnyNetworkConfig
    prior: PriorConfig  # what training starts from
    operator: OperatorConfig  # A, what happens to the image
    noise: NoiseConfig  # n, what is added then
    bridge: I2SBBridgeConfig = I2SBBridgeConfig()
    data: DataConfig
    train: LoopConfig

    @model_validator(mode="after")
    def _predicts_no_variance(self) -> "I2SBRunConfig":
        unet = self.network.unet()
        if unet.out_channels != unet.in_channels:
            raise ValueError(
                f"network.out_channels={unet.out_channels}: an I2SB network predicts no variance; "
                f"set it to {unet.in_channels} (that of the prior is cut off)"
            )
        return self
