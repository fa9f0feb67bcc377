"""Restored images and references of the same names: found, checked, and read in batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor
from torch.utils.data import BatchSampler
from tqdm import tqdm

from davi.data.decoding import open_array, stored_size
from davi.data.images import list_names, load_image
from davi.metrics.scores import SSIM_WINDOW
from davi.system.errors import SAME_NAME, InputError, shown
from davi.system.files import sha256_of
from davi.system.pipeline import NUM_THREADS, file_threads, map_ahead


@dataclass(frozen=True)
class Pair:
    """Two image files that are to be compared.

    Attributes:
        name: relative path without suffix.
        truth: the reference.
        restored: the image to judge.
        size: (width, height) of both.
        sha256: of the reference file.
    """

    name: str
    truth: Path
    restored: Path
    size: tuple[int, int]
    sha256: str


def pair_by_name(reference: Path, restored: Path) -> list[Pair]:
    """Returns the pairs of two folders, sorted by name.

    Raises:
        InputError: a folder is missing or empty, files have no partner, cannot be read, or differ
            in size from their partner; the first of them are listed.
    """
    truths, images = images_by_name(reference), images_by_name(restored)
    missing, superfluous = sorted(truths.keys() - images), sorted(images.keys() - truths)
    if missing or superfluous:
        raise InputError(
            f"the folders do not match: {_counted(missing)} only in {reference}, "
            f"{_counted(superfluous)} only in {restored}"
        )
    work = ((name, truths[name], images[name]) for name in sorted(truths))
    with file_threads() as executor:
        checked = map_ahead(executor, _check, work, 2 * NUM_THREADS)
        outcomes = list(tqdm(checked, desc="checking", unit="image", total=len(truths)))
    if problems := [outcome for outcome in outcomes if isinstance(outcome, str)]:
        raise InputError(f"{len(problems)} pairs cannot be compared: {shown(problems)}")
    return outcomes


def images_by_name(folder: Path) -> dict[str, Path]:
    """Returns {relative path without suffix: file} of the images below a folder.

    Raises:
        InputError: as `list_names`, or two of them have one name.
    """
    files: dict[str, Path] = {}
    for file in list_names(folder):
        name = PurePosixPath(file).with_suffix("").as_posix()
        if name in files:
            raise InputError(f"{folder / file}: {SAME_NAME}")
        files[name] = folder / file
    return files


def read_batches(pairs: list[Pair], batch_size: int) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Yields all pairs, in batches of images of equal size that are read ahead.

    A batch is the places of its pairs in the list, the truths and the restored, (B, 3, H, W) each.

    Raises:
        InputError: a file has changed since it was checked.
    """
    batches = list(_equal_sized(pairs, batch_size))
    order = (pairs[index] for batch in batches for index in batch)
    with file_threads() as executor:
        images = map_ahead(executor, _load, order, 2 * batch_size)
        for indices in batches:
            truths, restored = zip(*islice(images, len(indices)), strict=True)
            yield indices, torch.stack(truths), torch.stack(restored)


def _equal_sized(pairs: list[Pair], batch_size: int) -> Iterator[list[int]]:
    """Yields the indices of all pairs in batches of one size each."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, pair in enumerate(pairs):
        groups.setdefault(pair.size, []).append(index)
    for group in groups.values():
        yield from BatchSampler(group, batch_size, drop_last=False)


def _check(paths: tuple[str, Path, Path]) -> Pair | str:
    """The pair, or what keeps its files from being compared."""
    name, truth, image = paths
    try:
        sizes = [stored_size(path) for path in (truth, image)]
        if set(sizes[0]) == set(sizes[1]):  # others are not decoded; these may be turned
            sizes = [open_array(path).shape[1::-1] for path in (truth, image)]
    except InputError as error:
        return str(error)
    if sizes[0] != sizes[1]:
        shown = " and ".join(f"{height}x{width}" for width, height in sizes)
        return f"{name}: reference and restored image differ in size ({shown})"
    if min(sizes[0]) < SSIM_WINDOW:
        return f"{name}: smaller than {SSIM_WINDOW}x{SSIM_WINDOW} pixels"
    return Pair(name, truth, image, sizes[0], sha256_of(truth))


def _load(pair: Pair) -> tuple[Tensor, Tensor]:
    return load_image(pair.truth), load_image(pair.restored)


def _counted(names: list[str]) -> str:
    return f"{len(names)} images" + (f" ({shown(names)})" if names else "")
