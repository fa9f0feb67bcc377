"""Folders, zip files and tar shards as sets of images."""

import io
import multiprocessing
import os
import pickle
import re
import shutil
import sys
import tarfile
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import davi.data.image_sets
from davi.data.archives import TarImages, ZipImages
from davi.data.batches import open_images
from davi.data.image_sets import ImageFolder, ImageSet, Names
from davi.system.errors import InputError

NAMES = ("a/b.png", "a/c.jpg", "a-b/a.png", "d.PNG", "e.webp")  # in the order of a folder
READS = 2000  # of every image: enough for two processes to come into each other's way
LONG = "long/" + "x" * 120 + ".png"  # tar headers have room for 100 letters


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of several formats and shapes, and files that are passed over."""
    root = tmp_path / "images"
    for index, name in enumerate((*NAMES, LONG)):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (20, 12 + index, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    for name in (".hidden.png", "a/readme.txt"):
        (root / name).write_bytes(b"no picture")
    return root


@pytest.fixture
def zipped(folder: Path) -> Path:
    """The folder as a zip file, with what a Mac adds."""
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            method = zipfile.ZIP_STORED if file.suffix == ".jpg" else zipfile.ZIP_DEFLATED
            archive.write(file, file.relative_to(folder), method)
        archive.writestr("__MACOSX/a/b.png", b"no picture")
        archive.writestr("../outside.png", b"no picture")
    return path


def tar(path: Path, files: dict[str, bytes]) -> Path:
    """Writes a tar file."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def png(value: int) -> bytes:
    """A gray picture."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (value,) * 3).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def shards(folder: Path) -> str:
    """The folder's images in three shards, one image in two parts of a sample."""
    pytest.importorskip("webdataset")
    names = [*NAMES, LONG]
    for number in range(3):
        files = {}
        for name in names[2 * number : 2 * number + 2]:
            key = name.rsplit(".", 1)[0]
            files["./" + name] = (folder / name).read_bytes()
            files |= {f"./{key}.cls": b"7", f"./{key}.mask.png": png(0)}
        tar(folder.parent / f"shards/{number:03d}.tar", files)
    return str(folder.parent / "shards/{000..002}.tar")


def tensors(images: ImageSet) -> torch.Tensor:
    """All images of a set."""
    return torch.stack([images[index] for index in range(len(images))])


def test_a_folder_is_cropped_to_the_centre_and_resized(tmp_path: Path) -> None:
    (tmp_path / "nested").mkdir()
    wide = np.zeros((32, 64, 3), np.uint8)
    wide[:, 16:48] = 255  # the centred square is white
    Image.fromarray(wide).save(tmp_path / "nested/wide.png")
    images = ImageFolder(tmp_path, 16)
    assert len(images) == 1
    assert images.name(0) == "nested/wide"
    assert torch.equal(images[0], torch.ones(3, 16, 16))


def test_resizing_is_antialiased(tmp_path: Path) -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    assert ImageFolder(tmp_path, 16)[0].abs().max() < 0.1  # gray, not black or white


def test_a_folder_is_sorted_and_hidden_files_are_passed_over(folder: Path) -> None:
    assert list(ImageFolder(folder, 8).names) == [*NAMES, LONG]


def test_a_zip_file_equals_the_folder_it_was_made_of(folder: Path, zipped: Path) -> None:
    loose, packed = open_images(str(folder), 8), open_images(str(zipped), 8)
    assert list(packed.names) == list(loose.names)
    assert torch.equal(tensors(packed), tensors(loose))
    for index in range(len(loose)):
        assert packed.name(index) == loose.name(index)
        assert packed.sha256(index) == loose.sha256(index)
    assert packed.source(0) == zipped / "a/b.png"
    assert packed.folder is None
    assert list(packed.files()) == [zipped]


