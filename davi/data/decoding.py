"""Opens picture files: the pixels as they are meant, or one line that says why not.

Pillow decodes. What it would not hand over as it is meant (cut to 8 bits, inverted, one page of
many) shows in the header and is refused.
"""

import contextlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image, ImageCms, ImageOps, PngImagePlugin, UnidentifiedImageError

from davi.system.errors import InputError

# No others: Pillow hands an EPS file to Ghostscript, whatever the file is called.
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP")
MAX_PIXELS = 170_000_000  # half a gigabyte as RGB; Pillow itself stops at 179 million
SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I")  # "I" in Pillow before 11
# Bits of the colours by TIFF's photometric interpretation: gray with white as zero and with black
# as zero, RGB, palette, CMYK, YCbCr.
_UP_TO_BYTE = ((1,), (2,), (4,), (8,))
_TIFF_BITS = {
    0: _UP_TO_BYTE,
    1: (*_UP_TO_BYTE, (16,)),
    2: ((8,) * 3,),
    3: _UP_TO_BYTE,
    5: ((8,) * 4,),
    6: ((8,) * 3,),
}
_DEEP_COLOUR = re.compile(r"RGBA?;16[BLN]$")
_PROFILE_MODES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}  # of ICC profiles
_EXACT = 0x100  # LittleCMS's flag: no tables in place of the curves
# Of sRGB, as PNG files state them.
_GAMMA, _CHROMATICITY = 1 / 2.2, (0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06)

# Pillow warns of many pixels; ours is the limit that holds.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Image generators write their settings there, often more than the megabyte that is allowed.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY


