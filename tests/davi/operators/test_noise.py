"""Noise models against their moments, and the way back to the image grid."""

import pytest
import torch
import torch.nn.functional as F

from davi.operators.denoising import Denoising
from davi.operators.inpainting import Inpainting, RandomInpainting, random_pixels
from davi.operators.linear import LinearOperator
from davi.operators.measurement import ForwardModel, lift
from davi.operators.noise import GaussianNoise, PoissonNoise
from davi.system.errors import InputError
from davi.system.runtime import keyed_rng


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


def test_measurements_depend_on_the_generator_not_on_the_batch() -> None:
    x0 = torch.rand(3, 3, 8, 8) * 2 - 1
    for noise in (GaussianNoise(0.01, 0.1), PoissonNoise(1.0)):
        model = ForwardModel(Denoising((3, 8, 8)), noise)
        together, _ = model.measure(x0, rngs(3))
        alone, _ = model.measure(x0[2:], rngs(3)[2:])
        assert torch.equal(together[2:], alone)


def test_the_hole_of_inpainting_holds_no_noise() -> None:
    mask = random_pixels(8, 8, 0.5, keyed_rng("cpu", 0))
    x0 = torch.rand(2, 3, 8, 8)
    for noise in (GaussianNoise(0.1, 0.1), PoissonNoise(1.0)):
        y, _ = ForwardModel(Inpainting((3, 8, 8), mask), noise).measure(x0, rngs(2))
        assert (y[..., ~mask] == 0).all()
        assert (y[..., mask] != x0[..., mask]).float().mean() > 0.9


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
