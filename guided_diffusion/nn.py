"""Small building blocks of the ADM UNet: float32 group norm, time embedding, zero initialisation.

Nothing here knows of images, schedules or checkpoints.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NUM_GROUPS = 32  # groups of every GroupNorm in ADM
MAX_PERIOD = 10_000  # longest period of the sinusoidal embedding (Vaswani et al., 2017)


class GroupNorm32(nn.GroupNorm):
    """Group norm that computes in float32, whatever the precision of its input.

    Half precision loses the small variances of flat image regions; the checkpoints were trained
    this way.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Returns the normalised x, shape and dtype as x."""
        weight, bias = self.weight.float(), self.bias.float()
        if x.device.type != "cpu" or x.dtype not in (torch.bfloat16, torch.float16):
            return F.group_norm(x.float(), self.num_groups, weight, bias, self.eps).to(x.dtype)
        # The CPU's kernel itself computes in the precision of the weights: no copy is needed.
        return F.group_norm(x, self.num_groups, weight, bias, self.eps)


def normalization(channels: int) -> GroupNorm32:
    """Returns the group norm used everywhere in ADM."""
    return GroupNorm32(NUM_GROUPS, channels)


def to_half_precision(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Turns a network into one for inference in bfloat16 or float16, and returns it.

    Computes what autocast does, but weights are cast once instead of in every call, and lie as the
    convolutions want them (channels last). Group norms keep their float32.
    """
    for module in network.modules():
        if not isinstance(module, GroupNorm32) and not any(module.children()):
            module.to(dtype)
    return network.to(memory_format=torch.channels_last)


def zero_module(module: nn.Module) -> nn.Module:
    """Returns the module with all parameters set to zero, so that a residual branch starts as 0."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def timestep_embedding(timesteps: Tensor, dim: int, max_period: int = MAX_PERIOD) -> Tensor:
    """Returns the sinusoidal embedding of the time index, float32, cosines first, then sines.

    Args:
        timesteps: (B,) time index, 0..999 for ADM; fractions are allowed.
        dim: width of the embedding; an odd width is padded with a zero.
        max_period: longest period, in indices.

    Returns:
        (B, dim) float32.
    """
    half = dim // 2
    exponents = torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
    angles = timesteps.float()[:, None] * torch.exp(-math.log(max_period) * exponents)
    embedding = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return F.pad(embedding, (0, dim % 2))
