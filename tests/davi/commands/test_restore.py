"""The command `davi restore`: one photograph, with a shipped generator."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import davi
from davi.data.images import load_image, save_image
from davi.folders.photograph import describe
from tests.tiny import write_tiny_generator

TURN_RIGHT = 6  # of EXIF: what is stored is to be turned clockwise


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A noisy ramp of 70 x 90 pixels, stored lying on its side, as a camera does."""
    ramp = torch.linspace(-0.6, 0.6, 90).expand(3, 70, 90)
    noise = torch.randn(ramp.shape, generator=torch.Generator().manual_seed(0))
    save_image(ramp + 0.2 * noise, tmp_path / "upright.png")
    stored = Image.open(tmp_path / "upright.png").transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[274] = TURN_RIGHT
    stored.save(tmp_path / "photo.png", exif=exif)
    return tmp_path / "photo.png"


def test_a_photograph_is_restored_as_it_is_meant(command: object, photo: Path) -> None:
    code, text = command("restore", photo, "--task", "denoising")
    assert code == 0
    assert "assumed: denoising, and Gaussian noise of sigma 0.19" in text
    assert "levels), estimated" in text
    assert "restored by photos_denoising, in pieces of 64x64" in text
    assert "70x90 -> " in text
    assert "note:" not in text
    result = photo.with_name("photo_restored.png")
    assert 274 not in Image.open(result).getexif()
    y = load_image(photo.with_name("upright.png"))
    expected = davi.load("photos_denoising", "cpu").restore(y[None], names=["photo"])[0, 0]
    torch.testing.assert_close(load_image(result), expected, rtol=0, atol=1.001 / 255)
    ramp = torch.linspace(-0.6, 0.6, 90)
    assert (load_image(result) - ramp).std() < 0.5 * (y - ramp).std()


def test_a_note_says_that_the_training_was_for_another_noise(command: object, photo: Path) -> None:
    photo.with_name("out").mkdir()
    code, text = command(
        "restore", photo, "--task", "denoising", "--sigma", 0.1, "--output", photo.parent / "out"
    )
    assert code == 0
    assert "Gaussian noise of sigma 0.1 (12.8 of 255 levels), given" in text
    assert "note: the generator was trained for sigma 0.2 (25.5 of 255 levels)" in text
    assert photo.with_name("out").joinpath("photo.png").exists()


def test_the_damage_is_described_and_the_suffix_says_the_format(
    command: object, photo: Path, tiny_prior: Path, tmp_path: Path
) -> None:
    generator = write_tiny_generator(tmp_path / "tiny.safetensors", tiny_prior)
    Image.open(photo.with_name("upright.png")).crop((0, 0, 9, 7)).save(tmp_path / "small.png")
    output = tmp_path / "new/large.tif"
    options = ("--output", output, "--bit-depth", 16, "--checkpoint", generator)
    code, text = command("restore", tmp_path / "small.png", *options)
    assert code == 0
    assert "assumed: super_resolution (factor 4, kernel average), and Gaussian noise" in text
    assert "restored by tiny, in pieces of 16x16" in text
    with Image.open(output) as image:
        assert (image.format, image.size) == ("TIFF", (36, 28))
        assert image.tag_v2[258] == (16, 16, 16)
    assert load_image(output).unique().numel() > 256


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "either --task or --checkpoint is needed"),
        (("--task", "denoising", "--checkpoint", "x"), "either --task or --checkpoint is needed"),
        (("--task", "dehazing"), "no shipped generator is for 'dehazing'; there are some for"),
        (("--task", "denoising", "--sigma", "25"), "sigma 25: a deviation on the [-1, 1] scale"),
        (("--task", "denoising", "--output", "a.xyz"), "a.xyz: the name must end in one of .png"),
        (
            ("--task", "denoising", "--output", "a.jpg", "--bit-depth", "16"),
            "a.jpg: JPEG has 8 bits",
        ),
        (("--task", "inpainting"), "measurement is 3x70x90 (channels x height x width), 3x64x64"),
        (("--task", "colorization"), "photo.png: has 3 channels, 1 needed"),
    ],
)
def test_what_does_not_fit_is_one_line(
    command: object, photo: Path, options: tuple[str, ...], message: str
) -> None:
    code, text = command("restore", photo, *options)
    assert code == 2
    assert message in text.splitlines()[-1]
    assert not photo.with_name("photo_restored.png").exists()


def test_nothing_is_overwritten_unasked(command: object, photo: Path) -> None:
    words = ("restore", photo, "--task", "denoising")
    result = photo.with_name("photo_restored.png")
    result.write_bytes(b"precious")
    code, text = command(*words)
    assert code == 2
    assert "exists; add --overwrite" in text
    assert result.read_bytes() == b"precious"
    assert command(*words, "--overwrite")[0] == 0
    assert load_image(result).shape == (3, 70, 90)
    before = photo.read_bytes()
    code, text = command(*words, "--overwrite", "--output", photo)
    assert code == 2
    assert "is the photograph itself" in text
    assert photo.read_bytes() == before


def test_transparent_pixels_are_refused(command: object, tmp_path: Path) -> None:
    glass = Image.fromarray(np.full((64, 64, 4), 99, np.uint8))
    glass.save(tmp_path / "glass.png")
    code, text = command("restore", tmp_path / "glass.png", "--task", "denoising")
    assert code == 2
    assert "glass.png: has transparent pixels; flatten it onto a background first" in text


def test_what_a_generator_was_trained_for_is_said(tiny_prior: Path, tmp_path: Path) -> None:
    """A weight file carries the kinds of a mixture, too."""
    noises = {
        "noise={name: impulse, amount: 0.1}": "impulse",
        "noise={name: mixture, kinds: [{name: impulse}, {name: speckle}]}": "several kinds of",
    }
    for setting, words in noises.items():
        path = write_tiny_generator(tmp_path / "tiny.safetensors", tiny_prior, setting)
        lines = describe(davi.load(path, "cpu"), "tiny", 0.1, "given")
        assert lines[-1] == f"note: the generator was trained for {words} noise"
