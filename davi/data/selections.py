"""Which images of a folder belong to a split of a data set."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from davi.data.image_sets import ImageFolder
from davi.system.errors import InputError, shown

GRAMMAR = "all, 00000-00999 (by the numbers of the files), first:N or list:FILE"


@dataclass(frozen=True)
class Split:
    """Images that become one folder of a prepared data set.

    Attributes:
        name: of that folder.
        images: the folder they are taken from.
        indices: which of its images.
        description: how they were chosen, without paths of this machine.
    """

    name: str
    images: ImageFolder
    indices: list[int]
    description: str


def select(name: str, images: ImageFolder, rule: str) -> Split:
    """Returns the split of the images that a rule names.

    all           every image
    A-B           those whose file name is a number from A to B, in whatever folders; all must exist
    first:N       the first N in the order of their file names, in whatever folders
    list:FILE     those named in a text file, one a line: paths in the folder, suffix optional

    Args:
        name: of the split.
        images: to choose from.
        rule: one of the above.

    Raises:
        InputError: the rule cannot be read, or names images that do not exist or not only once.
    """
    description = rule
    if rule == "all":
        indices = list(range(len(images)))
    elif match := re.fullmatch(r"(\d+)-(\d+)", rule):
        indices = _numbered(images, range(int(match[1]), int(match[2]) + 1), rule)
    elif match := re.fullmatch(r"first:(\d+)", rule):
        indices = _first(images, int(match[1]))
    elif rule.startswith("list:"):
        text = _read_list(Path(rule.removeprefix("list:")))
        indices = _listed(images, list(filter(None, map(str.strip, text.splitlines()))))
        description = f"list with SHA-256 {hashlib.sha256(text.encode()).hexdigest()}"
    else:
        raise InputError(f"{name}={rule!r} is not a choice of images: give {GRAMMAR}")
    if not indices:
        raise InputError(f"{name}={rule!r} names no image of {images.origin}")
    return Split(name, images, indices, description)


def require_disjoint(splits: list[Split]) -> None:
    """Refuses two splits that take the same files of one folder.

    Raises:
        InputError: there are such.
    """
    taken: dict[Path, str] = {}
    for split in splits:
        sources = [split.images.source(index).resolve() for index in split.indices]
        if shared := [source for source in sources if source in taken]:
            other = taken[shared[0]]
            raise InputError(
                f"{other} and {split.name} would share {shown(shared)}; choose others, or give "
                "--validation-input DIR"
            )
        taken |= dict.fromkeys(sources, split.name)


def _numbered(images: ImageFolder, numbers: range, rule: str) -> list[int]:
    found: dict[int, int] = {}
    for index, name in enumerate(images.names):
        stem = PurePosixPath(name).stem
        if not (stem.isascii() and stem.isdigit() and int(stem) in numbers):
            continue
        if int(stem) in found:
            pair = shown([images.names[found[int(stem)]], name])
            raise InputError(f"{images.origin}: two images have number {stem}: {pair}")
        found[int(stem)] = index
    if missing := [number for number in numbers if number not in found]:
        raise InputError(
            f"{images.origin}: of the numbers {rule} no image has "
            f"{shown(f'{number:05d}' for number in missing)}"
        )
    return [found[number] for number in numbers]


def _first(images: ImageFolder, count: int) -> list[int]:
    if count > len(images):
        raise InputError(
            f"{images.origin}: holds {len(images)} images, not {count}; give first:N with a "
            "smaller N, or another folder"
        )
    by_name = sorted(range(len(images)), key=lambda index: PurePosixPath(images.names[index]).name)
    return by_name[:count]


def _read_list(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")  # with or without a byte-order mark
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not a readable list of images ({error})") from error


def _listed(images: ImageFolder, names: list[str]) -> list[int]:
    places = {name: index for index, name in enumerate(images.names)}
    # By the name with suffix where two differ in nothing else.
    places = {images.name(index): index for index in range(len(images))} | places
    # As other tools and systems write them.
    names = [
        name if name in places else PurePosixPath(name.replace("\\", "/")).as_posix()
        for name in names
    ]
    if unknown := [name for name in names if name not in places]:
        raise InputError(f"{images.origin}: holds no {shown(unknown)} of the list")
    return list(dict.fromkeys(places[name] for name in names))
