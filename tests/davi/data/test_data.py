"""Clean images and the order in which training sees them."""

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from davi.data.batches import Batch, KeyedOrder, open_images, training_batches, validation_batch
from davi.data.image_sets import ImageFolder
from davi.data.photos import SPLITS, PhotoCrops
from davi.system.errors import InputError
from davi.system.world import World


@pytest.fixture(scope="module")
def held_out() -> PhotoCrops:
    return PhotoCrops("held_out", 64)


def batches(first: int, last: int, images: object, **changes: object) -> list[Batch]:
    arguments = {
        "batch_size": 4,
        "seed": 0,
        "flip": True,
        "num_workers": 0,
        "first_iteration": first,
        "num_iterations": last,
    }
    return list(training_batches(images, **{**arguments, **changes}))


def test_no_picture_is_in_two_splits() -> None:
    pictures = [picture for split in SPLITS.values() for picture in split]
    assert len(pictures) == len(set(pictures))


def test_the_embedded_sets_have_the_documented_sizes(held_out: PhotoCrops) -> None:
    assert len(held_out) == 577
    assert len(PhotoCrops("train", 64)) == 96_246
    assert len(PhotoCrops("out_of_distribution", 64)) == 438
    assert len(PhotoCrops("tuning", 64)) == 279


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
    index = next(i for i in range(len(held_out)) if held_out.crops[i].photo[1] == "chelsea.png")
    crop = held_out.crops[index + 5]
    photograph = np.asarray(Image.open(Path(*[*_site("skimage.data"), crop.photo[1]])))
    assert crop.reduction == 1
    pixels = photograph[crop.top : crop.top + 64, crop.left : crop.left + 64]
    wanted = torch.from_numpy(pixels / np.float32(127.5) - 1).permute(2, 0, 1)
    torch.testing.assert_close(held_out[index + 5], wanted)


def _site(package: str) -> tuple[str]:
    import importlib

    return (str(Path(importlib.import_module(package).__file__).parent),)


def test_a_crop_larger_than_every_photograph_is_refused() -> None:
    with pytest.raises(InputError, match="as large as image_size=2000"):
        PhotoCrops("train", 2000)


def test_unknown_splits_are_refused() -> None:
    with pytest.raises(InputError, match="photos:test: unknown split"):
        open_images("photos:test", 64)


def test_the_fingerprint_of_the_embedded_sets_is_that_of_their_crops(held_out: PhotoCrops) -> None:
    fingerprint = held_out.fingerprint()
    assert fingerprint["images"] == 577
    assert fingerprint == PhotoCrops("held_out", 64).fingerprint()
    others = (PhotoCrops("held_out", 63), PhotoCrops("train", 64))
    assert len({fingerprint["sha256"], *(other.fingerprint()["sha256"] for other in others)}) == 3


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
    index, flip = next(order[k] for k in range(1000) if order[k][1] and order[k][0] < len(held_out))
    assert flip
    (batch,) = batches(0, 1, _Single(held_out, index), batch_size=16)
    mirrored = [torch.equal(image, held_out[index].flip(-1)) for image in batch.x0]
    plain = [torch.equal(image, held_out[index]) for image in batch.x0]
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
    assert all(torch.equal(a.x0, b.x0) for a, b in zip(whole[2:], tail, strict=True))


@pytest.fixture
def spoilt(tmp_path: Path) -> ImageFolder:
    """Ten images of which those of indices 3, 4 and 9 are broken."""
    for index in range(10):
        Image.new("RGB", (8, 8), (20 * index, 0, 0)).save(tmp_path / f"{index}.png")
    for index in (3, 4, 9):
        (tmp_path / f"{index}.png").write_bytes(b"no picture")
    return ImageFolder(tmp_path, 8)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_unusable_image_ends_training_with_one_line(
    spoilt: ImageFolder, num_workers: int
) -> None:
    with pytest.raises(InputError, match=r"[349]\.png: not a readable image") as caught:
        batches(0, 1, spoilt, num_workers=num_workers, batch_size=10)
    assert "\n" not in str(caught.value)


def test_the_next_image_stands_in_for_an_unusable_one(spoilt: ImageFolder) -> None:
    order = KeyedOrder(10, seed=0, flip=True)
    stand_in = {3: 5, 4: 5, 9: 0}
    seen = batches(0, 5, spoilt, on_error="skip")
    asked = [[order[4 * iteration + k][0] for k in range(4)] for iteration in range(5)]
    assert [batch.indices for batch in seen] == [
        [stand_in.get(index, index) for index in indices] for indices in asked
    ]
    assert [batch.num_skipped for batch in seen] == [
        sum(index in stand_in for index in indices) for indices in asked
    ]
    assert sum(batch.num_skipped for batch in seen) == 6  # two epochs
    for batch in seen:
        wanted = torch.tensor([20.0 * index for index in batch.indices]) / 127.5 - 1
        torch.testing.assert_close(batch.x0[:, 0, 0, 0], wanted)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_set_without_a_usable_image_is_refused(tmp_path: Path, num_workers: int) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"none of 2 images can be used; one of them: .*\.png"):
        batches(0, 1, ImageFolder(tmp_path, 8), num_workers=num_workers, on_error="skip")


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("size", [2, 3])
def test_processes_share_the_batches_of_one(
    spoilt: ImageFolder, size: int, num_workers: int
) -> None:
    whole = batches(1, 4, spoilt, on_error="skip")
    worlds = [World(rank, size, torch.device("cpu")) for rank in range(size)]
    shares = [
        batches(1, 4, spoilt, on_error="skip", num_workers=num_workers, world=world)
        for world in worlds
    ]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert torch.equal(torch.cat([part.x0 for part in parts]), batch.x0)
        assert [*chain(*(part.positions for part in parts))] == [*batch.positions]
        assert [*chain(*(part.indices for part in parts))] == batch.indices
        assert sum(part.num_skipped for part in parts) == batch.num_skipped
        assert all(part.x0.is_contiguous() for part in parts)


def test_more_processes_than_images_of_a_batch_are_refused(held_out: PhotoCrops) -> None:
    with pytest.raises(InputError, match="batch_size=4 is too small for 5 processes"):
        batches(0, 1, held_out, world=World(0, 5, torch.device("cpu")))


@pytest.mark.gpu
@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_for_a_gpu_lie_in_pinned_memory(held_out: PhotoCrops, num_workers: int) -> None:
    world = World(0, 1, torch.device("cuda"))
    (batch,) = batches(0, 1, held_out, num_workers=num_workers, world=world)
    assert batch.x0.is_pinned()
    assert len(batch.indices) == 4


def test_batches_run_on_across_epochs(held_out: PhotoCrops) -> None:
    small = torch.utils.data.Subset(held_out, range(3))
    assert [len(batch.x0) for batch in batches(0, 5, small)] == [4] * 5


def test_the_validation_batch_is_spread_over_the_set(held_out: PhotoCrops) -> None:
    batch = validation_batch(held_out, 3)
    indices = [len(held_out) // 6, len(held_out) // 2, 5 * len(held_out) // 6]
    assert torch.equal(batch, torch.stack([held_out[i] for i in indices]))
    with pytest.raises(InputError, match="the validation set has 577"):
        validation_batch(held_out, 578)
