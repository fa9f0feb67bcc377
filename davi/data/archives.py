"""Sets of images in archives: a zip file, or tar shards of the WebDataset project.

The table of contents is read once; then an image is one piece of a file like any other. Hidden
members, and those that would lie outside the archive's own folder, are passed over.
"""

import glob
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from functools import lru_cache, partial
from operator import attrgetter
from pathlib import Path

import numpy as np

from davi.data.image_sets import ImageSet
from davi.data.images import IMAGE_SUFFIXES
from davi.system.errors import InputError

MAX_OPEN_FILES = 256  # per process; a system allows 1024 as a rule
_ZIP_HEADER = struct.Struct("<26xHH")  # of a member: lengths of its name and of its extra field
_ZIP_FACTS = attrgetter("header_offset", "compress_size", "file_size", "CRC", "compress_type")
_ENCRYPTED = 1  # in the flags of a zip member


class _FilePieces:
    """Reads pieces of files that stay open.

    Processes forked later may use what is open here, since pread moves no position that they
    would share; processes that are spawned open their own.
    """

    def __init__(self) -> None:
        self._open = lru_cache(MAX_OPEN_FILES)(partial(open, mode="rb", buffering=0))

    def __reduce__(self) -> tuple:
        return _FilePieces, ()

    def read(self, path: Path, start: int, size: int) -> bytes:
        return os.pread(self._open(path).fileno(), size, start)


class ZipImages(ImageSet):
    """The images of a zip file, in the order they would have in a folder.

    Args:
        path: the zip file.
        image_size: side of the returned images.

    Raises:
        InputError: no zip file, without images, or packed in a way that cannot be read here.
    """

    def __init__(self, path: Path, image_size: int) -> None:
        members = _zip_members(path)
        super().__init__(path, members, image_size)
        # A ZipInfo takes a kilobyte: too much for a million of them in every worker.
        self._members = np.array(list(map(_ZIP_FACTS, members.values())))
        self._pieces = _FilePieces()

    def files(self) -> Iterator[Path]:
        """Yields the archive."""
        yield self.origin

    def _read(self, index: int) -> bytes:
        start, packed, size, checksum, compression = self._members[index].tolist()
        try:
            header = self._pieces.read(self.origin, start, _ZIP_HEADER.size)
            start += _ZIP_HEADER.size + sum(_ZIP_HEADER.unpack(header))
            content = self._pieces.read(self.origin, start, packed)
            if compression == zipfile.ZIP_DEFLATED:
                unpacking = zlib.decompressobj(-zlib.MAX_WBITS)
                content = unpacking.decompress(content, size + 1)  # and no more than it should be
        except (struct.error, zlib.error) as error:
            raise InputError(f"{self.source(index)}: damaged in the archive ({error})") from error
        if zlib.crc32(content) != checksum:
            raise InputError(f"{self.source(index)}: damaged in the archive (checksum differs)")
        return content

    def _facts(self, index: int) -> tuple[int, ...]:
        _, _, size, checksum, _ = self._members[index].tolist()
        return size, checksum


def _zip_members(path: Path) -> dict[str, zipfile.ZipInfo]:
    """The images of a zip file by name, sorted as files of a folder are."""
    _require_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = {_visible(info.filename): info for info in archive.infolist()}
    except Exception as error:  # damaged bytes make the module raise whatever they spell
        raise InputError(f"{path}: not a readable zip file ({error})") from error
    names = [name for name in members if name and name.lower().endswith(IMAGE_SUFFIXES)]
    for name in names:
        _require_possible(members[name], path)
        if members[name].flag_bits & _ENCRYPTED:
            raise InputError(f"{path}/{name}: is encrypted; unpack it and give the folder")
        if members[name].compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(
                f"{path}/{name}: compression method {members[name].compress_type} is not "
                "supported; pack it anew with zip, or unpack it and give the folder"
            )
    return {name: members[name] for name in sorted(names, key=lambda name: name.split("/"))}


def _require_possible(member: zipfile.ZipInfo, path: Path) -> None:
    """Refuses a member of which the archive says what cannot be; a large one fails when read."""
    if member.header_offset + member.compress_size > path.stat().st_size:
        raise InputError(f"{path}/{member.filename}: lies beyond the end of the archive")
    if member.file_size >= 2**63:
        raise InputError(f"{path}/{member.filename}: {member.file_size} bytes are none of a file")


