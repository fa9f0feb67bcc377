"""Exponential moving average of the weights, with a warm-up so that short runs profit, too."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def ema_decay_at(decay: float, num_updates: int) -> float:
    """Returns the decay of update number `num_updates` (0-based): min(decay, (1 + n) / (10 + n)).

    A constant decay of 0.9999 would hold on to the initial weights for tens of thousands of
    iterations.
    """
    return min(decay, (1 + num_updates) / (10 + num_updates))


def make_ema(network: nn.Module, decay: float) -> AveragedModel:
    """Returns the average of a network's weights; call `update_parameters(network)` after a step.

    The averaged network is its `.module`.
    """

    def update(averaged: list[Tensor], current: list[Tensor], num_averaged: Tensor) -> None:
        # num_averaged lives on the CPU, so this float() waits for no device.
        weight = 1 - ema_decay_at(decay, int(num_averaged))
        torch._foreach_lerp_(averaged, current, weight)

    average = AveragedModel(network, multi_avg_fn=update)
    return average.requires_grad_(False).eval()
