"""Each term of Algorithm 1 against its formula, and its gradient by hand."""

import math

import pytest
import torch

from davi.losses import (
    data_consistency,
    energy_surrogate,
    fake_score_loss,
    ikl_surrogate,
    l2_regulariser,
)
from davi.schedule import Schedule


def normals(count: int, rng: torch.Generator) -> torch.Tensor:
    return torch.randn(count, 4, 3, 5, 5, generator=rng, dtype=torch.float64)


def test_fake_score_loss_is_equation_12(rng: torch.Generator) -> None:
    schedule, t = Schedule.named("linear"), torch.tensor([1, 50, 500, 999])
    eps_hat, eps = normals(2, rng)
    gap = schedule.score_from_eps(eps_hat, t) - schedule.score_from_eps(eps, t)
    weight = schedule.ikl_weight("variance", t, eps)
    torch.testing.assert_close(fake_score_loss(eps_hat, eps), (weight * gap**2).mean())


def test_data_consistency_is_a_weighted_mean_square(rng: torch.Generator) -> None:
    y, y_hat, weight = normals(3, rng)
    expected = (weight * (y - y_hat) ** 2).sum() / y.numel()
    torch.testing.assert_close(data_consistency(y, y_hat, weight), expected)


def test_ikl_gradient_reaches_the_image_as_equation_11(rng: torch.Generator) -> None:
    schedule, t = Schedule.named("linear"), torch.tensor([1, 50, 500, 999])
    x0, eps, delta_s = normals(3, rng)
    x0.requires_grad_()
    for name in ("sigma_over_alpha", "constant", "variance"):
        w_t = schedule.ikl_weight(name, t, x0)
        x_t = schedule.add_noise(x0, t, eps)
        alpha = schedule.alpha_bar[t].sqrt().view(4, 1, 1, 1)
        (gradient,) = torch.autograd.grad(ikl_surrogate(x0, alpha * w_t * delta_s), x0)
        (expected,) = torch.autograd.grad((w_t * delta_s * x_t).mean(), x0)
        torch.testing.assert_close(gradient, expected)


def test_ikl_takes_the_score_gap_as_a_constant(rng: torch.Generator) -> None:
    x_t, delta_s = normals(2, rng)
    x_t.requires_grad_()
    delta_s.requires_grad_()
    ikl_surrogate(x_t, delta_s).backward()
    assert x_t.grad is not None
    assert delta_s.grad is None


def test_regulariser_is_the_mean_square(rng: torch.Generator) -> None:
    x0_hat, x0 = normals(2, rng)
    torch.testing.assert_close(l2_regulariser(x0_hat, x0), ((x0 - x0_hat) ** 2).mean())


def _energy_gradient(shift: float, spread: float, side: int) -> tuple[float, float]:
    """The derivatives of the energy score of samples shift + spread z, of a truth of N(0, 1)."""
    rng = torch.Generator().manual_seed(0)
    x0, z, other_z = torch.randn(3, 4000, 1, 8, 8, generator=rng, dtype=torch.float64)
    shift, spread = (torch.tensor(x, dtype=torch.float64).requires_grad_() for x in (shift, spread))
    loss = energy_surrogate(shift + spread * z, shift + spread * other_z, x0, [side])
    return tuple(gradient.item() for gradient in torch.autograd.grad(loss, (shift, spread)))


@pytest.mark.parametrize("side", [1, 4])
def test_energy_gradient_is_that_of_the_closed_form(side: int) -> None:
    # E|N(0, v I)| in d dimensions is sqrt(v) m, m = sqrt(2) Gamma((d + 1) / 2) / Gamma(d / 2)
    spread, d = 0.5, side**2
    m = math.sqrt(2) * math.exp(math.lgamma((d + 1) / 2) - math.lgamma(d / 2))
    of_shift, of_spread = _energy_gradient(0.0, spread, side)
    expected = (spread / math.sqrt(1 + spread**2) - 1 / math.sqrt(2)) * m / side
    assert of_shift == pytest.approx(0, abs=0.02)
    assert of_spread == pytest.approx(expected, abs=0.01)


def test_energy_gradient_vanishes_where_samples_are_like_the_truth() -> None:
    assert _energy_gradient(0.0, 1.0, 2) == pytest.approx((0, 0), abs=0.015)
    of_shift, _ = _energy_gradient(0.5, 1.0, 1)
    # d/dm E|N(m, 2)| = erf(m / 2)
    assert of_shift == pytest.approx(math.erf(0.5 / 2), abs=0.02)


def test_energy_score_sees_how_pixels_vary_together() -> None:
    """Samples whose pixels have the right spreads and are too independent: patches show it."""
    rng = torch.Generator().manual_seed(0)
    x0, z, other_z = torch.randn(3, 4000, 1, 1, 1, generator=rng).expand(3, -1, 1, 2, 2)
    own, other_own = torch.randn(2, 4000, 1, 2, 2, generator=rng)

    def gradient(side: int) -> float:
        """With respect to the share s of noise of each pixel's own."""
        s = torch.tensor(0.5, requires_grad=True)
        sample, other = ((1 - s**2).sqrt() * a + s * b for a, b in ((z, own), (other_z, other_own)))
        energy_surrogate(sample, other, x0, [side]).backward()
        return s.grad.item()

    assert gradient(1) == pytest.approx(0, abs=0.02)
    assert gradient(2) > 0.03


def test_energy_score_teaches_the_posterior() -> None:
    """Of x0 ~ N(0, 1) and y = x0 + n, n ~ N(0, s^2): N(y / (1 + s^2), s^2 / (1 + s^2))."""
    rng, s = torch.Generator().manual_seed(0), 0.5
    weights = torch.tensor([1.0, 0.1], requires_grad=True)
    optimizer = torch.optim.Adam([weights], 0.02)
    for step in range(400):
        x0, n, z, other_z = torch.randn(4, 512, 1, 2, 2, generator=rng)
        sample, other = (weights[0] * (x0 + s * n) + weights[1] * noise for noise in (z, other_z))
        optimizer.zero_grad()
        energy_surrogate(sample, other, x0, [1]).backward()
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 400)
        optimizer.step()
    expected = torch.tensor([1 / (1 + s**2), s / math.sqrt(1 + s**2)])
    torch.testing.assert_close(weights.detach(), expected, rtol=0, atol=0.02)
