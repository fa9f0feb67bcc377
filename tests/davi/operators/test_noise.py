"""Noise models against their moments, and the way back to the image grid."""

import pytest
import torch
import torch.nn.functional as F

from davi.operators.denoising import Denoising
from davi.operators.inpainting import Inpainting, RandomInpainting, random_pixels
from davi.operators.linear import LinearOperator
from davi.operators.measurement import ForwardModel, lift
from davi.operators.noise import (
    ClippedNoise,
    GaussianNoise,
    ImpulseNoise,
    Noise,
    NoiseMixture,
    PoissonNoise,
    SpeckleNoise,
)
from davi.system.errors import InputError
from davi.system.runtime import keyed_rng

GAUSSIAN = GaussianNoise(0.1, 0.1)
MIXTURE = NoiseMixture((GaussianNoise(0.01, 0.01), ImpulseNoise(0.3), SpeckleNoise(0.2)))
NOISES = (
    GaussianNoise(0.01, 0.1),
    PoissonNoise(1.0),
    ImpulseNoise(0.9),
    SpeckleNoise(0.15),
    ClippedNoise(GaussianNoise(0.5, 0.5)),
    NoiseMixture((GaussianNoise(0.01, 0.1), SpeckleNoise(0.15), PoissonNoise(1.0))),
)


def rngs(count: int, *key: int) -> list[torch.Generator]:
    return [keyed_rng("cpu", "noise", *key, i) for i in range(count)]


def test_gaussian_noise_has_its_standard_deviation() -> None:
    clean = torch.zeros(4, 3, 64, 64)
    noise = GaussianNoise(0.05, 0.05).sample(clean, rngs(4))[0]
    assert noise.std().item() == pytest.approx(0.05, rel=0.02)
    assert noise.mean().item() == pytest.approx(0, abs=0.001)


def test_a_sigma_range_is_drawn_uniformly_per_image() -> None:
    clean = torch.zeros(500, 1, 32, 32)
    noise, sigma = GaussianNoise(0.01, 0.1).sample(clean, rngs(500))
    stds = noise.flatten(1).std(dim=1)
    torch.testing.assert_close(stds, sigma.flatten().float(), rtol=0.12, atol=0)
    assert stds.min().item() == pytest.approx(0.01, abs=0.002)
    assert stds.max().item() == pytest.approx(0.1, abs=0.004)
    assert stds.mean().item() == pytest.approx(0.055, abs=0.003)


@pytest.mark.parametrize("rate", [0.2, 1.0])
@pytest.mark.parametrize("level", [-0.9, 0.0, 0.8])
def test_poisson_noise_has_poisson_mean_and_variance(rate: float, level: float) -> None:
    y = PoissonNoise(rate).sample(torch.full((4, 3, 64, 64), level), rngs(4))[0]
    intensity = (level + 1) / 2
    assert y.mean().item() == pytest.approx(level, abs=0.01)
    # Var(counts) = 255 rate I; y = 2 counts / (255 rate) - 1
    assert y.var().item() == pytest.approx(4 * intensity / (255 * rate), rel=0.05)


@pytest.mark.parametrize("rate", [0.2, 1.0])
def test_poisson_deviation_is_that_of_the_noise(rate: float) -> None:
    y, sigma = PoissonNoise(rate).sample(torch.full((4, 3, 64, 64), 1.0), rngs(4))
    assert sigma.shape == y.shape
    assert (((y - 1) / sigma).std()).item() == pytest.approx(1, abs=0.05)
    assert PoissonNoise(rate).largest_deviation == pytest.approx(2 / (255 * rate) ** 0.5)


def test_poisson_takes_values_below_black_for_black() -> None:
    assert torch.equal(
        PoissonNoise(1.0).sample(torch.full((1, 1, 4, 4), -1.01), rngs(1))[0][0, 0, 0],
        -torch.ones(4),
    )


