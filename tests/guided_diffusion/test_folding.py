"""A network folded at one time gives what it gave at that time."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from guided_diffusion.folding import fold_time
from guided_diffusion.nn import to_half_precision
from guided_diffusion.presets import PHOTOS_64

SMALL = replace(PHOTOS_64, channel_mult=(1, 2), attention_resolutions=(2,))


def network_of(scale_shift: bool) -> nn.Module:
    torch.manual_seed(0)
    network = replace(SMALL, use_scale_shift_norm=scale_shift).create().eval()
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return network


@pytest.mark.parametrize("scale_shift", [True, False])
@torch.no_grad()
def test_a_folded_network_is_the_same_at_its_time(scale_shift: bool) -> None:
    network = network_of(scale_shift)
    x, t = torch.randn(2, 3, 16, 16), torch.full((2,), 700)
    expected, elsewhere = network(x, t), network(x, t - 600)
    fold_time(network, 700)
    torch.testing.assert_close(network(x, t), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(expected, elsewhere, atol=1e-2)


@torch.no_grad()
def test_folding_takes_nothing_from_half_precision() -> None:
    """Constants are rounded once, from float32: the error does not grow."""
    errors = []
    for folded in (False, True):
        network = network_of(scale_shift=True)
        x, t = torch.randn(2, 3, 16, 16), torch.full((2,), 700)
        expected = network(x, t)
        if folded:
            fold_time(network, 700)
        errors.append((to_half_precision(network, torch.bfloat16)(x, t) - expected).norm())
    assert errors[1] <= errors[0]


def test_nothing_is_left_to_do_for_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of(scale_shift=True)
    fold_time(network, 700)
    assert not [key for key in network.state_dict() if "emb" in key]
    monkeypatch.setattr("guided_diffusion.unet.timestep_embedding", None)
    network(torch.randn(1, 3, 16, 16), torch.tensor([3]))
