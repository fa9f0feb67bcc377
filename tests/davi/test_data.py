"""Clean images and the order in which training sees them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from davi.data import ImageFolder, KeyedOrder, open_images, training_batches, validation_batch
from davi.errors import InputError
from davi.photos import SPLITS, PhotoCrops


@pytest.fixture(scope="module")
def held_out() -> PhotoCrops:
    return PhotoCrops("held_out", 64)


def batches(first: int, last: int, images: object, **changes: object) -> list[torch.Tensor]:
    arguments = {
        "batch_size": 4,
        "seed": 0,
        "flip": True,
        "num_workers": 0,
        "first_iteration": first,
        "num_iterations": last,
    }
    return list(training_batches(images, **{**arguments, **changes}))


def test_no_photograph_is_in_both_splits() -> None:
    assert not set(SPLITS["train"]) & set(SPLITS["held_out"])


def test_the_embedded_sets_have_the_documented_sizes(held_out: PhotoCrops) -> None:
    assert len(held_out) == 561
    assert len(PhotoCrops("train", 64)) == 47_889


def test_crops_are_colour_photographs_in_range(held_out: PhotoCrops) -> None:
    images = torch.stack([held_out[i] for i in range(0, len(held_out), 20)])
    assert images.shape[1:] == (3, 64, 64)
    assert images.min() >= -1
    assert images.max() <= 1
    assert images.std() > 0.2
    assert (images[:, 0] - images[:, 2]).abs().mean() > 0.05  # not gray


def test_names_of_crops_are_unique_and_findable(held_out: PhotoCrops) -> None:
    names = [held_out.name(i) for i in range(len(held_out))]
    assert len(set(names)) == len(names)
    crop = held_out.crops[50]
    photograph = np.asarray(Image.open(Path(*[*_site("skimage.data"), crop.photo[1]])))
    assert crop.reduction == 1
    pixels = photograph[crop.top : crop.top + 64, crop.left : crop.left + 64]
    wanted = torch.from_numpy(pixels / np.float32(127.5) - 1).permute(2, 0, 1)
    torch.testing.assert_close(held_out[50], wanted)


def _site(package: str) -> tuple[str]:
    import importlib

    return (str(Path(importlib.import_module(package).__file__).parent),)


def test_a_crop_larger_than_every_photograph_is_refused() -> None:
    with pytest.raises(InputError, match="as large as image_size=2000"):
        PhotoCrops("train", 2000)


def test_unknown_splits_are_refused() -> None:
    with pytest.raises(InputError, match="photos:test: unknown split"):
        open_images("photos:test", 64)


def test_a_folder_is_cropped_to_the_centre_and_resized(tmp_path: Path) -> None:
    (tmp_path / "nested").mkdir()
    wide = np.zeros((32, 64, 3), np.uint8)
    wide[:, 16:48] = 255  # the centred square is white
    Image.fromarray(wide).save(tmp_path / "nested/wide.png")
    images = ImageFolder(tmp_path, 16)
    assert len(images) == 1
    assert images.name(0) == "nested/wide"
    assert torch.equal(images[0], torch.ones(3, 16, 16))


def test_resizing_is_antialiased(tmp_path: Path) -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    assert ImageFolder(tmp_path, 16)[0].abs().max() < 0.1  # gray, not black or white


def test_every_epoch_is_another_permutation() -> None:
    order = KeyedOrder(10, seed=0, flip=False)
    epochs = [[order[10 * epoch + k][0] for k in range(10)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [order[k][0] for k in range(10)] == epochs[0]  # going back gives the same


def test_half_of_the_images_are_mirrored(held_out: PhotoCrops) -> None:
    order = KeyedOrder(1000, seed=0, flip=True)
    assert 420 < sum(order[k][1] for k in range(1000)) < 580
    assert not any(KeyedOrder(1000, seed=0, flip=False)[k][1] for k in range(1000))
    index, flip = next(order[k] for k in range(1000) if order[k][1] and order[k][0] < 561)
    assert flip
    (batch,) = batches(0, 1, _Single(held_out, index), batch_size=16)
    mirrored = [torch.equal(image, held_out[index].flip(-1)) for image in batch]
    plain = [torch.equal(image, held_out[index]) for image in batch]
    assert sum(mirrored) > 0
    assert sum(mirrored) + sum(plain) == 16


class _Single(torch.utils.data.Dataset):
    """One image of a data set."""

    def __init__(self, images: PhotoCrops, index: int) -> None:
        self.images, self.index = images, index

    def __len__(self) -> int:
        return 1

    def __getitem__(self, _: int) -> torch.Tensor:
        return self.images[self.index]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_batch_does_not_depend_on_where_the_run_began(
    held_out: PhotoCrops, num_workers: int
) -> None:
    whole = batches(0, 4, held_out)
    tail = batches(2, 4, held_out, num_workers=num_workers)
    assert len(whole) == 4
    assert len(tail) == 2
    assert all(torch.equal(a, b) for a, b in zip(whole[2:], tail, strict=True))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_unusable_image_ends_training_with_one_line(tmp_path: Path, num_workers: int) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"broken\.png: not a readable image") as caught:
        batches(0, 1, ImageFolder(tmp_path, 16), num_workers=num_workers)
    assert "\n" not in str(caught.value)


def test_batches_run_on_across_epochs(held_out: PhotoCrops) -> None:
    small = torch.utils.data.Subset(held_out, range(3))
    assert [len(batch) for batch in batches(0, 5, small)] == [4] * 5


def test_the_validation_batch_is_spread_over_the_set(held_out: PhotoCrops) -> None:
    batch = validation_batch(held_out, 3)
    indices = [len(held_out) // 6, len(held_out) // 2, 5 * len(held_out) // 6]
    assert torch.equal(batch, torch.stack([held_out[i] for i in indices]))
    with pytest.raises(InputError, match="the validation set has 561"):
        validation_batch(held_out, 562)
