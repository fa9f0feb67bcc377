"""Scores of ensembles: closed forms, sums term by term, and ensembles that are right or wrong."""

import math

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from davi.metrics.ensembles import (
    coverage,
    covered,
    crps,
    energy_score,
    measurement_residual,
    psnr_of_mean,
    rank_histogram,
    spread_error,
    spread_error_ratio,
    widest_level,
)
from davi.operators.inpainting import Inpainting
from davi.operators.super_resolution import SuperResolution
from davi.system.errors import InputError

SIGMA = 0.3


def ensemble(
    num_samples: int, rng: torch.Generator, spread: float = 1.0, images: int = 4
) -> tuple[Tensor, Tensor]:
    """Samples and truths of one Gaussian about another centre in each entry.

    The deviation of the samples is `spread` times that of the truths.
    """
    shape = (images, 3, 48, 48)
    centre = torch.randn(shape, generator=rng, dtype=torch.float64)
    noise = SIGMA * torch.randn(num_samples + 1, *shape, generator=rng, dtype=torch.float64)
    return centre + spread * noise[1:], centre + noise[0]


def of_values(samples: list[float], truth: float) -> tuple[Tensor, Tensor]:
    """An ensemble of images of one pixel."""
    return torch.tensor(samples).view(-1, 1, 1, 1, 1), torch.full((1, 1, 1, 1), truth)


def rounded(x: Tensor) -> Tensor:
    """Steps about as wide as the deviation: most truths equal a sample."""
    return (x * 4).round() / 4


def test_the_rank_is_the_number_of_samples_below() -> None:
    samples = [0.1, 0.3, 0.5]
    for truth, rank in ((0.0, 0), (0.2, 1), (0.4, 2), (0.9, 3)):
        counts = rank_histogram(*of_values(samples, truth))
        assert counts.tolist() == [[float(place == rank) for place in range(4)]]


def test_equal_values_are_spread_over_their_ranks() -> None:
    counts = rank_histogram(*of_values([0.1, 0.5, 0.5, 0.9], 0.5))
    torch.testing.assert_close(counts[0], torch.tensor([0, 1, 1, 1, 0], dtype=torch.float64) / 3)


@pytest.mark.parametrize("prepare", [lambda x: x, rounded], ids=["as drawn", "rounded"])
@pytest.mark.parametrize("num_samples", [2, 8, 16])
def test_ranks_of_truths_like_the_samples_are_uniform(
    prepare: object, num_samples: int, rng: torch.Generator
) -> None:
    samples, truth = map(prepare, ensemble(num_samples, rng))
    counts = rank_histogram(samples, truth)
    torch.testing.assert_close(counts.sum(dim=1), counts.new_full((4,), truth[0].numel()))
    assert chisquare(counts.sum(dim=0).numpy()).pvalue > 0.01


@pytest.mark.parametrize(("spread", "outer"), [(0.8, "more"), (1.25, "fewer")])
def test_ranks_tell_over_and_underconfident_samples(
    spread: float, outer: str, rng: torch.Generator
) -> None:
    counts = rank_histogram(*ensemble(8, rng, spread)).sum(dim=0)
    assert chisquare(counts.numpy()).pvalue < 1e-6
    ends, middle = counts[[0, -1]].mean(), counts[3:6].mean()
    assert ends > 1.2 * middle if outer == "more" else ends < middle / 1.2


@pytest.mark.parametrize(
    ("num_samples", "level"),
    [(8, 0.5), (16, 0.5), (32, 0.5), (8, 0.7), (16, 0.33), (19, 0.9), (32, 0.9)],
)
@pytest.mark.parametrize("prepare", [lambda x: x, rounded], ids=["as drawn", "rounded"])
def test_truths_like_the_samples_are_covered_as_often_as_the_level_says(
    num_samples: int, level: float, prepare: object, rng: torch.Generator
) -> None:
    values = coverage(*map(prepare, ensemble(num_samples, rng, images=8)), level)
    assert values.shape == (8,)
    deviation = math.sqrt(level * (1 - level) / (3 * 48 * 48))
    assert abs(values.mean() - level) < 3 * deviation / math.sqrt(8)


