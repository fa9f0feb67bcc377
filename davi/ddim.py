"""Deterministic sampling from a diffusion prior, to look at what it has learned."""

import torch
from torch import Tensor

from davi.score import ScoreModel


@torch.no_grad()
def ddim_sample(model: ScoreModel, z: Tensor, num_steps: int) -> Tensor:
    """Returns samples of the prior, (B, C, H, W), nominally in [-1, 1].

    Source: Song et al. 2021, DDIM with eta = 0, evenly spaced times.

    Args:
        model: the prior.
        z: standard normal start, (B, C, H, W).
        num_steps: network evaluations.
    """
    schedule = model.schedule
    times = torch.linspace(len(schedule) - 1, 0, num_steps).round().long().tolist()
    x_t = z
    for time, next_time in zip(times, [*times[1:], None], strict=True):
        t = torch.full((len(z),), time, device=z.device)
        eps = model.eps(x_t, t)
        x0 = schedule.x0_from_eps(x_t, t, eps).clamp(-1, 1)
        if next_time is None:
            return x0
        eps = schedule.eps_from_x0(x_t, t, x0)
        x_t = schedule.add_noise(x0, torch.full_like(t, next_time), eps)
