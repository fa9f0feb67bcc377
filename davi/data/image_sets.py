"""Sets of images that training and `davi degrade` read by index."""

import hashlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath

from torch import Tensor
from torch.utils.data import Dataset

from davi.data.decoding import folder_error, open_image
from davi.data.images import (
    IMAGE_SUFFIXES,
    centred_square,
    clean_image,
    image_to_tensor,
    list_names,
)
from davi.system.errors import InputError

MAX_BYTES = 2**30  # of an image file, unpacked; they are read as a whole


class Names(Sequence[str]):
    """Strings in one block of memory.

    A list of a million strings takes twice the memory of its letters, and once more in every
    worker process, whose counting of references makes it a copy.
    """

    def __init__(self, names: Iterable[str]) -> None:
        text, ends = bytearray(), array("q", [0])
        for name in names:
            text += _encoded(name)
            ends.append(len(text))
        self._text, self._ends = bytes(text), ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> str:
        index = range(len(self))[index]  # negative ones count from the end
        text = self._text[self._ends[index] : self._ends[index + 1]]
        return text.decode("utf-8", "surrogateescape")


def _encoded(name: str) -> bytes:
    """UTF-8, and file names that are none as the bytes they are."""
    return name.encode("utf-8", "surrogateescape")


def content_digest(rows: Iterable[tuple]) -> str:
    """Returns the SHA-256 of rows of paths, names and numbers, in their order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(_encoded("\t".join(map(str, row)) + "\n"))
    return digest.hexdigest()


def spread_order(count: int) -> list[int]:
    """Returns 0 .. count - 1 in an order of which every beginning is spread evenly.

    Source: van der Corput's sequence, the numbers sorted by their binary digits read backwards.
    """
    digits = max(count - 1, 1).bit_length()
    return sorted(range(count), key=lambda place: f"{place:0{digits}b}"[::-1])


class ImageSet(Dataset):
    """Image files in a fixed order; a subclass says where their bytes are.

    An image is cropped to its centred square, then resized (bilinear, antialiased) as the release
    does.

    Args:
        origin: where the files are, in the user's words; messages and `source` begin with it.
        names: of the files, relative to the origin, with suffix.
        image_size: side of the returned images.

    Raises:
        InputError: there are no names.
    """

    channels = 3  # of the returned images
    folder: Path | None = None  # the folder in which each image is a file of its own, if any

    def __init__(self, origin: Path, names: Iterable[str], image_size: int) -> None:
        self.origin = origin
        self.names = Names(names)
        if not self.names:
            raise InputError(f"{origin}: holds no image ({', '.join(IMAGE_SUFFIXES)})")
        self.image_size = image_size

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Tensor:
        """Returns image `index` as (channels, S, S) float32 in [-1, 1].

        Raises:
            InputError: it cannot be read, or is not an image of a kind with a clear meaning.
        """
        source = self.source(index)
        image = open_image(source, BytesIO(self._bytes(index)))
        image = centred_square(image, self.image_size)
        return clean_image(image_to_tensor(image), self.channels, source)

    def name(self, index: int) -> str:
        """Returns the relative path without suffix of image `index`."""
        return PurePosixPath(self.names[index]).with_suffix("").as_posix()

    def source(self, index: int) -> Path:
        """Returns where image `index` is; below an archive the path is only a label."""
        return self.origin / self.names[index]

    def sha256(self, index: int) -> str:
        """Returns the hash of the bytes of image file `index`.

        Raises:
            InputError: it cannot be read.
        """
        return hashlib.sha256(self._bytes(index)).hexdigest()

    def fingerprint(self) -> dict[str, int | str]:
        """Returns {"images": number, "sha256": digest of their names and sizes, in order}.

        It does not depend on where the files are or when they were written.
        """
        rows = ((self.names[index], *self._facts(index)) for index in range(len(self)))
        return {"images": len(self), "sha256": content_digest(rows)}

    def files(self) -> Iterator[Path]:
        """Yields the files on disk whose bytes make up the images."""
        raise NotImplementedError

    def _bytes(self, index: int) -> bytes:
        size, *_ = self._facts(index)
        if size > MAX_BYTES:
            raise InputError(f"{self.source(index)}: {size} bytes are too many for an image")
        try:
            return self._read(index)
        except IsADirectoryError as error:
            raise folder_error(self.source(index)) from error
        except OSError as error:
            raise InputError(f"{self.source(index)}: cannot be read ({error.strerror})") from error

    def _read(self, index: int) -> bytes:
        """The bytes of image file `index`."""
        raise NotImplementedError

    def _facts(self, index: int) -> tuple[int, ...]:
        """Numbers that tell two image files of one name apart: the size, a checksum if known."""
        raise NotImplementedError


class ImageFolder(ImageSet):
    """Every image below a folder, nested folders included, in sorted order.

    Args:
        root: the folder.
        image_size: side of the returned images.

    Raises:
        InputError: missing or empty folder.
    """

    def __init__(self, root: Path, image_size: int) -> None:
        super().__init__(root, list_names(root), image_size)
        self.folder = root

    def files(self) -> Iterator[Path]:
        """Yields every image file."""
        return map(self.source, range(len(self)))

    def _read(self, index: int) -> bytes:
        return self.source(index).read_bytes()

    def _facts(self, index: int) -> tuple[int, ...]:
        try:
            return (self.source(index).stat().st_size,)
        except OSError:
            return (-1,)  # it cannot be read: whoever opens it is told why
