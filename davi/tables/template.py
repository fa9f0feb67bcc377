"""Fills the templates that the written forms of a table are."""

from collections.abc import Callable
from typing import Any

from davi.tables.layout import Layout, heading


def fill(name: str, layout: Layout, functions: dict[str, Callable], **options: Any) -> str:
    """Returns a template of the folder `templates`, filled by Jinja.

    Args:
        name: of its file.
        layout: the table, known to the template as `layout`, its content as `result`.
        functions: what else the template may call, by name.
        **options: of Jinja's environment: escaping, and what code in the template looks like.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader(__package__),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )
    known = {"layout": layout, "result": layout.result, "heading": heading, **functions}
    return environment.get_template(name).render(known)
