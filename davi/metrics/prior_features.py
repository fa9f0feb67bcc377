"""A perceptual distance that needs no download: features of the shipped diffusion prior."""

import torch
import torch.nn.functional as F
from torch import Tensor

from davi.schedule import Schedule
from davi.system.files import sha256_of
from davi.system.shipped import CHECKPOINTS, shipped_folder
from davi.weights.layouts import read_weight_file
from guided_diffusion.checkpoint import unet_from_weights
from guided_diffusion.presets import PHOTOS_64

PRIOR = shipped_folder(CHECKPOINTS) / "photos_prior_v.safetensors"
TIME = 100  # of the diffusion: its noise, which the image is without, has a deviation of 0.33
DEEP = 4  # features count from the level on at which images are smaller by this


class PriorFeatures:
    """Distance of two images in what the middle of the prior's UNet sees in them.

    The features of a place are scaled to length 1; their squared differences are summed over
    channels and averaged over places and blocks, as LPIPS does without its learned weights.

    At equal mean square error, crops of photographs shifted by a pixel or made brighter come out
    nearer than noisy ones, and these nearer than blurred ones.

    Args:
        device: where it runs.
    """

    def __init__(self, device: torch.device) -> None:
        weights = read_weight_file(PRIOR).part("prior")
        self.device = device
        self.network = unet_from_weights(weights, PHOTOS_64, str(PRIOR)).to(device)
        self.network.requires_grad_(False)
        self.scale = Schedule.named("linear").alpha_bar[TIME].sqrt().item()

    @torch.no_grad()
    def __call__(self, x: Tensor, reference: Tensor) -> Tensor:
        """Returns the distance of each pair, (B,) float64.

        Args:
            x: (B, 3, H, W) in [-1, 1], or gray with one channel.
            reference: shape as x.
        """
        distances = []

        def compare(_: torch.nn.Module, __: tuple, output: Tensor) -> None:
            if output.shape[-1] * DEEP <= both.shape[-1]:
                first, second = F.normalize(output, dim=1).chunk(2)
                distances.append((first - second).double().square().sum(dim=1).mean(dim=(1, 2)))

        both = torch.cat([x, reference]).to(self.device).expand(-1, 3, -1, -1)
        both = _padded(both, self.network.downsampling)
        hooks = [block.register_forward_hook(compare) for block in self.network.blocks]
        try:
            self.network(self.scale * both, torch.full((len(both),), TIME, device=self.device))
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack(distances).mean(dim=0)


def _padded(x: Tensor, multiple: int) -> Tensor:
    """The images with their last rows and columns repeated, so that the network takes them."""
    below, right = (-side % multiple for side in x.shape[-2:])
    return F.pad(x, (0, right, 0, below), mode="replicate")


def version() -> str:
    """Returns the first digits of the SHA-256 of the prior's file: another prior, other numbers."""
    return sha256_of(PRIOR)[:8]
