"""davi evaluate of several samples: both ways give the same scores."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from davi.system.choices import CALIBRATION
from tests.conftest import REPOSITORY
from tests.tiny import write_tiny_generator

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def measured(command: Command, tmp_path: Path) -> Path:
    """A folder of davi degrade with two images."""
    for seed, name in enumerate("ab"):
        pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        (tmp_path / "clean").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f"clean/{name}.png")
    words = (REPOSITORY / "configs/tiny.yaml", "--input", tmp_path / "clean")
    assert command("degrade", *words, "--output", tmp_path / "measured")[0] == 0
    return tmp_path / "measured"


def test_several_samples_are_restored_and_scored(
    command: Command, tiny_prior: Path, measured: Path, tmp_path: Path
) -> None:
    generator = write_tiny_generator(tmp_path / "g.safetensors", tiny_prior)
    words = ("--metrics", f"psnr,{','.join(CALIBRATION)}", "--measured", measured)
    how = ("--checkpoint", generator, "--num-samples", 3, "--output", tmp_path / "o")
    code, text = command("evaluate", *words, *how)
    assert code == 0, text
    assert "coverage_90 is left out" in text
    restored = tmp_path / "o/restored_nearest"
    at_once = json.loads((tmp_path / "o/restored_nearest-eval/summary.json").read_text())
    assert set(at_once["summary"]) == {"psnr", *CALIBRATION} - {"coverage_90"}
    there = ("--reference", measured / "reference", "--restored", restored)
    code, text = command("evaluate", *words, *there, "--output", tmp_path / "scores")
    assert code == 0, text
    assert json.loads((tmp_path / "scores/summary.json").read_text()) == at_once


def test_the_number_of_samples_is_of_the_restoration(command: Command, tmp_path: Path) -> None:
    both = ("--reference", tmp_path, "--restored", tmp_path)
    code, text = command("evaluate", *both, "--num-samples", 3)
    assert code == 2
    assert "--num-samples: no effect without --checkpoint; leave it out" in text


def test_groups_are_refused_before_images_are_restored(
    command: Command, tiny_prior: Path, measured: Path, tmp_path: Path
) -> None:
    generator = write_tiny_generator(tmp_path / "g.safetensors", tiny_prior)
    how = ("--checkpoint", generator, "--measured", measured, "--output", tmp_path / "o")
    code, text = command("evaluate", *how, "--group-by", "photo")
    assert code == 2
    assert "error: --group-by photo: does not match a; it must find a group" in text
    assert not (tmp_path / "o").exists()
    code, text = command("evaluate", *how, "--metrics", "psnr", "--group-by", "[ab]")
    assert code == 0, text
    assert "(2 images in 2 groups)" in text
