"""A perceptual distance that needs no download: features of the shipped diffusion prior."""

import torch
import torch.nn.functional as F
from torch import Tensor

from davi.schedule import Schedule
from davi.system.files import sha256_of
from davi.system.shipped import CHECKPOINTS, find
from davi.weights.layouts import read_weight_file
from guided_diffusion.checkpoint import unet_from_weights
from guided_diffusion.presets import PHOTOS_64

PRIOR = find("photos_prior_v", CHECKPOINTS)
TIME = 100  # of the diffusion: its noise, which the image is without, has a deviation of 0.33
DEEP = 4  # features count from the level on at which images are smaller by this


class PriorFeatures:
    """Distance of two images in what the middle of the prior's UNet sees in them.

    The features of a place are scaled to length 1; their squared differences are summed over
    channels and averaged over places and blocks, as LPIPS does without its learned weights.
    Diffusion networks without noise in their input are known as such a space.

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
        """Returns the distance of each pair, (B,) float64, for images (B, 3, H, W) in [-1, 1]."""
        pairs = zip(self._features(x), self._features(reference), strict=True)
        distances = [(f - g).square().sum(dim=1).mean(dim=(1, 2)) for f, g in pairs]
        return torch.stack(distances).mean(dim=0)

    def _features(self, x: Tensor) -> list[Tensor]:
        """Features (B, D, h, w) float64 of length 1 of each block that is deep enough."""
        found = []

        def keep(_: torch.nn.Module, __: tuple, output: Tensor) -> None:
            if output.shape[-1] * DEEP <= x.shape[-1]:
                found.append(F.normalize(output.double(), dim=1))

        x = _padded(x.to(self.device), self.network.downsampling)
        hooks = [block.register_forward_hook(keep) for block in self.network.blocks]
        try:
            self.network(self.scale * x, torch.full((len(x),), TIME, device=self.device))
        finally:
            for hook in hooks:
                hook.remove()
        return found


def _padded(x: Tensor, multiple: int) -> Tensor:
    """The images with their last rows and columns repeated, so that the network takes them."""
    below, right = (-side % multiple for side in x.shape[-2:])
    return F.pad(x, (0, right, 0, below), mode="replicate")


def version() -> str:
    """Returns the first digits of the SHA-256 of the prior's file: another prior, other numbers."""
    return sha256_of(PRIOR)[:8]
