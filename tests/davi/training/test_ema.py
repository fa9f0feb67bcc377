"""The average of the weights under its usual policy; tests/davi/release has the other one."""

import pytest
import torch
from torch import nn

from davi.training.ema import Ema


def averages(decay: float, count: int) -> list[float]:
    """What is made of a weight that begins at 0 and is 1, 2, 3, ... at the updates."""
    network = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(network.weight)
    ema, found = Ema(network, decay), []
    for _ in range(count):
        with torch.no_grad():
            network.weight += 1
        ema.update(network)
        found.append(ema.module.weight.item())
    return found


def test_the_average_hastens_to_follow_and_slows_down() -> None:
    """The decay is (1 + n) / (10 + n) until it reaches its limit."""
    first = 0.9 * 1
    second = 2 / 11 * first + 9 / 11 * 2
    third = 3 / 12 * second + 9 / 12 * 3
    assert averages(0.9999, 3) == pytest.approx([first, second, third])
    limited = 0.15 * first + 0.85 * 2
    assert averages(0.15, 2) == pytest.approx([first, limited])
    # At a constant decay it lags behind a weight that grows by 1 by decay / (1 - decay).
    assert 1000 - averages(0.9, 1000)[-1] == pytest.approx(9, rel=1e-3)
