"""Folders of pictures of many sizes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import davi
from davi.data.images import load_image
from davi.folders import restoring
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
    restorer: davi.Restorer, source: Path, output: Path, masks: Path | None = None
) -> FolderReport:
    return restoring.restore_folder(
        restorer, source, output, num_samples=1, batch_size=3, seed=0, masks=masks, world=ALONE
    )


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
    assert restore(restorer, tmp_path / "in", tmp_path / "out", tmp_path / "mask.png").done == 1
    y = load_image(tmp_path / "in/a.png")[None] * torch.from_numpy(kept)
    expected = restorer.restore(y, names=["a"])[0, 0]
    found = load_image(tmp_path / "out/a.png")
    torch.testing.assert_close(found, expected, rtol=0, atol=1.001 / 255)
    Image.fromarray(np.uint8(255 * kept[:, :20])).save(tmp_path / "other.png")
    report = restore(restorer, tmp_path / "in", tmp_path / "o", tmp_path / "other.png")
    assert "is 20x20 pixels, 20x24 needed" in report.failed[0][1]
