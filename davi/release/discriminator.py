"""The release's adversarial term: a patch discriminator, its losses and its adaptive weight.

The paper has none of it (docs/fidelity.md, "adversarial").
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (64, 128, 256, 512)
STRIDES = (2, 2, 2, 1)
NEGATIVE_SLOPE = 0.2
WEIGHT_STD = 0.02  # of the initial convolutions and, around 1, of the norms
NORM_OFFSET = 1e-4  # in the denominator of the adaptive weight


class PatchDiscriminator(nn.Module):
    """Five 4x4 convolutions that judge overlapping patches (2 766 529 parameters for RGB).

    Parameter names are those of the release without their prefix `discriminator_2d`.

    Args:
        in_channels: of the images.
    """

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        channels = in_channels
        for number, (width, stride) in enumerate(zip(WIDTHS, STRIDES, strict=True)):
            norm = [] if number == 0 else [nn.BatchNorm2d(width)]
            activation = nn.LeakyReLU(NEGATIVE_SLOPE)
            stage = nn.Sequential(_convolution(channels, width, stride), *norm, activation)
            self.add_module(f"model{number}", stage)
            channels = width
        self.add_module(f"model{len(WIDTHS)}", nn.Sequential(_convolution(channels, 1, 1)))
        self.apply(_initialise)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Returns what the stages make of images (B, C, H, W); the last are the patches' logits."""
        outputs = []
        for stage in self.children():
            x = stage(x)
            outputs.append(x)
        return outputs


def _convolution(channels: int, width: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, width, kernel_size=4, stride=stride, padding=2)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, WEIGHT_STD)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, WEIGHT_STD)
        nn.init.zeros_(module.bias)


def discriminator_loss(real: list[Tensor], fake: list[Tensor]) -> Tensor:
    """Returns the hinge loss of the discriminator's answers to clean and restored images."""
    return 0.5 * (F.relu(1 - real[-1]).mean() + F.relu(1 + fake[-1]).mean())


def adversarial_loss(real: list[Tensor], fake: list[Tensor], feature_matching: bool) -> Tensor:
    """Returns the generator's loss: the hinge's other side, and the L1 distances of the features.

    Args:
        real: the discriminator's answers to clean images.
        fake: to restored ones.
        feature_matching: add the distances of all stages but the last, each a mean.
    """
    loss = -fake[-1].mean()
    if feature_matching:
        pairs = zip(fake[:-1], real[:-1], strict=True)
        loss = loss + sum(F.l1_loss(one, other) for one, other in pairs)
    return loss


def adaptive_weight(
    regulariser: Tensor,
    adversarial: Tensor,
    parameter: Tensor,
    low: float,
    high: float,
    loss_scale: Tensor | float = 1.0,
) -> Tensor:
    """Returns the weight that lets both losses pull equally at one layer, clipped, a scalar.

    Source: release (as in VQGAN, Esser et al. 2021, Eq. 7): the ratio of the gradients' norms.

    Args:
        regulariser: the l2 regulariser, without its weight.
        adversarial: `adversarial_loss`.
        parameter: weight of the generator's layer.
        low: smallest result.
        high: largest result.
        loss_scale: losses are multiplied by it and the gradients divided: in fp16 those of a mean
            over many pixels would vanish. Where they overflow the result is `low`.
    """
    norms = [
        torch.autograd.grad(loss_scale * loss, parameter, retain_graph=True)[0].norm() / loss_scale
        for loss in (regulariser, adversarial)
    ]
    ratio = (norms[0] / (norms[1] + NORM_OFFSET)).detach()
    return ratio.nan_to_num(nan=low, posinf=low).clamp(low, high)