def test_shards_hold_the_images_of_the_folder(folder: Path, shards: str) -> None:
    loose, packed = open_images(str(folder), 8), open_images(shards, 8)
    assert torch.equal(tensors(packed), tensors(loose))
    assert [packed.name(index) for index in range(3)] == ["000/a/b", "000/a/c", "001/a-b/a"]
    assert [packed.sha256(index) for index in range(6)] == [loose.sha256(k) for k in range(6)]
    assert packed.source(0) == folder.parent / "shards/000.tar/a/b.png"
    assert [path.name for path in packed.files()] == ["000.tar", "001.tar", "002.tar"]


def test_shards_are_what_webdataset_reads(shards: str) -> None:
    webdataset = pytest.importorskip("webdataset")
    samples = list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False))
    images = open_images(shards, 8)
    assert len(samples) == len(images)
    for index, sample in enumerate(samples):
        content = next(sample[key] for key in ("png", "jpg", "webp") if key in sample)
        assert images.source(index).is_relative_to(sample["__url__"])
        assert images.name(index).endswith(sample["__key__"].removeprefix("./"))
        assert images._bytes(index) == content


def test_shards_can_be_given_by_pattern_and_alone(shards: str) -> None:
    several = open_images(shards, 8)
    matched = open_images(re.sub(r"{.*}", "*", shards), 8)
    assert list(matched.names) == list(several.names)
    assert matched.fingerprint() == several.fingerprint()
    alone = open_images(re.sub(r"{.*}", "001", shards), 8)
    assert list(alone.names) == list(several.names)[2:4]
    assert torch.equal(tensors(alone), tensors(several)[2:4])


@pytest.fixture(params=["folder", "zipped", "shards"])
def images(request: pytest.FixtureRequest) -> ImageSet:
    """One data set of every kind."""
    return open_images(str(request.getfixturevalue(request.param)), 8)


_given = []  # what a process of the next test was started with


def _give(images: ImageSet) -> None:
    _given.append(images)


def _sha256(index: int) -> str:
    return _given[-1].sha256(index)


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_other_processes_read_the_same(images: ImageSet, method: str) -> None:
    _ = images[0]  # what is open now, forked processes share
    context = multiprocessing.get_context(method)
    with context.Pool(2, initializer=_give, initargs=[images]) as pool:
        hashes = pool.map(_sha256, [*range(len(images))] * READS)
    assert hashes == [images.sha256(index) for index in range(len(images))] * READS


def test_a_copy_of_a_set_reads_the_same(images: ImageSet) -> None:
    _ = images[0]
    assert torch.equal(tensors(pickle.loads(pickle.dumps(images))), tensors(images))


@pytest.mark.parametrize("kind", ["folder", "zipped", "shards"])
def test_the_fingerprint_tells_contents_apart_and_not_places(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source = str(request.getfixturevalue(kind))
    before = open_images(source, 8).fingerprint()
    assert before["images"] == 6
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("images", "images.zip", "shards"):
        if (tmp_path / name).exists():
            os.rename(tmp_path / name, elsewhere / name)
    moved = source.replace(str(tmp_path), str(elsewhere))
    for path in elsewhere.rglob("*.*"):
        os.utime(path, (1, 1))
    assert open_images(moved, 16).fingerprint() == before


def test_the_fingerprint_of_a_folder_knows_names_and_sizes(folder: Path) -> None:
    before = ImageFolder(folder, 8).fingerprint()
    with open(folder / "d.PNG", "ab") as stream:
        stream.write(b"\0")
    longer = ImageFolder(folder, 8).fingerprint()
    (folder / "d.PNG").rename(folder / "c.PNG")
    renamed = ImageFolder(folder, 8).fingerprint()
    (folder / "c.PNG").unlink()
    fewer = ImageFolder(folder, 8).fingerprint()
    assert len({each["sha256"] for each in (before, longer, renamed, fewer)}) == 4
    assert fewer["images"] == 5


def test_the_fingerprint_of_a_zip_file_knows_contents(tmp_path: Path) -> None:
    prints = []
    for content in (b"one", b"two"):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr("a.png", content)
        prints.append(ZipImages(tmp_path / "a.zip", 8).fingerprint())
    assert prints[0] != prints[1]


def test_a_member_is_unpacked_no_further_than_it_says(tmp_path: Path) -> None:
    """A small file can unpack to one that fills the memory."""
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(50_000_000))
        archive.getinfo("a.png").file_size = 100
    tracemalloc.start()
    with pytest.raises(InputError, match=r"images\.zip/a\.png: damaged in the archive"):
        ZipImages(path, 8)[0]
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_a_damaged_member_is_named(zipped: Path) -> None:
    index = 1  # the stored one
    images = ZipImages(zipped, 8)
    content = bytearray(zipped.read_bytes())
    place = content.index((zipped.with_suffix("") / NAMES[index]).read_bytes())
    content[place + 40] ^= 255
    zipped.write_bytes(content)
    with pytest.raises(InputError, match=r"images\.zip/a/c\.jpg: damaged in the archive"):
        images[index]
    assert torch.equal(images[0], ZipImages(zipped, 8)[0])


