"""The diffusion schedule against recorded tables and its own inverse."""

import numpy as np
import pytest
import torch

from davi.schedule import BETAS, Schedule


@pytest.mark.parametrize("name", ["linear", "quadratic"])
def test_tables_meet_the_recorded_ones(name: str, golden_schedules: dict) -> None:
    schedule = Schedule.named(name)
    np.testing.assert_allclose(schedule.betas, golden_schedules[f"{name}_betas"], rtol=1e-12)
    recorded = golden_schedules[f"{name}_alphas_cumprod"]
    np.testing.assert_allclose(schedule.alpha_bar, recorded, rtol=1e-12)


def test_sigma_over_alpha_is_the_inverse_of_the_releases_snr(golden_schedules: dict) -> None:
    schedule, t = Schedule.named("quadratic"), torch.arange(1000)
    like = torch.zeros(1000, dtype=torch.float64)
    weight = schedule.ikl_weight("sigma_over_alpha", t, like)
    np.testing.assert_allclose(1 / weight, golden_schedules["ikl_weight_snr"], rtol=1e-12)


def test_only_the_constant_weight_starts_at_one() -> None:
    schedule, t = Schedule.named("linear"), torch.tensor([0, 999])
    like = torch.zeros(2, dtype=torch.float64)
    assert schedule.ikl_weight("constant", t, like).tolist() == [1, 1]
    assert schedule.ikl_weight("variance", t, like)[0] == pytest.approx(1e-4)


@pytest.mark.parametrize("name", BETAS)
def test_conversions_invert_each_other(name: str, rng: torch.Generator) -> None:
    schedule = Schedule.named(name)
    x0, eps = torch.randn(2, 4, 3, 5, 5, generator=rng, dtype=torch.float64)
    t = torch.tensor([0, 10, 500, 999])
    x_t = schedule.add_noise(x0, t, eps)
    torch.testing.assert_close(schedule.x0_from_eps(x_t, t, eps), x0)
    torch.testing.assert_close(schedule.eps_from_x0(x_t, t, x0), eps)
    torch.testing.assert_close(schedule.eps_from_v(x_t, t, schedule.v(x0, t, eps)), eps)
    score = schedule.score_from_eps(eps, t)
    torch.testing.assert_close(schedule.eps_from_score(score, t), eps)


def test_score_is_the_gradient_of_the_transition_density(rng: torch.Generator) -> None:
    schedule, t = Schedule.named("linear"), torch.tensor([300])
    x0, eps = torch.randn(2, 1, 3, 4, 4, generator=rng, dtype=torch.float64)
    x_t = schedule.add_noise(x0, t, eps).requires_grad_()
    alpha_bar = schedule.alpha_bar[300]
    normal = torch.distributions.Normal(alpha_bar.sqrt() * x0, (1 - alpha_bar).sqrt())
    (gradient,) = torch.autograd.grad(normal.log_prob(x_t).sum(), x_t)
    torch.testing.assert_close(schedule.score_from_eps(eps, t), gradient)


def test_noise_has_the_variance_of_the_schedule(rng: torch.Generator) -> None:
    schedule = Schedule.named("quadratic")
    eps = torch.randn(100_000, 1, generator=rng)
    x_t = schedule.add_noise(torch.ones_like(eps), torch.full((len(eps),), 400), eps)
    # release: noise standard deviation 0.6807 at index 400 of the quadratic schedule
    assert x_t.std().item() == pytest.approx(0.6807, rel=1e-2)
    assert x_t.mean().item() == pytest.approx(0.536638**0.5, rel=1e-2)


def test_keeps_the_dtype_of_the_image() -> None:
    schedule, t = Schedule.named("linear"), torch.tensor([5])
    for dtype in (torch.float32, torch.float64):
        x = torch.zeros(1, 3, 2, 2, dtype=dtype)
        assert schedule.add_noise(x, t, x).dtype == dtype
