"""`davi sample --interval` and `--calibrate`, the way a user runs them."""

import json
from pathlib import Path

import numpy as np
import pytest

from davi.data.images import load_image, to_uint8
from davi.metrics.uncertainty import Calibration
from tests.conftest import REPOSITORY, contents
from tests.tiny import write_tiny_generator

TINY = REPOSITORY / "configs/tiny.yaml"


@pytest.fixture(scope="module")
def generator(tiny_prior: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_generator(tmp_path_factory.mktemp("w") / "g.safetensors", tiny_prior)


@pytest.fixture
def known(command: object, tmp_path: Path) -> Path:
    """Six measurements with their truth."""
    command(
        *("degrade", TINY, "--input", "photos:held_out", "--num-images", 6),
        *("--output", tmp_path / "known"),
    )
    return tmp_path / "known"


@pytest.fixture
def sample(generator: Path, known: Path) -> tuple:
    return ("sample", "--checkpoint", generator, "--input", known, "--num-samples", 4)


def test_an_interval_is_written_exactly_and_as_pictures(
    command: object, sample: tuple, tmp_path: Path
) -> None:
    output = tmp_path / "o"
    code, text = command(*sample, "--output", output, "--interval", 0.6)  # lowest and highest
    assert code == 0, text
    name = next((output / "low").glob("*.npy")).stem
    low, high = (np.load(output / folder / f"{name}.npy") for folder in ("low", "high"))
    assert (low <= high).all()
    samples = [load_image(output / f"sample_{k:03d}/{name}.png") for k in range(4)]
    np.testing.assert_allclose(low, np.min(samples, axis=0), atol=0.005)
    np.testing.assert_allclose(high, np.max(samples, axis=0), atol=0.005)
    picture = load_image(output / f"low/{name}.png")
    assert np.abs(to_uint8(picture).numpy() - (low + 1) * 127.5).max() <= 0.51
    command(*sample, "--output", tmp_path / "plain")  # all else is the same without it
    plain = contents(tmp_path / "plain")
    assert plain.items() <= contents(output).items()


def test_a_calibration_is_kept_and_used_again(
    command: object, sample: tuple, known: Path, tmp_path: Path
) -> None:
    words = (*sample, "--interval", 0.8, "--output", tmp_path / "o")
    code, text = command(*words, "--calibrate", known)
    assert code == 0, text
    found = Calibration.load(tmp_path / "o/calibration.json")
    assert "now " in text
    assert found.coverage_after >= 0.8
    assert (found.num_images, found.num_samples, found.level) == (6, 4, 0.8)
    assert found.measured["noise"]["sigma"] == 0.05
    before = contents(tmp_path / "o")
    code, text = command(*words, "--calibrate", known)
    assert "0 restored, 6 done before" in text
    again = (*words[:-1], tmp_path / "again", "--calibrate", tmp_path / "o/calibration.json")
    assert command(*again)[0] == 0
    assert contents(tmp_path / "again") == before
    assert Calibration.load(tmp_path / "again/calibration.json") == found
    code, text = command(*again, "--num-samples", 5)
    assert code == 2
    assert "num_samples: 4 -> 5" in text


def test_a_folder_keeps_its_level(command: object, sample: tuple, tmp_path: Path) -> None:
    words = (*sample, "--output", tmp_path / "o")
    assert command(*words)[0] == 0
    code, text = command(*words, "--interval", 0.5)
    assert code == 2
    assert "interval: None -> 0.5" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--interval", "0.9"), "needs at least 19 samples of each measurement, or a calibration"),
        (("--interval", "90"), "must lie between 0 and 1"),
        (("--calibrate", "KNOWN"), "add --interval LEVEL"),
        (("--interval", "0.9", "--calibrate", "KNOWN"), "at least 9 images with known truth"),
        (("--interval", "0.8", "--calibrate", "EMPTY"), "is no folder of davi degrade"),
        (("--interval", "0.8", "--calibrate", "BAD"), "damaged"),
        (("--interval", "0.8", "--calibrate", "ABSENT"), "cannot be read"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    command: object, sample: tuple, known: Path, tmp_path: Path, words: tuple, message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.json").write_text(json.dumps({"level": 0.8}))
    places = {"KNOWN": known, "EMPTY": tmp_path / "empty", "BAD": tmp_path / "bad.json"}
    places["ABSENT"] = tmp_path / "absent.json"
    code, text = command(
        *sample, "--output", tmp_path / "o", *(places.get(word, word) for word in words)
    )
    assert code == 2
    assert message in text.strip().splitlines()[-1]
    assert not (tmp_path / "o").exists()
