"""Nonlinear blur by a trained network, of Tran et al. 2021 (BKS)."""

import torch
from torch import Tensor

from davi.networks.kernel_wizard import KERNEL_CHANNELS, MULTIPLE, KernelWizard
from davi.operators.operator import ImageShape, Operator
from davi.system.runtime import keyed_rng

KERNEL_DEVIATION = 1.2  # of the latent kernel, as in DPS


class Bks(Operator):
    """A x = clip(2 F((x + 1) / 2, k) - 1, -1, 1) with a network F that blurs by a latent kernel k.

    Source: Chung et al. 2023, Diffusion Posterior Sampling, which uses it as a nonlinear blur. k is
    1.2 times standard normal. Deviation: it is drawn once, from the seed; the DPS code draws it
    anew at every call, so that a measurement and its guidance have different blurs.

    Args:
        image_shape: (3, H, W); sides are multiples of 128.
        network: F, frozen.
        seed: of k.

    Raises:
        ValueError: another image shape.
    """

    def __init__(self, image_shape: ImageShape, network: KernelWizard, seed: int = 0) -> None:
        super().__init__(image_shape, image_shape)
        channels, height, width = image_shape
        if channels != 3 or height % MULTIPLE or width % MULTIPLE:
            raise ValueError(
                f"BKS of {channels} channels of {height}x{width}: 3 channels are needed, and sides "
                f"that are multiples of {MULTIPLE}"
            )
        self.network = network
        shape = KERNEL_CHANNELS, height // MULTIPLE, width // MULTIPLE
        rng = keyed_rng("cpu", "latent kernel", seed)
        kernel = torch.randn(shape, generator=rng, dtype=torch.float32)
        self.register_buffer("kernel", KERNEL_DEVIATION * kernel, persistent=False)

    def A(self, x: Tensor) -> Tensor:
        """Returns the blurred images, in x's dtype; the network runs in that of its weights."""
        sharp = ((x + 1) / 2).to(self.kernel.dtype)
        blurred = self.network(sharp, self.kernel.expand(len(x), -1, -1, -1))
        return (2 * blurred - 1).clamp(-1, 1).to(x.dtype)
