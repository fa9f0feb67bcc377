"""Prepared data sets: what is written, what a rerun does, what is found to be wrong."""

import errno
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import davi.data.preparing
from davi.data.batches import open_images
from davi.data.image_sets import ImageFolder
from davi.data.preparing import prepare_images
from davi.data.selections import select
from davi.system.errors import InputError
from davi.system.files import sha256_of
from davi.system.ledger import FolderReport
from tests.conftest import contents

SIZE = 16
RULES = {"validation": "0-3", "train": "4-11"}


def write_photo(path: Path, seed: int, shape: tuple[int, int] = (30, 24)) -> None:
    """A coloured picture with structure, another one for every seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize(shape[::-1]).save(path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Twelve numbered images in two folders, and one that belongs to no split."""
    for index in range(13):
        write_photo(tmp_path / f"source/{index // 6}/{index:05d}.png", index, (30, 20 + index))
    return tmp_path / "source"


def prepare(
    source: Path, output: Path, rules: dict[str, str] | None = None, num_workers: int = 0
) -> FolderReport:
    images = ImageFolder(source, SIZE)
    splits = [select(name, images, rule) for name, rule in (rules or RULES).items()]
    return prepare_images(splits, output, num_workers)


def test_training_sees_the_same_pixels_as_of_the_originals(source: Path, tmp_path: Path) -> None:
    report = prepare(source, tmp_path / "out")
    assert (report.done, report.skipped, report.failed) == (12, 0, [])
    originals, prepared = ImageFolder(source, SIZE), open_images(str(tmp_path / "out/train"), SIZE)
    assert list(prepared.names) == list(originals.names)[4:12]
    for index in range(8):
        torch.testing.assert_close(prepared[index], originals[index + 4], rtol=0, atol=0)
    assert len(open_images(str(tmp_path / "out/validation"), SIZE)) == 4
    with Image.open(tmp_path / "out/train/0/00004.png") as picture:
        assert (picture.size, picture.mode) == ((SIZE, SIZE), "RGB")


def test_the_manifest_has_the_hash_of_every_source_and_output(source: Path, tmp_path: Path) -> None:
    prepare(source, tmp_path / "out")
    settings, *entries = map(json.loads, (tmp_path / "out/manifest.jsonl").read_text().splitlines())
    assert settings["splits"] == RULES
    assert settings["image_size"] == SIZE
    assert len(entries) == 12
    for entry in entries:
        assert entry["sha256"] == sha256_of(Path(entry["source"]))
        assert entry["output_sha256"] == sha256_of(tmp_path / f"out/{entry['name']}.png")


def test_processes_write_the_same_files(source: Path, tmp_path: Path) -> None:
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    prepare(source, alone)
    prepare(source, shared, num_workers=2)
    assert contents(alone) == contents(shared)
    assert (alone / "manifest.jsonl").read_text() == (shared / "manifest.jsonl").read_text()


