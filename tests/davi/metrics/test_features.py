"""Features of the references are computed once, and anew when anything about them changes."""

from pathlib import Path

import numpy as np
import pytest
import torch

import davi.metrics.features
from davi.data.images import save_image
from davi.folders.scoring import Evaluation, evaluate_folders
from tests.davi.stand_ins import Features

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder, and a network without weights."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(davi.metrics.features, "InceptionFeatures", Features)
    return tmp_path / "cache/davi/features"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Five images and what was restored of them."""
    for folder in ("reference", "restored"):
        (tmp_path / folder).mkdir()
        for index in range(5):
            x = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(index)) - 0.5
            save_image(x if folder == "reference" else 0.9 * x, tmp_path / folder / f"{index}.png")
    return tmp_path / "reference", tmp_path / "restored"


def evaluate(folders: tuple[Path, Path]) -> tuple[Evaluation, int]:
    """The evaluation, and how many images went through the network."""
    before = Features.seen
    return evaluate_folders(*folders, ("fid", "kid"), device=CPU), Features.seen - before


def means(evaluation: Evaluation) -> dict[str, float]:
    return {metric: row["mean"] for metric, row in evaluation.summary.items()}


def test_references_are_computed_once(folders: tuple[Path, Path]) -> None:
    first, seen = evaluate(folders)
    assert seen == 10
    second, seen = evaluate(folders)
    assert seen == 5
    assert means(second) == means(first)


def test_moved_references_are_the_same(folders: tuple[Path, Path]) -> None:
    evaluate(folders)
    moved = folders[0].rename(folders[0].with_name("moved"))
    assert evaluate((moved, folders[1]))[1] == 5


def test_a_changed_reference_counts(folders: tuple[Path, Path]) -> None:
    before, _ = evaluate(folders)
    save_image(torch.zeros(3, 16, 16), folders[0] / "3.png")
    after, seen = evaluate(folders)
    assert seen == 10
    assert after.summary["fid"]["mean"] != before.summary["fid"]["mean"]


def test_other_weights_count(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    class Others(Features):
        def __init__(self, device: torch.device) -> None:
            super().__init__(device)
            self.weights_sha256 = "others"

    evaluate(folders)
    monkeypatch.setattr(davi.metrics.features, "InceptionFeatures", Others)
    assert evaluate(folders)[1] == 10


def test_a_damaged_record_counts_for_nothing(folders: tuple[Path, Path], cache: Path) -> None:
    first, _ = evaluate(folders)
    (record,) = cache.glob("*.npy")
    np.save(record.with_name("pickled.npy"), np.array([{}], object), allow_pickle=True)
    damages = [b"", b"no array", record.read_bytes()[:-8]]
    damages += [record.with_name("pickled.npy").read_bytes()]
    for damage in damages:
        record.write_bytes(damage)
        again, seen = evaluate(folders)
        assert seen == 10
        assert means(again) == means(first)


def test_a_cache_that_cannot_be_written_is_no_error(
    folders: tuple[Path, Path], cache: Path
) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folder should be")
    assert evaluate(folders)[1] == 10
    assert evaluate(folders)[1] == 10
