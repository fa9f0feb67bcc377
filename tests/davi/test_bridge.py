"""The Perturbed Posterior Bridge against recorded tables, closed forms and its end points."""

import numpy as np
import pytest
import scipy.stats
import torch

from davi.bridge import MIXINGS, PosteriorBridge, beta_cdf, end_cdf, symmetric_betas, uniform_cdf
from davi.generator import release_coefficient
from davi.schedule import Schedule
from davi.system.runtime import keyed_rng


def make_bridge(**changes: object) -> PosteriorBridge:
    """A bridge with the defaults of the configuration."""
    arguments = {
        "mixing": "linear",
        "perturbation": "monotone",
        "h": 0.1,
        "time_cdf": beta_cdf((3.0, 1.0)),
        "extra_noise": False,
        "schedule": Schedule.named("linear"),
    }
    return PosteriorBridge(**{**arguments, **changes})


def test_release_tables_meet_the_recorded_ones(golden_schedules: dict) -> None:
    quadratic = Schedule.named("quadratic")
    bridge = make_bridge(mixing="symmetric", schedule=quadratic, h=1.0)
    np.testing.assert_allclose(symmetric_betas(), golden_schedules["symmetric_betas"], rtol=1e-12)
    np.testing.assert_allclose(bridge.mix_x, golden_schedules["mu_x0"], rtol=1e-10)
    np.testing.assert_allclose(1 - bridge.mix_x, golden_schedules["mu_x1"], rtol=1e-9)
    np.testing.assert_allclose(
        bridge.perturb_scale, golden_schedules["ppb_scale_h1"], rtol=0, atol=1e-12
    )
    std_fwd = golden_schedules["std_fwd"]
    np.testing.assert_allclose(release_coefficient(quadratic), std_fwd, rtol=1e-12)


@pytest.mark.parametrize("mixing", ["linear", "quadratic"])
def test_mixing_is_the_share_of_the_integral_of_beta(mixing: str) -> None:
    def beta(s: float) -> float:
        if mixing == "linear":
            return 1e-4 + s * (2e-2 - 1e-4)
        return (1e-2 + s * (2e-2**0.5 - 1e-2)) ** 2

    share = MIXINGS[mixing]()
    assert share[0] == 1
    assert share[-1] == 0
    assert (share.diff() < 0).all()
    integral = scipy.integrate.quad
    for a in (1, 250, 500, 900):
        s = a / 999
        expected = integral(beta, s, 1)[0] / integral(beta, 0, 1)[0]
        assert share[a].item() == pytest.approx(expected, abs=1e-6)


def test_perturb_is_equation_13(rng: torch.Generator) -> None:
    bridge = make_bridge()
    x, y, z = torch.randn(3, 2, 3, 4, 4, generator=rng, dtype=torch.float64)
    a = torch.tensor([100, 800])
    y_a = bridge.perturb(x, y, a, z)
    for i, index in enumerate(a):
        sigma = MIXINGS["linear"]()[index]
        sbar = 1 - Schedule.named("linear").alpha_bar[index]
        torch.testing.assert_close(y_a[i], (1 - sigma) * y[i] + sigma * x[i] + 0.1 * sbar * z[i])


def test_extra_noise_is_the_further_term_of_equation_14() -> None:
    plain, extra = make_bridge(), make_bridge(extra_noise=True)
    sigma = plain.mix_x
    torch.testing.assert_close(extra.perturb_scale - plain.perturb_scale, sigma * (1 - sigma))
    assert extra.perturb_scale[-1] == plain.perturb_scale[-1]


def test_endpoint_is_the_bridge_at_its_last_time(rng: torch.Generator) -> None:
    bridge = make_bridge()
    x, y, z = torch.randn(3, 2, 3, 4, 4, generator=rng)
    last = torch.tensor([999, 999])
    torch.testing.assert_close(bridge.endpoint(y, z), bridge.perturb(x, y, last, z))
    # Algorithm 2: y + h z; 1 - alpha_bar is 1 there but for 4e-5
    torch.testing.assert_close(bridge.endpoint(y, z), y + 0.1 * z, rtol=0, atol=1e-4)


def test_without_h_the_endpoint_is_the_measurement(rng: torch.Generator) -> None:
    y, z = torch.randn(2, 2, 3, 4, 4, generator=rng)
    assert torch.equal(make_bridge(h=0.0).endpoint(y, z), y)


def test_constant_perturbation_does_not_depend_on_the_time() -> None:
    assert make_bridge(perturbation="constant").perturb_scale.unique().tolist() == [0.1]


def draw_times(bridge: PosteriorBridge, count: int) -> np.ndarray:
    return bridge.sample_time([keyed_rng("cpu", 0, i) for i in range(count)]).numpy()


def test_beta_times_follow_the_releases_rounding() -> None:
    count = 20_000
    v = np.random.default_rng(0).beta(3, 1, 1_000_000)
    index = np.clip((1000 * v - 0.5).astype(int), 0, 999)
    expected = np.bincount(index, minlength=1000).cumsum() / len(index)
    np.testing.assert_allclose(beta_cdf((3.0, 1.0)), expected, atol=2e-3)
    times = draw_times(make_bridge(), count)
    assert scipy.stats.kstest(times, scipy.stats.beta(3, 1, scale=1000).cdf).statistic < 0.012
    # release: P(a = 999) = 1.5e-3, median 793
    assert (1 - beta_cdf((3.0, 1.0))[998]).item() == pytest.approx(1.5e-3, rel=1e-3)
    assert np.median(times) == pytest.approx(793, abs=5)


def test_uniform_times_are_uniform_and_cover_both_ends() -> None:
    times = draw_times(make_bridge(time_cdf=uniform_cdf()), 20_000)
    assert scipy.stats.kstest(times + 0.5, scipy.stats.uniform(0, 1000).cdf).statistic < 0.012
    assert times.min() == 0
    assert times.max() == 999


def test_end_times_are_the_measurement() -> None:
    assert set(draw_times(make_bridge(time_cdf=end_cdf()), 100)) == {999}
