"""Masks on disk: which pixels of a picture are kept."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from davi.data.measurement_files import read_mask
from davi.system.errors import InputError

CASES = {  # pixels of a row, and those that are kept
    "8 bits": (np.uint8([0, 255, 0]), [False, True, False]),
    "0 and 1": (np.uint8([0, 1, 0]), [False, True, False]),
    "0 and 1 of 16 bits": (np.uint16([1, 1, 0]), [True, True, False]),
    "two values without 0": (np.uint8([100, 200, 100]), [False, True, False]),
    "shades": (np.uint8([0, 3, 127, 128, 252, 255]), [False, False, False, True, True, True]),
}


def written(pixels: np.ndarray, path: Path) -> Path:
    Image.fromarray(np.stack([pixels, pixels])).save(path)
    return path


@pytest.mark.parametrize("case", CASES)
def test_white_is_kept(case: str, tmp_path: Path) -> None:
    pixels, kept = CASES[case]
    mask = read_mask(written(pixels, tmp_path / "mask.png"), (2, len(kept)))
    assert mask.tolist() == [kept, kept]


def test_a_bilevel_or_coloured_picture_is_a_mask_too(tmp_path: Path) -> None:
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "bilevel.png")
    Image.fromarray(np.uint8([[[1] * 3, [0] * 3]])).save(tmp_path / "coloured.png")
    for name in ("bilevel", "coloured"):
        assert read_mask(tmp_path / f"{name}.png").tolist() == [[True, False]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, 0], "keeps no pixel; white"),
        ([0, 1, 2], "keeps no pixel; white"),
        ([255, 255], "keeps every pixel; white"),
        ([1, 1], "keeps no pixel; white"),
        ([200, 255], "keeps every pixel; white"),
    ],
)
def test_a_mask_that_keeps_nothing_or_everything_is_refused(
    values: list[int], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=rf"mask\.png: mask that {message}"):
        read_mask(written(np.uint8(values), tmp_path / "mask.png"))


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="mask of 2x3, images are 3x2"):
        read_mask(written(np.uint8([0, 9, 9]), tmp_path / "mask.png"), (3, 2))
