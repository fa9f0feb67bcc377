"""ILVR: its limits, and which frequencies it takes from the reference."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from davi.operators.denoising import Denoising
from davi.operators.linear import LinearOperator
from davi.operators.noise import PoissonNoise
from davi.operators.super_resolution import SuperResolution
from davi.solvers.ilvr import Ilvr, low_frequencies
from davi.system.errors import InputError
from tests.davi.solvers.spectral_problems import (
    IMAGE,
    PRIOR_STD,
    gain_and_spread,
    isotropic_prior,
    restore,
    rngs_of,
)

LARGE = (3, 64, 64)


def test_the_low_frequencies_are_those_of_pillow() -> None:
    x = torch.randn(1, 1, 64, 64)
    picture = Image.fromarray(x[0, 0].numpy(), mode="F")
    small = picture.resize((16, 16), Image.Resampling.BICUBIC)
    large = small.resize((64, 64), Image.Resampling.BICUBIC)
    expected = torch.from_numpy(np.array(large))
    torch.testing.assert_close(low_frequencies(x, 4)[0, 0], expected, atol=1e-5, rtol=1e-4)


def test_a_factor_of_one_returns_the_reference() -> None:
    """Up to what the last step, which is free, takes for the noise of its level, 0.01."""
    y = torch.randn(2, *IMAGE).double() * 0.3
    x = restore(Ilvr(num_steps=5, factor=1, range_t=0, clip=False), y, Denoising(IMAGE), 0.1)
    assert (x - y).std().item() == pytest.approx(0.01, rel=0.1)
    gain, spread = gain_and_spread(
        Ilvr(num_steps=5, factor=1, range_t=0, clip=False), 1.0, 0.05, LARGE
    )
    assert gain == pytest.approx(1.01, abs=0.002)
    assert spread == pytest.approx(0.2, abs=0.01)  # 0.01 over the posterior's 0.0498


def test_the_noise_of_the_reference_is_that_of_the_level_reached() -> None:
    """With two steps and a factor of 1, before the last one: the reference and noise of 0.01."""
    prior, seen = isotropic_prior(), []
    prior.predict, inner = lambda x, t: seen.append(x) or inner(x, t), prior.predict
    y = torch.full((1, *LARGE), 0.5)
    solver = Ilvr(num_steps=2, factor=1, range_t=0)
    solver(y, Denoising(LARGE), PoissonNoise(1.0), prior, rngs_of(range(1)))
    assert (seen[1] - 0.5).std().item() == pytest.approx(0.01, rel=0.05)


def test_the_side_of_the_image_as_factor_fixes_the_mean_colour_alone() -> None:
    y = torch.randn(2, *LARGE).double() * 0.1 + torch.tensor([0.7, -0.5, 0.2])[:, None, None]
    x = restore(Ilvr(num_steps=50, factor=64, range_t=0, clip=False), y, Denoising(LARGE), 0.1)
    means = y.mean(dim=(2, 3), keepdim=True)
    torch.testing.assert_close(x.mean(dim=(2, 3), keepdim=True), means, atol=0.02, rtol=0)
    deviation = x - x.mean(dim=(2, 3), keepdim=True)
    assert deviation.std().item() == pytest.approx(PRIOR_STD, rel=0.15)
    assert abs((deviation * (y - means)).mean()) < 0.01 * PRIOR_STD


class Odd(LinearOperator):
    """Measures two channels, which no image grid has."""

    def A(self, x: Tensor) -> Tensor:
        return x[:, :2]

    def A_adjoint(self, y: Tensor) -> Tensor:
        return torch.cat([y, 0 * y[:, :1]], dim=1)


def test_ilvr_refuses_what_it_cannot_do() -> None:
    rngs, noise = rngs_of(range(1)), PoissonNoise(1.0)
    operator = SuperResolution(IMAGE, 4)
    y = torch.zeros(1, *operator.measurement_shape)
    with pytest.raises(InputError, match="8x8; both sides must be multiples of its factor 16"):
        Ilvr()(y, operator, noise, isotropic_prior(), rngs)
    assert Ilvr(num_steps=2, factor=4)(y, operator, noise, isotropic_prior(), rngs).isfinite().all()
    odd = Odd(IMAGE, (2, 8, 8))
    with pytest.raises(InputError, match="must be images"):
        Ilvr(factor=4)(torch.zeros(1, 2, 8, 8), odd, noise, isotropic_prior(), rngs)
