"""What a run configuration may say of the networks: ADM's, one of diffusers, or one's own."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from torch import nn

from davi.config.python_file import only_class, run_file
from davi.config.section import FilePath, Pixels, Section
from davi.config.yaml_file import parse_config
from davi.networks.custom import CustomNetwork
from davi.networks.diffusers_unet import DiffusersUNet
from guided_diffusion.presets import PRESETS, Architecture, UNetConfig

Multiple = Annotated[int, Field(gt=0, le=16)]
Prediction = Literal["eps", "v", "x0"]
MAX_PARAMETERS = 4 * 10**9  # seven times the largest ADM network


class NetworkConfig(Section):
    """The ADM architecture: a preset, of which any size may be changed."""

    name: Literal["adm"] = "adm"
    preset: Literal[tuple(PRESETS)] = "ffhq_256"  # gives the value of every key that is null
    image_size: Pixels | None = None  # side of the images in pixels
    # channels of the images: 3, 1 of gray ones, or others, which no picture has
    in_channels: int | None = Field(None, gt=0, le=16)
    model_channels: int | None = Field(None, gt=0, le=1024)  # channels of the first level
    num_res_blocks: int | None = Field(None, gt=0, le=16)  # residual blocks of each level
    # levels with attention, as downsampling factors: 16 is the one whose side is image_size / 16
    attention_resolutions: tuple[Pixels, ...] | None = Field(None, max_length=16)
    # channels of each level, as multiples of model_channels
    channel_mult: tuple[Multiple, ...] | None = Field(None, min_length=1, max_length=8)
    # as many as in_channels, or twice as many with a learned variance; null: as the preset
    out_channels: int | None = Field(None, gt=0, le=32)
    num_head_channels: int | None = Field(None, gt=0, le=1024)  # channels of one attention head
    # attention heads, in place of num_head_channels
    num_heads: int | None = Field(None, gt=0, le=64)
    use_new_attention_order: bool | None = None  # q, k and v of all heads, not head by head
    resblock_updown: bool | None = None  # false: a single convolution resamples
    use_checkpoint: bool | None = None  # compute activations twice: less memory, more time
    # what the prior's network says of x_t, eps (the noise, as ADM's), v or x0: davi/schedule.py
    prediction: Prediction = "eps"

    def unet(self) -> UNetConfig:
        """Returns the preset with the changes applied."""
        changes = self.model_dump(exclude={"name", "preset", "prediction"}, exclude_none=True)
        if self.num_heads is not None:
            changes["num_head_channels"] = -1
        preset = PRESETS[self.preset]
        if self.in_channels is not None and self.out_channels is None:
            changes["out_channels"] = self.in_channels * preset.out_channels // preset.in_channels
        return UNetConfig(**{**vars(preset), **changes})

    @model_validator(mode="after")
    def _can_be_built(self) -> "NetworkConfig":
        if None not in (self.num_heads, self.num_head_channels):
            raise ValueError("num_heads or num_head_channels, not both: set one to null")
        unet = self.unet()
        _require_size(unet)
        if unet.image_size % unet.downsampling:
            raise ValueError(f"image_size={unet.image_size} is no multiple of {unet.downsampling}")
        if unet.out_channels < unet.in_channels:
            raise ValueError(
                f"out_channels={unet.out_channels}: at least {unet.in_channels} needed"
            )
        return self


class _Foreign(Section):
    """Networks that the configuration describes by keys and values of others."""

    def __hash__(self) -> int:
        """Dictionaries have none of their own."""
        return hash(self.model_dump_json())


class DiffusersConfig(_Foreign):
    """A UNet2DModel of the library diffusers, see docs/networks.md."""

    name: Literal["diffusers"]
    # the UNet's config.json. In its place a YAML file may have `folder`, the path of a folder that
    # diffusers wrote: it says model and prediction, and the run's schedule if nothing else does
    model: dict[str, Any]
    prediction: Prediction = "eps"  # prediction_type: epsilon, v_prediction, sample

    def unet(self) -> DiffusersUNet:
        """Returns the architecture."""
        return DiffusersUNet.of_config(self.model)

    @model_validator(mode="after")
    def _can_be_built(self) -> "DiffusersConfig":
        _require_size(self.unet())
        return self


class CustomNetworkConfig(_Foreign):
    """A network that is the class of a Python file, see docs/networks.md."""

    name: Literal["custom"]
    file: FilePath  # with one torch.nn.Module, made with in_channels, out_channels and settings
    settings: dict[str, Any] = Field(default_factory=dict)  # of the class, by keyword
    image_size: Pixels  # side of the images in pixels
    out_channels: int = Field(3, ge=3, le=6)  # 3, or 6 with a learned variance
    downsampling: Pixels = 1  # the sides of images must be multiples of it
    prediction: Prediction = "eps"  # what it says of x_t, see the other networks

    def unet(self) -> CustomNetwork:
        """Returns the architecture; no code of the file runs before a network is made."""
        return CustomNetwork(
            image_size=self.image_size,
            out_channels=self.out_channels,
            downsampling=self.downsampling,
            settings=self.settings,
            find_class=self._find_class,
            file=self.file,
        )

    def _find_class(self) -> type[nn.Module]:
        return only_class(run_file(Path(self.file), "network"), nn.Module, f"network {self.file}")

    @model_validator(mode="after")
    def _fits(self) -> "CustomNetworkConfig":
        if Path(self.file).suffix != ".py":
            raise ValueError("file: the path of a Python file is needed")
        if self.image_size % self.downsampling:
            raise ValueError(f"image_size={self.image_size} is no multiple of {self.downsampling}")
        return self


def _require_size(architecture: Architecture) -> None:
    """Refuses networks that cannot be built or are too large; on the meta device, so at once."""
    size = sum(parameter.numel() for parameter in architecture.empty().parameters())
    if size > MAX_PARAMETERS:
        raise ValueError(f"{size} parameters; at most {MAX_PARAMETERS} are allowed")


def _with_name(value: Any) -> Any:
    """A section without a name is ADM's."""
    return {"name": "adm", **value} if isinstance(value, dict) else value


AnyNetworkConfig = Annotated[
    NetworkConfig | DiffusersConfig | CustomNetworkConfig,
    Field(discriminator="name"),
    BeforeValidator(_with_name),
]


class _OnlyNetwork(Section):
    network: AnyNetworkConfig


def parse_network(values: Any, where: str) -> AnyNetworkConfig:
    """Returns the checked `network` section of a file, `where` naming it.

    Raises:
        InputError: as `parse_config`.
    """
    return parse_config({"network": values}, _OnlyNetwork, where).network
