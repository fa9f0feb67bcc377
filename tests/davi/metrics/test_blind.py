"""Scores that allow for a shift: closed forms."""

import math

import pytest
import torch
from torch import Tensor

from davi.metrics.scores import aligned_psnr, kernel_similarity, psnr
from davi.system.errors import InputError


@pytest.fixture
def photo(rng: torch.Generator) -> Tensor:
    return torch.rand(2, 3, 24, 28, generator=rng) - 0.5


def test_a_shift_costs_nothing(photo: Tensor) -> None:
    """An offset of 0.1 is 20 log10(2 / 0.1) = 26 dB wherever the image has gone."""
    shifted = torch.stack([photo[0].roll((3, -8), (1, 2)), photo[1].roll((-8, 5), (1, 2))]) + 0.1
    expected = torch.full((2,), 20 * math.log10(20), dtype=torch.float64)
    torch.testing.assert_close(aligned_psnr(shifted, photo), expected, rtol=1e-6, atol=0)
    assert aligned_psnr(shifted, photo, reach=7).max() < 20  # 8 pixels are too far


def test_without_reach_it_is_the_psnr(photo: Tensor) -> None:
    x = photo.flip(0)
    torch.testing.assert_close(aligned_psnr(x, photo, reach=0), psnr(x, photo))


def test_every_shift_is_scored_on_the_middle_of_the_reference(photo: Tensor) -> None:
    x = photo.clone()
    x[:, :, 4:-4, 4:-4] += 0.1
    x[:, :, :4] = x[:, :, -4:] = 1.0  # outside it, where the shift 0 does not look
    found = aligned_psnr(x, photo, reach=4)
    torch.testing.assert_close(found, torch.full_like(found, 20 * math.log10(20)))


def test_images_smaller_than_the_shifts_are_refused() -> None:
    with pytest.raises(InputError, match="16x20 are too small"):
        aligned_psnr(torch.zeros(1, 1, 16, 20), torch.zeros(1, 1, 16, 20))


def test_similar_kernels() -> None:
    line, dot, box = torch.zeros(3, 1, 1, 5, 5)
    line[0, 0, 2, 1:4], dot[0, 0, 0, 4] = 1 / 3, 1
    box[:] = 1 / 25
    moved = line.roll((2, -1), (-2, -1)) * 7
    kernels = torch.cat([line, line, line, dot])
    others = torch.cat([moved, dot, box, box])
    expected = [1, 1 / math.sqrt(3), 3 / math.sqrt(3 * 25), 1 / 5]
    assert kernel_similarity(kernels, others).tolist() == pytest.approx(expected)
    assert kernel_similarity(line, line.mT).item() == pytest.approx(1 / 3)  # they cross in one tap