def test_a_file_cut_off_after_it_was_listed_is_named(zipped: Path, shards: str) -> None:
    packed, sharded = open_images(str(zipped), 8), open_images(shards, 8)
    for path in (zipped, *sharded.files()):
        os.truncate(path, 100)
    for images in (packed, sharded):
        for index in range(len(images)):
            with pytest.raises(InputError, match=re.escape(f"{images.source(index)}: ")):
                images[index]


def test_a_file_deleted_after_it_was_listed_is_named(folder: Path) -> None:
    images = ImageFolder(folder, 8)
    (folder / "d.PNG").unlink()
    with pytest.raises(InputError, match=r"d\.PNG: cannot be read \(No such file"):
        images[3]


def write_zip(path: Path, content: bytes = b"", **options: int) -> Path:
    """A zip file with one member a.png."""
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("a.png", content)
    return path


def with_zip64_sizes(path: Path, **sizes: int) -> Path:
    """A zip file whose only member says in zip64 fields how large it is, or where it lies."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", b"x")
        for field, value in sizes.items():
            setattr(archive.getinfo("a.png"), field, value)
    return path


def bad_sources(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Sources that cannot be used, and what is said about them."""
    yield str(tmp_path / "absent.zip"), r"absent\.zip: no such file"
    (tmp_path / "text.zip").write_bytes(b"text")
    yield str(tmp_path / "text.zip"), r"text\.zip: not a readable zip file"
    with zipfile.ZipFile(tmp_path / "empty.zip", "w") as archive:
        archive.writestr("a.txt", b"")
    yield str(tmp_path / "empty.zip"), r"empty\.zip: holds no image"
    write_zip(tmp_path / "bz.zip", compression=zipfile.ZIP_BZIP2)
    yield str(tmp_path / "bz.zip"), r"bz\.zip/a\.png: compression method 12 is not supported"
    for field in ("file_size", "compress_size", "header_offset"):
        path = with_zip64_sizes(tmp_path / f"{field}.zip", **{field: (1 << 63) + 1})
        yield str(path), r"a\.png: .*(are none of a file|lies beyond)|not a readable zip file"
    for field in ("compress_size", "header_offset"):
        path = with_zip64_sizes(tmp_path / f"{field}.large.zip", **{field: 1 << 40})
        yield str(path), r"a\.png: lies beyond the end"
    secret = bytearray(write_zip(tmp_path / "secret.zip").read_bytes())
    secret[secret.index(b"PK\1\2") + 8] |= 1  # the flag of an encrypted member
    (tmp_path / "secret.zip").write_bytes(secret)
    yield str(tmp_path / "secret.zip"), r"secret\.zip/a\.png: is encrypted"
    newer = write_zip(tmp_path / "newer.zip").read_bytes()
    place = newer.index(b"PK\1\2") + 6  # the version that is needed to unpack it
    (tmp_path / "newer.zip").write_bytes(newer[:place] + b"\xff" + newer[place + 1 :])
    yield str(tmp_path / "newer.zip"), r"newer\.zip: not a readable zip file \(zip file version"


