"""Folders of pictures of many sizes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import davi
from davi.data.images import load_image, save_array, save_image, to_uint8
from davi.folders import restoring
from davi.folders.scoring import recorded_rounding
from davi.pictures.form import Form
from davi.system.ledger import FolderReport
from tests.tiny import ALONE, write_tiny_generator

SIZES = {"a": (4, 4), "b": (9, 6), "c": (4, 4), "d": (2, 3), "e": (9, 6)}


@pytest.fixture(scope="module")
def restorer(tiny_prior: Path, tmp_path_factory: pytest.TempPathFactory) -> davi.Restorer:
    path = tmp_path_factory.mktemp("w") / "g.safetensors"
    return davi.load(write_tiny_generator(path, tiny_prior), "cpu")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, size in SIZES.items():
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / f"{name}.png")
    return folder


def restore(
    restorer: davi.Restorer, source: Path, output: Path, num_samples: int = 1, **options: object
) -> FolderReport:
    how = {"num_samples": num_samples, "batch_size": 3, "seed": 0, "world": ALONE}
    return restoring.restore_folder(restorer, source, output, **how, **options)


def test_each_picture_is_restored_at_its_own_size(
    restorer: davi.Restorer, pictures: Path, tmp_path: Path
) -> None:
    assert restore(restorer, pictures, tmp_path / "out").done == len(SIZES)
    for name, (height, width) in SIZES.items():
        expected = restorer.restore(load_image(pictures / f"{name}.png")[None], names=[name])[0, 0]
        found = load_image(tmp_path / f"out/{name}.png")
        assert found.shape == (3, 4 * height, 4 * width)
        torch.testing.assert_close(found, expected, rtol=0, atol=1.001 / 255)


def test_large_pictures_are_read_one_at_a_time(
    restorer: davi.Restorer, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one of `b` is cut off behind its header, which does not stop the others."""
    whole = (pictures / "b.png").read_bytes()
    (pictures / "b.png").write_bytes(whole[:60])
    monkeypatch.setattr(restoring, "LARGE", 16 * 16)
    events, read, run = [], restoring.read_measurement, restorer.restore
    monkeypatch.setattr(
        restoring,
        "read_measurement",
        lambda path, *a: (events.append(path.stem), read(path, *a))[1],
    )
    monkeypatch.setattr(restorer, "restore", lambda *a: (events.append(a[3]), run(*a))[1])
    report = restore(restorer, pictures, tmp_path / "out")
    assert report.done == len(SIZES) - 1
    assert [path.name for path, _ in report.failed] == ["b.png"]
    large = [event for event in events if event in ("b", "e", ["e"])]
    assert large == ["b", "e", ["e"]]
    assert events.index(["a"]) < events.index("b")


def test_a_mask_of_the_picture_s_size_is_its_hole(tiny_prior: Path, tmp_path: Path) -> None:
    pixels = "operator={name: inpainting, mask: random_pixels}"
    path = write_tiny_generator(tmp_path / "pixels.safetensors", tiny_prior, pixels)
    restorer = davi.load(path, "cpu")
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(tmp_path / "in/a.png")
    kept = rng.random((20, 24)) > 0.5
    Image.fromarray(np.uint8(255 * kept)).save(tmp_path / "mask.png")
    assert (
        restore(restorer, tmp_path / "in", tmp_path / "out", masks=tmp_path / "mask.png").done == 1
    )
    y = load_image(tmp_path / "in/a.png")[None] * torch.from_numpy(kept)
    expected = restorer.restore(y, names=["a"])[0, 0]
    found = load_image(tmp_path / "out/a.png")
    torch.testing.assert_close(found, expected, rtol=0, atol=1.001 / 255)
    Image.fromarray(np.uint8(255 * kept[:, :20])).save(tmp_path / "other.png")
    report = restore(restorer, tmp_path / "in", tmp_path / "o", masks=tmp_path / "other.png")
    assert "is 20x20 pixels, 20x24 needed" in report.failed[0][1]


def test_sixteen_bits_keep_what_eight_would_round(restorer: davi.Restorer, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    y = torch.rand(3, 5, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    save_image(y, tmp_path / "in/a.png", bit_depth=16)
    form = Form(bit_depth=16)
    assert restore(restorer, tmp_path / "in", tmp_path / "out", form=form).done == 1
    expected = restorer.restore(load_image(tmp_path / "in/a.png")[None], names=["a"])[0, 0]
    found = load_image(tmp_path / "out/a.png")
    torch.testing.assert_close(found, expected, rtol=0, atol=1.01 / 65535)
    assert (to_uint8(found).float() / 127.5 - 1 - found).abs().max() > 0.003


def test_formats_are_kept_on_request(restorer: davi.Restorer, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    picture = Image.fromarray(np.full((4, 4, 3), 99, np.uint8))
    for name in ("a.JPG", "b.tif", "c.webp"):
        picture.save(tmp_path / "in" / name)
    save_array(torch.zeros(3, 4, 4), tmp_path / "in/d.npy")
    kept = Form(keep_format=True)
    report = restore(restorer, tmp_path / "in", tmp_path / "out", num_samples=2, form=kept)
    assert report.done == 4
    names = sorted(path.name for path in (tmp_path / "out/mean").iterdir())
    assert names == ["a.JPG", "b.tif", "c.webp", "d.png"]
    assert Image.open(tmp_path / "out/sample_001/a.JPG").format == "JPEG"
    assert recorded_rounding(tmp_path / "out/mean") == "other"
    deep = Form(bit_depth=16, keep_format=True)
    report = restore(restorer, tmp_path / "in", tmp_path / "deep", form=deep)
    assert report.done == 2
    assert sorted(path.name for path, _ in report.failed) == ["a.JPG", "c.webp"]
    assert "JPEG has 8 bits, so that it cannot be kept with 16" in report.failed[0][1]