def test_poisson_weight_is_equation_37() -> None:
    # In intensities: |y - Hx|^2 / (2 y). On the [-1, 1] scale a residual is twice as large.
    y, y_hat = torch.tensor([0.2]), torch.tensor([0.5])
    intensity, intensity_hat = (y + 1) / 2, (y_hat + 1) / 2
    expected = (intensity - intensity_hat) ** 2 / (2 * intensity)
    weight = PoissonNoise(1.0).consistency_weight(y)
    torch.testing.assert_close(weight * (y - y_hat) ** 2, expected)


def test_poisson_weight_is_finite_where_no_photon_was_counted() -> None:
    weight = PoissonNoise(1.0).consistency_weight(torch.tensor([-1.0]))
    torch.testing.assert_close(weight, torch.tensor([255 / 2 / 4]))  # as if it were one photon


@pytest.mark.parametrize("level", [-1.0, -0.4, 0.8])
def test_impulse_noise_is_salt_and_pepper(level: float) -> None:
    """-1 or 1 with probability p / 2 each, c otherwise: E y = (1 - p) c, and so on."""
    p, clean = 0.3, torch.full((4, 3, 64, 64), level)
    y, sigma = ImpulseNoise(p).sample(clean, rngs(4))
    assert set(y.unique().tolist()) == {-1.0, clean[0, 0, 0, 0].item(), 1.0}
    assert y.mean().item() == pytest.approx((1 - p) * level, abs=0.01)
    square = (y - clean).square().mean().item()
    assert square == pytest.approx(p * (1 + level**2), rel=0.03)
    kept = sigma[y == level]
    assert kept[0].item() ** 2 == pytest.approx(p * (1 + level**2))


@pytest.mark.parametrize("level", [-0.9, 0.0, 0.8])
def test_speckle_noise_grows_with_the_intensity(level: float) -> None:
    """As ImageNet-C writes it for intensities: u + u c n."""
    noise, intensity = SpeckleNoise(0.2), (level + 1) / 2
    y, sigma = noise.sample(torch.full((4, 3, 64, 64), level), rngs(4))
    u = (y + 1) / 2
    assert u.mean().item() == pytest.approx(intensity, rel=0.01)
    assert u.std().item() == pytest.approx(0.2 * intensity, rel=0.02)
    # With y for A x, whose mean it is.
    assert sigma.mean().item() == pytest.approx(y.std().item(), rel=0.02)


def test_the_deviation_of_speckle_noise_is_not_zero_in_the_dark() -> None:
    y, sigma = SpeckleNoise(0.2).sample(torch.full((1, 1, 2, 2), -1.0), rngs(1))
    assert (y == -1).all()
    torch.testing.assert_close(sigma, torch.full_like(y, 0.2 * 2 / 255))


@pytest.mark.parametrize("noise", [GAUSSIAN, ImpulseNoise(0.05), SpeckleNoise(0.2), MIXTURE])
def test_the_largest_deviation_is_reached_at_white(noise: Noise) -> None:
    clean = torch.ones(60, 1, 64, 64)
    y, _ = noise.sample(clean, rngs(60))
    found = (y - clean).square().flatten(1).mean(dim=1).sqrt().max().item()
    assert noise.largest_deviation == pytest.approx(found, rel=0.1)


def test_clipped_gaussian_noise_has_the_mean_of_the_clipped_gaussian() -> None:
    """Of black: E max(n, 0) = sigma / sqrt(2 pi) above -1, where 1 is far."""
    noise = GaussianNoise(0.2, 0.2)
    y, sigma = ClippedNoise(noise).sample(torch.full((4, 3, 64, 64), -1.0), rngs(4))
    assert y.min() == -1
    assert (y == -1).float().mean().item() == pytest.approx(0.5, abs=0.01)
    assert y.mean().item() + 1 == pytest.approx(0.2 / (2 * torch.pi) ** 0.5, rel=0.02)
    assert (sigma == 0.2).all()
    white = ClippedNoise(noise).sample(torch.ones(1, 3, 8, 8), rngs(1))[0]
    assert white.max() == 1


