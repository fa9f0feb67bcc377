"""Draws images from a diffusion prior: DDPM, with fresh noise at every step, or DDIM, without.

Both visit evenly spaced times, the first and the last one included, as ADM's samplers do. What a
step takes for the clean image is clipped to [-1, 1].
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from davi.schedule import Schedule
from davi.score import PosteriorDenoiser, ScoreModel
from davi.system.runtime import normal_each

# Noises between which a conditional teacher is sampled, on the [-1, 1] scale.
LOG_NOISES = math.log10(40.0), math.log10(0.015)


def spaced_times(length: int, num_steps: int) -> list[int]:
    """Returns num_steps of the times 0 .. length - 1, evenly spaced, in falling order."""
    return torch.linspace(length - 1, 0, num_steps, dtype=torch.float32).round().long().tolist()


@torch.no_grad()
def ddim_sample(model: ScoreModel, z: Tensor, num_steps: int) -> Tensor:
    """Returns samples of the prior, (B, C, H, W) in [-1, 1], a function of z.

    Source: Song et al. 2021, DDIM with eta = 0.

    Args:
        model: the prior.
        z: standard normal start, (B, C, H, W).
        num_steps: network evaluations.
    """
    schedule = model.schedule
    times = spaced_times(len(schedule), num_steps)
    x_t = z
    for time, next_time in zip(times, [*times[1:], None], strict=True):
        t = torch.full((len(z),), time, device=z.device)
        eps = model.eps(x_t, t)
        x0 = schedule.x0_from_eps(x_t, t, eps).clamp(-1, 1)
        if next_time is None:
            return x0
        eps = schedule.eps_from_x0(x_t, t, x0)
        x_t = schedule.add_noise(x0, torch.full_like(t, next_time), eps)


@torch.no_grad()
def ddpm_sample(
    model: ScoreModel, z: Tensor, num_steps: int, rngs: list[torch.Generator]
) -> Tensor:
    """Returns samples of the prior, (B, C, H, W) in [-1, 1].

    Source: Ho et al. 2020, ancestral sampling. The variance of a step is the network's own where it
    has learned one, otherwise that of q(x_{t-1} | x_t, x_0), which leaves the least noise after few
    steps.

    Args:
        model: the prior.
        z: standard normal start, (B, C, H, W).
        num_steps: network evaluations.
        rngs: one generator per image, for the noise of the steps.
    """
    times = spaced_times(len(model.schedule), num_steps)
    spaced = spaced_schedule(model.schedule, times)
    x_t = z
    for step, time in zip(reversed(range(num_steps)), times, strict=True):
        t = torch.full((len(z),), time, device=z.device)
        eps, variance = model.eps_and_variance(x_t, t)
        x0 = model.schedule.x0_from_eps(x_t, t, eps).clamp(-1, 1)
        x_t = ancestral_step(spaced, step, x_t, x0, variance, rngs)
    return x_t


def spaced_schedule(schedule: Schedule, times: list[int]) -> Schedule:
    """Returns the diffusion whose steps go from each of the times, in falling order, to the next.

    Its steps are numbered from the clean end: 0 is that from the last of the times to x_0.
    """
    alpha_bar = schedule.alpha_bar[times].flip(0)
    previous = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
    return Schedule(1 - alpha_bar / previous)


def ancestral_step(
    schedule: Schedule,
    step: int,
    x_t: Tensor,
    x0: Tensor,
    variance: Tensor,
    rngs: list[torch.Generator],
) -> Tensor:
    """Returns a draw of x one step before x_t, (B, C, H, W); x0 itself before step 0.

    Args:
        schedule: the diffusion of the steps, see `spaced_schedule`.
        step: its index of x_t.
        x_t: noised images.
        x0: the clean images they are taken for.
        variance: the network's variance channels; those of q(x_{t-1} | x_t, x_0) if there are none.
        rngs: one generator per image; step 0 draws nothing.
    """
    if step == 0:
        return x0
    t = torch.full((len(x_t),), step, device=x_t.device)
    if variance.numel():
        log_variance = schedule.learned_log_variance(variance, t)
    else:
        log_variance = schedule.at("posterior_log_variance", t, x_t)
    noise = normal_each(x_t.shape[1:], rngs).to(x_t)
    return schedule.posterior_mean(x0, x_t, t) + (log_variance / 2).exp() * noise


def ddim_step(x_t: Tensor, x0: Tensor, alpha_bar: float, next_alpha_bar: float) -> Tensor:
    """Returns the state at the next level, with the noise that x_t and x0 imply; shapes as x_t."""
    eps = (x_t - alpha_bar**0.5 * x0) / (1 - alpha_bar) ** 0.5
    return next_alpha_bar**0.5 * x0 + (1 - next_alpha_bar) ** 0.5 * eps


@torch.no_grad()
def conditional_sample(
    denoiser: PosteriorDenoiser, mean: Tensor, noises: Sequence[Tensor]
) -> Tensor:
    """Returns samples of what a conditional teacher takes for p(x0 | y), (B, C, H, W).

    Ancestral sampling through noises that fall by a constant factor. A step from variance s to the
    smaller v draws x from N(D + v / s (x - D), v (1 - v / s) + (1 - v / s)^2 M s / (M + s)), which
    is exact under the white prior, for any number of steps.

    Args:
        denoiser: the teacher.
        mean: (B, C, H, W) m0 of the measurements, see `PosteriorDenoiser.white_mean`.
        noises: standard normal, each shape as mean; one for the start and for each step but the
            last, so as many as there are evaluations.
    """
    schedule, variance, count = denoiser.schedule, denoiser.variance, len(noises)
    wanted = torch.logspace(*LOG_NOISES, count, dtype=torch.float64)
    times = schedule.index_of_noise(wanted).tolist()
    t = [torch.full((len(mean),), time, device=mean.device) for time in times]
    s = [schedule.noise_ratio(each, mean) for each in t]
    x = mean + denoiser.scale(noises[0], (variance + s[0]).sqrt())
    for step in range(count):
        x0 = denoiser.denoise(schedule.alpha_bar_t(t[step], mean).sqrt() * x, t[step], mean)
        if step + 1 < count:
            kept, unknown = s[step + 1] / s[step], variance * s[step] / (variance + s[step])
            fresh = s[step + 1] * (1 - kept) + (1 - kept).square() * unknown
            x = x0 + kept * (x - x0) + denoiser.scale(noises[step + 1], fresh.sqrt())
    return x0
