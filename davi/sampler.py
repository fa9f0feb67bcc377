"""Algorithm 2: a posterior sample in a single network evaluation."""

import torch
from torch import Tensor

from davi.bridge import PosteriorBridge
from davi.generator import ImplicitGenerator


@torch.no_grad()
def posterior_sample(
    generator: ImplicitGenerator, bridge: PosteriorBridge, y_image: Tensor, z: Tensor
) -> Tensor:
    """Returns x0_hat = I_phi,1(y + h z), (B, C, H, W), nominally in [-1, 1].

    Source: Algorithm 2.

    Args:
        generator: I_phi,a.
        bridge: gives h.
        y_image: (B, C, H, W) measurements on the image grid.
        z: standard normal, shape as y_image.
    """
    a = torch.full((len(y_image),), bridge.END, device=y_image.device)
    return generator(bridge.endpoint(y_image, z), a, y_image)
