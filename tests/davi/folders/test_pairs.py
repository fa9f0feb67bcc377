"""Which files are compared, what keeps them from it, and how they are read."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

import davi.folders.pairs
from davi.data.images import load_image, save_image
from davi.folders.pairs import pair_by_name, read_batches
from davi.system.errors import InputError


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three references, one nested, and restorations of the same names."""
    reference, restored = tmp_path / "reference", tmp_path / "restored"
    for index, name in enumerate(("a", "b", "nested/c")):
        for folder, level in ((reference, 0), (restored, 0.5)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            save_image(torch.full((3, 24, 24), level + 0.1 * index), folder / f"{name}.png")
    return reference, restored


def test_pairs_are_sorted_and_know_their_files(folders: tuple[Path, Path]) -> None:
    reference, restored = folders
    pairs = pair_by_name(reference, restored)
    assert [pair.name for pair in pairs] == ["a", "b", "nested/c"]
    assert pairs[2].truth == reference / "nested/c.png"
    assert pairs[2].restored == restored / "nested/c.png"
    assert len({pair.sha256 for pair in pairs}) == 3


@pytest.mark.parametrize("batch_size", [1, 2, 9])
def test_batches_hold_images_of_one_size_and_all_of_them(
    folders: tuple[Path, Path], batch_size: int
) -> None:
    for folder in folders:
        save_image(torch.zeros(3, 20, 30), folder / "aa.png")
    pairs = pair_by_name(*folders)
    seen = {}
    for batch in read_batches(pairs, batch_size):
        assert all(len(part) == len(batch[0]) <= batch_size for part in batch)
        for index, truth, restored in zip(*batch, strict=True):
            seen[index] = truth, restored
    assert sorted(seen) == [0, 1, 2, 3]
    for index, (truth, restored) in seen.items():
        torch.testing.assert_close(truth, load_image(pairs[index].truth))
        torch.testing.assert_close(restored, load_image(pairs[index].restored))


def test_images_without_partner_are_listed(folders: tuple[Path, Path]) -> None:
    reference, restored = folders
    (restored / "a.png").rename(restored / "z.png")
    with pytest.raises(InputError, match=r"1 images \(a\) only in .*reference, 1 images \(z\)"):
        pair_by_name(reference, restored)


def test_different_sizes_and_damaged_files_are_listed_together(folders: tuple[Path, Path]) -> None:
    reference, restored = folders
    Image.new("RGB", (10, 24)).save(restored / "a.png")
    (restored / "b.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="2 pairs cannot be compared") as caught:
        pair_by_name(reference, restored)
    assert "a: reference and restored image differ in size (24x24 and 24x10)" in str(caught.value)
    assert "b.png: not a readable image" in str(caught.value)


def test_images_of_different_sizes_are_not_decoded(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of a few kilobytes may hold gigabytes of pixels."""
    Image.new("RGB", (10, 24)).save(folders[1] / "a.png")
    decoded = []
    original = davi.folders.pairs.open_array
    monkeypatch.setattr(
        davi.folders.pairs, "open_array", lambda path: decoded.append(path) or original(path)
    )
    with pytest.raises(InputError, match="differ in size"):
        pair_by_name(*folders)
    assert {path.name for path in decoded} == {"b.png", "c.png"}


def test_long_lists_are_counted_and_cut_off(folders: tuple[Path, Path]) -> None:
    for index in range(12):
        save_image(torch.zeros(3, 24, 24), folders[0] / f"more_{index:02d}.png")
    with pytest.raises(InputError, match=r"12 images \(more_00, .*more_09 and 2 more\) only in"):
        pair_by_name(*folders)
    for index in range(12):
        save_image(torch.zeros(3, 24, 20), folders[1] / f"more_{index:02d}.png")
    with pytest.raises(InputError, match=r"12 pairs cannot be .*, more_09: .* and 2 more$"):
        pair_by_name(*folders)


def test_images_too_small_for_ssim_are_named(tmp_path: Path) -> None:
    save_image(torch.zeros(3, 10, 24), tmp_path / "a.png")
    with pytest.raises(InputError, match="a: smaller than 11x11 pixels"):
        pair_by_name(tmp_path, tmp_path)


def test_two_references_of_one_name_are_refused(folders: tuple[Path, Path]) -> None:
    shutil.copy(folders[0] / "a.png", folders[0] / "a.jpg")
    with pytest.raises(InputError, match=r"a\.png: another file .* but for the suffix; rename"):
        pair_by_name(*folders)
