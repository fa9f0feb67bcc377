"""Images on disk and as tensors; the only place where value ranges change.

On disk: 8- or 16-bit files. As tensors: float32 (C, H, W) in [-1, 1].
"""

import contextlib
import io
import os
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor

from davi.data.decoding import folder_error, open_array
from davi.system.errors import InputError, shown
from davi.system.files import atomic_path
from davi.system.ledger import MANIFEST

LUMA = (0.299, 0.587, 0.114)  # of RGB, Rec. 601
FORMATS = {  # Pillow's names
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
SAVING = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
IMAGE_SUFFIXES = tuple(FORMATS)
# Kinds of what is no file in a folder.
_FOLDER, _CLOSED = "folders", "folders that cannot be read"
_MAX_DEPTH, _MAX_VISITS = 100, 100  # of folders; beyond them links multiply without end


def list_names(root: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[str]:
    """Returns the files below a folder with one of the suffixes, relative to it and sorted.

    Hidden files and folders are passed over; what else is passed over is printed. A folder that
    cannot be read is listed like a file, and whoever opens it is told why.

    Raises:
        InputError: the folder does not exist, cannot be read or holds no such file, or its links
            or nested folders are too many.
    """
    if not root.exists():
        raise InputError(f"{root}: no such folder")
    if not root.is_dir():
        raise InputError(f"{root}: is a file, a folder is needed")
    found, others = [], {}
    for name, kind in _walk(root, Counter()):
        if kind in suffixes or kind == _CLOSED:
            found.append(name)
        else:
            others.setdefault(kind, []).append(name)
    passed_over = "; ".join(
        f"{len(names)} {kind or 'without suffix'} ({shown(names, 3)})"
        for kind, names in others.items()
    )
    if not found:
        instead = f"; passed over: {passed_over}" if others else ""
        raise InputError(
            f"{root}: holds no image ({', '.join(suffixes)}), nested folders included{instead}"
        )
    if others and not (dist.is_initialized() and dist.get_rank()):
        print(f"note: {root}: passed over {passed_over}", file=sys.stderr)
    return found


def _walk(
    folder: Path, visits: Counter, prefix: str = "", above: tuple[str, ...] = ()
) -> Iterator[tuple[str, str]]:
    """Sorted (name, kind) of what lies below a folder; a file's kind is its suffix.

    Links are followed, but not to a folder above.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    visits[real] += 1
    if visits[real] > _MAX_VISITS:
        raise InputError(f"{folder}: too many links lead to this folder; remove some")
    if len(above) > _MAX_DEPTH:
        raise InputError(f"{folder}: more than {_MAX_DEPTH} folders in each other; move it up")
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        if not above:
            raise folder_error(folder) from error
        yield prefix.removesuffix("/"), _CLOSED
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name == MANIFEST:
            continue
        kind = _kind(entry)
        if kind == _FOLDER:
            yield from _walk(Path(entry.path), visits, f"{prefix}{entry.name}/", (*above, real))
        else:
            yield prefix + entry.name, kind


def _kind(entry: os.DirEntry) -> str:
    with contextlib.suppress(OSError):  # links in a circle, or into a folder that is closed
        if entry.is_dir():
            return _FOLDER
        if entry.is_file():
            return os.path.splitext(entry.name)[1].lower()
    return "links that lead nowhere" if entry.is_symlink() else "pipes, sockets or devices"


def centred_square(image: Image.Image, size: int) -> Image.Image:
    """Returns the largest square around the centre, resized (bilinear, antialiased) to `size`."""
    side = min(image.size)
    left, top = (round((length - side) / 2) for length in image.size)
    square = image.crop((left, top, left + side, top + side))
    return square.resize((size, size), Image.Resampling.BILINEAR)


def image_to_tensor(image: Image.Image) -> Tensor:
    """Returns (1 or 3, H, W) float32 in [-1, 1] for a picture from `open_image`."""
    return _array_to_tensor(np.asarray(image), 65535 if image.mode == "I" else 255)


def _array_to_tensor(array: np.ndarray, full_scale: int) -> Tensor:
    array = array.astype(np.float32) * (2 / full_scale) - 1
    if array.ndim == 2:
        array = array[:, :, None]
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()


def match_channels(image: Tensor, channels: int, path: Path) -> Tensor:
    """Returns the image with the wanted number of channels.

    Gray is repeated, and gray stored as RGB is reduced.

    Raises:
        InputError: colours would be lost.
    """
    if image.shape[0] == channels:
        return image
    if image.shape[0] == 1:
        return image.expand(channels, -1, -1)
    gray = image.mean(dim=0, keepdim=True)
    # JPEG may shift a channel of a gray picture by a level or two.
    if channels == 1 and (image - gray).abs().max() <= 4 * (2 / 255):
        return gray
    raise InputError(
        f"{path}: has {image.shape[0]} channels, {channels} needed "
        "(a clean colour photo becomes a measurement through davi degrade)"
    )


def require_picture(channels: int, what: str) -> None:
    """Refuses images that are no pictures.

    Raises:
        InputError: `what` begins its message.
    """
    if channels not in (1, 3):
        raise InputError(
            f"{what}: images of {channels} channels are no pictures, which have 1 or 3; use davi "
            "from Python for them"
        )


def clean_image(image: Tensor, channels: int, path: Path) -> Tensor:
    """Returns a clean picture with as many channels as a prior has: for 1 the luma of a colour one.

    Raises:
        InputError: see `match_channels`.
    """
    if channels == 1 and image.shape[0] == 3:
        weights = torch.tensor(LUMA, dtype=image.dtype)[:, None, None]
        return (weights * image).sum(dim=0, keepdim=True)
    return match_channels(image, channels, path)


def load_image(path: Path, channels: int = 3, size: tuple[int, int] | None = None) -> Tensor:
    """Returns the image file as (channels, H, W) float32 in [-1, 1].

    Args:
        path: the file.
        channels: 1 or 3.
        size: (H, W) if only that will do; a file of another size is not decoded.

    Raises:
        InputError: see `open_array` and `match_channels`.
    """
    array = open_array(path, size)
    return match_channels(_array_to_tensor(array, np.iinfo(array.dtype).max), channels, path)


def to_uint8(x: Tensor, rounding: str = "nearest") -> Tensor:
    """Returns uint8 0..255 for [-1, 1], clipped.

    Args:
        x: floating point, any shape.
        rounding: "nearest", or "truncate" as the release does, half a grey level darker on
            average.
    """
    x = x.clamp(-1, 1)
    if rounding == "truncate":
        return ((x + 1) / 2 * 255).to(torch.uint8)
    return ((x + 1) * 127.5).round().to(torch.uint8)


def to_uint16(x: Tensor) -> Tensor:
    """Returns uint16 0..65535 for [-1, 1], clipped, to the nearest."""
    return ((x.clamp(-1, 1) + 1) * 32767.5).round().to(torch.uint16)


def from_uint8(x: Tensor) -> Tensor:
    """Returns float32 in [-1, 1] for uint8 0..255."""
    return x.float() * (2 / 255) - 1


def save_image(x: Tensor, path: Path, rounding: str = "nearest", bit_depth: int = 8) -> None:
    """Writes a (1 or 3, H, W) image in [-1, 1], whole or not at all.

    Args:
        x: the image.
        path: its file, in a folder that is created if needed; its suffix, one of `IMAGE_SUFFIXES`,
            says the format.
        rounding: see `to_uint8`; of 16 bits always "nearest".
        bit_depth: 8, or 16 for the `DEEP_FORMATS`.
    """
    deep = bit_depth == 16
    levels = to_uint16(x) if deep else to_uint8(x, rounding)
    array = levels.permute(1, 2, 0).cpu().numpy()
    array = array.squeeze(2) if array.shape[2] == 1 else array
    form = FORMATS[path.suffix.lower()]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        if deep and array.ndim == 3:
            temporary.write_bytes(DEEP_FORMATS[form](array))
        else:
            Image.fromarray(array).save(temporary, format=form, **SAVING.get(form, {}))


def _deep_png(array: np.ndarray) -> bytes:
    """The file of (H, W, 3) uint16, which Pillow does not write: PNG specification, 16-bit RGB.

    Of each row the difference from the one above is stored (filter 2), which packs well.
    """
    height, width, _ = array.shape
    rows = array.astype(">u2").reshape(height, -1).view(np.uint8)
    rows[1:] -= rows[:-1].copy()
    filtered = np.concatenate([np.full((height, 1), 2, np.uint8), rows], axis=1)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = {b"IHDR": header, b"IDAT": zlib.compress(filtered, 6), b"IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks.items()
    )


def _deep_tiff(array: np.ndarray) -> bytes:
    import tifffile

    content = io.BytesIO()
    tifffile.imwrite(content, array, photometric="rgb")
    return content.getvalue()


DEEP_FORMATS = {"PNG": _deep_png, "TIFF": _deep_tiff}  # those that hold 16 bits, and 16-bit colour


def save_array(x: Tensor, path: Path) -> None:
    """Writes a tensor as a float32 .npy file, whole or not at all, in a folder made if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()  # numpy's own writing to a file does not say that the disk is full
    np.save(content, x.float().cpu().numpy())
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.getbuffer())
