"""Image files of every kind a user may have, and tensors back to files."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from davi.data.images import from_uint8, list_names, load_image, save_array, save_image, to_uint8
from davi.system.errors import InputError
from davi.system.files import atomic_path, make_folder, sha256_of

GRADIENT = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (48, 1))  # 48 x 64
COLOURS = np.stack([GRADIENT, np.full_like(GRADIENT, 90), 255 - GRADIENT], axis=2)


def expected(array: np.ndarray) -> torch.Tensor:
    """(C, H, W) in [-1, 1] for 8-bit values."""
    array = array if array.ndim == 3 else array[:, :, None].repeat(3, axis=2)
    return torch.from_numpy(array.astype(np.float32) / 127.5 - 1).permute(2, 0, 1)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".bmp", ".webp", ".PNG"])
def test_lossless_colour_files_are_read_exactly(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(COLOURS).save(tmp_path / f"a{suffix}", **options)
    torch.testing.assert_close(load_image(tmp_path / f"a{suffix}"), expected(COLOURS))


def test_jpeg_is_read_nearly(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.jpg", quality=95)
    assert (load_image(tmp_path / "a.jpg") - expected(COLOURS)).abs().mean() < 0.02


def test_gray_becomes_colour_and_stays_gray(tmp_path: Path) -> None:
    Image.fromarray(GRADIENT).save(tmp_path / "a.png")
    torch.testing.assert_close(load_image(tmp_path / "a.png"), expected(GRADIENT))
    torch.testing.assert_close(load_image(tmp_path / "a.png", 1), expected(GRADIENT)[:1])


def test_sixteen_bit_gray_keeps_its_precision(tmp_path: Path) -> None:
    values = np.arange(64 * 32, dtype=np.uint16).reshape(32, 64) * 31
    Image.fromarray(values).save(tmp_path / "a.png")
    wanted = torch.from_numpy(values / np.float32(65535) * 2 - 1)
    torch.testing.assert_close(load_image(tmp_path / "a.png", 1)[0], wanted, rtol=0, atol=1e-6)


def test_palette_cmyk_and_bilevel_files_are_converted(tmp_path: Path) -> None:
    flat = np.full((8, 8, 3), (200, 30, 60), dtype=np.uint8)
    Image.fromarray(flat).quantize(4).save(tmp_path / "palette.png")
    torch.testing.assert_close(load_image(tmp_path / "palette.png"), expected(flat))
    Image.fromarray(flat).convert("CMYK").save(tmp_path / "cmyk.tif")
    assert (load_image(tmp_path / "cmyk.tif") - expected(flat)).abs().max() < 0.02
    Image.fromarray(GRADIENT > 100).save(tmp_path / "bilevel.png")
    assert set(load_image(tmp_path / "bilevel.png", 1).unique().tolist()) == {-1, 1}


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_dropped_if_opaque_and_refused_otherwise(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(COLOURS).convert(mode)
    image.save(tmp_path / "opaque.png")
    assert load_image(tmp_path / "opaque.png").shape == (3, 48, 64)
    image.putalpha(128)
    image.save(tmp_path / "glass.png")
    with pytest.raises(InputError, match=r"glass\.png: has transparent pixels"):
        load_image(tmp_path / "glass.png")


def test_a_transparent_palette_colour_is_noticed(tmp_path: Path) -> None:
    image = Image.fromarray(COLOURS).quantize(8)
    image.save(tmp_path / "a.png", transparency=0)
    with pytest.raises(InputError, match="transparent"):
        load_image(tmp_path / "a.png")


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    Image.fromarray(COLOURS).save(tmp_path / "a.png", exif=exif)
    torch.testing.assert_close(load_image(tmp_path / "a.png"), expected(np.rot90(COLOURS, -1)))


def test_gray_stored_as_colour_is_accepted_as_gray_and_colour_is_not(tmp_path: Path) -> None:
    Image.fromarray(GRADIENT).convert("RGB").save(tmp_path / "gray.jpg")
    assert load_image(tmp_path / "gray.jpg", 1).shape == (1, 48, 64)
    Image.fromarray(COLOURS).save(tmp_path / "colour.png")
    with pytest.raises(InputError, match=r"colour\.png: has 3 channels, 1 needed"):
        load_image(tmp_path / "colour.png", 1)


@pytest.mark.parametrize("damage", ["text", "empty", "truncated"])
def test_damaged_files_are_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(COLOURS).save(path)
    content = path.read_bytes()
    path.write_bytes({"text": b"no picture", "empty": b"", "truncated": content[:-200]}[damage])
    with pytest.raises(InputError, match=r"a\.png: not a readable image"):
        load_image(path)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's remarks on the damage
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", "bmp"])
def test_no_damage_escapes_as_another_error(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(COLOURS).save(path, exif=Image.Exif()) if suffix != "bmp" else Image.fromarray(
        COLOURS
    ).save(path)
    content, random = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(content)
        for position in random.integers(0, min(len(content), 200), 3):  # headers, mostly
            damaged[position] = random.integers(256)
        path.write_bytes(damaged)
        try:
            load_image(path)
        except InputError as error:
            refused += 1
            assert f"a.{suffix}" in str(error)
    assert refused > 20


def test_a_decoder_that_raises_anything_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise struct.error("unpack requires a buffer of 2 bytes")

    (tmp_path / "a.jpg").touch()
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(InputError, match="not a readable image"):
        load_image(tmp_path / "a.jpg")


def test_what_is_no_image_file_is_counted_named_and_not_opened(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name in ("a.png", "b.gif", "c/d.GIF", "c/e.heic"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "gone.png").symlink_to(tmp_path / "absent")
    (tmp_path / "circle.png").symlink_to(tmp_path / "circle.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert list_names(tmp_path) == ["a.png"]
    note = capsys.readouterr().err
    assert note.startswith(f"note: {tmp_path}: passed over 2 .gif (b.gif, c/d.GIF); 1 .heic (c/e.")
    assert "2 links that lead nowhere (circle.png, gone.png)" in note
    assert "1 pipes, sockets or devices (pipe.png)" in note
    with pytest.raises(InputError, match=r"holds no image .*passed over: 1 \.gif \(d\.GIF\)"):
        list_names(tmp_path / "c")


def test_a_closed_folder_is_listed_and_the_others_are_read(
    tmp_path: Path, closed_folder: Path
) -> None:
    assert list_names(tmp_path) == ["a.png", "closed", "z.png"]
    with pytest.raises(InputError, match=r"closed: is a folder that cannot be read \(Permission"):
        load_image(closed_folder)
    with pytest.raises(InputError, match="closed: is a folder that cannot be read"):
        list_names(closed_folder)


def test_links_that_multiply_and_deep_folders_end_in_one_line(tmp_path: Path) -> None:
    web, deep = tmp_path / "web", tmp_path / "deep"
    for name in "abcdefghijklm":
        (web / name).mkdir(parents=True)
        for other in "abcdefghijklm":
            (web / name / other).symlink_to(web / other)
    with pytest.raises(InputError, match="too many links lead to this folder"):
        list_names(web)
    (deep / ("d/" * 101)).mkdir(parents=True)
    with pytest.raises(InputError, match="more than 100 folders in each other"):
        list_names(deep)


def test_links_back_to_a_folder_above_end_nowhere(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b.png").touch()
    (tmp_path / "a/up").symlink_to(tmp_path)
    (tmp_path / "c").symlink_to(tmp_path / "a")
    assert list_names(tmp_path) == ["a/b.png", "c/b.png"]


def test_uint8_round_trip_is_exact_and_rounds() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(from_uint8(values)), values)
    between = torch.tensor([0.6 / 127.5 - 1, 0.4 / 127.5 - 1, 2.0, -3.0])
    assert to_uint8(between).tolist() == [1, 0, 255, 0]


def test_truncation_is_that_of_the_release() -> None:
    """Half a grey level darker on average, whatever lies outside [-1, 1] clipped."""
    x = torch.rand(10000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    levels = to_uint8(x, "truncate")
    assert torch.equal(levels, torch.from_numpy(((x.numpy() + 1) / 2 * 255).astype(np.uint8)))
    assert (levels - (x + 1) / 2 * 255).mean().item() == pytest.approx(-0.5, abs=0.02)
    assert to_uint8(torch.tensor([-2.0, -1, 1, 2]), "truncate").tolist() == [0, 0, 255, 255]


def test_saved_images_are_read_back(tmp_path: Path) -> None:
    for image in (expected(COLOURS), expected(GRADIENT)[:1]):
        save_image(image, tmp_path / "a.png")
        torch.testing.assert_close(load_image(tmp_path / "a.png", len(image)), image)
    save_array(expected(COLOURS), tmp_path / "a.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), expected(COLOURS))


@pytest.mark.parametrize("suffix", ["png", "tif", "TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_saved_and_read_back(tmp_path: Path, suffix: str, channels: int) -> None:
    image = torch.rand(channels, 9, 14, generator=torch.Generator().manual_seed(0)) * 2.2 - 1.1
    save_image(image, tmp_path / f"a.{suffix}", bit_depth=16)
    found = load_image(tmp_path / f"a.{suffix}", channels)
    torch.testing.assert_close(found, image.clamp(-1, 1), rtol=0, atol=1.01 / 65535)


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "webp", "tif", "bmp"])
def test_the_suffix_says_the_format(tmp_path: Path, suffix: str) -> None:
    ramp = torch.linspace(-1, 1, 16).expand(3, 16, 16)
    save_image(ramp, tmp_path / f"a.{suffix}")
    form = Image.open(tmp_path / f"a.{suffix}").format
    assert form == {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper())
    tolerance = 4 if form == "JPEG" else 1
    torch.testing.assert_close(
        load_image(tmp_path / f"a.{suffix}"), ramp, rtol=0, atol=tolerance * 1.01 / 255
    )


def test_folders_are_listed_nested_sorted_and_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.png", "a/c.jpg", ".hidden.png", "a/.cache/d.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list_names(tmp_path) == ["a/c.jpg", "b.png"]


def test_missing_and_empty_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent: no such folder"):
        list_names(tmp_path / "absent")
    with pytest.raises(InputError, match="holds no image"):
        list_names(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file, a folder is needed"):
        list_names(tmp_path / "file")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")

    def fail_halfway() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("no space")

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_an_unusable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write there"):
        make_folder(tmp_path / "file/folder")


def test_sha256_is_the_standard_one(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a").startswith("ba7816bf8f01cfea")
