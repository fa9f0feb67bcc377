"""Pictures of pictures."""

import torch

from davi.data.panel import SPACING, image_grid, titled_grid


def test_rows_become_one_picture_and_small_gray_batches_fit_in() -> None:
    large, small = torch.rand(3, 3, 8, 8) * 2 - 1, torch.full((3, 1, 4, 4), -1.0)
    grid = image_grid([large, small])
    assert grid.shape == (3, 2 * (8 + SPACING) + SPACING, 3 * (8 + SPACING) + SPACING)
    first = slice(SPACING, SPACING + 8)
    torch.testing.assert_close(grid[:, first, first], large[0])
    second = slice(2 * SPACING + 8, 2 * SPACING + 16)
    assert (grid[:, second, first] == -1).all()


def test_long_titles_are_not_cut() -> None:
    images = torch.zeros(2, 3, 16, 16)
    title = "a title that is longer than the images are wide"
    picture = titled_grid({title: images, "b": images}, scale=2)
    text = picture[:, :, : -image_grid([images, images]).shape[2] * 2]
    assert (text < 0).any()
    assert (text[:, :, :5] == 1).all()  # the margin is white
    assert (picture[:, SPACING + 3, -SPACING - 3].abs() < 0.01).all()  # an image