def open_array(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Returns the pixels of `open_image`, or of 16-bit colour, which no image of Pillow holds.

    Args:
        path: an image file.
        size: see `open_image`.

    Returns:
        (H, W) or (H, W, 3), uint8, or uint16 of 16-bit files.

    Raises:
        InputError: see `open_image`.
    """
    if not _is_deep_colour(path):
        array = np.asarray(open_image(path, size=size))
        return array if array.dtype == np.uint8 else array.astype(np.uint16)
    high, low = (np.asarray(open_image(path, size=size, half=half)) for half in ("high", "low"))
    return high.astype(np.uint16) << 8 | low


def open_image(
    path: Path,
    stream: BinaryIO | None = None,
    size: tuple[int, int] | None = None,
    half: Literal["high", "low"] | None = None,
) -> Image.Image:
    """Returns a decoded, upright picture in sRGB: mode L, RGB, or I for 16-bit gray.

    Palettes are resolved, CMYK and bilevel files converted, EXIF rotation and ICC profiles applied.

    Args:
        path: an image file.
        stream: its bytes, for one that does not lie on disk by itself; messages still name `path`.
        size: (height, width) that it must have, either way round, to be decoded at all.
        half: of 16-bit colour, which byte of each sample to return.

    Raises:
        InputError: unreadable or truncated, of another size, transparent, or of a kind that cannot
            be read exactly.
    """
    with opened(path, stream) as picture:
        width, height = picture.size
        if size and {width, height} != set(size):  # it may be turned
            raise InputError(f"{path}: is {height}x{width} pixels, {size[0]}x{size[1]} needed")
        if width * height > MAX_PIXELS:
            raise InputError(f"{path}: {height}x{width} pixels are too many; make it smaller first")
        if fault := _fault(picture, deep_colour=half is not None):
            raise InputError(f"{path}: {fault}")
        if half is not None:
            picture.tile = [_of_half(tile, half) for tile in picture.tile]
        image = ImageOps.exif_transpose(picture)
        image.load()
        image = _without_alpha(image, path)
        return _in_srgb(image, image.info.get("icc_profile"), path, deep=half is not None)


def _is_deep_colour(path: Path) -> bool:
    with opened(path) as picture:
        return bool(picture.tile) and _DEEP_COLOUR.match(_raw_mode(picture.tile[0])) is not None


def _raw_mode(tile: tuple) -> str:
    """How a part of a file holds its pixels, in Pillow's words: RGB;16B has the high byte first."""
    arguments = tile[3]
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _of_half(tile: tuple, half: str) -> tuple:
    """What lets Pillow, which takes the high byte of each sample, take the given one.

    It takes the low byte if it is told that bytes come in the other order.
    """
    mode, order = _raw_mode(tile).split(";16")
    native = {"little": "L", "big": "B"}[sys.byteorder]
    order = native if order == "N" else order
    if half == "low":
        order = {"L": "B", "B": "L"}[order]
    arguments = f"{mode};16{order}"
    if isinstance(tile[3], tuple):
        arguments = (arguments, *tile[3][1:])
    if hasattr(tile, "_replace"):  # a plain tuple in Pillow before 11
        return tile._replace(args=arguments)
    return (*tile[:3], arguments)


def stored_size(path: Path) -> tuple[int, int]:
    """Returns (width, height) of a picture as stored, before EXIF rotation, without decoding it.

    Raises:
        InputError: it cannot be opened.
    """
    with opened(path) as picture:
        return picture.size


@contextlib.contextmanager
def opened(path: Path, stream: BinaryIO | None = None) -> Iterator[Image.Image]:
    """Gives a picture before it is decoded; whatever goes wrong within the block names the file.

    Args:
        path: an image file.
        stream: see `open_image`.

    Raises:
        InputError: it cannot be opened, or what is done with it fails.
    """
    if stream is None:
        _require_file(path)
    try:
        with Image.open(stream or path, formats=FORMATS) as picture:
            yield picture
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(
            f"{path}: not a readable image (not {' or '.join(FORMATS)}, or of an unknown kind); "
            "save it as 8-bit PNG"
        ) from error
    except Exception as error:  # damaged bytes make the decoders raise whatever they spell
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: not a readable image ({reason})") from error


def _require_file(path: Path) -> None:
    if path.is_dir():
        raise folder_error(path)
    if not path.exists():
        raise InputError(f"{path}: no such file (looked for {path.resolve()})")
    if not path.is_file():
        raise InputError(f"{path}: is a pipe, a socket or a device; an image file is needed")


def folder_error(folder: Path) -> InputError:
    """Returns the message for a folder in place of a file: one that cannot be read, as a rule."""
    try:
        os.scandir(folder).close()
    except OSError as error:
        return InputError(
            f"{folder}: is a folder that cannot be read ({error.strerror}); change its permissions "
            "or move it elsewhere"
        )
    return InputError(f"{folder}: is a folder, an image file is needed")


def _fault(picture: Image.Image, deep_colour: bool) -> str | None:
    """Why the pixels would not be what is meant, and what to do; None if they will be."""
    # The further pictures of a camera's MPO file are previews of the first.
    if picture.format != "MPO" and _num_pictures(picture) > 1:
        return "has several frames or pages; save the one you want as a file of its own"
    if picture.format == "PNG":
        return _png_fault(picture, deep_colour)
    if picture.format == "TIFF":
        return _tiff_fault(picture, deep_colour)
    if picture.mode == "CMYK" and picture.format in ("JPEG", "MPO") and "adobe" not in picture.info:
        return "is a CMYK JPEG that does not say whether 0 is no ink or all; save it as RGB"
    return None


def _num_pictures(picture: Image.Image) -> int:
    """How many frames or pages there are; a TIFF's smaller copy of a page is none."""
    count = getattr(picture, "n_frames", 1)
    if picture.format != "TIFF" or count == 1:
        return count
    copies = 0
    for number in range(1, count):
        picture.seek(number)
        copies += picture.tag_v2.get(254, 0) & 1
    picture.seek(0)
    return count - copies


def _png_fault(picture: Image.Image, deep_colour: bool) -> str | None:
    info, stored = picture.info, picture.tile[0][3]
    if stored.endswith(";16B") and picture.mode not in SIXTEEN_BIT_MODES and not deep_colour:
        return "has 16 bits a channel, which only gray may have here; save it with 8 bits"
    # Pillow scales the pixels, but not the number of the transparent one.
    if "transparency" in info and stored in ("1", "L;2", "L;4", "I;16B", "RGB;16B"):
        return "has a transparent colour; flatten it onto a background first"
    if not info.keys() & {"icc_profile", "srgb"}:
        stated = info.get("gamma", _GAMMA), *info.get("chromaticity", _CHROMATICITY)
        if not np.allclose(stated, (_GAMMA, *_CHROMATICITY), rtol=0, atol=0.02):
            return "states a gamma or primaries other than those of sRGB; convert it to sRGB"
    return None


def _tiff_fault(picture: Image.Image, deep_colour: bool) -> str | None:
    tags = picture.tag_v2
    kind, channels = tags.get(262, 0), tags.get(277, 1)
    bits, extra, formats = tags.get(258, (1,)), tags.get(338, ()), set(tags.get(339, (1,)))
    planar = tags.get(284, 1) != 1
    depth = bits[0]
    bits = bits * channels if len(bits) == 1 else bits
    if extra in ((1,), (2,)):  # alpha, premultiplied or not
        bits = bits[:-1]
    if extra not in ((), (1,), (2,)) or (extra and planar) or (kind == 2 and len(bits) > 3):
        return "has channels beside its colours that could mean anything; save it without them"
    known = bits in _TIFF_BITS.get(kind, ()) or (deep_colour and not extra)
    if not known or formats != {1}:
        return (
            f"is a TIFF of a kind that cannot be read exactly ({depth}-bit samples, format "
            f"{min(formats)}, photometric interpretation {kind}); save it as 8-bit RGB, or as 8- "
            "or 16-bit gray with black as zero"
        )
    if kind == 6 and "jpeg" not in picture.info.get("compression", ""):
        return "is an uncompressed YCbCr TIFF; save it as RGB"
    # With 8 bits it is no more than a statistic.
    if depth == 16 and np.ravel(tags.get(281, 2**16 - 1)).max() != 2**16 - 1:
        return "has another value than 65535 for white; rescale it"
    return None


def _without_alpha(image: Image.Image, path: Path) -> Image.Image:
    if image.mode in ("P", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
    *_, last = image.getbands()
    if last not in ("A", "a"):
        return image
    if image.getchannel(last).getextrema()[0] < 255:
        raise InputError(f"{path}: has transparent pixels; flatten it onto a background first")
    full = "LA" if image.mode in ("LA", "La") else "RGBA"
    return image.convert(full).convert(full[:-1])


def _in_srgb(
    image: Image.Image, profile: bytes | None, path: Path, deep: bool = False
) -> Image.Image:
    """The picture of mode L, RGB or I; `deep` if it is a half of 16-bit colour."""
    deep_gray = image.mode in SIXTEEN_BIT_MODES
    if image.mode in ("1", "YCbCr"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    if image.mode not in ("L", "RGB", "CMYK") and not deep_gray:
        raise InputError(f"{path}: image mode {image.mode} is not supported; save it as 8-bit RGB")
    try:
        to_srgb = _to_srgb(profile, "L" if deep_gray else image.mode) if profile else None
    except (ImageCms.PyCMSError, OSError) as error:
        raise InputError(
            f"{path}: its colour profile cannot be used ({error}); convert it to sRGB, or remove "
            "the profile"
        ) from error
    if to_srgb and (deep or deep_gray):
        kind = "gray" if deep_gray else "colour"
        raise InputError(f"{path}: is 16-bit {kind} with a colour profile; convert it to sRGB")
    if to_srgb:
        return to_srgb(image)
    return image.convert({"L": "L"}.get(image.mode, "I" if deep_gray else "RGB"))


@lru_cache(16)
def _to_srgb(profile: bytes, mode: str) -> Callable[[Image.Image], Image.Image] | None:
    """What brings a picture (L, RGB or CMYK) with an ICC profile to sRGB; None if it is that."""
    source = ImageCms.ImageCmsProfile(BytesIO(profile))
    own = _PROFILE_MODES.get(source.profile.xcolor_space.strip())
    if own != mode and (own, mode) != ("RGB", "L"):
        words = {"L": "gray"}
        raise ImageCms.PyCMSError(
            f"it is for {words.get(own, own) or 'other'} pictures, this one is "
            f"{words.get(mode, mode)}"
        )
    # Exact and slow for the 256 levels of gray, fast and within a level for the others.
    flags = _EXACT if mode == "L" else 0
    srgb = ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(source, srgb, own, "RGB", flags=flags)
    apply = partial(ImageCms.applyTransform, transform=transform)
    if own == "CMYK":
        return apply
    levels = np.arange(0, 256, 1 if mode == "L" else 15, dtype=np.uint8)
    grid = (
        levels[None] if mode == "L" else np.stack(np.meshgrid(*[levels] * 3), 3).reshape(1, -1, 3)
    )
    before = Image.fromarray(grid)
    after = apply(before.convert(own))
    change = np.asarray(after, int) - np.asarray(before.convert("RGB"), int)
    # Two descriptions of sRGB differ by a rounding; its pixels are left as they are.
    if abs(change).max() <= 2:
        return None
    if mode == "L":
        return partial(Image.Image.point, lut=list(after.getchannel("G").tobytes()))
    return apply