def test_intervals_between_samples_contain_what_lies_between_them(rng: torch.Generator) -> None:
    """Of 9 samples the levels .4 and .8 are those of the 4th to the 7th and the 2nd to the 9th."""
    samples, truth = ensemble(9, rng, spread=0.7)
    ordered = samples.sort(dim=0).values
    for level, low in ((0.4, 2), (0.8, 0)):
        inside = (truth >= ordered[low]) & (truth <= ordered[-1 - low])
        expected = inside.double().mean(dim=(1, 2, 3))
        torch.testing.assert_close(coverage(samples, truth, level), expected)
    between = (coverage(samples, truth, 0.4) + coverage(samples, truth, 0.6)) / 2
    torch.testing.assert_close(coverage(samples, truth, 0.5), between)


@pytest.mark.parametrize("spread", [0.5, 2.0])
def test_coverage_is_that_of_the_gaussian_interval_for_many_samples(
    spread: float, rng: torch.Generator
) -> None:
    quantile = math.sqrt(2) * torch.erfinv(torch.tensor(0.5)).item()
    expected = math.erf(spread * quantile / math.sqrt(2))
    value = coverage(*ensemble(199, rng, spread, images=1), 0.5)
    assert value.item() == pytest.approx(expected, abs=0.015)


def test_a_level_beyond_the_widest_interval_is_refused() -> None:
    assert widest_level(19) == 0.9
    with pytest.raises(InputError, match=r"90 %: 18 samples allow levels from 0 to 89\.5 %"):
        covered(torch.ones(19), 0.9)
    assert covered(torch.ones(20), 0.9) == pytest.approx(0.9)


def test_spread_and_error_by_hand() -> None:
    # Variance of .5 +- .2 with N - 1: .08; times 3 / 2.
    spread, error = spread_error(*of_values([0.3, 0.7], 0.4))
    assert spread.item() == pytest.approx(math.sqrt(0.12), rel=1e-6)
    assert error.item() == pytest.approx(0.1, rel=1e-6)


@pytest.mark.parametrize("num_samples", [2, 16])
@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
def test_spread_by_error_is_known_for_gaussians(
    num_samples: int, spread: float, rng: torch.Generator
) -> None:
    # Error^2 is sigma^2 of the truth and (spread sigma)^2 / N of the mean.
    ratio = spread_error_ratio(*spread_error(*ensemble(num_samples, rng, spread)))
    expected = (1 + 1 / num_samples) * spread**2 / (1 + spread**2 / num_samples)
    assert ratio.item() == pytest.approx(math.sqrt(expected), rel=0.02)


def test_the_ratio_of_a_set_is_that_of_one_large_image(rng: torch.Generator) -> None:
    samples, truth = ensemble(8, rng)
    truth[0] += 1  # a hard image
    set_ratio = spread_error_ratio(*spread_error(samples, truth))
    one_image = spread_error(samples.flatten(1, 2)[:, None], truth.flatten(0, 1)[None])
    assert set_ratio.item() == pytest.approx((one_image[0] / one_image[1]).item(), rel=1e-9)


def direct_score(samples: Tensor, truth: Tensor) -> float:
    """The energy score of vectors (N, D), term by term."""
    count, scale = len(samples), math.sqrt(truth.numel())
    error = sum((x - truth).norm() for x in samples) / count
    distance = sum((x - other).norm() for x in samples for other in samples) / count**2
    return ((error - distance / 2) / scale).item()


def test_scores_are_the_sums_of_their_definitions(rng: torch.Generator) -> None:
    samples = torch.randn(5, 2, 3, 4, 4, generator=rng, dtype=torch.float64)
    truth = torch.randn(2, 3, 4, 4, generator=rng, dtype=torch.float64)
    for index in range(2):
        vectors, point = samples[:, index].flatten(1), truth[index].flatten()
        expected = direct_score(vectors, point)
        assert energy_score(samples, truth)[index].item() == pytest.approx(expected, rel=1e-10)
        entries = range(len(point))
        each = [direct_score(vectors[:, [entry]], point[[entry]]) for entry in entries]
        expected = sum(each) / len(each)
        assert crps(samples, truth)[index].item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("score", [crps, energy_score])
