"""A made table in Markdown: one table a task."""

import html
import re
from typing import Any

from davi.tables.layout import Layout
from davi.tables.template import fill


def to_markdown(layout: Layout) -> str:
    """Returns the table as GitHub-flavoured Markdown."""
    return fill("table.md.jinja", layout, {"escape": escape})


def escape(value: Any) -> str:
    """Returns text that Markdown shows as it is, in a table, too."""
    plain = " ".join(html.escape(str(value), quote=False).split())
    return re.sub(r"([\\`*_{}\[\]#|~$])", r"\\\1", plain)
