"""The embedded data set `photos`: crops of photographs that need no download.

Some lie in davi/data/photographs (their README names the authors), others ship with scikit-image
and scikit-learn. Each photograph is used at three scales; a crop at scale 1/4 shows a whole object,
one at scale 1 its texture. Whole photographs are held out, some for scoring and others for choosing
settings; pictures of other kinds are a split of their own, for generators that never saw the like.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import product
from pathlib import Path

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from davi.data.decoding import opened
from davi.data.image_sets import ImageSet
from davi.data.images import clean_image, from_uint8
from davi.system.errors import InputError

OWN = "davi.data.photographs"
SPLITS = {
    "train": (
        (OWN, "brushes.jpg"),
        (OWN, "clock.jpg"),
        (OWN, "dandelion.jpg"),
        (OWN, "fig.jpg"),
        (OWN, "lamps.jpg"),
        (OWN, "meadow.jpg"),
        (OWN, "nuthatch.jpg"),
        (OWN, "ropes.jpg"),
        (OWN, "stream.jpg"),
        (OWN, "sunset.jpg"),
        ("skimage.data", "astronaut.png"),
        ("skimage.data", "motorcycle_left.png"),
        ("skimage.data", "motorcycle_right.png"),
        ("skimage.data", "rocket.jpg"),
        ("sklearn.datasets.images", "china.jpg"),
        ("sklearn.datasets.images", "flower.jpg"),
    ),
    "tuning": (
        (OWN, "drum.jpg"),
        (OWN, "leaves.jpg"),
    ),
    "held_out": (
        (OWN, "dogs.jpg"),
        (OWN, "mountains.jpg"),
        ("skimage.data", "chelsea.png"),
        ("skimage.data", "coffee.png"),
    ),
    # No photographs of things: stars, the back of an eye, stained tissue.
    "out_of_distribution": (
        ("skimage.data", "hubble_deep_field.jpg"),
        ("skimage.data", "retina.jpg"),
        ("skimage.data", "ihc.png"),
    ),
}
REDUCTIONS = (1, 2, 4)  # box-averaged by these factors
# Crops of each photograph at each scale, about, so that all of them weigh the same.
CROPS = {"train": 2000, "tuning": 48, "held_out": 48, "out_of_distribution": 48}


@dataclass(frozen=True)
class Crop:
    """Where one image of the data set lies: photograph, scale, upper left corner at that scale."""

    photo: tuple[str, str]
    reduction: int
    top: int
    left: int

    @property
    def name(self) -> str:
        """A file name without suffix."""
        stem = self.photo[1].rsplit(".", 1)[0]
        return f"{stem}_r{self.reduction}_y{self.top:03d}_x{self.left:03d}"


@cache
def _load(photo: tuple[str, str], reduction: int) -> Tensor:
    image = _photograph(photo).reduce(reduction)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


@cache
def _photograph(photo: tuple[str, str]) -> Image:
    package, name = photo
    try:
        with (
            files(package).joinpath(name).open("rb") as stream,
            opened(Path(package, name), stream) as picture,
        ):
            # As stored, colour profiles aside: the shipped networks were trained on that.
            return picture.convert("RGB")
    except (ModuleNotFoundError, FileNotFoundError) as error:
        owner = "davi" if package == OWN else "scikit-image scikit-learn"
        raise InputError(
            f"photograph {name} of package {package} is missing: pip install --force-reinstall "
            f"{owner}"
        ) from error


class PhotoCrops(ImageSet):
    """All square crops of a split on a regular grid.

    Args:
        split: a key of `SPLITS`.
        image_size: side of the crops in pixels.

    Raises:
        InputError: unknown split, or a size that no photograph reaches.
    """

    def __init__(self, split: str, image_size: int) -> None:
        if split not in SPLITS:
            raise InputError(f"photos:{split}: unknown split, choose from {', '.join(SPLITS)}")
        self.crops = [
            Crop(photo, reduction, top, left)
            for photo, reduction in product(SPLITS[split], REDUCTIONS)
            for top, left in _corners(photo, reduction, CROPS[split], image_size)
        ]
        if not self.crops:
            raise InputError(f"photos: no photograph is as large as image_size={image_size}")
        super().__init__(Path("photos"), (crop.name for crop in self.crops), image_size)

    def __getitem__(self, index: int) -> Tensor:
        """Returns crop `index` as (channels, S, S) float32 in [-1, 1]."""
        crop = self.crops[index]
        rows = slice(crop.top, crop.top + self.image_size)
        columns = slice(crop.left, crop.left + self.image_size)
        pixels = from_uint8(_load(crop.photo, crop.reduction)[:, rows, columns])
        return clean_image(pixels, self.channels, self.source(index))

    def source(self, index: int) -> Path:
        """Returns the name of the photograph of crop `index`."""
        return Path(*self.crops[index].photo)

    def files(self) -> Iterator[Path]:
        """Yields no file: what lies in an installed package is taken to be sound."""
        return iter(())

    def _read(self, index: int) -> bytes:
        return self[index].numpy().tobytes()

    def _facts(self, index: int) -> tuple[int, ...]:
        return (self.image_size,)


def _corners(
    photo: tuple[str, str], reduction: int, count: int, size: int
) -> Iterator[tuple[int, int]]:
    """Upper left corners (top, left) of about `count` crops of a photograph, on a regular grid."""
    _, height, width = _load(photo, reduction).shape
    lowest, rightmost = height - size, width - size
    if min(lowest, rightmost) < 0:
        return iter(())
    num_rows = round((count * (lowest + 1) / (rightmost + 1)) ** 0.5)
    rows = _spread(lowest, num_rows)
    return product(rows, _spread(rightmost, round(count / len(rows))))


def _spread(last: int, count: int) -> list[int]:
    """Numbers from 0 to `last`, evenly, `count` if there are as many."""
    return np.unique(np.linspace(0, last, max(count, 1)).round().astype(int)).tolist()
