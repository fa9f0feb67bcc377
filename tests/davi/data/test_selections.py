"""Which images a rule names, and what is refused."""

from pathlib import Path

import pytest

from davi.data.image_sets import ImageFolder
from davi.data.selections import require_disjoint, select
from davi.system.errors import InputError

NAMES = ("b/00002.png", "b/00001.jpg", "a/00003.png", "a/00010.png", "cover.png")


@pytest.fixture
def images(tmp_path: Path) -> ImageFolder:
    """Five files, whose content does not matter."""
    for name in NAMES:
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).touch()
    return ImageFolder(tmp_path / "images", 8)


def chosen(images: ImageFolder, rule: str) -> list[str]:
    return [images.names[index] for index in select("train", images, rule).indices]


def test_all_images_in_the_order_of_the_folder(images: ImageFolder) -> None:
    assert chosen(images, "all") == sorted(NAMES)


def test_numbers_are_found_in_whatever_folders(images: ImageFolder) -> None:
    assert chosen(images, "00001-00003") == ["b/00001.jpg", "b/00002.png", "a/00003.png"]
    assert chosen(images, "2-2") == ["b/00002.png"]
    assert select("train", images, "2-2").description == "2-2"


def test_every_number_must_exist_once(images: ImageFolder) -> None:
    with pytest.raises(InputError, match=r"of the numbers 0-4 no image has 00000, 00004$"):
        select("train", images, "0-4")
    with pytest.raises(InputError, match=r"no image has 00011, .* 00020 and 80 more$"):
        select("train", images, "10-100")
    with pytest.raises(InputError, match=r"no image has 00011, .* 00020$"):
        select("train", images, "11-20")
    (images.origin / "a/2.png").touch()
    with pytest.raises(InputError, match=r"two images have number 00002: a/2.png, b/00002.png"):
        select("train", ImageFolder(images.origin, 8), "1-3")


def test_the_first_are_those_with_the_first_file_names(images: ImageFolder) -> None:
    assert chosen(images, "first:3") == ["b/00001.jpg", "b/00002.png", "a/00003.png"]
    with pytest.raises(InputError, match="holds 5 images, not 6; give first:N with a smaller N"):
        select("train", images, "first:6")


@pytest.mark.parametrize("name", ["\ufeffb/00001", "./b/00001.jpg", "b\\00001.jpg", ".\\b\\00001"])
def test_a_list_may_come_from_another_system(
    images: ImageFolder, tmp_path: Path, name: str
) -> None:
    (tmp_path / "list.txt").write_text(f"{name}\r\ncover.png\r\n", encoding="utf-8")
    assert chosen(images, f"list:{tmp_path / 'list.txt'}") == ["b/00001.jpg", "cover.png"]


def test_a_list_names_images_with_or_without_suffix(images: ImageFolder, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("cover\n\n b/00001.jpg \ncover.png\n")
    assert chosen(images, f"list:{path}") == ["cover.png", "b/00001.jpg"]
    before = select("train", images, f"list:{path}").description
    assert str(tmp_path) not in before
    path.write_text("cover\nb/00009.jpg\n")
    assert f"list:{path}" not in before
    with pytest.raises(InputError, match=r"holds no b/00009.jpg of the list"):
        select("train", images, f"list:{path}")
    with pytest.raises(InputError, match="is not a readable list"):
        select("train", images, f"list:{tmp_path}/missing.txt")


@pytest.mark.parametrize("rule", ["some", "3-", "first:", "first:-1", "-3"])
def test_other_rules_are_refused_with_those_that_exist(images: ImageFolder, rule: str) -> None:
    with pytest.raises(InputError, match=r"is not a choice of images: give all, .* list:FILE"):
        select("train", images, rule)


@pytest.mark.parametrize("rule", ["5-3", "first:0"])
def test_an_empty_choice_is_refused(images: ImageFolder, rule: str) -> None:
    with pytest.raises(InputError, match="names no image"):
        select("train", images, rule)


def test_splits_must_not_share_files(images: ImageFolder) -> None:
    splits = [select("validation", images, "1-2"), select("train", images, "3-3")]
    require_disjoint(splits)
    with pytest.raises(
        InputError, match=r"^train and all would .*a/00003.png; choose .*-input DIR$"
    ):
        require_disjoint([*splits, select("all", images, "2-3")][1:])
