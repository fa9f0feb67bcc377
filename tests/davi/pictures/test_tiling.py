"""Pieces of pictures: they cover it, leave no seam, and their order does not matter."""

import numpy as np
import pytest
import torch

from davi.pictures.tiling import Cuts, Tiling, mirrored

LENGTHS = [(length, size) for size in (1, 2, 3, 8, 13, 64) for length in range(size, 5 * size + 2)]


def test_weights_of_all_pieces_add_up_to_one_and_two_pieces_meet_at_most() -> None:
    for length, size in LENGTHS:
        cuts = Cuts.of(length, size)
        total, count = torch.zeros(length), torch.zeros(length)
        for number, start in enumerate(cuts.starts):
            weights = cuts.weights(number)
            total[start : start + size] += weights
            count[start : start + size] += weights > 0
        torch.testing.assert_close(total, torch.ones(length), rtol=0, atol=2e-7)
        assert count.max() <= 2, (length, size)


def test_neighbours_overlap_by_a_quarter_and_one_piece_less_would_not_do() -> None:
    for length, size in LENGTHS:
        starts = Cuts.of(length, size).starts
        overlap = min(max(size // 4, 1), size - 1)
        assert starts[0] == 0
        assert starts[-1] + size == length
        assert all(np.diff(starts) <= size - overlap)
        assert len(starts) == 1 or size + (len(starts) - 2) * (size - overlap) < length


def test_pieces_of_a_picture_are_that_picture_again() -> None:
    picture = torch.rand(3, 37, 50, generator=torch.Generator().manual_seed(0))
    tiling = Tiling.of((37, 50), (16, 8))
    pieces = list(tiling.pieces(picture))
    assert len(pieces) == len(tiling) == 3 * 8
    assert {piece.shape for piece in pieces} == {(3, 16, 8)}
    torch.testing.assert_close(tiling.blend(pieces), picture, rtol=0, atol=2e-7)


def test_a_step_between_two_pieces_becomes_a_ramp_in_the_middle_of_their_overlap() -> None:
    """Pieces of 16 on 28 pixels: starts 0 and 12, an overlap of 4, a ramp from 12 to 16."""
    tiling = Tiling.of((16, 28), (16, 16))
    blended = tiling.blend([torch.zeros(1, 16, 16), torch.ones(1, 16, 16)])
    expected = torch.tensor([0.0] * 12 + [0.125, 0.375, 0.625, 0.875] + [1.0] * 12)
    assert torch.equal(blended, expected.expand(1, 16, 28))


@pytest.mark.parametrize("sides", ["rows", "columns"])
def test_the_order_of_rows_and_columns_changes_no_bit(sides: str) -> None:
    """The same pieces, numbered from the other end of the picture, give its mirror image."""
    axis = {"rows": 1, "columns": 2}[sides]
    tiling = Tiling.of((40, 64), (16, 16))
    rows, columns = len(tiling.rows.starts), len(tiling.columns.starts)
    pieces = torch.randn(rows, columns, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    turned = pieces.flip(axis - 1).flip(axis + 2)
    blended = tiling.blend(turned.flatten(0, 1)).flip(axis)
    assert torch.equal(blended, tiling.blend(pieces.flatten(0, 1)))


def test_cuts_of_a_finer_grid_lie_at_the_same_places() -> None:
    tiling = Tiling.of((50, 30), (16, 16)).scaled((4, 2))
    assert tiling.size == (200, 60)
    assert tiling.rows.starts == tuple(4 * start for start in Cuts.of(50, 16).starts)
    assert tiling.columns.size == 32


def test_a_small_picture_is_mirrored_without_its_border() -> None:
    row = torch.tensor([1.0, 2.0, 3.0])[None, None]
    expected = torch.tensor([1.0, 2, 3, 2, 1, 2, 3, 2])
    assert torch.equal(mirrored(row, (1, 8)), expected[None, None])
    assert torch.equal(mirrored(row.mT, (8, 1)), expected[None, :, None])
    assert torch.equal(mirrored(row, (2, 2)), row.expand(1, 2, 3))
    assert mirrored(row, (1, 3)) is row
    reference = np.pad(np.arange(24.0).reshape(2, 3, 4), ((0, 0), (0, 2), (0, 3)), "reflect")
    assert torch.equal(
        mirrored(torch.arange(24.0).reshape(2, 3, 4), (5, 7)), torch.from_numpy(reference).float()
    )
