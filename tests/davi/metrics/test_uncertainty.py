"""Intervals of samples against closed forms, and the promise of their calibration by simulation."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from davi.metrics.uncertainty import (
    Calibration,
    calibration,
    conformal_factor,
    images_needed,
    interval,
    reach,
    samples_needed,
)
from davi.system.errors import InputError

EXAMPLE = Calibration(0.9, 1.5, 8, 20, 0.6, 0.91, {"task": "denoising"}, {})


@pytest.mark.parametrize(("count", "low"), [(19, 1), (29, 1.5), (39, 2), (3, 1)])
def test_the_ends_are_the_samples_of_rank_n_plus_1_p(count: int, low: float) -> None:
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    samples = (order[:, None] + 1).expand(-1, 2) / 100
    found = interval(samples, 0.9)
    expected = torch.tensor([low, count + 1 - low]) / 100
    torch.testing.assert_close(torch.stack(found)[:, 1], expected)


def test_many_gaussian_samples_give_gaussian_quantiles(rng: torch.Generator) -> None:
    samples = 0.2 * torch.randn(100_000, 1, generator=rng) + 0.1
    low, high = interval(samples, 0.9)
    assert low.item() == pytest.approx(0.1 - 0.2 * 1.645, abs=0.004)
    assert high.item() == pytest.approx(0.1 + 0.2 * 1.645, abs=0.004)


@pytest.mark.parametrize(("count", "level"), [(19, 0.9), (3, 0.5), (39, 0.9)])
def test_a_truth_like_the_samples_is_inside_as_often_as_the_level_says(
    count: int, level: float, rng: torch.Generator
) -> None:
    samples, truth = (
        0.2 * torch.randn(count, 40_000, generator=rng),
        0.2 * torch.randn(40_000, generator=rng),
    )
    low, high = interval(samples, level)
    inside = ((low <= truth) & (truth <= high)).double().mean()
    assert inside.item() == pytest.approx(level, abs=0.006)


def test_a_factor_scales_both_ends_about_the_median_within_the_range() -> None:
    samples = torch.tensor([0.0, 0.1, 0.5])[:, None]
    low, high = interval(samples, 0.5, factor=2)
    torch.testing.assert_close(torch.cat([low, high]), torch.tensor([-0.1, 0.9]))
    assert interval(samples, 0.5, factor=20)[1].item() == 1


def test_the_reach_is_the_factor_at_which_the_truth_is_on_the_edge(rng: torch.Generator) -> None:
    samples, truth = (0.1 * torch.randn(shape, generator=rng) for shape in ((8, 50), (50,)))
    for each, value, needed in zip(samples.T, truth, reach(samples, truth, 0.9), strict=True):
        low, high = interval(each[:, None], 0.9, needed.item())
        assert min(abs(low - value), abs(high - value)) < 1e-5


def test_samples_that_agree_contain_nothing_else() -> None:
    samples, truth = torch.full((5, 2), 0.5), torch.tensor([0.5, 0.6])
    assert reach(samples, truth, 0.9).tolist() == [0, torch.inf]
    with pytest.raises(InputError, match="all samples are equal, but not to the truth"):
        conformal_factor(torch.full((20, 4), torch.inf), 0.9)


def test_needed_numbers_are_exact() -> None:
    assert [samples_needed(level) for level in (0.5, 0.8, 0.9, 0.95, 0.99)] == [3, 9, 19, 39, 199]
    assert [images_needed(level) for level in (0.5, 0.8, 0.9, 0.95, 0.99)] == [1, 4, 9, 19, 99]
    with pytest.raises(InputError, match="1: a level lies between 0 and 1"):
        samples_needed(1)


def test_the_factor_is_the_smallest_that_conformal_risk_control_allows(
    rng: torch.Generator,
) -> None:
    reaches = torch.rand(12, 7, generator=rng)
    allowed = [
        bound.item()
        for bound in reaches.flatten()
        if 12 / 13 * (reaches > bound).double().mean() + 1 / 13 <= 0.2 + 1e-12
    ]
    assert conformal_factor(reaches, 0.8) == min(allowed)
    with pytest.raises(InputError, match=r"level 0\.8 needs at least 4 images .* there are 3"):
        conformal_factor(reaches[:3], 0.8)


@pytest.mark.parametrize(("count", "level"), [(9, 0.9), (19, 0.9), (30, 0.7)])
def test_new_images_are_covered_as_promised(count: int, level: float) -> None:
    """Overconfident samples, images of different difficulty: the mean over many repetitions."""
    random, repeats, pixels = np.random.default_rng(0), 1500, 12
    shape = (repeats, count + 1, pixels)
    samples = torch.from_numpy(0.01 * random.standard_normal((8, *shape)))
    difficulty = random.gamma(3, 0.01, (*shape[:2], 1))
    reaches = reach(samples, torch.from_numpy(difficulty * random.standard_normal(shape)), level)
    inside = [
        (each[-1] <= conformal_factor(each[:-1], level)).double().mean().item() for each in reaches
    ]
    error = np.std(inside) / np.sqrt(repeats)
    assert level - 3 * error <= np.mean(inside) <= level + 2 / (count + 1) + 3 * error


def test_a_calibration_counts_what_is_inside(rng: torch.Generator) -> None:
    reaches = 3 * torch.rand(20, 50, generator=rng)
    found = calibration(reaches, 0.9, 8, {}, {})
    assert found.coverage_before == pytest.approx((reaches <= 1).double().mean().item())
    assert found.coverage_after == pytest.approx(0.945)  # 0.9 * 21 / 20
    assert (found.num_images, found.num_samples) == (20, 8)


def test_a_calibration_is_the_same_after_a_file(tmp_path: Path) -> None:
    EXAMPLE.save(tmp_path / "c.json")
    assert Calibration.load(tmp_path / "c.json") == EXAMPLE


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"level": 0.9}', json.dumps(vars(EXAMPLE) | {"factor": float("nan")})]
    + [json.dumps(vars(EXAMPLE) | {key: -1}) for key in ("level", "factor", "num_samples")],
)
def test_what_is_no_calibration_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(InputError, match=r"c\.json: damaged .*; mend or remove it"):
        Calibration.load(tmp_path / "c.json")
    with pytest.raises(InputError, match=r"absent\.json: cannot be read"):
        Calibration.load(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"level": 0.8}, "level: 0.8 -> 0.9"),
        ({"num_samples": 4}, "num_samples: 4 -> 8"),
        ({"restorer": {"task": "inpainting"}}, "task: 'inpainting' -> 'denoising'"),
    ],
)
def test_a_calibration_of_something_else_is_refused(changes: dict, message: str) -> None:
    EXAMPLE.require_fit(0.9, 8, {"task": "denoising"})
    with pytest.raises(InputError, match=message):
        replace(EXAMPLE, **changes).require_fit(0.9, 8, {"task": "denoising"})
