"""What the page of `davi app` answers, without a page."""

import sys
import zipfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import davi
from davi.app import answers, restoring, solving
from davi.app.answers import CLEAN, DAMAGED, Answers, hole_of
from davi.app.restoring import Measured, measure, samples, uncertainty_map
from davi.app.solving import solve
from davi.data.images import load_image, save_image
from davi.system.errors import InputError

A = {  # of some tasks, as PyTorch has them
    "denoising": lambda x: x,
    "super_resolution": lambda x: F.avg_pool2d(x, 4),
    "colorization": lambda x: x.mean(dim=0, keepdim=True),
}


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A smooth picture of 66 x 90 pixels."""
    rows, columns = torch.linspace(-0.6, 0.6, 66), torch.linspace(-0.5, 0.5, 90)
    save_image((rows[:, None] * columns).expand(3, -1, -1), tmp_path / "photo.png")
    return tmp_path / "photo.png"


def measured(photo: Path, task: str, sigma: float | None = 0.1) -> Measured:
    return measure(photo, task, sigma, "cpu", "fp32")


@pytest.mark.parametrize("task", A)
def test_a_clean_photograph_is_measured_with_the_noise_that_was_chosen(
    photo: Path, task: str
) -> None:
    found = measured(photo, task)
    rows = 64 if task == "super_resolution" else 66  # a multiple of the blocks of 4
    torch.testing.assert_close(found.truth, load_image(photo)[:, :rows, : 88 if rows == 64 else 90])
    noise = found.y - A[task](found.truth)
    assert noise.std().item() == pytest.approx(0.1, rel=0.1)
    assert found.picture.shape == found.truth.shape
    assert "Gaussian noise of sigma 0.1" in found.notes[0]


def test_inpainting_takes_the_middle_square(tmp_path: Path) -> None:
    picture = torch.full((3, 80, 200), 0.9)
    picture[:, :, 60:140] = -0.5
    save_image(picture, tmp_path / "wide.png")
    found = measured(tmp_path / "wide.png", "inpainting")
    torch.testing.assert_close(found.truth, torch.full((3, 64, 64), -0.5), rtol=0, atol=0.01)
    assert any("80x200 -> 64x64" in note for note in found.notes)


def test_a_large_clean_photograph_is_made_smaller_and_that_is_said(
    photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoring, "MAX_PIXELS", 33 * 45)
    found = measured(photo, "denoising")
    expected = load_image(photo).unflatten(2, (45, 2)).unflatten(1, (33, 2)).mean(dim=(2, 4))
    torch.testing.assert_close(found.truth, expected, rtol=0, atol=0.01)
    assert any("66x90 -> 33x45" in note for note in found.notes)
    with pytest.raises(InputError, match="would become 66x90 pixels; at most 1485"):
        measured(photo, "denoising", sigma=None)


def test_what_is_too_large_or_too_small_is_not_decoded(
    photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoring, "load_image", None)
    monkeypatch.setattr(restoring, "MAX_DECODED", 66 * 90 - 1)
    with pytest.raises(InputError, match="66x90 pixels; at most"):
        measured(photo, "denoising")
    monkeypatch.undo()
    save_image(torch.zeros(3, 15, 90), photo)
    with pytest.raises(InputError, match="15x90 pixels; 16 a side are needed"):
        measured(photo, "denoising")


def test_a_damaged_photograph_is_its_own_measurement(photo: Path) -> None:
    noise = torch.randn(3, 66, 90, generator=torch.Generator().manual_seed(0))
    save_image(load_image(photo) + 0.2 * noise, photo)
    found = measured(photo, "denoising", sigma=None)
    torch.testing.assert_close(found.y, load_image(photo), rtol=0, atol=0)
    assert found.truth is None
    assert found.sigma == pytest.approx(0.2, rel=0.1)


def left_half() -> dict[str, object]:
    """What an editor of 384 x 384 gives of two strokes that cover columns 0 to 31 of 64."""
    layers = [np.zeros((384, 384, 4), np.uint8) for _ in range(2)]
    layers[0][:, :100, 3] = 255
    layers[1][:, 90:187, 3] = 128  # until the first column of pixel 31
    return {"background": None, "layers": layers, "composite": None}


def test_a_hole_that_is_drawn_is_what_is_missing(photo: Path) -> None:
    hole = hole_of(left_half())
    found = measure(photo, "inpainting", 0.0, "cpu", "fp32", hole=hole)
    assert not found.y[:, :, :32].any()
    torch.testing.assert_close(found.y[:, :, 32:], found.truth[:, :, 32:], rtol=0, atol=0)
    assert "the hole is not that of the training" in found.notes[-1]
    solved = solve(found, "pseudo_inverse")  # of a mask, A+ y = y
    torch.testing.assert_close(solved.image, found.y, rtol=0, atol=1e-6)
    save_image(found.truth, photo)
    damaged = measure(photo, "inpainting", None, "cpu", "fp32", hole=hole)
    torch.testing.assert_close(damaged.y, found.y, rtol=0, atol=0.01)


def test_the_hole_of_the_training_may_be_drawn_and_nothing_need_be(photo: Path) -> None:
    assert hole_of(None) is None
    assert hole_of({"layers": []}) is None
    assert hole_of({"layers": [np.zeros((4, 4, 4), np.uint8)]}) is None
    box = torch.zeros(64, 64, dtype=torch.bool)
    box[16:48, 16:48] = True
    trained, drawn = (measure(photo, "inpainting", 0.1, "cpu", "fp32", hole=h) for h in (None, box))
    assert drawn.notes == trained.notes
    torch.testing.assert_close(drawn.y, trained.y, rtol=0, atol=0)
    with pytest.raises(InputError, match="hole that was drawn: mask that keeps no pixel"):
        measure(photo, "inpainting", 0.1, "cpu", "fp32", hole=torch.ones(64, 64, dtype=torch.bool))


def test_a_hole_is_drawn_on_the_middle_square(photo: Path, tmp_path: Path) -> None:
    page = Answers(tmp_path, "cpu", "fp32")
    assert page.canvas(None, "inpainting") is None
    assert page.canvas(str(photo), "denoising") is None
    picture = page.canvas(str(photo), "inpainting")
    assert picture.shape == (384, 384, 3)
    truth = measured(photo, "inpainting").truth
    found = torch.from_numpy(picture[3::6, 3::6]).permute(2, 0, 1) / 127.5 - 1
    torch.testing.assert_close(found, truth, rtol=0, atol=0.005)


def test_samples_are_those_of_the_restorer(photo: Path) -> None:
    found = measured(photo, "denoising")
    first, second = islice(samples(found, seed=3), 2)
    expected = davi.load("photos_denoising", "cpu").restore(
        found.y[None], seed=3, names=["sample 1"]
    )[0, 0]
    torch.testing.assert_close(second, expected, rtol=0, atol=0)
    assert not torch.equal(first, second)


def test_the_map_is_the_deviation_of_the_samples() -> None:
    low, high = torch.zeros(3, 2, 2), torch.zeros(3, 2, 2)
    high[:, 0, 0], high[:, 1, 1] = 0.4, 0.1
    found, largest = uncertainty_map([low, high])
    assert largest == pytest.approx(0.4 / 2**0.5)  # of two numbers |a - b| / sqrt(2)
    torch.testing.assert_close(found, torch.tensor([[[1.0, -1.0], [-1.0, -0.5]]]))


def test_a_solver_restores_the_middle(photo: Path) -> None:
    found = measured(photo, "super_resolution", sigma=0.0)
    solved = solve(found, "pseudo_inverse")
    middle = found.truth[None, :, :, 12:76]
    blocks = F.interpolate(F.avg_pool2d(middle, 4), scale_factor=4)[0]  # A+ of block means
    torch.testing.assert_close(solved.image, blocks, rtol=0, atol=1e-5)
    torch.testing.assert_close(solved.before, blocks, rtol=0, atol=1e-5)
    assert solved.evaluations == 0
    error = (blocks - middle).square().mean().item()
    assert solved.psnr == pytest.approx(10 * torch.tensor(4 / error).log10().item(), abs=1e-3)


def test_the_solver_of_davi_evaluates_once(photo: Path) -> None:
    solved = solve(measured(photo, "denoising"), "davi")
    assert solved.evaluations == 1
    assert solved.line.startswith("DAVI: ")
    assert solved.seconds > 0


def test_a_solver_that_does_not_fit_is_refused_in_one_line(
    photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = measured(photo, "denoising")
    with pytest.raises(InputError, match="needs the task super-resolution"):
        solve(found, "bicubic")
    monkeypatch.setattr(solving, "MAX_SECONDS", 0.0)
    with pytest.raises(InputError, match="DDRM takes longer than 0 s and was stopped"):
        solve(found, "ddrm")
    save_image(torch.zeros(3, 20, 90), photo)
    with pytest.raises(InputError, match="solvers take 64x64 pixels; this picture has 20x90"):
        solve(measured(photo, "denoising"), "pseudo_inverse")


def few_samples(found: Measured, seed: int) -> list[Tensor]:
    """In place of `samples`, without a network."""
    return [found.picture, -found.picture]


def test_the_page_gets_files_and_those_of_before_are_removed(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "samples", few_samples)
    (tmp_path / "pictures").mkdir()
    page = Answers(tmp_path / "pictures", "cpu", "fp32")
    first, second, last = page.restore(str(photo), CLEAN, "denoising", 0.1, 0, None, None)
    assert first["slider"] == (first["measurement"], first["strip"][0])
    assert len(second["strip"]) == 2
    assert "2 of 8 samples" in second["notes"]
    names = {"measurement.png", "sample_0.png", "sample_1.png", "uncertainty.png"}
    assert set(zipfile.ZipFile(last["download"]).namelist()) == names
    shown = first["shown"]
    solved = page.solve(shown, "pseudo_inverse", 0)
    assert Path(solved["solver_download"]).parent == shown.folder
    next(page.restore(str(photo), DAMAGED, "denoising", 0.1, 0, None, shown))
    assert not shown.folder.exists()
    with pytest.raises(InputError, match="restore a photograph in the first tab"):
        page.solve(shown, "pseudo_inverse", 0)


def test_what_is_missing_is_said_in_one_line(
    command: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="drop a photograph first"):
        next(Answers(tmp_path, "cpu", "fp32").restore(None, CLEAN, "denoising", 0.1, 0, None, None))
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "")
    code, text = command("app", "--device", "cpu")
    assert code == 2
    assert text.strip().endswith("davi app needs the package gradio: pip install 'davi[app]'")
