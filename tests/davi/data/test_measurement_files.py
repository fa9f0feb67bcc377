"""Masks and measurements on disk: what a file means."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from davi.data.measurement_files import read_mask, read_measurement
from davi.operators.linear import LinearOperator
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


class Anything(LinearOperator):
    """An operator of which only the shapes matter."""

    def A(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    A_adjoint = A


@pytest.mark.parametrize(
    ("stored", "shape"),
    [
        ((5,), (5,)),
        ((1, 5), (5,)),
        ((4, 5), (4, 5)),
        ((1, 4, 5), (4, 5)),
        ((4, 5), (1, 4, 5)),
        ((1, 3, 4, 5), (3, 4, 5)),
        ((2, 3, 4, 5), (2, 3, 4, 5)),
    ],
)
def test_an_array_is_a_measurement_of_any_shape(
    stored: tuple[int, ...], shape: tuple[int, ...], tmp_path: Path
) -> None:
    y = np.random.default_rng(0).random(stored)
    np.save(tmp_path / "y.npy", y)
    found = read_measurement(tmp_path / "y.npy", Anything((1, 8, 8), shape))
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), y.reshape(shape).astype(np.float32))


def test_an_operator_says_how_large_its_measurements_are(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", np.full(5, 20.0))
    operator = Anything((1, 8, 8), (5,))
    with pytest.raises(InputError, match="values up to 20"):
        read_measurement(tmp_path / "y.npy", operator)
    operator.largest_value = 30.0
    assert read_measurement(tmp_path / "y.npy", operator).max() == 20
    np.save(tmp_path / "y.npy", np.zeros(5))
    with pytest.raises(InputError, match="measurement is 5, 6 needed"):
        read_measurement(tmp_path / "y.npy", Anything((1, 8, 8), (6,)))
