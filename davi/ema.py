"""Exponential moving average of the weights, with a warm-up so that short runs profit, too."""

import copy

import torch
from torch import Tensor, nn


def ema_decay_at(decay: float, num_updates: int) -> float:
    """Returns the decay of update number `num_updates` (0-based): min(decay, (1 + n) / (10 + n)).

    A constant decay of 0.9999 would hold on to the initial weights for tens of thousands of
    iterations.
    """
    return min(decay, (1 + num_updates) / (10 + num_updates))


class Ema(nn.Module):
    """The average of a network's weights; keys of its state are those of torch's AveragedModel.

    (AveragedModel itself waits for the GPU at every update, to read its counter.)

    Args:
        network: on its device; its present weights begin the average.
        decay: after the warm-up.

    Attributes:
        module: the averaged network.
    """

    n_averaged: Tensor

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__()
        self.module = copy.deepcopy(network).requires_grad_(False).eval()
        self.decay = decay
        self.register_buffer("n_averaged", torch.tensor(0))  # stays on the CPU

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Takes the network's weights into the average."""
        weight = 1 - ema_decay_at(self.decay, int(self.n_averaged))
        averaged, current = list(self.module.parameters()), list(network.parameters())
        torch._foreach_lerp_(averaged, current, weight)
        self.n_averaged += 1
