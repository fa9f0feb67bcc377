"""UNets of the library diffusers, called as ADM's networks are."""

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from davi.system.errors import InputError

MAX_LEVELS = 12  # each halves the image
PREFIX = "unet."  # of the keys of diffusers' weights in ours


class DiffusersNetwork(nn.Module):
    """A `diffusers.UNet2DModel`, called as ADM's networks are.

    Args:
        settings: its config.

    Raises:
        InputError: diffusers is not installed.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.unet = _unet_class()(**settings)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Returns the output for x (B, C, H, W) at times t (B,), dtype as x."""
        dtype = self.unet.conv_out.weight.dtype
        return self.unet(x.to(dtype), t, return_dict=False)[0].to(x.dtype)

    @property
    def blocks(self) -> list[nn.Module]:
        """The parts that hold almost all weights."""
        return [*self.unet.down_blocks, self.unet.mid_block, *self.unet.up_blocks]

    @property
    def last_convolution(self) -> nn.Module:
        """The last one before the output layers."""
        return self.unet.up_blocks[-1].resnets[-1].conv2


@dataclass(frozen=True, kw_only=True)
class DiffusersUNet:
    """The architecture of a `diffusers.UNet2DModel`."""

    first_layer: ClassVar[str] = f"{PREFIX}conv_in"
    last_layer: ClassVar[str] = f"{PREFIX}conv_out"
    image_size: int
    in_channels: int
    out_channels: int
    downsampling: int
    settings: str  # the others, as JSON

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> "DiffusersUNet":
        """Returns the architecture that a config.json of diffusers describes.

        Raises:
            ValueError: diffusers does not know a key or a value, or this project cannot use such a
                network: says which.
            InputError: diffusers is not installed.
        """
        parameters = inspect.signature(_unet_class()).parameters
        settings = {key: value for key, value in config.items() if not key.startswith("_")}
        if unknown := settings.keys() - parameters.keys():
            raise ValueError(f"model: UNet2DModel of diffusers knows no {', '.join(unknown)}")
        known = {key: parameter.default for key, parameter in parameters.items()} | settings
        wanted = {
            "in_channels": (3,),
            "out_channels": (3, 6),
            "class_embed_type": (None,),
            "num_class_embeds": (None,),
            "time_embedding_type": ("positional",),  # "fourier" is of another diffusion
        }
        for key, allowed in wanted.items():
            if known[key] not in allowed:
                names = " or ".join(map(str, allowed))
                raise ValueError(f"model.{key}: {known[key]!r:.40}, but {names} is needed")
        widths = known["block_out_channels"]
        if not isinstance(widths, (list, tuple)) or not 1 <= len(widths) <= MAX_LEVELS:
            raise ValueError(
                f"model.block_out_channels: {widths!r:.40}, but a list of 1 to {MAX_LEVELS} widths "
                "is needed"
            )
        size, levels = known["sample_size"], len(widths)
        size = size[0] if isinstance(size, (list, tuple)) and len(set(size)) == 1 else size
        if not isinstance(size, int) or size < 1 or size % 2 ** (levels - 1):
            raise ValueError(
                f"model.sample_size: {size!r:.40}, but the side of square images is needed, a "
                f"multiple of {2 ** (levels - 1)}"
            )
        others = {
            key: value
            for key, value in sorted(settings.items())
            if key not in ("in_channels", "out_channels", "sample_size")
        }
        return cls(
            image_size=size,
            in_channels=known["in_channels"],
            out_channels=known["out_channels"],
            downsampling=2 ** (levels - 1),
            settings=json.dumps(others),
        )

    def create(self) -> DiffusersNetwork:
        """Returns a freshly initialised network.

        Raises:
            ValueError: diffusers refuses a value of the config.
        """
        sizes = {"in_channels": self.in_channels, "out_channels": self.out_channels}
        try:
            return DiffusersNetwork(
                {"sample_size": self.image_size, **sizes, **json.loads(self.settings)}
            )
        except InputError:
            raise
        except Exception as error:  # diffusers checks little, and fails where a value is used
            raise ValueError(f"model: diffusers refuses it ({error})") from error

    def empty(self) -> DiffusersNetwork:
        """Returns the network on the meta device."""
        with torch.device("meta"):
            return self.create()


def _unet_class() -> type[nn.Module]:
    try:
        from diffusers import UNet2DModel
    except ImportError as error:
        raise InputError(
            "network.name: diffusers needs the package diffusers: pip install 'davi[diffusers]'"
        ) from error
    return UNet2DModel
