"""Priors of images that are not in colour: gray ones, and of two channels."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from davi.data.batches import open_images
from davi.data.images import load_image, save_image
from davi.folders.restoring import restore_folder
from davi.restorer import Restorer
from davi.runs.build import build_images
from davi.system.errors import InputError
from davi.system.world import World
from guided_diffusion.presets import create_unet
from tests.conftest import REPOSITORY
from tests.tiny import tiny_config, tiny_trainer, write_tiny_generator, write_tiny_prior

TINY = REPOSITORY / "configs/tiny.yaml"
GRAY = "network.in_channels=1"


def test_a_gray_prior_sees_the_luma_of_photographs(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).convert("L").save(tmp_path / "b.png")
    colour, gray = open_images(str(tmp_path), 16, 1)
    assert colour.shape == (1, 16, 16)
    torch.testing.assert_close(colour, gray, atol=1 / 127, rtol=0)  # of the rounding to 8 bits
    crop = open_images("photos:held_out", 16, 1)[0]
    red, green, blue = open_images("photos:held_out", 16)[0]
    torch.testing.assert_close(crop[0], 0.299 * red + 0.587 * green + 0.114 * blue)


def test_a_generator_of_gray_images_goes_from_training_to_pictures(
    script: object, tmp_path: Path
) -> None:
    prior = write_tiny_prior(tmp_path / "prior.safetensors", GRAY)
    trainer = tiny_trainer(prior, GRAY)
    assert tiny_config(prior, GRAY).network.unet().out_channels == 1
    losses = trainer.train_step(torch.rand(4, 1, 16, 16) * 2 - 1, 0)
    assert all(torch.isfinite(value) for value in losses.values())
    trainer.validate()
    generator = write_tiny_generator(tmp_path / "generator.safetensors", prior, GRAY)
    (tmp_path / "clean").mkdir()
    save_image(torch.rand(3, 16, 16), tmp_path / "clean/a.png")
    measured, restored = tmp_path / "measured", tmp_path / "restored"
    images = ("--input", tmp_path / "clean", "--output", measured, "--baselines")
    assert script("degrade", TINY, "--set", GRAY, *images)[0] == 0
    sample = ("sample", "--checkpoint", generator, "--input", measured, "--output", restored)
    assert script(*sample)[0] == 0
    for folder in (measured / "reference", measured / "lifted", restored):
        assert Image.open(folder / "a.png").mode == "L"
    assert load_image(restored / "a.png", 1).shape == (1, 16, 16)


def test_two_channels_are_restored_from_python_and_refused_as_pictures(
    tiny_prior: Path, tmp_path: Path
) -> None:
    config = tiny_config(tiny_prior, "network.in_channels=2", "operator={name: denoising}")
    restorer = Restorer(config, create_unet(config.network.unet()), "cpu")
    assert restorer.restore(torch.zeros(3, 2, 16, 16)).shape == (1, 3, 2, 16, 16)
    how = {"num_samples": 1, "batch_size": 1, "seed": 0, "world": World(0, 1, torch.device("cpu"))}
    with pytest.raises(InputError, match="images of 2 channels are no pictures"):
        restore_folder(restorer, tmp_path, tmp_path / "output", **how)
    with pytest.raises(InputError, match="images of 2 channels are no pictures"):
        build_images(config, "validation")
