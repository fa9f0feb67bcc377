"""Images on disk and as tensors; the only place where value ranges change.

On disk: 8- or 16-bit files. As tensors: float32 (C, H, W) in [-1, 1].
"""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from davi.system.errors import InputError
from davi.system.files import atomic_path

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
_SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")


def list_names(root: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[str]:
    """Returns the files below a folder with one of the suffixes, relative to it and sorted.

    Hidden files and folders are passed over.

    Raises:
        InputError: the folder does not exist, or holds no such file.
    """
    if not root.exists():
        raise InputError(f"{root}: no such folder")
    if not root.is_dir():
        raise InputError(f"{root}: is a file, a folder is needed")
    found = [name for name in _walk(root) if name.lower().endswith(suffixes)]
    if not found:
        raise InputError(f"{root}: holds no image ({', '.join(suffixes)}), nested folders included")
    return found


def _walk(folder: Path, prefix: str = "", above: tuple[str, ...] = ()) -> Iterator[str]:
    """Sorted names of the files below a folder; links are followed, but not to a folder above."""
    real = os.path.realpath(folder)
    if real in above:
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", (*above, real))
        elif entry.is_file():
            yield prefix + entry.name


def open_image(path: Path, stream: BinaryIO | None = None) -> Image.Image:
    """Returns a decoded, upright picture of mode L or RGB, or a 16-bit gray one of mode I.

    Palettes are resolved, CMYK and bilevel files converted, EXIF rotation applied.

    Args:
        path: an image file.
        stream: its bytes, for one that does not lie on disk by itself; messages still name `path`.

    Raises:
        InputError: unreadable or truncated, transparent, or of a mode without a clear meaning.
    """
    if stream is None and not path.is_file():
        raise InputError(f"{path}: no such file (looked for {path.resolve()})")
    try:
        with Image.open(stream or path) as handle:
            image = ImageOps.exif_transpose(handle)
            image.load()
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: not a readable image (of no known format)") from error
    except Exception as error:  # damaged bytes make the decoders raise whatever they spell
        raise InputError(f"{path}: not a readable image ({error})") from error
    if image.mode in _SIXTEEN_BIT_MODES:
        return _sixteen_bit(image, path)
    if image.mode in ("P", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode in ("RGBA", "LA", "La", "RGBa"):
        if image.getchannel("A").getextrema()[0] < 255:
            raise InputError(f"{path}: has transparent pixels; flatten it onto a background first")
        image = image.convert("L" if image.mode.startswith("L") else "RGB")
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("CMYK", "YCbCr", "HSV", "LAB"):
        return image.convert("RGB")
    if image.mode not in ("L", "RGB"):
        raise InputError(f"{path}: image mode {image.mode} is not supported; save it as 8-bit RGB")
    return image


def _sixteen_bit(image: Image.Image, path: Path) -> Image.Image:
    if "transparency" in image.info:
        raise InputError(f"{path}: has a transparent colour; flatten it onto a background first")
    image = image.convert("I")
    lowest, highest = image.getextrema()
    if lowest < 0 or highest > 65535:
        raise InputError(f"{path}: integers outside 0..65535; save it as 8- or 16-bit")
    return image


def centred_square(image: Image.Image, size: int) -> Image.Image:
    """Returns the largest square around the centre, resized (bilinear, antialiased) to `size`."""
    side = min(image.size)
    left, top = (round((length - side) / 2) for length in image.size)
    square = image.crop((left, top, left + side, top + side))
    return square.resize((size, size), Image.Resampling.BILINEAR)


def image_to_tensor(image: Image.Image) -> Tensor:
    """Returns (1 or 3, H, W) float32 in [-1, 1] for a picture from `open_image`."""
    full_scale = 65535 if image.mode == "I" else 255
    array = np.asarray(image, dtype=np.float32) * (2 / full_scale) - 1
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


def load_image(path: Path, channels: int = 3) -> Tensor:
    """Returns the image file as (channels, H, W) float32 in [-1, 1].

    Raises:
        InputError: see `open_image` and `match_channels`.
    """
    return match_channels(image_to_tensor(open_image(path)), channels, path)


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


def from_uint8(x: Tensor) -> Tensor:
    """Returns float32 in [-1, 1] for uint8 0..255."""
    return x.float() * (2 / 255) - 1


def save_image(x: Tensor, path: Path, rounding: str = "nearest") -> None:
    """Writes a (1 or 3, H, W) image in [-1, 1] as an 8-bit PNG, whole or not at all.

    Args:
        x: the image.
        path: its file, in a folder that is created if needed.
        rounding: see `to_uint8`.
    """
    array = to_uint8(x, rounding).permute(1, 2, 0).cpu().numpy()
    image = Image.fromarray(array.squeeze(2) if array.shape[2] == 1 else array)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG")


def save_array(x: Tensor, path: Path) -> None:
    """Writes a tensor as a float32 .npy file, whole or not at all."""
    content = io.BytesIO()  # numpy's own writing to a file does not say that the disk is full
    np.save(content, x.float().cpu().numpy())
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.getbuffer())
