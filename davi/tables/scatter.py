"""What a chart shows: a dot for every image and method, and round values on its axes."""

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from statistics import fmean

from davi.tables.layout import Layout
from davi.tables.result import Cell

STEPS = (1, 2, 5, 10)
ABSCISSA, ORDINATES = "psnr", ("lpips", "ssim")  # the first of these that was measured

Dots = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """The dots of a task.

    Attributes:
        ordinate: the metric beside PSNR.
        dots: {row: {image: (PSNR, the other metric)}}, of the rows that have dots.
    """

    ordinate: str
    dots: dict[str, Dots]

    @property
    def means(self) -> dict[str, Dots]:
        """A dot for each row, named after the number of its images."""
        return {
            row: {f"mean of {len(of)}": tuple(map(fmean, zip(*of.values(), strict=True)))}
            for row, of in self.dots.items()
        }

    @property
    def values(self) -> tuple[Collection[float], Collection[float]]:
        """All abscissas, and all ordinates."""
        return tuple(zip(*(pair for of in self.dots.values() for pair in of.values()), strict=True))


def scatter(layout: Layout, column: str) -> Chart | None:
    """Returns a task's chart, None without dots."""
    for ordinate in ORDINATES:
        dots = {row: _dots(layout.cell(row, column), ordinate) for row in layout.result.rows}
        if any(dots.values()):
            return Chart(ordinate, {row: of for row, of in dots.items() if of})
    return None


class Axis:
    """Places of values on the page, and round values to label.

    Args:
        values: all that are shown.
        start, end: of the axis on the page.
    """

    def __init__(self, values: Collection[float], start: float, end: float) -> None:
        low, high = min(values), max(values)
        margin = 0.04 * (high - low) or 0.5
        self.low, self.high, self.start, self.end = low - margin, high + margin, start, end

    def __call__(self, value: float) -> float:
        """Returns the place of a value."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> Iterator[tuple[float, str]]:
        """Yields up to nine round values, each with its label."""
        rough = (self.high - self.low) / 9
        power = math.floor(math.log10(rough))
        step = next(factor for factor in STEPS if factor * 10**power >= rough) * 10**power
        for multiple in range(math.ceil(self.low / step), math.floor(self.high / step) + 1):
            yield multiple * step, f"{multiple * step:.{max(0, -power)}f}"


def _dots(cell: Cell, ordinate: str) -> Dots:
    pairs = {
        image: (values.get(ABSCISSA, math.nan), values.get(ordinate, math.nan))
        for image, values in cell.per_image.items()
    }
    return {image: pair for image, pair in pairs.items() if all(map(math.isfinite, pair))}
