"""How much noise a picture has: found on the [-1, 1] scale, and compared with a training."""

import pytest
import torch

from davi.pictures.noise import estimated_sigma, in_words, is_other_noise, require_sigma
from davi.system.errors import InputError


@pytest.mark.parametrize("sigma", [0.02, 0.1, 0.4])
@pytest.mark.parametrize("channels", [1, 3])
def test_noise_on_a_smooth_picture_is_found(sigma: float, channels: int) -> None:
    smooth = torch.linspace(-0.5, 0.5, 96).expand(channels, 128, 96)
    noise = torch.randn(smooth.shape, generator=torch.Generator().manual_seed(0))
    assert estimated_sigma(smooth + sigma * noise) == pytest.approx(sigma, rel=0.05)


def test_a_picture_without_any_detail_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be estimated; give its --sigma"):
        estimated_sigma(torch.zeros(3, 64, 64))


def test_another_noise_is_one_outside_of_the_trained_range_by_a_quarter() -> None:
    assert [is_other_noise(sigma, (0.1, 0.2)) for sigma in (0.079, 0.081, 0.15, 0.249, 0.251)] == [
        True,
        False,
        False,
        False,
        True,
    ]


def test_a_deviation_in_gray_levels_is_refused() -> None:
    for sigma in (25, -0.1, float("nan")):
        with pytest.raises(InputError, match=r"on the \[-1, 1\] scale is needed, between 0 and 2"):
            require_sigma(sigma)
    require_sigma(2)
    assert in_words(25.5 / 127.5) == "sigma 0.2 (25.5 of 255 levels)"
