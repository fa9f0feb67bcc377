"""Cuts a picture into overlapping pieces of one size and blends what became of them.

Along each side at most two pieces have a say in a pixel, and a + b = b + a holds in floating point:
the order of the pieces in a row, and that of the rows, changes no bit.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

OVERLAP = 4  # pieces overlap by the fourth part of their side, or more


@dataclass(frozen=True)
class Cuts:
    """How one side of a picture is cut.

    Attributes:
        size: of the pieces.
        starts: where they begin, rising from 0.
        overlap: of neighbours in pixels, at least; over so many one gives way to the other.
    """

    size: int
    starts: tuple[int, ...]
    overlap: int

    @classmethod
    def of(cls, length: int, size: int) -> "Cuts":
        """Returns as few pieces as will overlap enough, spread evenly.

        Args:
            length: of the side, at least `size`.
            size: of the pieces.
        """
        overlap = min(max(size // OVERLAP, 1), size - 1)
        gaps = math.ceil((length - size) / (size - overlap))
        starts = [(length - size) * number // max(gaps, 1) for number in range(gaps + 1)]
        return cls(size, tuple(starts), overlap)

    def scaled(self, factor: int) -> "Cuts":
        """Returns the same cuts on a grid of so many times the pixels."""
        starts = tuple(factor * start for start in self.starts)
        return Cuts(factor * self.size, starts, factor * self.overlap)

    @property
    def length(self) -> int:
        """The length of the side."""
        return self.starts[-1] + self.size

    def weights(self, number: int) -> Tensor:
        """Returns the weight of a piece's pixels, (size,) float32; those of all pieces add up to 1.

        Args:
            number: of the piece.
        """
        weights = torch.ones(self.size, dtype=torch.float32)
        if number > 0:
            weights *= self._rise(number, self.starts[number])
        if number + 1 < len(self.starts):
            weights *= 1 - self._rise(number + 1, self.starts[number])
        return weights

    def _rise(self, number: int, first: int) -> Tensor:
        """From 0 to 1 where a piece takes over from the one before, in the pixels from `first` on.

        In the middle of their overlap, of float64 so that no rounding is left in float32.
        """
        centre = (self.starts[number] + self.starts[number - 1] + self.size) / 2
        position = torch.arange(self.size, dtype=torch.float64) + (0.5 + first - centre)
        return (position / self.overlap + 0.5).clamp(0, 1)


@dataclass(frozen=True)
class Tiling:
    """The pieces of a picture.

    Attributes:
        rows: cuts of its height.
        columns: cuts of its width.
    """

    rows: Cuts
    columns: Cuts

    @classmethod
    def of(cls, size: Sequence[int], piece: Sequence[int]) -> "Tiling":
        """Returns the pieces of a size (h, w) of a picture of a size (H, W) that is no smaller."""
        return cls(*map(Cuts.of, size, piece))

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the picture."""
        return self.rows.length, self.columns.length

    def scaled(self, factors: Sequence[int]) -> "Tiling":
        """Returns the same pieces on a grid of so many times the pixels, by height and width."""
        return Tiling(self.rows.scaled(factors[0]), self.columns.scaled(factors[1]))

    def __len__(self) -> int:
        return len(self.rows.starts) * len(self.columns.starts)

    def pieces(self, picture: Tensor) -> Iterator[Tensor]:
        """Yields the pieces (C, h, w) of a picture (C, H, W), row by row."""
        for top in self.rows.starts:
            for left in self.columns.starts:
                yield picture[:, top : top + self.rows.size, left : left + self.columns.size]

    def blend(self, pieces: Iterable[Tensor]) -> Tensor:
        """Returns the picture (C, H, W) of pieces (C, h, w), which come row by row."""
        pieces, picture = iter(pieces), None
        across = [self.columns.weights(number) for number in range(len(self.columns.starts))]
        for number, top in enumerate(self.rows.starts):
            band = None
            for weights, left in zip(across, self.columns.starts, strict=True):
                piece = next(pieces)
                if band is None:
                    band = piece.new_zeros(*piece.shape[:2], self.columns.length)
                band[:, :, left : left + self.columns.size] += weights * piece
            if picture is None:
                picture = band.new_zeros(len(band), self.rows.length, self.columns.length)
            picture[:, top : top + self.rows.size] += self.rows.weights(number)[:, None] * band
        return picture


def mirrored(picture: Tensor, size: Sequence[int]) -> Tensor:
    """Returns a picture (C, H, W) that is at least of a size, continued by its mirror image.

    The border pixel itself is not repeated, as long as there is another one.
    """
    for axis, wanted in zip((1, 2), size, strict=True):
        length = picture.shape[axis]
        if length < wanted:
            period = max(2 * length - 2, 1)
            place = torch.arange(wanted, device=picture.device) % period
            picture = picture.index_select(axis, torch.minimum(place, period - place))
    return picture
