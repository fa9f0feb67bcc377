"""The pictures of a task, each within the page itself."""

import base64
from collections.abc import Iterator
from html import escape
from pathlib import Path

from davi.tables.layout import Layout, rounded

VIEWS = {"restored": "Restoration", "mean": "Posterior mean", "std": "Posterior std"}


def gallery(layout: Layout, column: str, number: int) -> str:
    """Returns reference, measurement and every method's restoration of each example.

    Where several samples were drawn, three buttons choose between a restoration, the mean and the
    standard deviation.

    Args:
        layout: the table.
        column: id of the task.
        number: of the task, for ids that are unique in the page.
    """
    truth = layout.result.truth.get(column, {})
    images = list(truth.get("reference", {}))
    if not images:
        return ""
    figures = {image: "\n".join(_figures(layout, column, image)) for image in images}
    has_samples = any('class="mean"' in of for of in figures.values())
    parts = [_buttons(number) if has_samples else ""]
    parts += [
        f'<div class="image"><h3>{escape(image)}</h3><div class="grid">\n{of}\n</div></div>'
        for image, of in figures.items()
    ]
    return f'<div class="examples">{"".join(parts)}</div>'


def _buttons(number: int) -> str:
    return "".join(
        f'<input type="radio" name="view{number}" id="{view}{number}" class="show-{view}"'
        f"{' checked' if view == 'restored' else ''}>"
        f'<label for="{view}{number}">{title}</label>'
        for view, title in VIEWS.items()
    )


def _figures(layout: Layout, column: str, image: str) -> Iterator[str]:
    for kind, pictures in layout.result.truth[column].items():
        if image in pictures:
            yield _figure(_picture(pictures[image], f"{kind} of {image}"), kind.capitalize())
    for row, label in layout.result.rows.items():
        cell = layout.result.cells.get((row, column))
        restored = cell.pictures.get("restored", {}) if cell else {}
        if image not in restored:
            continue
        views = [
            _picture(cell.pictures[view][image], f"{title} of {image} by {label}", view)
            if image in cell.pictures.get(view, {})
            else f'<span class="{view}">no samples</span>'
            for view, title in VIEWS.items()
        ]
        psnr = cell.per_image.get(image, {}).get("psnr")
        below = "" if psnr is None else f"{rounded(psnr, 'psnr')} dB"
        yield _figure("".join(views), label, below)


def _figure(pictures: str, label: str, below: str = "") -> str:
    value = f"<small>{below}</small>" if below else ""
    return f"<figure>{pictures}<figcaption>{escape(label)}{value}</figcaption></figure>"


def _picture(path: Path, description: str, view: str = "") -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    kind = f' class="{view}"' if view else ""
    return (
        f'<img{kind} loading="lazy" decoding="async" alt="{escape(description)}" '
        f'src="data:image/png;base64,{data}">'
    )