def test_clipping_keeps_the_weights_of_the_noise() -> None:
    y = torch.rand(4) * 2 - 1
    noise = PoissonNoise(0.2)
    assert torch.equal(ClippedNoise(noise).consistency_weight(y), noise.consistency_weight(y))
    assert ClippedNoise(noise).largest_deviation == noise.largest_deviation


def test_a_mixture_draws_every_kind_equally_often() -> None:
    clean = torch.zeros(600, 1, 8, 8)
    y, sigma = MIXTURE.sample(clean, rngs(600))
    is_impulse = (y.abs() == 1).flatten(1).any(dim=1)
    is_speckle = (y.flatten(1).std(dim=1) > 0.1) & ~is_impulse
    for share in (is_impulse, is_speckle):
        assert share.float().mean().item() == pytest.approx(1 / 3, abs=0.05)
    assert (sigma[~(is_impulse | is_speckle)] == 0.01).all()
    assert sigma.shape == y.shape
    assert sigma.dtype == y.dtype


@pytest.mark.parametrize("noise", [GAUSSIAN, ImpulseNoise(0.1), SpeckleNoise(0.1), MIXTURE])
def test_other_noise_has_the_weight_of_equation_8(noise: Noise) -> None:
    assert noise.consistency_weight(torch.rand(2, 3, 4, 4)).item() == 1


def test_measurements_depend_on_the_generator_not_on_the_batch() -> None:
    x0 = torch.rand(3, 3, 8, 8) * 2 - 1
    for noise in NOISES:
        model = ForwardModel(Denoising((3, 8, 8)), noise)
        together, _ = model.measure(x0, rngs(3))
        alone, _ = model.measure(x0[2:], rngs(3)[2:])
        assert torch.equal(together[2:], alone)


def test_the_hole_of_inpainting_holds_no_noise() -> None:
    mask = random_pixels(8, 8, 0.5, keyed_rng("cpu", 0))
    x0 = torch.rand(2, 3, 8, 8)
    for noise in NOISES:
        y, _ = ForwardModel(Inpainting((3, 8, 8), mask), noise).measure(x0, rngs(2))
        assert (y[..., ~mask] == 0).all()
        assert (y[..., mask] != x0[..., mask]).float().mean() > 0.8


def test_a_random_operator_is_returned_with_its_measurement() -> None:
    family = RandomInpainting((3, 8, 8), lambda rng: random_pixels(8, 8, 0.5, rng))
    x0 = torch.rand(2, 3, 8, 8)
    y, operator = ForwardModel(family, GaussianNoise(0.0, 0.0)).measure(x0, rngs(2))
    assert torch.equal(y, operator.A(x0))
    assert operator.singular_values.shape == (2, 1, 8, 8)


def test_lift_enlarges_like_bilinear_interpolation_and_repeats_gray() -> None:
    y = torch.rand(2, 1, 4, 4)
    lifted = lift(y, (3, 16, 16))
    assert lifted.shape == (2, 3, 16, 16)
    assert torch.equal(lifted[:, 0], lifted[:, 2])
    theirs = F.interpolate(y, size=(16, 16), mode="bilinear", antialias=True)
    torch.testing.assert_close(lifted[:, :1], theirs)
    full = torch.rand(2, 3, 16, 16)
    assert torch.equal(lift(full, (3, 16, 16)), full)


def test_complex_measurements_are_refused() -> None:
    class Fourier(LinearOperator):
        def A(self, x: torch.Tensor) -> torch.Tensor:
            return torch.fft.fft2(x)

        def A_adjoint(self, y: torch.Tensor) -> torch.Tensor:
            return torch.fft.ifft2(y).real

    model = ForwardModel(Fourier((3, 8, 8), (3, 8, 8)), GaussianNoise(0.1, 0.1))
    with pytest.raises(InputError, match="real and imaginary parts"):
        model.measure(torch.rand(1, 3, 8, 8), rngs(1))
