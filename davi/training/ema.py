"""Exponential moving average of the weights, with a warm-up so that short runs profit, too.

Two policies say how far update number n (0-based) moves the average:

warmup   decay min(limit, (1 + n) / (10 + n)), at every update.
release  that of the package ema_pytorch as the authors use it: nothing but at every fifth update,
         where the weights are copied while n <= 100 and once more at the next; after that the decay
         is min(limit, 1 - (n - 99)^(-2/3)).
"""

import copy

import torch
from torch import Tensor, nn

RELEASE_EVERY, RELEASE_COPIES_UNTIL, RELEASE_POWER = 5, 100, 2 / 3


def warmup_decay(limit: float, num_updates: int) -> float:
    """Returns the decay of update number `num_updates`.

    A constant decay of 0.9999 would hold on to the initial weights for tens of thousands of
    iterations.
    """
    return min(limit, (1 + num_updates) / (10 + num_updates))


def release_decay(limit: float, num_updates: int) -> float:
    """Returns the decay of update number `num_updates`; 0 copies the weights, 1 does nothing."""
    if num_updates % RELEASE_EVERY:
        return 1.0
    if num_updates <= RELEASE_COPIES_UNTIL + RELEASE_EVERY:
        return 0.0
    age = num_updates - RELEASE_COPIES_UNTIL
    return min(limit, 1 - (1 + age) ** -RELEASE_POWER)


POLICIES = {"warmup": warmup_decay, "release": release_decay}


class Ema(nn.Module):
    """The average of a network's weights; keys of its state are those of torch's AveragedModel.

    (AveragedModel itself waits for the GPU at every update, to read its counter.)

    Args:
        network: on its device; its present weights begin the average.
        decay: largest one.
        policy: a key of `POLICIES`.

    Attributes:
        module: the averaged network.
    """

    n_averaged: Tensor

    def __init__(self, network: nn.Module, decay: float, policy: str = "warmup") -> None:
        super().__init__()
        self.module = copy.deepcopy(network).requires_grad_(False).eval()
        self.decay = decay
        self.decay_at = POLICIES[policy]
        self.register_buffer("n_averaged", torch.tensor(0))  # stays on the CPU

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Takes the network's weights into the average."""
        weight = 1 - self.decay_at(self.decay, int(self.n_averaged))
        self.n_averaged += 1
        if weight > 0:
            averaged, current = list(self.module.parameters()), list(network.parameters())
            torch._foreach_lerp_(averaged, current, weight)
