"""Samplers of a prior, against a Gaussian whose every step is known."""

import pytest
import torch
from torch import Tensor, nn

from davi.priors.sampling import ddim_sample, ddpm_sample, spaced_times
from davi.schedule import Schedule
from davi.score import ScoreModel
from davi.system.runtime import keyed_rng, normal_each

LINEAR = Schedule.named("linear")
MEANS = torch.tensor([-0.2, 0.0, 0.3], dtype=torch.float64)  # of three channels, inside [-1, 1]
VARIANCES = torch.tensor([0.01, 0.02, 0.005], dtype=torch.float64)
SHAPE = (3, 32, 32)  # of images whose pixels are independent


def by_channel(values: Tensor) -> Tensor:
    return values[None, :, None, None]


class GaussianPrior(nn.Module):
    """The noise to be expected in x_t of Gaussian images, and, if asked, the variance of a step.

    That variance is exact: what is left of x at the next time when x_t is known.
    """

    def __init__(self, num_steps: int, learned: bool) -> None:
        super().__init__()
        self.learned = learned
        self.times = spaced_times(len(LINEAR), num_steps)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        now = LINEAR.alpha_bar[t[0]]
        precision = now * by_channel(VARIANCES) + 1 - now
        eps = (1 - now).sqrt() * (x_t - now.sqrt() * by_channel(MEANS)) / precision
        place = self.times.index(int(t[0]))
        if not self.learned:
            return eps
        if place == len(self.times) - 1:
            return torch.cat([eps, torch.zeros_like(eps)], dim=1)
        after = LINEAR.alpha_bar[self.times[place + 1]]
        step = now / after
        variance_after = after * by_channel(VARIANCES) + 1 - after
        exact = variance_after - step * variance_after**2 / precision
        lower, upper = (1 - step) * (1 - after) / (1 - now), 1 - step
        v = 2 * (exact / lower).log() / (upper / lower).log() - 1
        return torch.cat([eps, v.expand_as(eps)], dim=1)


def rngs() -> list[torch.Generator]:
    return [keyed_rng("cpu", "test", number) for number in range(4)]


def draw(sampler: str, num_steps: int, learned: bool = False) -> Tensor:
    """The pixels of four images, (4096, 3)."""
    model, own = ScoreModel(GaussianPrior(num_steps, learned), LINEAR), rngs()
    z = normal_each(SHAPE, own).double()
    if sampler == "ddim":
        images = ddim_sample(model, z, num_steps)
    else:
        images = ddpm_sample(model, z, num_steps, own)
    return images.permute(0, 2, 3, 1).flatten(0, 2)


def assert_moments(samples: Tensor, rtol: float = 0.08) -> None:
    """DDPM ends with the mean of x_0 given x at time 0, which varies a little less than x_0.

    The variance of 4096 pixels is known to 2.2 %, one standard deviation.
    """
    now = LINEAR.alpha_bar[0]
    explained = now * VARIANCES / (now * VARIANCES + 1 - now)
    torch.testing.assert_close(samples.mean(dim=0), MEANS, rtol=0, atol=0.006)
    torch.testing.assert_close(samples.var(dim=0), explained * VARIANCES, rtol=rtol, atol=0)


def test_times_are_spaced_evenly_from_the_last_to_the_first() -> None:
    assert spaced_times(1000, 4) == [999, 666, 333, 0]
    assert spaced_times(1000, 1000) == list(range(999, -1, -1))


@pytest.mark.parametrize(("num_steps", "error"), [(1000, 0.03), (200, 0.1), (50, 0.3)])
def test_ddim_draws_from_a_gaussian_prior(num_steps: int, error: float) -> None:
    """Of a Gaussian DDIM is mean + deviation * z; fewer steps fall short of the deviation."""
    model = ScoreModel(GaussianPrior(num_steps, learned=False), LINEAR)
    z = torch.tensor([0.0, 1.0], dtype=torch.float64)[:, None, None, None].expand(2, 3, 1, 1)
    at_0, at_1 = ddim_sample(model, z, num_steps).flatten(1)
    torch.testing.assert_close(at_0, MEANS, rtol=0, atol=0.004)
    torch.testing.assert_close(at_1 - at_0, VARIANCES.sqrt(), rtol=error, atol=0)


def test_ddpm_with_all_steps_draws_from_a_gaussian_prior() -> None:
    assert_moments(draw("ddpm", 1000), rtol=0.15)  # the lower bound of the variance falls short


def test_ddpm_with_the_learned_variance_draws_from_it_with_few_steps() -> None:
    """Of a Gaussian every step is Gaussian: with its true variance any number of steps is exact."""
    for num_steps in (7, 20):
        assert_moments(draw("ddpm", num_steps, learned=True))
    narrower = draw("ddpm", 7).var(dim=0)
    assert (narrower < 0.8 * VARIANCES).all()  # the lower bound is not enough for so few


def test_one_step_is_the_mean_of_all_images() -> None:
    for sampler in ("ddim", "ddpm"):
        samples = draw(sampler, 1)
        torch.testing.assert_close(samples.mean(dim=0), MEANS, rtol=0, atol=1e-3)
        assert (samples.std(dim=0) < 1e-3).all()


def test_ddim_is_a_function_of_its_start_and_ddpm_of_its_noise() -> None:
    assert torch.equal(draw("ddim", 20), draw("ddim", 20))
    assert torch.equal(draw("ddpm", 20), draw("ddpm", 20))
    model = ScoreModel(GaussianPrior(20, learned=False), LINEAR)
    own = rngs()
    z = normal_each(SHAPE, own).double()
    state = [rng.get_state() for rng in own]
    ddim_sample(model, z, 20)
    assert all(torch.equal(rng.get_state(), old) for rng, old in zip(own, state, strict=True))
    one = ddpm_sample(model, z, 20, own)
    another = ddpm_sample(model, z, 20, [keyed_rng("cpu", "other", i) for i in range(4)])
    assert (one - another).abs().max() > 0.01


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_an_image_does_not_depend_on_its_company(sampler: str) -> None:
    model = ScoreModel(GaussianPrior(20, learned=True), LINEAR)

    def some(numbers: range) -> Tensor:
        own = [keyed_rng("cpu", "test", number) for number in numbers]
        z = normal_each((3, 1, 1), own).double()
        if sampler == "ddim":
            return ddim_sample(model, z, 20)
        return ddpm_sample(model, z, 20, own)

    together = some(range(5))
    alone = torch.cat([some(range(number, number + 1)) for number in range(5)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


def test_samples_stay_in_the_range_of_images() -> None:
    class Loud(nn.Module):
        def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
            return -5 * torch.ones_like(x_t)

    model, own = ScoreModel(Loud(), LINEAR), rngs()[:2]
    z = normal_each((3, 2, 2), own)
    for samples in (ddim_sample(model, z, 5), ddpm_sample(model, z, 5, own)):
        assert samples.min() >= -1
        assert samples.max() <= 1
