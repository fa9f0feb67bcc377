"""The look at every image before training."""

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

import davi.data.image_sets
from davi.data.batches import open_images
from davi.data.image_sets import ImageFolder, ImageSet
from davi.data.scan import require_readable, scan_images
from davi.system.errors import InputError
from davi.system.world import World
from tests.processes import in_world

UNREADABLE = (
    "not a readable image (not PNG or JPEG or WEBP or TIFF or BMP, or of an unknown kind); "
    "save it as 8-bit PNG"
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty images of which two are broken."""
    for index in range(40):
        path = tmp_path / f"images/{index % 2}/{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (index, 0, 0)).save(path)
    (tmp_path / "images/0/04.png").write_bytes(b"no picture")
    Image.new("RGBA", (8, 8)).save(tmp_path / "images/1/33.png")
    return tmp_path / "images"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The images decoded in this process so far."""
    paths = []
    original = davi.data.image_sets.open_image

    def record(path: Path, stream: object) -> Image.Image:
        paths.append(path)
        return original(path, stream)

    monkeypatch.setattr(davi.data.image_sets, "open_image", record)
    return paths


@pytest.mark.parametrize("num_workers", [0, 2])
def test_broken_images_are_found_in_their_order(folder: Path, num_workers: int) -> None:
    assert scan_images(ImageFolder(folder, 8), num_workers) == [
        ("0/04.png", UNREADABLE),
        ("1/33.png", "has transparent pixels; flatten it onto a background first"),
    ]


def test_a_second_scan_decodes_nothing(folder: Path, decoded: list[Path]) -> None:
    first = scan_images(ImageFolder(folder, 8), 0)
    assert len(decoded) == 40
    assert scan_images(ImageFolder(folder, 16), 0) == first
    assert len(decoded) == 40


def test_a_changed_file_is_scanned_anew(folder: Path, decoded: list[Path]) -> None:
    scan_images(ImageFolder(folder, 8), 0)
    Image.new("RGB", (8, 8)).save(folder / "0/04.png")
    assert [name for name, _ in scan_images(ImageFolder(folder, 8), 0)] == ["1/33.png"]
    (folder / "0/06.png").rename(folder / "0/05.png")
    scan_images(ImageFolder(folder, 8), 0)
    assert len(decoded) == 120
    size = (folder / "0/08.png").stat().st_size
    (folder / "0/08.png").write_bytes(b"?" * size)
    assert len(scan_images(ImageFolder(folder, 8), 0)) == 2


def test_another_folder_of_the_same_names_is_another_matter(
    folder: Path, decoded: list[Path]
) -> None:
    scan_images(ImageFolder(folder, 8), 0)
    folder.rename(folder.with_name("others"))
    scan_images(ImageFolder(folder.with_name("others"), 8), 0)
    assert len(decoded) == 80


def test_a_damaged_record_counts_for_nothing(
    folder: Path, cache: Path, decoded: list[Path]
) -> None:
    first = scan_images(ImageFolder(folder, 8), 0)
    (record,) = cache.glob("davi/scans/*.json")
    for damage in ("", "[[1, 2, 3]]", "7"):
        record.write_text(damage)
        assert scan_images(ImageFolder(folder, 8), 0) == first
    assert len(decoded) == 160


def test_a_cache_that_cannot_be_written_is_no_error(folder: Path, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    assert len(scan_images(ImageFolder(folder, 8), 0)) == 2


def test_photographs_of_packages_need_no_scan(cache: Path) -> None:
    images = open_images("photos:held_out", 64)
    assert scan_images(images, 0) == []
    require_readable(images, 0)
    assert not cache.exists()


def test_training_is_refused_with_a_list(folder: Path) -> None:
    with pytest.raises(InputError) as caught:
        require_readable(ImageFolder(folder, 8), 0)
    assert str(caught.value) == (
        f"{folder}: 2 of 40 images cannot be used: 0/04.png ({UNREADABLE}), 1/33.png (has "
        "transparent pixels; flatten it onto a background first); set data.on_error=skip to train "
        "without them"
    )


def test_a_long_list_is_cut_off(folder: Path) -> None:
    for path in (folder / "0").iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"21 of 40 .* 0/18\.png \([^:]*\) and 11 more; set"):
        require_readable(ImageFolder(folder, 8), 0)


def test_sound_images_pass(folder: Path) -> None:
    for name in ("0/04.png", "1/33.png"):
        (folder / name).unlink()
    require_readable(ImageFolder(folder, 8), 0)


def test_a_file_that_vanished_is_named(folder: Path) -> None:
    images: ImageSet = ImageFolder(folder, 8)
    (folder / "0/08.png").unlink()
    assert ("0/08.png", "cannot be read (No such file or directory)") in scan_images(images, 0)


def _scan_together(world: World, folder: Path) -> tuple[list[tuple[str, str]], int]:
    """What a process hears of, and how many images it decoded itself."""
    count = []
    original = davi.data.image_sets.open_image

    def counting(path: Path, stream: object) -> Image.Image:
        count.append(path)
        return original(path, stream)

    davi.data.image_sets.open_image = counting
    return scan_images(ImageFolder(folder, 8), 0, world), len(count)


def test_a_closed_folder_is_one_of_the_broken(closed_folder: Path) -> None:
    ((name, reason),) = scan_images(ImageFolder(closed_folder.parent, 8), 0)
    assert name == "closed"
    assert reason.startswith("is a folder that cannot be read (Permission denied)")


@pytest.mark.slow
def test_processes_share_a_scan(folder: Path) -> None:
    alone = scan_images(ImageFolder(folder, 8), 0)
    shutil.rmtree(os.environ["XDG_CACHE_HOME"])
    (first, mine), (second, other) = in_world(2, _scan_together, folder)
    assert first == second == alone
    assert (mine, other) == (20, 20)
