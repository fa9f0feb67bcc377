"""Pictures of every kind: read exactly, or refused in one line that says why."""

import os
import struct
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import EpsImagePlugin, Image, ImageCms

from davi.data.decoding import MAX_PIXELS, open_array, open_image
from davi.system.errors import InputError

ROWS, COLUMNS = np.mgrid[:16, :32]
GRAY = (ROWS * 16 + COLUMNS * 3).astype(np.uint8)
RGB = np.stack([GRAY, 255 - GRAY, GRAY[::-1]], 2)
DEEP = GRAY.astype(np.uint16) * 255 + 7
OPAQUE = np.full_like(GRAY, 255)
ALPHA, ANYTHING, PREMULTIPLIED = 2, 0, 1  # TIFF's words for a further channel
Write = Callable[[Path], object]


def pil(array: np.ndarray, mode: str | None = None, **options: object) -> Write:
    """Writes through Pillow."""
    image = Image.fromarray(array)
    return lambda path: (image.convert(mode) if mode else image).save(path, **options)


def tif(array: np.ndarray, kind: str = "minisblack", **options: object) -> Write:
    """Writes through tifffile."""
    return lambda path: tifffile.imwrite(path, array, photometric=kind, **options)


def png(depth: int, kind: int, rows: np.ndarray, chunks: dict[bytes, bytes] | None = None) -> Write:
    """Writes rows of packed bytes as they are, with chunks before them."""
    height, width = len(rows), rows.shape[1] * 8 // depth // {0: 1, 2: 3, 4: 2, 6: 4}[kind]
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = {b"IHDR": header, **(chunks or {}), b"IDAT": data, b"IEND": b""}
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts.items()
    )
    return lambda path: path.write_bytes(content)


def deep_png(*channels: np.ndarray) -> np.ndarray:
    """Rows of 16-bit samples."""
    return np.stack(channels, 2).astype(">u2").reshape(len(GRAY), -1).view(np.uint8)


def without_adobe(path: Path) -> None:
    """A CMYK JPEG without the segment that says how ink is counted."""
    stream = BytesIO()
    Image.fromarray(RGB).convert("CMYK").save(stream, format="JPEG")
    content = stream.getvalue()
    start = content.index(b"\xff\xee")
    end = start + 2 + int.from_bytes(content[start + 2 : start + 4], "big")
    path.write_bytes(content[:start] + content[end:])


def frames(array: np.ndarray) -> Write:
    return pil(array, save_all=True, append_images=[Image.fromarray(255 - array)])


def with_copy(path: Path) -> None:
    with tifffile.TiffWriter(path) as writer:
        writer.write(RGB, photometric="rgb")
        writer.write(RGB[::2, ::2], photometric="rgb", subfiletype=1)


EXACT = {
    "gray with white as zero.tif": (tif(255 - GRAY, "miniswhite"), GRAY),
    "16-bit gray.png": (pil(DEEP), DEEP),
    "16-bit gray, big endian.tif": (tif(DEEP, byteorder=">"), DEEP),
    "planes.tif": (tif(RGB.transpose(2, 0, 1).copy(), "rgb", planarconfig="separate"), RGB),
    "opaque.tif": (tif(np.dstack([RGB, OPAQUE]), "rgb", extrasamples=[ALPHA]), RGB),
    "gray, premultiplied.tif": (
        tif(np.dstack([GRAY, OPAQUE]), planarconfig="contig", extrasamples=[PREMULTIPLIED]),
        GRAY,
    ),
    "a large text.png": (
        png(8, 2, RGB.reshape(16, -1), {b"zTXt": b"a\0\0" + zlib.compress(bytes(3 << 20))}),
        RGB,
    ),
    "its gamma is that of sRGB.png": (
        png(8, 2, RGB.reshape(16, -1), {b"gAMA": struct.pack(">I", 45455)}),
        RGB,
    ),
    "one frame.png": (pil(RGB, save_all=True), RGB),
    "its lightest gray is noted.tif": (tif(GRAY, extratags=[(281, "H", 1, 239, True)]), GRAY),
    "with a smaller copy.tif": (with_copy, RGB),
}


@pytest.mark.parametrize("name", EXACT)
def test_what_is_read_is_read_exactly(tmp_path: Path, name: str) -> None:
    write, wanted = EXACT[name]
    write(tmp_path / name)
    np.testing.assert_array_equal(open_image(tmp_path / name), wanted)


