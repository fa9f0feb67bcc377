"""The embedded data set `photos`: crops of photographs that ship in Python wheels.

scikit-image and scikit-learn bring them along, so that everything runs without a download.
Each photograph is used at three scales; a crop at scale 1/4 shows a whole object, one at scale 1
its texture. Two photographs are held out entirely; pictures of other kinds are a split of their
own, for generators that never saw the like.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from davi.data.decoding import opened
from davi.data.image_sets import ImageSet
from davi.data.images import from_uint8
from davi.system.errors import InputError

SPLITS = {
    "train": (
        ("skimage.data", "astronaut.png"),
        ("skimage.data", "motorcycle_left.png"),
        ("skimage.data", "motorcycle_right.png"),
        ("skimage.data", "rocket.jpg"),
        ("sklearn.datasets.images", "china.jpg"),
        ("sklearn.datasets.images", "flower.jpg"),
    ),
    "held_out": (
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
# Distance of neighbouring crops in pixels of the full-size photograph. The same distance at every
# scale gives the scales about equal weight.
STRIDES = {"train": 8, "held_out": 32, "out_of_distribution": 128}


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
    package, name = photo
    try:
        with (
            files(package).joinpath(name).open("rb") as stream,
            opened(Path(package, name), stream) as picture,
        ):
            # As stored, colour profiles aside: the shipped networks were trained on that.
            image = picture.convert("RGB")
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise InputError(
            f"photograph {name} of package {package} is missing: pip install scikit-image "
            "scikit-learn"
        ) from error
    return torch.from_numpy(np.array(image.reduce(reduction))).permute(2, 0, 1).contiguous()


class PhotoCrops(ImageSet):
    """All square crops of a split on a regular grid.

    Args:
        split: "train", "held_out" or "out_of_distribution".
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
            for top, left in _corners(photo, reduction, STRIDES[split] // reduction, image_size)
        ]
        if not self.crops:
            raise InputError(f"photos: no photograph is as large as image_size={image_size}")
        super().__init__(Path("photos"), (crop.name for crop in self.crops), image_size)

    def __getitem__(self, index: int) -> Tensor:
        """Returns crop `index` as (3, S, S) float32 in [-1, 1]."""
        crop = self.crops[index]
        rows = slice(crop.top, crop.top + self.image_size)
        columns = slice(crop.left, crop.left + self.image_size)
        return from_uint8(_load(crop.photo, crop.reduction)[:, rows, columns])

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


def _corners(photo: tuple[str, str], reduction: int, stride: int, size: int) -> Iterator[tuple]:
    """Upper left corners (top, left) of the crops of a photograph at a scale."""
    _, height, width = _load(photo, reduction).shape
    return product(range(0, height - size + 1, stride), range(0, width - size + 1, stride))
