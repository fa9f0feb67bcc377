"""The patch discriminator while it trains against the generator."""

from dataclasses import dataclass

from torch import Tensor, nn

from davi.release.discriminator import adaptive_weight, adversarial_loss, discriminator_loss
from davi.system.parallel import unwrapped
from davi.system.runtime import autocast
from davi.training.network_optimizer import NetworkOptimizer


def compared_weight(network: nn.Module) -> Tensor:
    """Returns the weight by whose gradients the generator's losses are balanced, as in the release.

    It belongs to the last convolution before the output layers.
    """
    return network.last_convolution.weight


@dataclass(kw_only=True, eq=False)
class Adversary:
    """Gives both players of the adversarial game their loss.

    Attributes:
        network: the discriminator, distributed already.
        optimizer: of the network.
        precision: fp32, bf16 or fp16; what it runs in.
        feature_matching: see `adversarial_loss`.
        min_weight: smallest adaptive weight.
        max_weight: largest adaptive weight.
    """

    network: nn.Module
    optimizer: NetworkOptimizer
    precision: str
    feature_matching: bool
    min_weight: float
    max_weight: float

    def discriminator_term(self, x0: Tensor, x0_hat: Tensor) -> Tensor:
        """Returns the discriminator's loss on clean and restored images, a scalar."""
        real, fake = (self._answers(self.network, x) for x in (x0, x0_hat.detach()))
        return discriminator_loss(real, fake)

    def generator_term(
        self,
        x0: Tensor,
        x0_hat: Tensor,
        regulariser: Tensor,
        parameter: Tensor,
        loss_scale: Tensor | float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        """Returns the generator's loss, a scalar, and its adaptive weight.

        Args:
            x0: (B, C, H, W) clean images.
            x0_hat: restored ones, with graph back to phi.
            regulariser: without its weight; the adversarial loss gets as large a gradient.
            parameter: of the generator's layer whose gradients are compared.
            loss_scale: of the generator's optimiser.
        """
        network = unwrapped(self.network).requires_grad_(False)
        try:
            real, fake = (self._answers(network, x) for x in (x0, x0_hat))
            loss = adversarial_loss(real, fake, self.feature_matching)
        finally:
            network.requires_grad_(True)
        low, high = self.min_weight, self.max_weight
        return loss, adaptive_weight(regulariser, loss, parameter, low, high, loss_scale)

    def _answers(self, network: nn.Module, x: Tensor) -> list[Tensor]:
        with autocast(x.device, self.precision):
            return [answer.float() for answer in network(x)]
