"""Shipped generators, found by their task and their noise."""

import shutil
from pathlib import Path

import pytest

from davi.system.errors import InputError
from davi.weights import by_task
from davi.weights.by_task import nearest_generator
from tests.tiny import write_tiny_generator

NOISES = {  # of the generators for denoising
    "b_low": "noise.sigma=0.05",
    "c_range": "noise.sigma=[0.2, 0.4]",
    "d_same": "noise.sigma=0.05",
    "a_high": "noise.sigma=0.45",
    "e_photons": "noise={name: poisson}",
}


@pytest.fixture(scope="module")
def folder(tiny_prior: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shipped")
    for name, noise in NOISES.items():
        path = folder / f"{name}.safetensors"
        write_tiny_generator(path, tiny_prior, "operator={name: denoising}", noise)
    write_tiny_generator(folder / "a_other_task.safetensors", tiny_prior)
    shutil.copy(tiny_prior, folder / "a_prior.safetensors")
    return folder


@pytest.mark.parametrize(
    ("sigma", "name"),
    [(0.0, "b_low"), (0.1, "b_low"), (0.13, "c_range"), (0.39, "c_range"), (1.0, "a_high")],
)
def test_the_nearest_noise_is_taken(
    folder: Path, monkeypatch: pytest.MonkeyPatch, sigma: float, name: str
) -> None:
    use(folder, monkeypatch)
    assert nearest_generator("denoising", sigma).path.stem == name
    assert nearest_generator("super_resolution", sigma).path.stem == "a_other_task"


def test_tasks_without_a_generator_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(folder, monkeypatch)
    with pytest.raises(InputError, match=r"'dehazing'; there .* for denoising, super_resolution;"):
        nearest_generator("dehazing", 0.1)


def use(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a folder stand for the shipped one."""
    names = sorted(path.stem for path in folder.iterdir())
    monkeypatch.setattr(by_task, "shipped_folder", lambda kind: folder)
    monkeypatch.setattr(by_task, "shipped_names", lambda kind: names)