DEEP_RGB = np.dstack([DEEP, 65535 - DEEP, DEEP[::-1] // 3])
FULL = np.full_like(DEEP, 65535)
TURNED = [(274, "H", 1, 6, True)]  # EXIF: to be turned clockwise
DEEP_COLOUR = {
    "a.png": (png(16, 2, deep_png(*DEEP_RGB.transpose(2, 0, 1))), DEEP_RGB),
    "opaque.png": (png(16, 6, deep_png(*DEEP_RGB.transpose(2, 0, 1), FULL)), DEEP_RGB),
    "little endian.tif": (tif(DEEP_RGB, "rgb", byteorder="<"), DEEP_RGB),
    "big endian.tif": (tif(DEEP_RGB, "rgb", byteorder=">", rowsperstrip=5), DEEP_RGB),
    "packed.tif": (tif(DEEP_RGB, "rgb", compression="zlib", predictor=True), DEEP_RGB),
    "packed, big endian.tif": (tif(DEEP_RGB, "rgb", compression="zlib", byteorder=">"), DEEP_RGB),
    "turned.tif": (tif(DEEP_RGB, "rgb", extratags=TURNED), np.rot90(DEEP_RGB, -1)),
    "gray.png": (pil(DEEP), DEEP),
    "8 bits.png": (pil(RGB), RGB),
}


@pytest.mark.parametrize("name", DEEP_COLOUR)
def test_sixteen_bits_of_colour_are_read_exactly(tmp_path: Path, name: str) -> None:
    write, wanted = DEEP_COLOUR[name]
    write(tmp_path / name)
    found = open_array(tmp_path / name)
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)


GLASS = FULL - np.eye(*FULL.shape, dtype=np.uint16)  # its high bytes alone are opaque
DEEP_REFUSED = {
    "glass.png": (
        png(16, 6, deep_png(*DEEP_RGB.transpose(2, 0, 1), GLASS)),
        "has transparent pixels",
    ),
    "a transparent colour.png": (
        png(16, 2, deep_png(DEEP, DEEP, DEEP), {b"tRNS": bytes(6)}),
        "has a transparent colour",
    ),
    "alpha.tif": (tif(np.dstack([DEEP_RGB, FULL]), "rgb", extrasamples=[ALPHA]), "16-bit samples"),
}


@pytest.mark.parametrize("name", DEEP_REFUSED)
def test_sixteen_bits_that_are_not_read_exactly_are_refused(tmp_path: Path, name: str) -> None:
    write, reason = DEEP_REFUSED[name]
    write(tmp_path / name)
    with pytest.raises(InputError, match=reason):
        open_array(tmp_path / name)


REFUSED = {
    "16-bit colour.png": (png(16, 2, deep_png(DEEP, DEEP, DEEP)), "16 bits a channel"),
    "16-bit gray and alpha.png": (png(16, 4, deep_png(DEEP, DEEP)), "16 bits a channel"),
    "16-bit colour.tif": (tif(np.dstack([DEEP] * 3), "rgb"), "16-bit samples"),
    "16-bit planes.tif": (
        tif(np.stack([DEEP] * 3), "rgb", planarconfig="separate"),
        "16-bit samples",
    ),
    "16-bit with white as zero.tif": (tif(DEEP, "miniswhite", byteorder="<"), "interpretation 0"),
    "12 of 16 bits.tif": (
        tif(DEEP >> 4, extratags=[(281, "H", 1, 4095, True)]),
        "than 65535 for white",
    ),
    "signed.tif": (tif(GRAY.astype(np.int16)), "format 2"),
    "signed bytes.tif": (tif(GRAY.astype(np.int8)), "format 2"),
    "long integers.tif": (tif(GRAY.astype(np.uint32)), "32-bit samples"),
    "floats.tif": (tif(GRAY.astype(np.float32)), "32-bit samples, format 3"),
    "CMYK of 16 bits.tif": (tif(np.dstack([DEEP] * 4), "separated"), "16-bit samples"),
    "Lab.tif": (tif(RGB, "cielab"), "interpretation 8"),
    "YCbCr.tif": (pil(RGB, "YCbCr"), "uncompressed YCbCr"),
    "CMYK without a marker.jpg": (without_adobe, "0 is no ink or all"),
    "unnamed channel.tif": (
        tif(np.dstack([RGB, OPAQUE]), "rgb", extrasamples=[ANYTHING]),
        "could mean anything",
    ),
    "gray and unnamed.tif": (
        tif(np.dstack([GRAY, OPAQUE]), planarconfig="contig", extrasamples=[ANYTHING]),
        "could mean anything",
    ),
    "alpha as a plane.tif": (
        tif(np.stack([GRAY, OPAQUE]), planarconfig="separate", extrasamples=[ALPHA]),
        "could mean anything",
    ),
    "five channels.tif": (
        tif(np.dstack([RGB, OPAQUE, GRAY]), "rgb", extrasamples=[ALPHA, ANYTHING]),
        "could mean anything",
    ),
    "pages.tif": (frames(RGB), "several frames or pages"),
    "16-bit pages.tif": (tif(np.stack([DEEP, DEEP])), "several frames or pages"),
    "animated.png": (frames(RGB), "several frames or pages"),
    "animated.webp": (frames(RGB), "several frames or pages"),
    "4-bit with a transparent level.png": (
        png(4, 0, GRAY, {b"tRNS": b"\0\3"}),
        "has a transparent colour",
    ),
    "16-bit with a transparent level.png": (pil(DEEP, transparency=7), "has a transparent colour"),
    "linear gamma.png": (
        png(8, 2, RGB.reshape(16, -1), {b"gAMA": struct.pack(">I", 100000)}),
        "gamma or primaries other than those of sRGB",
    ),
    "no profile.png": (pil(RGB, icc_profile=b"no profile" * 30), "colour profile cannot be used"),
    "GIF.png": (pil(RGB, format="GIF"), "not a readable image .* save it as 8-bit PNG"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_read_exactly_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    write, reason = REFUSED[name]
    write(tmp_path / name)
    with pytest.raises(InputError, match=reason) as caught:
        open_image(tmp_path / name)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert "\n" not in str(caught.value)


def test_postscript_reaches_no_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: started.append(1))
    Image.fromarray(RGB).save(tmp_path / "a.png", format="EPS")
    with pytest.raises(InputError, match="not a readable image"):
        open_image(tmp_path / "a.png")
    assert not started


def srgb_profile(linear: bool = False, exchanged: bool = False) -> bytes:
    """An ICC profile of sRGB, its curves made straight, or red and green exchanged."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    if exchanged:
        profile = profile.replace(b"rXYZ", b"____").replace(b"gXYZ", b"rXYZ")
        profile = profile.replace(b"____", b"gXYZ")
    if linear:  # y = (a x + b)^g above d
        start = profile.index(b"para\0\0\0\0") + 12
        straight = struct.pack(">5i", 65536, 65536, 0, 65536, 0)
        profile = profile[:start] + straight + profile[start + 20 :]
    return profile


def shown(light: np.ndarray) -> np.ndarray:
    """Levels of sRGB for linear ones.

    Source: IEC 61966-2-1.
    """
    light = light / 255
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize(
    ("profile", "pixels", "wanted"),
    [
        (srgb_profile(linear=True), RGB, shown(RGB)),
        (srgb_profile(linear=True), GRAY, shown(GRAY)),
        (srgb_profile(exchanged=True), RGB, RGB[..., [1, 0, 2]]),
    ],
    ids=["linear", "linear gray", "exchanged primaries"],
)
def test_colours_are_those_that_a_viewer_shows(
    tmp_path: Path, suffix: str, profile: bytes, pixels: np.ndarray, wanted: np.ndarray
) -> None:
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", icc_profile=profile, **options)
    image = open_image(tmp_path / f"a.{suffix}")
    found = np.asarray(image if pixels.ndim == image.im.bands else image.convert("RGB"), float)
    wanted = wanted if found.ndim == wanted.ndim else np.dstack([wanted] * 3)
    assert np.abs(found - wanted).max() <= 1.5


@pytest.mark.parametrize("pixels", [RGB, GRAY, DEEP], ids=["colour", "gray", "16-bit gray"])
def test_a_profile_of_srgb_changes_no_pixel(tmp_path: Path, pixels: np.ndarray) -> None:
    pil(pixels, icc_profile=srgb_profile())(tmp_path / "a.png")
    np.testing.assert_array_equal(open_image(tmp_path / "a.png"), pixels)


def test_a_profile_that_a_kind_cannot_follow_is_refused(tmp_path: Path) -> None:
    pil(DEEP, icc_profile=srgb_profile(linear=True))(tmp_path / "a.png")
    with pytest.raises(InputError, match="16-bit gray with a colour profile; convert it to sRGB"):
        open_image(tmp_path / "a.png")
    linear = [(34675, "B", len(srgb_profile(linear=True)), srgb_profile(linear=True), True)]
    tif(DEEP_RGB, "rgb", extratags=linear)(tmp_path / "b.tif")
    with pytest.raises(InputError, match="16-bit colour with a colour profile; convert it to sRGB"):
        open_array(tmp_path / "b.tif")
    pil(RGB, "CMYK", icc_profile=srgb_profile())(tmp_path / "a.tif")
    with pytest.raises(InputError, match="it is for RGB pictures, this one is CMYK"):
        open_image(tmp_path / "a.tif")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_size_is_compared_before_the_pixels_are_decoded(tmp_path: Path) -> None:
    png(8, 0, GRAY)(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())

    def claim(height: int, width: int) -> None:
        content[16:24] = struct.pack(">II", width, height)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
        (tmp_path / "a.png").write_bytes(content)

    claim(9000, 9000)
    with pytest.raises(InputError, match="is 9000x9000 pixels, 16x32 needed"):
        open_image(tmp_path / "a.png", size=(16, 32))
    claim(height := 1 + MAX_PIXELS // 8192, 8192)
    with pytest.raises(InputError, match=f"{height}x8192 pixels are too many; make it smaller"):
        open_image(tmp_path / "a.png")
    claim(16, 32)
    assert open_image(tmp_path / "a.png", size=(32, 16)).size == (32, 16)


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(InputError, match="is a pipe, a socket or a device; an image file is"):
        open_image(tmp_path / "a.png")
