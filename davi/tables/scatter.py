"""A chart with a dot for every image and method, as SVG without a script."""

import math
from collections.abc import Iterator
from html import escape

from davi.tables.layout import Layout, heading, rounded

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 44  # margins for the axes' labels
STEPS = (1, 2, 5, 10)
ABSCISSA, ORDINATES = "psnr", ("lpips", "ssim")  # the first of these that was measured

Dots = dict[str, tuple[float, float]]


def scatter(layout: Layout, column: str, number: int) -> str:
    """Returns a task's chart with its legend, which switches methods on and off; "" without dots.

    Args:
        layout: the table.
        column: id of the task.
        number: of the task, for ids that are unique in the page.
    """
    for ordinate in ORDINATES:
        dots = {row: _dots(layout, row, column, ordinate) for row in layout.result.rows}
        if any(dots.values()):
            return _chart(layout, {row: of for row, of in dots.items() if of}, ordinate, number)
    return ""


def _dots(layout: Layout, row: str, column: str, ordinate: str) -> Dots:
    cell = layout.result.cells.get((row, column))
    pairs = {
        image: (values.get(ABSCISSA, math.nan), values.get(ordinate, math.nan))
        for image, values in (cell.per_image if cell else {}).items()
    }
    return {image: pair for image, pair in pairs.items() if all(map(math.isfinite, pair))}


def _chart(layout: Layout, dots: dict[str, Dots], ordinate: str, number: int) -> str:
    index = {row: position for position, row in enumerate(layout.result.rows)}
    names = {row: escape(layout.result.rows[row]) for row in dots}
    legend = "".join(
        f'<input type="checkbox" checked class="k{index[row]}" id="k{number}-{index[row]}">'
        f'<label class="m{index[row]}" for="k{number}-{index[row]}">{name}</label>'
        for row, name in names.items()
    )
    x = _Axis([pair[0] for of in dots.values() for pair in of.values()], LEFT, WIDTH - RIGHT)
    y = _Axis([pair[1] for of in dots.values() for pair in of.values()], HEIGHT - BOTTOM, TOP)
    means = {row: {f"mean of {len(of)}": _mean(of)} for row, of in dots.items()}
    groups = "\n".join(
        f'<g class="{looks}m{index[row]}">{"".join(_circles(names[row], of, ordinate, x, y))}</g>'
        for looks, layer in (("", dots), ("mean ", means))  # the means on top of all dots
        for row, of in layer.items()
    )
    title = f"{heading(ABSCISSA)} and {heading(ordinate)} of every image"
    return (
        f'<div class="chart">{legend}\n<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{title}">\n{_axes(x, y, ordinate)}\n{groups}\n</svg></div>'
    )


class _Axis:
    """Places of values on the page, and round values to label."""

    def __init__(self, values: list[float], start: float, end: float) -> None:
        low, high = min(values), max(values)
        margin = 0.04 * (high - low) or 0.5
        self.low, self.high, self.start, self.end = low - margin, high + margin, start, end

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> Iterator[tuple[float, str]]:
        """Yields up to nine round values, each with its label."""
        rough = (self.high - self.low) / 9
        power = math.floor(math.log10(rough))
        step = next(factor for factor in STEPS if factor * 10**power >= rough) * 10**power
        for multiple in range(math.ceil(self.low / step), math.floor(self.high / step) + 1):
            yield multiple * step, f"{multiple * step:.{max(0, -power)}f}"


def _axes(x: _Axis, y: _Axis, ordinate: str) -> str:
    parts = []
    for value, label in x.ticks():
        at = x(value)
        parts.append(f'<line x1="{at}" x2="{at}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(
            f'<text x="{at}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{label}</text>'
        )
    for value, label in y.ticks():
        at = y(value)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4}" text-anchor="end">{label}</text>')
    middle = f"{(LEFT + WIDTH - RIGHT) / 2:g}", f"{(TOP + HEIGHT - BOTTOM) / 2:g}"
    parts.append(
        f'<text x="{middle[0]}" y="{HEIGHT - 6}" text-anchor="middle">{heading(ABSCISSA)}</text>'
        f'<text x="12" y="{middle[1]}" text-anchor="middle" '
        f'transform="rotate(-90 12 {middle[1]})">{heading(ordinate)}</text>'
    )
    return "".join(parts)


def _mean(dots: Dots) -> tuple[float, float]:
    x, y = (sum(values) / len(dots) for values in zip(*dots.values(), strict=True))
    return x, y


def _circles(name: str, dots: Dots, ordinate: str, x: _Axis, y: _Axis) -> Iterator[str]:
    for image, pair in dots.items():
        shown = f"{rounded(pair[0], ABSCISSA)} dB, {rounded(pair[1], ordinate)}"
        yield (
            f'<circle cx="{x(pair[0])}" cy="{y(pair[1])}">'
            f"<title>{name}, {escape(image)}: {shown}</title></circle>"
        )
