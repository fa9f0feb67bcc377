"""Calibrates intervals on a folder of davi degrade: measurements, and what was measured."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler
from tqdm import tqdm

from davi.data.images import load_image
from davi.data.measurement_files import (
    Measurements,
    find_measurements,
    measurement_folder,
    read_measurement,
)
from davi.folders.measured import check_task
from davi.metrics.uncertainty import Calibration, calibration, require_images
from davi.restorer import Restorer
from davi.system.errors import InputError
from davi.system.files import has_content, sha256_of
from davi.system.world import World

CALIBRATION = "calibration.json"  # beside the outputs


@dataclass(frozen=True)
class KnownImages:
    """Measurements whose truth is known.

    Attributes:
        found: the measurements.
        references: the folder of the truths.
        measured: operator and noise.
        sha256: of all files.
    """

    found: Measurements
    references: Path
    measured: dict[str, Any]
    sha256: str

    def pair(self, name: str, restorer: Restorer) -> tuple[Tensor, Tensor]:
        """Returns a measurement and its truth."""
        channels, *size = restorer.image_shape
        y = read_measurement(self.found.path(name), restorer.operator)
        return y, load_image(self.references / f"{name}.png", channels, tuple(size))


def find_known_images(folder: Path, restorer: Restorer, level: float, quiet: bool) -> KnownImages:
    """Returns the images of a folder of davi degrade.

    Args:
        folder: it.
        restorer: they must be of its task.
        level: for which they must be enough.
        quiet: do not point out another operator or noise than in training.

    Raises:
        InputError: it is no such folder, of another task, or there are too few.
    """
    source, made_by = measurement_folder(folder)
    references = source.parent / "reference"
    if not made_by or not references.is_dir():
        raise InputError(f"{folder}: is no folder of davi degrade, which has the truth beside it")
    check_task(restorer, source, made_by, quiet)
    found = find_measurements(source)
    require_images(level, len(found.suffixes))
    digest = hashlib.sha256()
    for name in sorted(found.suffixes):
        truth = references / f"{name}.png"
        if not truth.is_file():
            raise InputError(f"{truth}: missing; give the command davi degrade again")
        digest.update(f"{name} {sha256_of(found.path(name))} {sha256_of(truth)}\n".encode())
    measured = {key: made_by[key] for key in ("operator", "noise") if key in made_by}
    return KnownImages(found, references, measured, digest.hexdigest())


def calibrate(
    restorer: Restorer,
    images: KnownImages,
    level: float,
    *,
    num_samples: int,
    batch_size: int,
    seed: int,
    world: World,
) -> Calibration:
    """Returns the calibration on a folder's images; needs 4 bytes for every value of a truth.

    Args:
        restorer: the generator.
        images: of `find_known_images`.
        level: of the intervals.
        num_samples: for each measurement.
        batch_size: measurements at a time.
        seed: of the samples.
        world: the processes that share the work; all must call, and get the same.

    Raises:
        InputError: an image cannot be used, or no factor keeps the level.
    """
    names = sorted(images.found.suffixes)
    share = islice(names, world.rank, None, world.size)
    batches = BatchSampler(share, batch_size, drop_last=False)
    bar = tqdm(desc="calibrating", unit="image", total=len(names), disable=not world.is_first)

    def reaches() -> Iterator[Tensor]:
        for batch in batches:
            pairs = [images.pair(name, restorer) for name in batch]
            y, truth = map(torch.stack, zip(*pairs, strict=True))
            yield restorer.reach(y, truth, level, num_samples, seed, batch)
            bar.update(len(batch) * world.size)

    with bar:
        parts = [part for parts in world.gather(list(reaches())) for part in parts]
    return calibration(
        torch.cat(parts), level, num_samples, restorer.settings, measured=images.measured
    )


def open_source(
    source: Path, restorer: Restorer, level: float, num_samples: int, world: World
) -> KnownImages | Calibration:
    """Returns the known images of a folder, or the calibration in a file, if it fits.

    Raises:
        InputError: as `find_known_images`, `Calibration.load` and `Calibration.require_fit`.
    """
    if source.is_dir():
        quiet = not world.is_first
        return world.on_first(lambda: find_known_images(source, restorer, level, quiet))
    found = Calibration.load(source)
    found.require_fit(level, num_samples, restorer.settings)
    return found


def kept_calibration(
    output: Path, source: KnownImages | Calibration, restorer: Restorer, world: World, **how: Any
) -> Calibration:
    """Returns the calibration beside the outputs, made and written if it is not there yet.

    Args:
        output: the folder of the outputs, of whose settings the source is one.
        source: of `open_source`.
        restorer: the generator.
        world: the processes that share the work; all must call.
        how: `level`, `num_samples`, `batch_size` and `seed` of `calibrate`.
    """
    path = output / CALIBRATION
    if world.on_first(lambda: has_content(path)):
        found = world.on_first(lambda: Calibration.load(path))
        found.require_fit(how["level"], how["num_samples"], restorer.settings)
        return found
    if isinstance(source, Calibration):
        found = source
    else:
        found = calibrate(restorer, source, world=world, **how)
    world.on_first(lambda: found.save(path))
    if world.is_first:
        print(
            f"intervals are widened by {found.factor:.3f}: they contained "
            f"{found.coverage_before:.1%} of the pixels of {found.num_images} known images, now "
            f"{found.coverage_after:.1%}"
        )
    return found