def test_the_score_of_two_points_is_known(score: object) -> None:
    # Errors .3 and .1, mean .2; distance .4 between half of the pairs.
    assert score(*of_values([0.3, 0.7], 0.6)).item() == pytest.approx(0.2 - 0.1, rel=1e-6)
    assert score(*of_values([0.5, 0.5], 0.2)).item() == pytest.approx(0.3, rel=1e-6)


@pytest.mark.parametrize("num_samples", [4, 16])
@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
def test_crps_is_known_for_gaussians(num_samples: int, spread: float, rng: torch.Generator) -> None:
    # E|x - t| = sqrt(2 / pi) of the deviation of x - t; N - 1 of N pairs are of two samples.
    error = math.sqrt(2 / math.pi) * SIGMA * math.sqrt(1 + spread**2)
    distance = 2 / math.sqrt(math.pi) * SIGMA * spread * (1 - 1 / num_samples)
    value = crps(*ensemble(num_samples, rng, spread)).mean()
    assert value.item() == pytest.approx(error - distance / 2, rel=0.02)


def test_only_the_energy_score_sees_whether_pixels_go_together(rng: torch.Generator) -> None:
    """Truth and samples are flat images; shuffled, each pixel is a sample of another one."""
    flat = torch.randn(17, 50, 1, 1, 1, generator=rng).expand(-1, -1, 1, 6, 6)
    samples, truth = flat[1:], flat[0]
    order = torch.rand(samples.shape, generator=rng).argsort(dim=0)
    shuffled = samples.gather(0, order)
    torch.testing.assert_close(crps(shuffled, truth), crps(samples, truth))
    assert energy_score(shuffled, truth).mean() > 1.05 * energy_score(samples, truth).mean()


def test_the_residual_of_the_truth_is_one(rng: torch.Generator) -> None:
    operator = SuperResolution((3, 32, 32), 2)
    x = torch.rand(2, 3, 32, 32, generator=rng)
    y = operator.A(x) + 0.1 * torch.randn(2, 3, 16, 16, generator=rng)
    values = measurement_residual(x[None], y, operator, 0.1)
    torch.testing.assert_close(values, torch.ones(2).double(), rtol=0, atol=0.1)
    fitted = operator.A_dagger(y)[None]
    assert measurement_residual(fitted, y, operator, 0.1).max() < 1e-5


def test_the_residual_is_the_root_mean_square_over_samples_and_deviations() -> None:
    operator = SuperResolution((1, 8, 8), 2)
    x, y = (
        torch.tensor([0.1, 0.7]).view(2, 1, 1, 1, 1).expand(2, 2, 1, 8, 8),
        torch.zeros(2, 1, 4, 4),
    )
    expected = math.sqrt((0.1**2 + 0.7**2) / 2) / torch.tensor([0.1, 0.2]).double()
    values = measurement_residual(x, y, operator, torch.tensor([0.1, 0.2]))
    torch.testing.assert_close(values, expected)


@pytest.mark.parametrize("noise_in_hole", [False, True])
def test_the_hole_of_inpainting_has_no_residual(noise_in_hole: bool, rng: torch.Generator) -> None:
    masks = torch.ones(2, 1, 8, 8)
    masks[0, :, :4], masks[1, :, :, :6] = 0, 0
    operator = Inpainting((3, 8, 8), masks, noise_in_hole)
    x = torch.zeros(1, 2, 3, 8, 8)
    y = torch.where(masks == 1, 0.2, 5.0).expand(2, 3, 8, 8)
    values = measurement_residual(x, y, operator, 0.1)
    torch.testing.assert_close(values, torch.full((2,), 2.0, dtype=torch.float64))


def test_the_mean_of_samples_has_its_own_psnr() -> None:
    # An error of .2 of a range of 2: 20 dB, though both samples are off by .5 and .1.
    assert psnr_of_mean(*of_values([0.5, -0.1], 0.0)).item() == pytest.approx(20, abs=1e-5)


@pytest.mark.parametrize("score", [rank_histogram, spread_error, crps, energy_score, psnr_of_mean])
def test_one_sample_or_another_shape_is_refused(score: object) -> None:
    for samples in (
        torch.zeros(1, 2, 3, 8, 8),
        torch.zeros(4, 1, 3, 8, 8),
        torch.zeros(2, 3, 8, 8),
    ):
        with pytest.raises(InputError, match="N at least 2"):
            score(samples, torch.zeros(2, 3, 8, 8))
