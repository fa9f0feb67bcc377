"""Comparing trainings: fine detail, both standard errors, the same measurements for all."""

import math
from pathlib import Path

import pytest
import torch

from davi.benchmarks.comparing import SCORES, Mean, comparison_table, score_run
from davi.data.batches import open_images
from davi.metrics.scores import psnr
from davi.restorer import load
from davi.system.runtime import keyed_rng
from tests.tiny import write_tiny_generator


def noise(shape: tuple[int, ...], name: str) -> torch.Tensor:
    """What `GaussianNoise` draws for an image: a position in its range first, then the noise."""
    rng = keyed_rng("cpu", 0, "degrade", name)
    torch.rand((), generator=rng)
    return torch.randn(shape, generator=rng)[None]


def test_standard_errors_over_images_and_over_seeds() -> None:
    mean = Mean.of(torch.tensor([[1.0, 2.0, 6.0], [3.0, 4.0, 2.0]]))
    assert mean.value == 3
    # Images, averaged over seeds: 2, 3, 4. Seeds, averaged over images: 3, 3.
    assert mean.over_images == pytest.approx(1 / math.sqrt(3))
    assert mean.over_seeds == 0
    assert mean.text(1) == "3.0 ± 0.6 ± 0.0"
    assert math.isnan(Mean.of(torch.ones(1, 5)).over_seeds)


def test_table_has_differences_of_pairs() -> None:
    def scores(value: float) -> dict[str, torch.Tensor]:
        return {name: torch.tensor([1.0, 5.0]) + value for name in SCORES}

    lines = comparison_table(
        {"base": [scores(0), scores(1)], "other": [scores(2), scores(4)]}
    ).splitlines()
    assert len(lines) == 6
    assert "over 2 images ± over 2 trainings" in lines[5]
    assert lines[2].startswith("| base | 3.50 ± 2.00 ± 0.50 |")
    # Differences are 2 and 3 for every image: no spread over images, 0.5 over seeds.
    assert lines[3].endswith("| 2.50 ± 0.00 ± 0.50 |")


def test_scores_are_those_of_the_restorer(tiny_prior: Path, tmp_path: Path) -> None:
    generator = write_tiny_generator(tmp_path / "g.safetensors", tiny_prior)
    images = open_images("photos:held_out", 16)
    images = torch.utils.data.Subset(images, range(34))  # more than a batch
    images.name = lambda index: f"image {index}"
    found = score_run(generator, images, "cpu")
    assert all(values.shape == (34,) for values in found.values())
    restorer = load(generator, "cpu")
    x0 = images[33][None]
    y = restorer.operator.A(x0)
    y = y + 0.05 * noise(y.shape[1:], "image 33")
    expected = psnr(restorer.restore(y, names=["image 33"])[0], x0)
    torch.testing.assert_close(found["PSNR [dB]"][33:], expected, rtol=1e-4, atol=0)
