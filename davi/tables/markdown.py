"""A made table in Markdown: one table a task."""

import html
import re

from davi.tables.layout import BEST, NOTHING, SECOND, Entry, Layout, heading

MARKS = {BEST: "**{}**", SECOND: "<u>{}</u>", None: "{}"}


def to_markdown(layout: Layout) -> str:
    """Returns the table as GitHub-flavoured Markdown."""
    result = layout.result
    parts = [f"# {escape(result.title)}"]
    for column, label in result.columns.items():
        parts += [f"## {escape(label)}", _table(layout, column)]
    notes = [f"{number}. {escape(note)}" for number, note in enumerate(layout.notes, 1)]
    parts += [escape(remark) for remark in layout.remarks]
    parts += ["\n".join(notes)] if notes else []
    facts = [f"- {escape(name)}: {escape(str(value))}" for name, value in result.facts.items()]
    parts += ["\n".join(facts)] if facts else []
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """Returns text that Markdown shows as it is, in a table, too."""
    plain = " ".join(html.escape(text, quote=False).split())
    return re.sub(r"([\\`*_{}\[\]#|~$])", r"\\\1", plain)


def _table(layout: Layout, column: str) -> str:
    titles = ["Method"]
    for metric in layout.result.metrics:
        titles += [heading(metric), *(["paper"] if layout.has_paper(column, metric) else [])]
    lines = [titles, [":--", *["--:"] * (len(titles) - 1)]]
    lines += [_row(layout, row, column) for row in layout.result.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _row(layout: Layout, row: str, column: str) -> list[str]:
    note = layout.row_note(row)
    cells = [escape(layout.result.rows[row]) + (_reference(note) if note else "")]
    for metric in layout.result.metrics:
        entry = layout.entries[row, column, metric]
        cells.append(_ours(entry))
        if layout.has_paper(column, metric):
            cells.append(MARKS[entry.paper_mark].format(entry.paper) if entry.paper else "")
    return cells


def _ours(entry: Entry) -> str:
    if entry.ours is None:
        return NOTHING + (_reference(entry.note) if entry.note else "")
    text = MARKS[entry.mark].format(entry.ours)
    text += f" + {entry.backward} backward" if entry.backward else ""
    text += f" ± {entry.error}" if entry.error else ""
    return text + (f" (n = {entry.num_images})" if entry.num_images else "")


def _reference(note: int) -> str:
    return f"<sup>{note}</sup>"
