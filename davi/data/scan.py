"""Looks at every image once before training, and remembers what it found."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import PIL
from torch.utils.data import Dataset

from davi.data.image_sets import ImageSet, content_digest
from davi.data.loader import load_each
from davi.system.errors import InputError, shown
from davi.system.files import cache_folder, make_folder, write_text
from davi.system.world import ONE_PROCESS, World

_RULES = 2  # to be raised when other images become usable: earlier scans count no more


class _Check(Dataset):
    """A data set whose items are (index, why image `index` cannot be used or None)."""

    def __init__(self, images: ImageSet) -> None:
        self.images = images

    def __getitem__(self, index: int) -> tuple[int, str | None]:
        try:
            _ = self.images[index]
        except InputError as error:
            return index, str(error).removeprefix(f"{self.images.source(index)}: ")
        return index, None


def scan_images(
    images: ImageSet, num_workers: int, world: World = ONE_PROCESS
) -> list[tuple[str, str]]:
    """Returns (file, reason) of every image that cannot be used, in their order.

    All are decoded, unless that was done before and no file has changed since; the outcome is
    kept in $XDG_CACHE_HOME/davi/scans (~/.cache/davi/scans).

    Args:
        images: a data set of `open_images`.
        num_workers: processes that decode for each of the world; 0 does it in that one.
        world: whose processes share the work; all must ask.
    """
    if not any(True for _ in images.files()):
        return []
    record = world.on_first(
        lambda: cache_folder("scans") / f"{content_digest(_circumstances(images))}.json"
    )
    broken = world.on_first(lambda: _read(record))
    if broken is None:
        (mine,) = world.share(len(images))
        bar = f"checking {images.origin}"
        looks = load_each(_Check(images), mine, num_workers, bar, show=world.is_first)
        found = [(images.names[index], reason) for index, reason in looks if reason]
        broken = [item for part in world.gather(found) for item in part]
        world.on_first(lambda: _write(record, broken))
    return broken


def require_readable(images: ImageSet, num_workers: int, world: World = ONE_PROCESS) -> None:
    """Scans the images, see `scan_images`, and prints those that cannot be used.

    Raises:
        InputError: there are any; the first of them are listed once more.
    """
    broken = scan_images(images, num_workers, world)
    if not broken:
        return
    if world.is_first:
        for name, reason in broken:
            print(f"{images.origin / name}: {reason}")
    raise InputError(
        f"{images.origin}: {len(broken)} of {len(images)} images cannot be used: "
        f"{shown(f'{name} ({reason})' for name, reason in broken)}; set data.on_error=skip to "
        "train without them"
    )


def _circumstances(images: ImageSet) -> Iterator[tuple]:
    """What may change a scan: the decoder, our rules, the files, their sizes and times.

    Of the times ctime is one, so that a mended permission counts, too.
    """
    yield PIL.__version__, _RULES
    for path in images.files():
        try:
            stat = path.stat()
        except OSError as error:
            yield path.absolute(), error.strerror
        else:
            yield path.absolute(), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _read(record: Path) -> list[tuple[str, str]] | None:
    """The outcome of an earlier scan, None if there is none that can be read."""
    try:
        return [(name, reason) for name, reason in json.loads(record.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return None


def _write(record: Path, broken: list[tuple[str, str]]) -> None:
    """Keeps the outcome where that is possible; where not, the next scan starts afresh."""
    with contextlib.suppress(InputError, OSError):
        write_text(make_folder(record.parent) / record.name, json.dumps(broken))
