"""Pictures of kernels as a set of images."""

import pytest
import torch

from davi.data.batches import open_images
from davi.data.kernels import picture_of
from davi.operators.kernels import gaussian_kernel_2d
from davi.system.errors import InputError


def test_pictures_are_stretched_kernels_in_a_black_border() -> None:
    images = open_images("kernels:17:train", 20, 1)
    for index in range(12):
        picture = images[index]
        assert picture.shape == (1, 20, 20)
        assert picture.min() == -1
        assert picture.max() == 1
        inside = picture.clone()
        inside[:, 1:18, 1:18] = -1
        assert (inside == -1).all()


def test_the_middle_tap_lies_where_it_is_said_to() -> None:
    kernel = gaussian_kernel_2d(3, 0.5)[None, None]
    for size, middle in ((3, 1), (4, 1), (7, 3), (20, 9)):
        assert picture_of(kernel, size)[0, 0, middle, middle] == 1


def test_a_kernel_is_a_function_of_split_and_index() -> None:
    train, again = (open_images("kernels:17:train", 20, 1) for _ in range(2))
    assert torch.equal(train[7], again[7])
    assert not torch.equal(train[7], train[8])
    assert not torch.equal(train[7], open_images("kernels:17:held_out", 20, 1)[7])


@pytest.mark.parametrize("name", ["16:train", "17:test", "train", "x:train", "21:train"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"kernels:{name}"):
        open_images(f"kernels:{name}", 20, 1)
