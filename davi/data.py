"""Clean images for training and validation, in an order that is a function of the seed alone."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import functional as transforms

from davi.errors import InputError
from davi.files import sha256_of
from davi.images import image_to_tensor, list_files, match_channels, open_image
from davi.photos import PhotoCrops
from davi.runtime import keyed_rng

PHOTOS_PREFIX = "photos:"


class ImageFolder(Dataset):
    """Every image below a folder, nested folders included, in sorted order.

    An image is cropped to its centred square, then resized (bilinear, antialiased) as the
    release does.

    Args:
        root: the folder.
        image_size: side of the returned images.

    Raises:
        InputError: missing or empty folder.
    """

    def __init__(self, root: Path, image_size: int) -> None:
        self.folder = root
        self.image_size = image_size
        self.paths = list_files(root)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        """Returns image `index` as (3, S, S) float32 in [-1, 1]."""
        path = self.source(index)
        image = open_image(path)
        image = transforms.center_crop(image, [min(image.size)] * 2)
        image = transforms.resize(image, [self.image_size] * 2)  # PIL: bilinear, antialiased
        return match_channels(image_to_tensor(image), 3, path)

    def name(self, index: int) -> str:
        """Returns the relative path without suffix of image `index`."""
        return self.paths[index].with_suffix("").as_posix()

    def source(self, index: int) -> Path:
        """Returns the file of image `index`."""
        return self.folder / self.paths[index]

    def sha256(self, index: int) -> str:
        """Returns the hash of the file of image `index`."""
        return sha256_of(self.source(index))


def open_images(source: str, image_size: int) -> ImageFolder | PhotoCrops:
    """Returns the data set of a source: "photos:train", "photos:held_out" or a folder.

    Raises:
        InputError: unknown split, missing or empty folder.
    """
    if source.startswith(PHOTOS_PREFIX):
        return PhotoCrops(source.removeprefix(PHOTOS_PREFIX), image_size)
    return ImageFolder(Path(source), image_size)


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
            self._flips = torch.rand(self.num_images, generator=rng) < 0.5
            self._epoch = epoch
        return int(self._order[offset]), self.flip and bool(self._flips[offset])


class _KeyedDataset(Dataset):
    """A data set indexed by (index, flip).

    An unusable file is returned as its error: raised in a worker process, it would reach the user
    wrapped in that process's traceback.
    """

    def __init__(self, images: Dataset) -> None:
        self.images = images

    def __getitem__(self, key: tuple[int, bool]) -> Tensor | InputError:
        index, flip = key
        try:
            image = self.images[index]
        except InputError as error:
            return error
        return image.flip(-1) if flip else image


def _stack(images: list[Tensor | InputError]) -> Tensor | InputError:
    errors = [image for image in images if isinstance(image, InputError)]
    return errors[0] if errors else torch.stack(images)


def training_batches(
    images: Dataset,
    *,
    batch_size: int,
    seed: int,
    flip: bool,
    num_workers: int,
    first_iteration: int,
    num_iterations: int,
) -> Iterator[Tensor]:
    """Yields the batches of iterations first_iteration .. num_iterations - 1.

    The batch of an iteration does not depend on where the run was started.

    Yields:
        (batch_size, 3, S, S) float32 in [-1, 1].

    Raises:
        InputError: an image cannot be used.
    """
    order = KeyedOrder(len(images), seed, flip)
    batches = (
        [order[iteration * batch_size + offset] for offset in range(batch_size)]
        for iteration in range(first_iteration, num_iterations)
    )
    loader = DataLoader(
        _KeyedDataset(images),
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=_stack,
        pin_memory=torch.cuda.is_available(),
    )
    for batch in loader:
        if isinstance(batch, InputError):
            raise batch
        yield batch


def validation_batch(images: Dataset, num_images: int) -> Tensor:
    """Returns evenly spaced images of a data set, (B, 3, S, S), the same ones every time.

    Raises:
        InputError: fewer images than asked for.
    """
    if num_images > len(images):
        raise InputError(
            f"train.num_validation_images={num_images}, but the validation set has {len(images)}"
        )
    indices = [(2 * k + 1) * len(images) // (2 * num_images) for k in range(num_images)]
    return torch.stack([images[index] for index in indices])
