"""The variational bound that trains a learned variance, as the release adds it to L_S.

Source: Nichol & Dhariwal 2021, L_vlb; the mean is a constant, so that only the variance learns.
"""

import math

import torch
from torch import Tensor

from davi.schedule import Schedule

GREY_LEVEL = 2 / 255  # distance of neighbouring 8-bit values on the [-1, 1] scale
SMALLEST_PROBABILITY = 1e-12


def variational_bound(
    schedule: Schedule, x0: Tensor, x_t: Tensor, t: Tensor, eps_hat: Tensor, variance: Tensor
) -> Tensor:
    """Returns one term of the bound for every entry, in bits, shape as x0.

    For t > 0 that is KL( q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t) ), for t = 0 the negative
    log-likelihood of the 8-bit value of x_0.

    Args:
        schedule: the diffusion.
        x0: (B, ...) images in [-1, 1].
        x_t: their noised versions.
        t: (B,) int64 index.
        eps_hat: predicted noise; taken as a constant.
        variance: output of the network's variance channels, nominally in [-1, 1].
    """
    x0_hat = schedule.x0_from_eps(x_t, t, eps_hat.detach())
    mean = schedule.posterior_mean(x0_hat, x_t, t)
    log_variance = schedule.learned_log_variance(variance, t)
    true_mean = schedule.posterior_mean(x0, x_t, t)
    true_log_variance = schedule.at("posterior_log_variance", t, x0)
    divergence = gaussian_kl(true_mean, true_log_variance, mean, log_variance)
    likelihood = grey_level_log_likelihood(x0, mean, log_variance / 2)
    at_start = (t == 0).view(-1, *[1] * (x0.ndim - 1))
    return torch.where(at_start, -likelihood, divergence) / math.log(2)


def gaussian_kl(
    mean: Tensor, log_variance: Tensor, mean_2: Tensor, log_variance_2: Tensor
) -> Tensor:
    """Returns KL( N(mean, variance) || N(mean_2, variance_2) ) of every entry, in nats."""
    difference = log_variance - log_variance_2
    squares = difference.exp() + (mean - mean_2).square() * (-log_variance_2).exp()
    return 0.5 * (squares - 1 - difference)


def grey_level_log_likelihood(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Returns log P(grey level of x) of every entry under a Gaussian, the tails at both ends.

    Source: Ho et al. 2020, Eq. 13.

    Args:
        x: values in [-1, 1] that stand for 0 .. 255.
        mean: of the Gaussian.
        log_std: logarithm of its standard deviation.
    """
    above, below = (
        _normal_cdf((x - mean + shift) * (-log_std).exp())
        for shift in (GREY_LEVEL / 2, -GREY_LEVEL / 2)
    )
    below = torch.where(x < -0.999, 0.0, below)
    above = torch.where(x > 0.999, 1.0, above)
    return (above - below).clamp(min=SMALLEST_PROBABILITY).log()


def _normal_cdf(x: Tensor) -> Tensor:
    """The tanh approximation that the release computes with (known from GELU), within 4e-4."""
    return 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
