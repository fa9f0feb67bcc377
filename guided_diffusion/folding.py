"""An ADM UNet that is asked about one time only: what depends on the time becomes constant."""

import torch
from torch import Tensor, nn

from guided_diffusion.nn import timestep_embedding
from guided_diffusion.unet import ResBlock, UNetModel


@torch.no_grad()
def fold_time(network: UNetModel, t: int) -> None:
    """Removes the time embedding, with its values at a time put into the layers that it acts on.

    A scale s and a shift b after a group norm are its own: (w n + v) (1 + s) + b has the weight
    w (1 + s) and the bias v (1 + s) + b. An embedding that is added belongs to the convolution
    before.

    Args:
        network: float32, without classes, not to be trained; from now on it ignores its times.
        t: index of the time.
    """
    times = torch.tensor([t], device=network.time_embed[0].weight.device)
    emb = network.time_embed(timestep_embedding(times, network.model_channels))
    for block in network.modules():
        if isinstance(block, ResBlock):
            _fold_block(block, block.emb_layers(emb)[0])
    network.time_embed = None


def _fold_block(block: ResBlock, emb_out: Tensor) -> None:
    norm, conv = block.out_layers[0], block.in_layers[2]
    if block.use_scale_shift_norm:
        scale, shift = emb_out.chunk(2)
        norm.weight = nn.Parameter(norm.weight * (1 + scale))
        norm.bias = nn.Parameter(norm.bias * (1 + scale) + shift)
    else:
        conv.bias = nn.Parameter(conv.bias + emb_out)
    block.emb_layers = None
