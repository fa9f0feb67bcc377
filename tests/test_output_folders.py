"""Output folders of the commands: content counts, nothing is overwritten, a fault is a line."""

import csv
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import REPOSITORY, contents
from tests.davi.system.test_files import full_disk
from tests.processes import TIMEOUT
from tests.test_nothing_lost import start
from tests.tiny import write_tiny_generator

TINY = REPOSITORY / "configs/tiny.yaml"
Command = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def generator(tiny_prior: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("w") / "g.safetensors"
    return write_tiny_generator(path, tiny_prior, "operator={name: inpainting, box_size: 8}")


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def mask(path: Path, column: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((16, 16), 255, np.uint8)
    pixels[:, column] = 0
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(params=["sample", "degrade", "prepare"])
def job(request: pytest.FixtureRequest, command: Command, generator: Path) -> Command:
    """Returns run(input, output, ...) of a command that makes one picture or more of each."""
    words = {
        "sample": ("--checkpoint", generator, "--num-samples", 2),
        "degrade": (TINY, "--baselines"),
        "prepare": ("--size", 16, "--num-workers", 1),
    }[request.param]
    return lambda source, output, *more: command(
        request.param, *words, "--input", source, "--output", output, *more
    )


def test_the_content_of_a_mask_decides_not_its_path(
    command: Command, generator: Path, tmp_path: Path
) -> None:
    picture(tmp_path / "in/a.png")
    first, copy = mask(tmp_path / "m.png", 3), tmp_path / "other/m.png"
    copy.parent.mkdir()
    shutil.copy(first, copy)
    sample = ("sample", "--checkpoint", generator, "--input", tmp_path / "in")
    degrade = ("degrade", TINY, "--input", tmp_path / "in")
    operator = "operator={{name: inpainting, mask: file, path: {}}}"
    for name, words in (
        ("s", lambda path: (*sample, "--mask", path)),
        ("d", lambda path: (*degrade, "--set", operator.format(path))),
    ):
        mask(first, 3)
        output = ("--output", tmp_path / name)
        assert command(*words(first), *output)[0] == 0
        assert "1 done before" in command(*words(copy), *output)[1]
        mask(first, 4)
        code, text = command(*words(first), *output)
        assert code == 2
        assert "was written with other settings" in text
        assert "mask_sha256: '" in text


def test_a_changed_mask_of_one_image_changes_that_image(
    command: Command, generator: Path, tmp_path: Path
) -> None:
    for name in "ab":
        picture(tmp_path / f"in/{name}.png")
        mask(tmp_path / f"masks/{name}.png", 3)
    words = ("sample", "--checkpoint", generator, "--input", tmp_path / "in", "--output")
    words = (*words, tmp_path / "o", "--mask", tmp_path / "masks")
    command(*words)
    before = contents(tmp_path / "o")
    assert "0 restored, 2 done before" in command(*words)[1]
    mask(tmp_path / "masks/a.png", 4)
    assert "1 restored, 1 done before" in command(*words)[1]
    after = contents(tmp_path / "o")
    assert [name for name in before if before[name] != after[name]] == ["a.png"]


def test_whatever_is_missing_or_empty_is_made_again(job: Command, tmp_path: Path) -> None:
    picture(tmp_path / "in/a.png")
    output = tmp_path / "o"
    assert job(tmp_path / "in", output)[0] == 0
    made = {
        path: path.read_bytes() for suffix in ("png", "npy") for path in output.rglob(f"*.{suffix}")
    }
    for path in made:
        path.unlink()
        assert job(tmp_path / "in", output)[0] == 0
        assert {path: path.read_bytes() for path in made} == made
    path.write_bytes(b"")
    assert job(tmp_path / "in", output)[0] == 0
    assert path.read_bytes() == made[path]


def test_another_file_of_the_same_name_overwrites_nothing(job: Command, tmp_path: Path) -> None:
    first, second = picture(tmp_path / "pa/x.png", 1), picture(tmp_path / "pb/x.png", 2)
    output = tmp_path / "o"
    assert job(first.parent, output)[0] == 0
    before = contents(output)
    code, text = job(second.parent, output)
    assert code == 1
    assert "another file of this name" in text
    assert contents(output) == before
    shutil.copy(first, second)  # the same content is the same file
    assert "1 done before, 0 failed" in job(second.parent, output)[1]


def test_one_result_that_cannot_be_written_stops_no_other(job: Command, tmp_path: Path) -> None:
    source = tmp_path / "in"
    names = ("x.jpg", "x.png/y.png", "w.png/y.png", "w.tif", f"{'n' * 251}.png", "z.png")
    for name in names:  # of the first two one cannot be, and of the next two one
        picture(source / name)
    for counts in (r"4 [a-z ]+, 2 failed", r"0 [a-z ]+, 4 done before, 2 failed"):
        code, text = job(source, tmp_path / "o")
        assert code == 1
        assert re.search(counts, text), text
    failed = [line for line in text.splitlines() if line.startswith("  failed: ")]
    failed = sorted(line.split(": ")[1] for line in failed)
    assert failed[0] in (f"{source}/w.tif", f"{source}/w.png/y.png")
    assert failed[1] in (f"{source}/x.jpg", f"{source}/x.png/y.png")


def test_a_picture_in_the_way_stops_no_drawing(
    command: Command, tiny_prior: Path, tmp_path: Path
) -> None:
    words = ("generate", tiny_prior, "--output", tmp_path / "o", "--num-steps", 2, "--num-images")
    command(*words, 1)
    (tmp_path / "o/000/000001.png").mkdir()
    code, text = command(*words, 3)
    assert code == 1
    assert "1 images drawn, 1 done before, 1 failed" in text
    assert f"  failed: [Errno 21] Is a directory: '{tmp_path}/o/000/000001.png'" in text


def test_names_that_are_no_utf8_are_worked_on_and_scored(
    command: Command, job: Command, tmp_path: Path
) -> None:
    source, name = tmp_path / "in", os.fsdecode(b"gr\xfc\xdfe")
    picture(source / f"{name}.png")
    assert job(source, tmp_path / "o")[0] == 0
    assert "1 done before" in job(source, tmp_path / "o")[1]
    words = ("--restored", source, "--reference", source, "--output", tmp_path / "scores")
    assert command("evaluate", *words, "--metrics", "psnr,ssim")[0] == 0
    with open(tmp_path / "scores/per_image.csv", encoding="utf-8", newline="") as stream:
        assert [row[0] for row in csv.reader(stream)] == ["name", "gr\\udcfc\\udcdfe"]


@pytest.fixture
def words_of(generator: Path, tiny_prior: Path, tmp_path: Path) -> dict[str, tuple]:
    """What every command that writes is told, without its --output."""
    source = picture(tmp_path / "in/a.png").parent
    return {
        "sample": ("--checkpoint", generator, "--input", source),
        "degrade": (TINY, "--input", source),
        "prepare": ("--input", source, "--size", 16, "--num-workers", 1),
        "generate": (tiny_prior, "--num-images", 1, "--num-steps", 1),
        "evaluate": ("--reference", source, "--restored", source, "--metrics", "psnr"),
        "import": (generator,),
    }


AT_ONCE = [
    (name, 20) for name in ("sample", "degrade", "prepare", "generate", "evaluate", "import")
]
AT_THE_PICTURE = [(name, 600) for name in ("sample", "degrade", "prepare")]


@pytest.mark.parametrize(("name", "limit"), AT_ONCE + AT_THE_PICTURE)
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    name: str, limit: int, words_of: dict[str, tuple], command: Command, tmp_path: Path
) -> None:
    output = tmp_path / ("o.safetensors" if name == "import" else "o")
    words = (name, *words_of[name], "--output", output)
    with full_disk(limit):
        code, text = command(*words)
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    assert code == 2
    assert f"error: {tmp_path}" in line
    assert "cannot be written to (File too large); " in line
    assert "Make room and give the same command again" in line
    assert not list(tmp_path.rglob("*.tmp"))
    assert command(*words)[0] == 0


@pytest.mark.slow
def test_of_commands_that_begin_together_one_does_the_work(generator: Path, tmp_path: Path) -> None:
    for number in range(40):
        picture(tmp_path / f"in/{number:02d}.png", number)
    words = ["-m", "davi", "sample", "--checkpoint", str(generator), "--device", "cpu"]
    words += ["--input", str(tmp_path / "in"), "--output", str(tmp_path / "o")]
    jobs = [start([*words, "--num-samples", "8"]) for _ in range(3)]
    texts = [job.communicate(timeout=TIMEOUT)[0] for job in jobs]
    assert {job.returncode for job in jobs} <= {0, 2}
    for job, text in zip(jobs, texts, strict=True):
        if job.returncode:
            assert "error: " in text
            assert "another command is working there" in text
        else:
            assert "0 failed" in text
    assert len(contents(tmp_path / "o")) == 40 * 10
    lines = (tmp_path / "o/manifest.jsonl").read_text().splitlines()[1:]
    assert sorted(json.loads(line)["name"] for line in lines) == [
        f"{number:02d}" for number in range(40)
    ]
