"""An ADM UNet that is asked about one time only: all that depends on the time becomes constant."""

import torch
from torch import Tensor, nn

from guided_diffusion.nn import timestep_embedding
from guided_diffusion.unet import ResBlock, UNetModel


class Constant(nn.Module):
    """Gives the same value for every input."""

    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)

    def forward(self, _: Tensor) -> Tensor:
        """Returns the value."""
        return self.value


@torch.no_grad()
def fold_time(network: UNetModel, t: Tensor) -> None:
    """Replaces the time embedding and what residual blocks make of it by their values at a time.

    Args:
        network: without classes; from now on it ignores its times.
        t: (1,) the time.
    """
    dtype = network.time_embed[0].weight.dtype
    emb = network.time_embed(timestep_embedding(t, network.model_channels).to(dtype))
    for block in network.modules():
        if isinstance(block, ResBlock):
            block.emb_layers = Constant(block.emb_layers(emb))
    network.time_embed = Constant(emb)
