"""The network that blurs images by a latent kernel, of Tran et al. 2021 (BKS, "KernelWizard").

Source: "Explore Image Deblurring via Encoded Blur Kernel Space", CVPR 2021; the configuration of
its published weights for GOPRO. Parameters have the names of the authors' code, so that these load.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from davi.system.errors import InputError
from guided_diffusion.checkpoint import read_weights, require_finite

WIDTH = 64
FRONT_BLOCKS, BACK_BLOCKS = 10, 20
DEPTHS = (64, 64, 128, 256, 512, 512)  # channels of the U-Net, from its top to its bottom
KERNEL_CHANNELS = 512
MULTIPLE = 128  # of the sides: two halvings before the U-Net and five in it


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x)))."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.conv2 = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the same shape."""
        return x + self.conv2(F.relu(self.conv1(x)))


class Level(nn.Module):
    """A level of the U-Net: down, the levels below or the kernel, up, and what it was beside that.

    The authors' activations work in place, so that what goes beside is the activated input.

    Args:
        depth: number of the level, 0 at the top.
    """

    def __init__(self, depth: int) -> None:
        super().__init__()
        outer, inner = DEPTHS[depth : depth + 2]
        self.at_top, self.at_bottom = depth == 0, depth == len(DEPTHS) - 2
        down = nn.Conv2d(outer, inner, 4, stride=2, padding=1, bias=False)
        up = nn.ConvTranspose2d(2 * inner, outer, 4, stride=2, padding=1, bias=self.at_top)
        self.down = nn.Sequential(down) if self.at_top else nn.Sequential(nn.LeakyReLU(0.2), down)
        self.up = nn.Sequential(nn.ReLU(), up, *[nn.Tanh()] * self.at_top)
        self.submodule = None if self.at_bottom else Level(depth + 1)

    def forward(self, x: Tensor, kernel: Tensor) -> Tensor:
        """Returns (B, outer or 2 outer, H, W) of x (B, outer, H, W)."""
        below = self.down(x)
        if self.at_bottom:
            below = torch.cat([below, kernel], dim=1)
        else:
            below = self.submodule(below, kernel)
        up = self.up(below)
        return up if self.at_top else torch.cat([up, F.leaky_relu(x, 0.2)], dim=1)


class Adapter(nn.Module):
    """The U-Net that brings the kernel to the features of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Level(0)


class KernelWizard(nn.Module):
    """Sharp images and a latent kernel -> blurred images, both in [0, 1] but for overshooting."""

    def __init__(self) -> None:
        super().__init__()
        activation = nn.LeakyReLU(0.1)
        self.feature_extractor = nn.Sequential(
            nn.Conv2d(3, WIDTH, 3, padding=1),
            activation,
            nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1),
            activation,
            nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1),
            activation,
            *(ResidualBlock() for _ in range(FRONT_BLOCKS)),
        )
        self.adapter = Adapter()
        self.recon_trunk = nn.Sequential(
            *(ResidualBlock() for _ in range(BACK_BLOCKS)),
            nn.Conv2d(WIDTH, 4 * WIDTH, 3, padding=1),
            nn.PixelShuffle(2),
            activation,
            nn.Conv2d(WIDTH, 4 * WIDTH, 3, padding=1),
            nn.PixelShuffle(2),
            activation,
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            activation,
            nn.Conv2d(WIDTH, 3, 3, padding=1),
        )

    def forward(self, sharp: Tensor, kernel: Tensor) -> Tensor:
        """Returns the blurred images.

        Args:
            sharp: (B, 3, H, W) in [0, 1]; sides are multiples of 128.
            kernel: (B, 512, H / 128, W / 128).
        """
        features = self.adapter.model(self.feature_extractor(sharp), kernel)
        return sharp + self.recon_trunk(features)


def read_kernel_wizard(path: Path) -> KernelWizard:
    """Returns the network of a weight file, float32 on the CPU, frozen.

    Args:
        path: the authors' `GOPRO_wVAE.pth`; what belongs to their kernel extractor is left out.

    Raises:
        CheckpointError: missing or damaged.
        InputError: of another network.
    """
    weights = read_weights(path)
    require_finite(weights, str(path))
    network = KernelWizard().requires_grad_(False).eval()
    wanted = {key: value.shape for key, value in network.state_dict().items()}
    found = {key: weights[key].shape for key in weights if not key.startswith("kernel_extractor.")}
    if found != wanted:
        differing = sorted(key for key in found | wanted if found.get(key) != wanted.get(key))
        raise InputError(
            f"{path}: not the weights of a KernelWizard: {len(differing)} names or shapes differ, "
            f"the first is {differing[0]}; take GOPRO_wVAE.pth of its authors"
        )
    network.load_state_dict({key: weights[key] for key in wanted})
    return network
