"""I2SB: a Schroedinger bridge from clean images, k = 0, to degraded ones, k = 999.

x_k ~ N(mu0_k x_0 + mu1_k x_1, var_k); a network learns (x_k - x_0) / f_k. Source: Liu et al. 2023,
"I2SB: Image-to-Image Schroedinger Bridge", and its code. Unlike there, x_1 comes from a measurement
with its noise: the problems here are noisy ones.
"""

import torch
from torch import Tensor, nn

from davi.bridge import symmetric_betas
from davi.operators.inpainting import Inpainting
from davi.operators.linear import LinearOperator
from davi.operators.measurement import lift
from davi.schedule import NUM_STEPS
from davi.system.runtime import autocast

LAST = NUM_STEPS - 1
FIRST_TIME = 1e-4  # of the unit interval that the network's times divide


def sampling_grid(num_steps: int) -> list[int]:
    """Returns num_steps + 1 indices, evenly spaced, from 999 down to 0.

    With 20 steps: 999, 949, 899, ..., 50, 0.
    """
    return torch.linspace(0, LAST, num_steps + 1, dtype=torch.float64).round().int().tolist()[::-1]


def known_pixels(operator: LinearOperator) -> Tensor | None:
    """Returns what inpainting keeps, 1 or 0, to broadcast against images; None elsewhere."""
    return operator.singular_values if isinstance(operator, Inpainting) else None


def with_known(x: Tensor, x1: Tensor, known: Tensor | None) -> Tensor:
    """Returns x (B, C, H, W) with the pixels of x_1 where those are known."""
    return x if known is None else torch.where(known > 0, x1, x)


def degraded_end(y: Tensor, operator: LinearOperator, hole: Tensor) -> Tensor:
    """Returns x_1 (B, C, H, W): the measurement on the image grid, where the bridge ends.

    A smaller one is enlarged by repeating its pixels. A hole is filled with noise.

    Args:
        y: (B, *measurement_shape).
        operator: A.
        hole: standard normal, (B, C, H, W).
    """
    y_image, known = lift(y, operator.image_shape, "nearest"), known_pixels(operator)
    return y_image if known is None else with_known(hole.to(y), y_image, known)


class I2SBBridge(nn.Module):
    """The bridge's tables, float64, and what follows from them.

    Args:
        beta_max: 1000 times the rate at which a full quadratic schedule ends. The first half of it
            rises, its mirror image falls.
        ot_ode: leave out the bridge's noise (optimal transport).

    Attributes:
        forward_std: (1000,) f_k, root of the summed rates up to and including k.
        backward_std: (1000,) g_k, of those from k on, k included.
        mu0, mu1: (1000,) weights of x_0 and x_1.
        std: (1000,) of the bridge at k, whether ot_ode leaves it out or not.
        times: (1000,) what the network is told instead of k, 0.1 .. 1000.
    """

    forward_std: Tensor
    backward_std: Tensor
    mu0: Tensor
    mu1: Tensor
    std: Tensor
    times: Tensor

    def __init__(self, beta_max: float, ot_ode: bool) -> None:
        super().__init__()
        self.ot_ode = ot_ode
        betas = symmetric_betas(beta_max / NUM_STEPS)
        forward, backward = betas.cumsum(0), betas.flip(0).cumsum(0).flip(0)
        total = forward + backward
        tables = {
            "forward_std": forward.sqrt(),
            "backward_std": backward.sqrt(),
            "mu0": backward / total,
            "mu1": forward / total,
            "std": (forward * backward / total).sqrt(),
            "times": NUM_STEPS * torch.linspace(FIRST_TIME, 1, NUM_STEPS, dtype=torch.float64),
        }
        for name, table in tables.items():
            self.register_buffer(name, table)

    def at(self, table: str, k: Tensor, like: Tensor) -> Tensor:
        """Returns a table at each k (B,), shaped (B, 1, 1, 1), dtype of `like`."""
        return getattr(self, table)[k].to(like.dtype)[:, None, None, None]

    def between(self, x0: Tensor, x1: Tensor, k: Tensor, z: Tensor) -> Tensor:
        """Returns x_k (B, C, H, W), given both ends.

        Args:
            x0: (B, C, H, W) clean images.
            x1: degraded images, shape as x0.
            k: (B,) int64 index.
            z: standard normal, shape as x0.
        """
        mean = self.at("mu0", k, x0) * x0 + self.at("mu1", k, x0) * x1
        return mean if self.ot_ode else mean + self.at("std", k, x0) * z

    def slope(self, x_k: Tensor, x0: Tensor, k: Tensor) -> Tensor:
        """Returns (x_k - x_0) / f_k, what the network learns."""
        return (x_k - x0) / self.at("forward_std", k, x_k)


class I2SBModel(nn.Module):
    """A network seen as an estimate of the clean end.

    Args:
        network: (x_k, time) -> slope, (B, C, H, W).
        bridge: the bridge it was trained on.
        precision: fp32, bf16 or fp16; what the network runs in. Results have the dtype of x_k.
    """

    def __init__(self, network: nn.Module, bridge: I2SBBridge, precision: str = "fp32") -> None:
        super().__init__()
        self.network = network
        self.bridge = bridge
        self.precision = precision

    def slope(self, x_k: Tensor, k: Tensor) -> Tensor:
        """Returns the estimate of (x_k - x_0) / f_k, shape as x_k (B, C, H, W); k is (B,) int64."""
        with autocast(x_k.device, self.precision):
            return self.network(x_k, self.bridge.times[k].float()).to(x_k.dtype)

    def x0(self, x_k: Tensor, k: Tensor) -> Tensor:
        """Returns the estimate of x_0, unclipped, shape as x_k (B, C, H, W)."""
        return x_k - self.bridge.at("forward_std", k, x_k) * self.slope(x_k, k)