def test_a_rerun_does_what_is_missing_changed_or_damaged(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare(source, out)
    expected = contents(out)
    assert prepare(source, out).skipped == 12
    (out / "train/0/00004.png").unlink()
    (out / "train/0/00005.png").write_bytes(b"damaged")
    report = prepare(source, out)
    assert (report.done, report.skipped, report.failed) == (2, 10, [])
    assert contents(out) == expected
    write_photo(source / "0/00000.png", 99)
    assert prepare(source, out).done == 1
    assert contents(out)["validation/0/00000.png"] != expected["validation/0/00000.png"]


def test_a_killed_run_goes_on(source: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole"
    prepare(source, whole)
    shutil.copytree(whole, out)
    manifest = out / "manifest.jsonl"
    manifest.write_bytes(manifest.read_bytes()[:-400])  # the last lines are lost, one is cut off
    for name in ("1/00010", "1/00011"):
        (out / f"train/{name}.png").unlink()
    (out / "train/1/.00010.png.123.tmp").write_bytes(b"half")
    report = prepare(source, out)
    assert report.done >= 2
    assert report.done + report.skipped == 12
    assert contents(out) == contents(whole)


def test_broken_images_are_listed_and_the_others_prepared(source: Path, tmp_path: Path) -> None:
    (source / "0/00005.png").write_bytes(b"no picture")
    Image.new("RGBA", (20, 20)).save(source / "1/00007.png")
    report = prepare(source, tmp_path / "out")
    assert report.done == 10
    assert [path.name for path, _ in report.failed] == ["00005.png", "00007.png"]
    assert report.exit_code == 1
    assert prepare(source, tmp_path / "out").exit_code == 1


def test_an_image_in_both_splits_stays_in_the_first_one_only(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copy(source / "0/00001.png", source / "1/00008.png")
    # Another file of the same pixels.
    Image.open(source / "0/00002.png").save(source / "1/00009.png", compress_level=1)
    report = prepare(source, tmp_path / "out")
    assert report.failed == []
    found = capsys.readouterr().out
    assert "left out: train/1/00008: the same file as validation/0/00001" in found
    assert "left out: train/1/00009: the same picture as validation/0/00002" in found
    kept = {path.name for path in (tmp_path / "out/train").rglob("*.png")}
    assert not kept & {"00008.png", "00009.png"}
    assert (tmp_path / "out/validation/0/00001.png").exists()
    again = prepare(source, tmp_path / "out")
    assert (again.failed, again.exit_code) == ([], 0)
    assert {path.name for path in (tmp_path / "out/train").rglob("*.png")} == kept


def test_images_twice_in_one_split_are_no_overlap(source: Path, tmp_path: Path) -> None:
    shutil.copy(source / "1/00007.png", source / "1/00008.png")
    assert prepare(source, tmp_path / "out").failed == []


def test_files_that_are_not_of_the_data_set_are_found(source: Path, tmp_path: Path) -> None:
    prepare(source, tmp_path / "out")
    write_photo(tmp_path / "out/validation/more.png", 7)
    (failure,) = prepare(source, tmp_path / "out").failed
    assert failure[0] == tmp_path / "out/validation/more.png"
    assert "belongs to no image of the split" in failure[1]
    (source / "0/00001.png").write_bytes(b"no picture any more")
    failed = dict(prepare(source, tmp_path / "out").failed)
    assert set(failed) == {
        source / "0/00001.png",
        tmp_path / "out/validation/more.png",
        tmp_path / "out/validation/0/00001.png",
    }


def test_names_that_differ_in_the_suffix_only_are_refused(source: Path, tmp_path: Path) -> None:
    write_photo(source / "0/00001.jpg", 50)
    report = prepare(source, tmp_path / "out", {"all": "all"})
    assert [path.name for path, _ in report.failed] == ["00001.jpg", "00001.png"]
    assert all("; rename one of them" in reason for _, reason in report.failed)
    assert report.done == 12


def test_small_images_are_counted(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for index in (1, 5, 6):
        write_photo(source / f"{index // 6}/{index:05d}.png", index, (40, SIZE - 1))
    for _ in range(2):  # the rerun knows, too
        prepare(source, tmp_path / "out")
        validation, one, train, two = capsys.readouterr().out.splitlines()
        assert (validation, train) == (
            "validation: 4 of 4 images (0-3)",
            "train: 8 of 8 images (4-11)",
        )
        assert one.strip() == f"note: smaller than {SIZE} pixels and enlarged: 1"
        assert two.strip() == f"note: smaller than {SIZE} pixels and enlarged: 2"


def test_another_choice_needs_another_folder(source: Path, tmp_path: Path) -> None:
    prepare(source, tmp_path / "out")
    with pytest.raises(InputError, match="was written with other settings"):
        prepare(source, tmp_path / "out", RULES | {"train": "4-10"})
    with pytest.raises(InputError, match="lies inside the input"):
        prepare(source, source / "out")
    assert not (source / "out").exists()


def test_a_full_disk_ends_the_command(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(davi.data.preparing, "save_image", full)
    with pytest.raises(InputError, match="No space left on device"):
        prepare(source, tmp_path / "out")
    monkeypatch.undo()
    assert prepare(source, tmp_path / "out").done == 12


def test_what_cannot_be_written_is_listed_and_the_others_are_prepared(tmp_path: Path) -> None:
    """Its result would lie where another image needs a folder: no advice to delete that one."""
    for index, name in enumerate(("a.png/b.png", "a.jpg", "dir.png/c.png")):
        write_photo(tmp_path / "source" / name, index)
    for _ in range(2):
        report = prepare(tmp_path / "source", tmp_path / "out", {"all": "all"})
        ((path, reason),) = report.failed
        assert path == tmp_path / "source/a.png/b.png"
        assert "cannot be written" in reason or "Not a directory" in reason
        assert report.done + report.skipped == 2


def test_a_closed_folder_is_listed_and_the_others_are_prepared(
    closed_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    report = prepare(closed_folder.parent, tmp_path_factory.mktemp("out"), {"all": "all"})
    assert report.done == 2
    ((path, reason),) = report.failed
    assert path == closed_folder
    assert "is a folder that cannot be read (Permission denied)" in reason
