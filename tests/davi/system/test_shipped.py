"""Shipped files are found by name, and hide nothing of the user's."""

from pathlib import Path

import pytest

from davi.system.shipped import CHECKPOINTS, CONFIGS, find, shipped_folder


def test_a_folder_of_the_same_name_hides_no_shipped_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "photos_denoising"
    Path(name).mkdir()
    assert find(name, CONFIGS) == shipped_folder(CONFIGS) / f"{name}.yaml"
    assert find(name, CHECKPOINTS) == shipped_folder(CHECKPOINTS) / f"{name}.safetensors"
    Path(name, "checkpoints").mkdir()  # as in the folder of a run
    assert find(name, CHECKPOINTS) == Path(name)


def test_the_users_own_file_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos_denoising").touch()
    assert find("photos_denoising", CONFIGS) == Path("photos_denoising")
