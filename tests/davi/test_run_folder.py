"""What a run leaves on disk, and what it refuses to mix."""

import sys
import types
from pathlib import Path

import pytest
import torch

from davi.errors import InputError
from davi.images import load_image
from davi.run_folder import RunFolder
from tests.tiny import tiny_config


def open_run(path: Path, prior: Path, *overrides: str) -> RunFolder:
    return RunFolder(path, tiny_config(prior, *overrides))


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path, tiny_prior: Path) -> None:
    run = open_run(tmp_path, tiny_prior)
    for iteration in (5, 10, 100):
        run.save(iteration, {"ema": {}}, keep=2)
    names = [path.name for path in run.checkpoints()]
    assert names == ["iteration_0000010.pt", "iteration_0000100.pt"]
    newest = run.load_newest()
    assert newest["iteration"] == 100
    assert newest["config"]["operator"]["name"] == "super_resolution"


def test_a_longer_run_is_the_same_run(tmp_path: Path, tiny_prior: Path) -> None:
    open_run(tmp_path, tiny_prior)
    open_run(tmp_path, tiny_prior, "train.num_iterations=99", "train.log_every=7")
    with pytest.raises(InputError, match=r"seed: 0 -> 1; train\.batch_size: 4 -> 2"):
        open_run(tmp_path, tiny_prior, "seed=1", "train.batch_size=2")


def test_panels_are_written_as_pictures(tmp_path: Path, tiny_prior: Path) -> None:
    run = open_run(tmp_path, tiny_prior)
    run.save_panel(7, torch.full((3, 8, 9), 1.0))
    assert load_image(tmp_path / "panels/iteration_0000007.png").shape == (3, 8, 9)
    run.close()


def test_weights_and_biases_mirrors_the_curves(
    tmp_path: Path, tiny_prior: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    fake = types.ModuleType("wandb")
    fake.init = lambda **arguments: calls.append(arguments)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for _ in range(2):
        run = open_run(tmp_path / "run", tiny_prior, "train.wandb_project=restoration")
        run.log(1, {"loss": 0.5})
        run.close()
    first, second = calls
    assert first["project"] == "restoration"
    assert first["sync_tensorboard"]
    assert first["config"]["loss.gamma"] == 0.1
    assert (first["id"], first["resume"]) == (second["id"], "allow")


def test_a_missing_wandb_is_named(
    tmp_path: Path, tiny_prior: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    run = open_run(tmp_path, tiny_prior, "train.wandb_project=restoration")
    with pytest.raises(InputError, match=r"pip install 'davi\[tracking\]'"):
        run.log(1, {"loss": 0.5})
