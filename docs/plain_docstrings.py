"""Lets mathematics in docstrings through to the site as it was written.

`2 * x` would become italics, and `<A x, y>` a tag of HTML.
"""

import re
from typing import Any

import griffe

_CODE = re.compile(r"(`[^`]*`)")
_FIELDS = re.compile(r"^Fields:(.*)$", re.MULTILINE)
_MARKS = str.maketrans({"*": "\\*", "<": "&lt;"})


class PlainDocstrings(griffe.Extension):
    """Escapes what Markdown would take for marks, but not within backticks."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for every object that was read; aliases have no docstring of their own."""
        if obj.docstring is not None:
            obj.docstring.value = plain(obj.docstring.value)


def plain(text: str) -> str:
    """Returns text whose marks Markdown shows as they are, and whose fields are a list."""
    text = _FIELDS.sub(_as_section, text)
    return "\n\n".join(_plain_paragraph(paragraph) for paragraph in text.split("\n\n"))


def _as_section(match: re.Match) -> str:
    """A heading that griffe knows; what stands beside "Fields:" becomes a paragraph before it."""
    beside = match.group(1)
    return f"Fields:{beside}\n\nAttributes:" if beside else "Attributes:"


def _plain_paragraph(text: str) -> str:
    if all(line.startswith("    ") for line in text.splitlines()):
        return text  # a block of code, in which Markdown knows no marks
    parts = _CODE.split(text)
    parts[::2] = [part.translate(_MARKS) for part in parts[::2]]
    return "".join(parts)