class TarImages(ImageSet):
    """The images of tar shards, shard by shard in the order of their samples.

    A sample consists of the successive members whose names agree up to the first dot; its image is
    the one whose name goes on with nothing but an image's suffix. Images are called SHARD/KEY, so
    that a shard's names are the same alone and among others.

    Args:
        pattern: one .tar file, or several: `{000..009}` counts, `*` and `?` match.
        image_size: side of the returned images.

    Raises:
        InputError: a shard is missing or no tar file, there is no image in them, a sample has
            several, or the package webdataset is not installed.
    """

    def __init__(self, pattern: str, image_size: int) -> None:
        self.shards = _shards(pattern)
        members = [
            (name, number, start, size)
            for number, shard in enumerate(self.shards)
            for name, start, size in _tar_members(shard)
        ]
        super().__init__(Path(pattern), (name for name, *_ in members), image_size)
        self._members = np.array([place for _, *place in members])
        self._pieces = _FilePieces()

    def source(self, index: int) -> Path:
        """Returns the shard of image `index` and its name there, as a label."""
        shard = self.shards[self._members[index, 0]]
        return shard / self.names[index].removeprefix(f"{shard.stem}/")

    def files(self) -> Iterator[Path]:
        """Yields the shards."""
        yield from self.shards

    def _read(self, index: int) -> bytes:
        number, start, size = self._members[index].tolist()
        return self._pieces.read(self.shards[number], start, size)

    def _facts(self, index: int) -> tuple[int, ...]:
        return (self._members[index].tolist()[2],)


def _shards(pattern: str) -> list[Path]:
    try:
        from braceexpand import braceexpand  # a part of webdataset's own notation
    except ImportError as error:
        raise _without_webdataset(pattern) from error
    if os.path.isfile(pattern):
        return [Path(pattern)]
    try:
        parts = list(braceexpand(pattern))
    except ValueError as error:
        raise InputError(f"{pattern}: a brace has no partner") from error
    shards = []
    for part in parts:
        shards += sorted(glob.glob(part)) if glob.has_magic(part) else [part]
    if not shards:
        raise InputError(f"{pattern}: there is no such file")
    for shard in shards:
        _require_file(Path(shard))
    return list(map(Path, shards))


def _tar_members(shard: Path) -> Iterator[tuple[str, int, int]]:
    """(name, first byte, size) of every sample's image."""
    try:
        from webdataset.tariterators import group_by_keys
    except ImportError as error:
        raise _without_webdataset(shard) from error
    # webdataset decides what a sample is. It is given places instead of contents: its own random
    # access (wids) has left the package, and mistakes names of more than 100 letters.
    places = (
        {"fname": f"{shard.stem}/{name}", "data": place, "__url__": shard}
        for name, *place in _tar(shard)
    )
    try:
        for sample in group_by_keys(places):
            suffixes = [suffix for suffix in sample if f".{suffix}" in IMAGE_SUFFIXES]
            if len(suffixes) > 1:
                raise InputError(
                    f"{shard}: sample {sample['__key__']} has {len(suffixes)} images "
                    f"({', '.join(suffixes)}), one is needed"
                )
            for suffix in suffixes:
                yield f"{sample['__key__']}.{suffix}", *sample[suffix]
    except tarfile.TarError as error:
        raise InputError(f"{shard}: not a readable, uncompressed tar file ({error})") from error
    except InputError:
        raise
    except ValueError as error:  # a file twice
        raise InputError(f"{shard}: {error.args[0]}") from error


def _tar(shard: Path) -> Iterator[tuple[str, int, int]]:
    """(name, first byte, size) of the visible files of a tar file."""
    with tarfile.open(shard, "r:") as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # it would keep a kilobyte for each
            name = _visible(member.name)
            if member.isreg() and name:
                yield name, member.offset_data, member.size


def _without_webdataset(source: Path | str) -> InputError:
    return InputError(
        f"{source}: tar shards are read by the package webdataset: pip install 'davi[shards]'"
    )


def _visible(name: str) -> str | None:
    """The relative name of a member, None for one that is hidden or outside (`..`)."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if name.endswith("/") or any(part[0] == "." or part == "__MACOSX" for part in parts):
        return None
    return "/".join(parts)


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path}: no such file (looked for {path.resolve()})")
