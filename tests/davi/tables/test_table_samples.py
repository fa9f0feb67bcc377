"""Scores of the samples of an image in a table: what is drawn, kept and absent, and the numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import davi.tables.ensembles
from davi.config.yaml_file import load_config
from davi.metrics.protocols import CALIBRATION
from davi.system.errors import InputError
from davi.system.world import World
from davi.tables.config import TableConfig
from davi.tables.ensembles import NO_SIGMA, NO_SPREAD, NOT_SCORED
from davi.tables.plan import Plan, read_plan
from davi.tables.reliability import reliability
from davi.tables.result import TableResult
from tests.davi.tables.conftest import error_over_photographs, make
from tests.processes import in_world
from tests.tiny import ALONE

# Three samples have intervals up to 50 %.
METRICS = "metrics=[psnr, psnr_of_mean, crps, energy_score, spread_error, coverage_50, residual]"
SAMPLES = 3


def plan_of(home: Path, *overrides: str) -> Plan:
    config = load_config(home / "table.yaml", TableConfig, (METRICS, *overrides))
    return read_plan(config, home, ALONE.device)


def pictures(home: Path) -> list[Path]:
    return list((home / "out/cache").glob("??/*.png"))


def kept(home: Path) -> list[Path]:
    return sorted((home / "out/cache/samples").glob("*.json"))


def as_array(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path), float) / 127.5 - 1


def expected(
    samples: np.ndarray, truth: np.ndarray, y: np.ndarray, sigma: float
) -> dict[str, float]:
    """Of one image, by definition: samples (N, H, W, C); 4x super-resolution is a block mean."""
    pairs = [(a, b) for a in samples for b in samples]
    low, _, high = np.sort(samples, axis=0)
    mean, size = samples.mean(axis=0), truth.size**0.5
    blocks = samples.reshape(SAMPLES, 4, 4, 4, 4, 3).mean(axis=(2, 4))
    distances = [np.linalg.norm(a - b) for a, b in pairs]
    errors = [np.linalg.norm(a - truth) for a in samples]
    return {
        "psnr_of_mean": 10 * np.log10(4 / np.mean((mean - truth) ** 2)),
        "crps": np.abs(samples - truth).mean() - np.mean([abs(a - b).mean() for a, b in pairs]) / 2,
        "energy_score": (np.mean(errors) - np.mean(distances) / 2) / size,
        "residual": np.sqrt(np.mean((y - blocks) ** 2)) / sigma,
        # The interval of 3 samples is that of 50 %; a truth equal to an end is half inside.
        "coverage_50": np.mean((low < truth) & (truth < high)),
        "at an end": np.mean((truth == low) | (truth == high)),
        "variance": samples.var(axis=0, ddof=1).mean() * (SAMPLES + 1) / SAMPLES,
        "square": np.mean((mean - truth) ** 2),
    }


@pytest.fixture
def result(home: Path) -> TableResult:
    return make(home, METRICS)


def test_the_numbers_are_those_of_all_samples_of_all_images(
    home: Path, result: TableResult
) -> None:
    """Against NumPy from the pictures in the cache."""
    job = plan_of(home).jobs["drawn", "sr"]
    cell, found = result.cells["drawn", "sr"], {}
    for position, name in enumerate(job.problem.names):
        keys = [job.key(position, sample) for sample in range(SAMPLES)]
        samples = np.stack([as_array(home / f"out/cache/{key[:2]}/{key}.png") for key in keys])
        clean = job.problem.clean(position).permute(1, 2, 0).double().numpy()
        truth = np.round((clean + 1) * 127.5) / 127.5 - 1
        y = job.problem.measure(position).permute(1, 2, 0).numpy()
        values = expected(samples, truth, y, job.problem.config.noise.sigma)
        for metric in ("psnr_of_mean", "crps", "energy_score", "residual"):
            assert cell.per_image[name][metric] == pytest.approx(values[metric], rel=1e-4), metric
        found[name] = values
    mean = {metric: np.mean([row[metric] for row in found.values()]) for metric in values}
    error = error_over_photographs({name: row["crps"] for name, row in found.items()})
    assert cell.numbers["crps"].value == pytest.approx(mean["crps"], rel=1e-4)
    assert cell.numbers["crps"].error == pytest.approx(error, rel=1e-3)
    ratio = np.sqrt(mean["variance"] / mean["square"])
    assert cell.numbers["spread_error"].value == pytest.approx(ratio, rel=1e-4)
    assert cell.numbers["spread_error"].error is None
    covered = cell.numbers["coverage_50"].value
    assert 0 <= covered - mean["coverage_50"] <= mean["at an end"]
    assert sum(cell.ranks[1:3]) == pytest.approx(covered)
    assert sum(cell.ranks) == pytest.approx(1)


def test_all_scored_images_get_all_samples(home: Path, evaluated: list[int]) -> None:
    make(home, METRICS)
    assert len(pictures(home)) == 2 * 5 * (SAMPLES + 2)  # one more of the method that does not draw
    assert len(kept(home)) == 2 * 5
    evaluated.clear()
    again = make(home, METRICS)
    assert evaluated == []
    assert again.cells["drawn", "sr"].numbers.keys() == {*CALIBRATION, "psnr"} - {"coverage_90"}


def test_scores_are_computed_once(
    home: Path, result: TableResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *others = kept(home)
    first.write_text("{")  # damaged: this one is computed anew
    times = [path.stat().st_mtime_ns for path in others]
    monkeypatch.setattr(davi.tables.ensembles, "_sigma", lambda problem: 1.0)
    assert make(home, METRICS) != result
    assert [path.stat().st_mtime_ns for path in others] == times
    monkeypatch.undo()
    first.unlink()
    assert make(home, METRICS) == result


def test_more_samples_are_scored_together(home: Path, result: TableResult) -> None:
    more = make(home, METRICS, "num_samples=4").cells["drawn", "sr"]
    assert len(more.ranks) == 5
    assert more.numbers["psnr"] == result.cells["drawn", "sr"].numbers["psnr"]
    assert more.numbers["crps"] != result.cells["drawn", "sr"].numbers["crps"]


def test_methods_that_do_not_draw_have_a_dash_and_the_reason(result: TableResult) -> None:
    cell = result.cells["still", "sr"]
    assert cell.numbers.keys() == {"psnr"}
    assert cell.absent == dict.fromkeys(result.metrics[1:], NO_SPREAD)
    assert cell.ranks == []


@pytest.mark.parametrize(
    "noise", ["noise={name: poisson, rate: 1.0}", "noise.sigma=[0.1, 0.2]", "noise.sigma=0"]
)
def test_noise_without_one_sigma_has_no_residual(home: Path, noise: str) -> None:
    column = f"columns=[{{id: sr, label: S, config: run.yaml, data_set: photos, set: ['{noise}']}}]"
    cell = make(home, METRICS, column, "num_images=2").cells["drawn", "sr"]
    assert cell.absent == {"residual": NO_SIGMA}


def test_solvers_may_be_told_another_sigma(home: Path, result: TableResult) -> None:
    column = "columns=[{id: sr, label: S, config: run.yaml, data_set: x, assumed_sigma: 0.9}]"
    other = make(home, METRICS, column)
    numbers = other.cells["drawn", "sr"].numbers
    assert numbers["residual"] == result.cells["drawn", "sr"].numbers["residual"]
    assert other.facts["noise that solvers are told of, S"] == "Gaussian, sigma 0.9"
    assert not any(fact.startswith("noise that") for fact in result.facts)


def made_in(world: World, home: Path) -> TableResult | None:
    return make(home, METRICS, world=world, output=home / "two")


@pytest.mark.slow
def test_two_processes_score_as_one_does(home: Path, result: TableResult) -> None:
    first, second = in_world(2, made_in, home)
    assert second is None
    assert len(list((home / "two/cache/samples").glob("*.json"))) == 2 * 5
    for place, cell in result.cells.items():
        assert first.cells[place].ranks == cell.ranks
        assert first.cells[place].per_image == cell.per_image


def test_samples_that_are_missing_are_told(home: Path) -> None:
    make(home)  # further samples of two of five images
    part = make(home, METRICS, only_cached=True).cells["drawn", "sr"]
    assert part.numbers.keys() == {"psnr"}
    assert set(part.absent.values()) == {NOT_SCORED}
    assert sum("crps" in values for values in part.per_image.values()) == 2
    assert part.ranks == []


@pytest.mark.parametrize(
    ("metric", "num_samples", "needed"),
    [("crps", 0, 2), ("coverage_50", 2, 3), ("coverage_90", 18, 19)],
)
def test_too_few_samples_are_refused(
    home: Path, metric: str, num_samples: int, needed: int
) -> None:
    words = f"metrics=[psnr, {metric}]", f"num_samples={num_samples}"
    with pytest.raises(InputError, match=f"{num_samples}; the metric {metric} needs .* {needed}"):
        load_config(home / "table.yaml", TableConfig, words)
    load_config(home / "table.yaml", TableConfig, (words[0], f"num_samples={needed}"))


@pytest.mark.parametrize("num_samples", [2, 3, 4, 19])
def test_even_ranks_lie_on_the_diagonal(num_samples: int) -> None:
    points = reliability([1 / (num_samples + 1)] * (num_samples + 1))
    levels, shares = zip(*points, strict=True)
    torch.testing.assert_close(torch.tensor(levels), torch.tensor(shares))
    assert levels[0] == 0
    assert levels[-1] == (num_samples - 1) / (num_samples + 1)
    assert list(levels) == sorted(set(levels))


def test_a_truth_outside_of_all_samples_is_in_no_interval() -> None:
    assert reliability([0.5, 0.0, 0.0, 0.0, 0.5]) == [(0.0, 0.0), (0.2, 0.0), (0.6, 0.0)]
