"""Comparing trainings: fine detail, both standard errors, the same measurements for all."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from davi.comparing import SCORES, Mean, comparison_table, detail, score_run
from davi.data import open_images
from davi.metrics import psnr
from davi.restorer import load
from davi.runtime import keyed_rng
from tests.tiny import write_tiny_generator


def test_detail_is_0_for_the_image_itself_and_falls_with_blur(rng: torch.Generator) -> None:
    x = 0.2 * torch.randn(4, 3, 32, 32, generator=rng)
    assert torch.equal(detail(x, x), torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(
        detail(x / 10, x), torch.full((4,), -20.0, dtype=torch.float64), rtol=0, atol=0.1
    )
    assert (detail(F.avg_pool2d(x, 3, 1, 1), x) < -5).all()
    slow = torch.sin(torch.arange(32) * 2 * math.pi / 8).expand(1, 1, 32, 32)  # 1/8 cycle a pixel
    fast = torch.sin(torch.arange(32) * 2 * math.pi / 3.2).expand(1, 1, 32, 32)
    assert detail((slow + fast) / 2, fast).item() == pytest.approx(20 * math.log10(0.5), abs=1e-3)


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
    assert len(lines) == 4
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


def noise(shape: tuple[int, ...], name: str) -> torch.Tensor:
    """What `GaussianNoise` draws for an image: a position in its range first, then the noise."""
    rng = keyed_rng("cpu", 0, "degrade", name)
    torch.rand((), generator=rng)
    return torch.randn(shape, generator=rng)[None]