def test_unusable_zip_files_are_refused_in_one_line(tmp_path: Path) -> None:
    for source, message in bad_sources(tmp_path):
        with pytest.raises(InputError, match=message) as caught:
            open_images(source, 8)
        assert "\n" not in str(caught.value)


def test_unusable_shards_are_refused_in_one_line(tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    picture = png(3)
    tar(tmp_path / "000.tar", {"a.png": picture})
    tar(tmp_path / "empty.tar", {"a.cls": b"7"})
    tar(tmp_path / "two.tar", {"a.png": picture, "a.jpg": picture})
    tar(tmp_path / "twice.tar", {"a.png": picture, "./a.png": picture})
    (tmp_path / "text.tar").write_bytes(b"text")
    shutil.copy(tmp_path / "000.tar", tmp_path / "cut.tar")
    os.truncate(tmp_path / "cut.tar", 520)
    expected = {
        "absent.tar": r"absent\.tar: no such file",
        "{000..001}.tar": r"001\.tar: no such file",
        "no_*.tar": r"no_\*\.tar: there is no such file",
        "empty.tar": r"empty\.tar: holds no image",
        "two.tar": r"two\.tar: sample two/a has 2 images \(png, jpg\), one is needed",
        "twice.tar": r"twice\.tar: twice/a\.png: duplicate file name",
        "text.tar": r"text\.tar: not a readable, uncompressed tar file",
        "cut.tar": r"cut\.tar: not a readable, uncompressed tar file",
        "{000.tar": r"{000\.tar: a brace has no partner",
    }
    for pattern, message in expected.items():
        with pytest.raises(InputError, match=message) as caught:
            TarImages(str(tmp_path / pattern), 8)
        assert "\n" not in str(caught.value)


def test_shards_without_webdataset_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tar(tmp_path / "000.tar", {"a.png": png(3)})
    monkeypatch.setitem(sys.modules, "webdataset.tariterators", None)
    monkeypatch.setitem(sys.modules, "braceexpand", None)
    for pattern in ("000.tar", "*.tar"):
        with pytest.raises(InputError, match=r"pip install 'davi\[shards\]'"):
            open_images(str(tmp_path / pattern), 8)


def test_no_more_is_read_or_unpacked_than_an_image_may_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(10_000_000))
        archive.writestr("b.png", bytes(10_000_000))
        archive.infolist()[1].file_size = 100  # as the table of contents has it
    (tmp_path / "a.png").touch()
    os.truncate(tmp_path / "a.png", 10_000_000)
    monkeypatch.setattr(davi.data.image_sets, "MAX_BYTES", 1_000_000)
    zipped = ZipImages(tmp_path / "bomb.zip", 8)
    for images in (zipped, ImageFolder(tmp_path, 8)):
        with pytest.raises(InputError, match="10000000 bytes are too many for an image"):
            images[0]
    tracemalloc.start()
    with pytest.raises(InputError, match="damaged in the archive"):
        zipped[1]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1_000_000


def test_names_come_back_whatever_they_are() -> None:
    names = ["", "a/b.png", "\u00fc\u4e2d.png", os.fsdecode(b"caf\xe9.png")]
    packed = Names(names)
    assert list(packed) == names
    assert packed[-1] == names[-1]
    with pytest.raises(IndexError):
        packed[4]


def test_a_large_folder_costs_little_more_than_its_names(tmp_path: Path) -> None:
    names = [f"picture_{index:08d}.png" for index in range(20_000)]
    for name in names:
        os.close(os.open(tmp_path / name, os.O_CREAT))
    tracemalloc.start()
    images = ImageFolder(tmp_path, 8)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(images) == 20_000
    assert used < 20_000 * (len(names[0]) + 12)  # bytes; list of strings: 20_000 * 78


def test_a_member_too_large_for_an_image_spoils_no_other(tmp_path: Path) -> None:
    path = with_zip64_sizes(tmp_path / "large.zip", file_size=1 << 40)
    images = open_images(str(path), 8)
    with pytest.raises(InputError, match=r"a\.png: 1099511627776 bytes are too many for an image"):
        images[0]
