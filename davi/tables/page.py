"""A made table as one HTML file: table, notes, charts and pictures for every task, facts."""

import base64
from pathlib import Path

from davi.tables.layout import Layout, rounded
from davi.tables.reliability import ranks_of, reliability
from davi.tables.scatter import Axis, scatter
from davi.tables.template import fill


def to_html(layout: Layout) -> str:
    """Returns the page, which needs no other file: no script, nothing to fetch."""
    functions = {
        "rounded": rounded,
        "scatter": scatter,
        "axis": Axis,
        "ranks_of": ranks_of,
        "reliability": reliability,
        "has_samples": _has_samples,
        "base64": _base64,
    }
    return fill("page.html.jinja", layout, functions, autoescape=True)


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _has_samples(layout: Layout, column: str) -> bool:
    return any(layout.cell(row, column).pictures.get("mean") for row in layout.result.rows)
