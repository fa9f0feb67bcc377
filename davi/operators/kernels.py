"""Blur kernels: of a camera that moved along a random path, and Gaussian ones.

A kernel is (k, k) with odd k, not negative, of sum 1, and its centre of mass is the middle tap, so
that it blurs without a shift.
"""

import math

import torch
from torch import Tensor

from davi.operators.gaussian_blur import gaussian_kernel

NUM_POINTS = 64  # of a path: closer than half a pixel for every size in use
TURN_BACK = 0.1  # probability that the path bends the other way at a point


def motion_kernel(size: int, rng: torch.Generator, intensity: float = 0.5) -> Tensor:
    """Returns the kernel of a motion at constant speed along a random curve, (size, size) float32.

    The curve has the length 0.75 d (u + intensity^2 v) with the diagonal d of the kernel and
    uniform u and v. It bends by up to intensity pi / 8 at each of its 63 steps, now and then the
    other way. It is made smaller where it would leave the kernel.

    Deviation: the library motionblur, whose lengths these are, draws lines on a picture, and below
    a side of 54 taps nothing; here every point adds its mass to the four taps around it, which
    keeps the centre of mass exactly.

    Args:
        size: odd.
        rng: the only source of randomness; on the device of the result.
        intensity: 0 a straight line, 1 a tangle.

    Raises:
        ValueError: an even size, or an intensity outside [0, 1].
    """
    require_odd(size)
    if not 0 <= intensity <= 1:
        raise ValueError(f"intensity={intensity}: a number from 0 to 1 is needed")
    draws = torch.rand(4 + 2 * NUM_POINTS, generator=rng, device=rng.device, dtype=torch.float32)
    (u, v, start, bend), turns, flips = draws[:4], draws[4 : 4 + NUM_POINTS], draws[-NUM_POINTS:]
    length = 0.75 * math.sqrt(2) * size * (u + intensity**2 * v)
    sign = 1 - 2 * (torch.cumsum(flips < TURN_BACK, 0) % 2)
    angles = 2 * math.pi * start + (sign * turns * bend * intensity * math.pi / 8).cumsum(0)
    path = torch.stack([angles.sin(), angles.cos()]).cumsum(1) * length / NUM_POINTS
    path = path - path.mean(dim=1, keepdim=True)
    path = path * (size // 2 / path.abs().max()).clamp(max=1)
    return _splat(path, size)


def gaussian_kernel_2d(size: int, sigma: float) -> Tensor:
    """Returns the sampled Gaussian of this deviation in pixels, (size, size) float32.

    Args:
        size: odd.
        sigma: above 0.
    """
    require_odd(size)
    taps = gaussian_kernel(size, sigma)
    return (taps[:, None] * taps).float()


def random_gaussian_kernel(size: int, low: float, high: float, rng: torch.Generator) -> Tensor:
    """Returns a Gaussian whose deviation is drawn uniformly, (size, size) float32.

    Args:
        size: odd.
        low: smallest deviation in pixels, above 0.
        high: largest one.
        rng: the only source of randomness; on the device of the result.
    """
    share = torch.rand((), generator=rng, device=rng.device, dtype=torch.float32).item()
    return gaussian_kernel_2d(size, low + share * (high - low)).to(rng.device)


def require_odd(size: int) -> None:
    """Refuses kernels without a middle tap.

    Raises:
        ValueError: the size is even, or not above 0.
    """
    if size < 1 or size % 2 == 0:
        raise ValueError(f"kernel_size={size}: an odd number is needed, for a middle tap")


def _splat(path: Tensor, size: int) -> Tensor:
    """Mass at points (2, N) around the middle, shared bilinearly by the taps, (size, size)."""
    rows, columns = (1 - (path[:, :, None] - _positions(size, path.device)).abs()).clamp(min=0)
    return rows.T @ columns / path.shape[1]


def _positions(size: int, device: torch.device) -> Tensor:
    return torch.arange(size, device=device, dtype=torch.float32) - size // 2
