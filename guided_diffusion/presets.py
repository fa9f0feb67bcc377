"""Named architectures of the ADM UNet.

A preset is a frozen description; `create_unet` turns it into a network. Anything with other sizes
is made by `dataclasses.replace(PRESETS[name], ...)`.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    from torch import nn

    from guided_diffusion.unet import UNetModel


class Architecture(Protocol):
    """What is known of a network without its weights: of ADM's here, of others `davi/networks/`.

    Attributes:
        image_size: side of the images it is for.
        in_channels, out_channels: of its input and output.
        downsampling: image sides are multiples of it.
        first_layer, last_layer: the convolutions that see the input and give the output; "" if the
            network does not tell.
    """

    image_size: int
    in_channels: int
    out_channels: int
    first_layer: str
    last_layer: str

    @property
    def downsampling(self) -> int:
        """Factor of the image sides."""

    def create(self) -> "nn.Module":
        """Returns a freshly initialised network, (x, t) -> output, on the CPU."""

    def empty(self) -> "nn.Module":
        """Returns the network for weights that come; on the meta device if that will do."""


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Arguments of `UNetModel`; defaults are what the ADM priors have in common."""

    first_layer: ClassVar[str] = "input_blocks.0.0"
    last_layer: ClassVar[str] = "out.2"

    image_size: int
    model_channels: int
    num_res_blocks: int
    attention_resolutions: tuple[int, ...]  # downsampling factors, not side lengths
    channel_mult: tuple[int, ...]
    in_channels: int = 3
    out_channels: int = 6  # noise prediction, then the learned variance
    dropout: float = 0.0
    num_heads: int = 4
    num_head_channels: int = 64
    use_scale_shift_norm: bool = True
    resblock_updown: bool = True
    use_new_attention_order: bool = False
    use_checkpoint: bool = False

    @property
    def downsampling(self) -> int:
        """Factor by which the deepest level is smaller; image sides are multiples of it."""
        return 2 ** (len(self.channel_mult) - 1)

    def create(self) -> "UNetModel":
        """Returns a freshly initialised network."""
        return create_unet(self)

    def empty(self) -> "UNetModel":
        """Returns the network on the meta device: no time for what is overwritten."""
        import torch

        with torch.device("meta"):
            return create_unet(self)


# ffhq_10m.pt, the FFHQ prior of DPS (93.56 M parameters).
FFHQ_256 = UNetConfig(
    image_size=256,
    model_channels=128,
    num_res_blocks=1,
    attention_resolutions=(16,),
    channel_mult=(1, 1, 2, 2, 4, 4),
)

# 256x256_diffusion_uncond.pt, OpenAI's unconditional ImageNet prior (552.81 M parameters).
IMAGENET_256 = UNetConfig(
    image_size=256,
    model_channels=256,
    num_res_blocks=2,
    attention_resolutions=(8, 16, 32),
    channel_mult=(1, 1, 2, 2, 4, 4),
)

# The prior of the embedded photographs, small enough to train on a CPU (4.36 M parameters).
PHOTOS_64 = UNetConfig(
    image_size=64,
    model_channels=32,
    num_res_blocks=1,
    attention_resolutions=(8,),
    channel_mult=(1, 2, 3, 4),
    out_channels=3,  # its training learns no variance
    num_head_channels=32,
)

PRESETS = {"ffhq_256": FFHQ_256, "imagenet_256": IMAGENET_256, "photos_64": PHOTOS_64}


def create_unet(config: UNetConfig) -> "UNetModel":
    """Returns a freshly initialised network of the given architecture."""
    from guided_diffusion.unet import UNetModel  # here, so that presets need no PyTorch

    return UNetModel(**asdict(config))
