"""Clean images for training and validation, in an order that is a function of the seed alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from davi.data.archives import TarImages, ZipImages
from davi.data.image_sets import ImageFolder, ImageSet
from davi.data.images import require_picture
from davi.data.kernels import KernelPictures
from davi.data.loader import load_batches
from davi.data.photos import PhotoCrops
from davi.system.errors import InputError
from davi.system.runtime import keyed_rng
from davi.system.world import ONE_PROCESS, World

PHOTOS_PREFIX = "photos:"
KERNELS_PREFIX = "kernels:"


def open_images(source: str, image_size: int, channels: int = 3) -> ImageSet:
    """Returns the data set of a source.

    Args:
        source: a folder, a .zip file, .tar shards of WebDataset (one file, or several such as
            `shards/{000..009}.tar` or `shards/*.tar`), "photos:" and a split of
            `davi.data.photos`, or "kernels:" and a name of `davi.data.kernels`.
        image_size: side of the returned images.
        channels: of the returned images, 3, or 1 for the luma.

    Raises:
        InputError: unknown, missing or without images, or another number of channels.
    """
    require_picture(channels, source)
    images = _open_images(source, image_size)
    images.channels = channels
    return images


def _open_images(source: str, image_size: int) -> ImageSet:
    if source.startswith(PHOTOS_PREFIX):
        return PhotoCrops(source.removeprefix(PHOTOS_PREFIX), image_size)
    if source.startswith(KERNELS_PREFIX):
        return KernelPictures(source.removeprefix(KERNELS_PREFIX), image_size)
    path = Path(source)
    suffix = path.suffix.lower()
    if suffix == ".zip" and not path.is_dir():
        return ZipImages(path, image_size)
    if suffix == ".tar" and not path.is_dir():
        return TarImages(source, image_size)
    return ImageFolder(path, image_size)


class KeyedOrder:
    """The endless training order: position -> image index and flip, a function of the seed.

    Every epoch is a new permutation. Batches run on across epochs, so none is ever short.

    Args:
        num_images: size of the data set.
        seed: run seed.
        flip: mirror half of the images, drawn anew each epoch.
    """

    def __init__(self, num_images: int, seed: int, flip: bool) -> None:
        self.num_images = num_images
        self.seed = seed
        self.flip = flip
        self._epoch = -1

    def __getitem__(self, position: int) -> tuple[int, bool]:
        """Returns (image index, flip) at a global position of the run."""
        epoch, offset = divmod(position, self.num_images)
        if epoch != self._epoch:
            rng = keyed_rng("cpu", self.seed, "order", epoch)
            self._order = torch.randperm(self.num_images, generator=rng)
            self._flips = torch.rand(self.num_images, generator=rng, dtype=torch.float32) < 0.5
            self._epoch = epoch
        return int(self._order[offset]), self.flip and bool(self._flips[offset])


@dataclass(frozen=True)
class Batch:
    """What one process sees of the batch of an iteration.

    Attributes:
        x0: (n, 3, S, S) float32 in [-1, 1].
        positions: places of the n images in the batch of all processes.
        indices: where they are in the data set.
        num_skipped: how many of them stand in for an image that cannot be used.
    """

    x0: Tensor
    positions: range
    indices: list[int]
    num_skipped: int


class _KeyedDataset(Dataset):
    """A data set indexed by (index, flip): gives an image, its index, whether that is another one.

    An error is returned: raised in a worker process, it would reach the user wrapped in that
    process's traceback.
    """

    def __init__(self, images: Dataset, skip: bool) -> None:
        self.images = images
        self.num_tries = len(images) if skip else 1

    def __getitem__(self, key: tuple[int, bool]) -> tuple[Tensor, int, bool] | InputError:
        index, flip = key
        first_error = None
        for candidate in range(index, index + self.num_tries):
            found = candidate % len(self.images)
            try:
                image = self.images[found]
            except InputError as error:
                first_error = first_error or error
                continue
            return image.flip(-1) if flip else image, found, found != index
        if self.num_tries == 1:
            return first_error
        return InputError(
            f"none of {self.num_tries} images can be used; one of them: {first_error}"
        )


def _collate(
    samples: list[tuple[Tensor, int, bool] | InputError],
) -> tuple[Tensor, list[int], int] | InputError:
    errors = [sample for sample in samples if isinstance(sample, InputError)]
    if errors:
        return errors[0]
    images, indices, replaced = zip(*samples, strict=True)
    return torch.stack(images), list(indices), sum(replaced)


def training_batches(
    images: Dataset,
    *,
    batch_size: int,
    seed: int,
    flip: bool,
    num_workers: int,
    first_iteration: int,
    num_iterations: int,
    on_error: Literal["fail", "skip"] = "fail",
    world: World = ONE_PROCESS,
) -> Iterator[Batch]:
    """Yields this process's share of the batches of iterations first_iteration .. num_iterations-1.

    Which images an iteration has depends neither on where the run was started nor on the number
    of processes and workers.

    Args:
        images: a data set of `open_images`.
        batch_size: images per iteration, over all processes.
        seed: of the order and the flips.
        flip: mirror half of the images.
        num_workers: processes that read ahead; 0 reads when a batch is asked for.
        first_iteration: where to begin.
        num_iterations: where to stop.
        on_error: end at an image that cannot be used, or take the next one that can.
        world: whose positions are given.

    Raises:
        InputError: an image cannot be used, or none, or there are more processes than positions.
    """
    if batch_size < world.size:
        raise InputError(f"batch_size={batch_size} is too small for {world.size} processes")
    order = KeyedOrder(len(images), seed, flip)
    (positions,) = world.share(batch_size)
    wanted = (
        [order[iteration * batch_size + position] for position in positions]
        for iteration in range(first_iteration, num_iterations)
    )
    for x0, indices, num_skipped in load_batches(
        _KeyedDataset(images, skip=on_error == "skip"),
        wanted,
        num_workers=num_workers,
        collate=_collate,
        pin_memory=world.device.type == "cuda",
    ):
        yield Batch(x0, positions, indices, num_skipped)


def validation_batch(images: Dataset, num_images: int) -> Tensor:
    """Returns evenly spaced images of a data set, (B, 3, S, S), the same ones every time.

    Raises:
        InputError: fewer images than asked for.
    """
    if num_images > len(images):
        raise InputError(
            f"train.num_validation_images={num_images}, but the validation set has {len(images)}; "
            f"add images, or --set train.num_validation_images={len(images)}"
        )
    indices = [(2 * k + 1) * len(images) // (2 * num_images) for k in range(num_images)]
    return torch.stack([images[index] for index in indices])
