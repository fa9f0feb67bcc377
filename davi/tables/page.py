"""A made table as one HTML file that needs no other: no script, nothing to fetch."""

from html import escape

from davi.tables.gallery import gallery
from davi.tables.layout import BEST, NOTHING, SECOND, Entry, Layout, heading
from davi.tables.scatter import scatter
from davi.tables.style import STYLE, method_style

MARKS = {BEST: "<strong>{}</strong>", SECOND: "<u>{}</u>", None: "{}"}
# The browser itself sees to it that nothing is fetched and no script runs.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def to_html(layout: Layout) -> str:
    """Returns the page: table, notes, a chart and pictures for every task, configuration, facts."""
    result = layout.result
    title = escape(result.title)
    style = STYLE + "".join(method_style(index) for index in range(len(result.rows)))
    tasks = [_task(layout, column, number) for number, column in enumerate(result.columns)]
    links = [("table", "Table")]
    links += [(f"task{number}", label) for number, label in enumerate(result.columns.values())]
    links += [("made", "How it was made")]
    navigation = "".join(f'<a href="#{anchor}">{escape(label)}</a>' for anchor, label in links)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f'<header><h1>{title}</h1>\n<p class="soft">{_summary(layout)}</p>\n'
        f"<nav>{navigation}</nav></header>\n"
        f'<main>\n<section id="table">\n{_table(layout)}\n{_notes(layout)}\n</section>\n'
        f"{''.join(tasks)}{_how_it_was_made(layout)}</main>\n</body>\n</html>\n"
    )


def _summary(layout: Layout) -> str:
    result = layout.result
    most = max((cell.num_images for cell in result.cells.values()), default=0)
    return f"{len(result.rows)} methods · {len(result.columns)} tasks · {most} images"


def _table(layout: Layout) -> str:
    result = layout.result
    groups = "".join(
        f'<th class="first" scope="colgroup" colspan="{len(result.metrics)}">{escape(label)}</th>'
        for label in result.columns.values()
    )
    metrics = "".join(
        f'<th{_edge(position)} scope="col">{heading(metric)}</th>'
        for _ in result.columns
        for position, metric in enumerate(result.metrics)
    )
    rows = "\n".join(_row(layout, row) for row in result.rows)
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="The table"><table>\n<thead>'
        f'<tr><th rowspan="2" scope="col">Method</th>{groups}</tr>\n<tr>{metrics}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody></table></div>"
    )


def _row(layout: Layout, row: str) -> str:
    cells = "".join(
        f"<td{_edge(position)}>{_entry(layout.entries[row, column, metric])}</td>"
        for column in layout.result.columns
        for position, metric in enumerate(layout.result.metrics)
    )
    name = escape(layout.result.rows[row]) + _reference(layout.row_note(row))
    return f'<tr><th scope="row">{name}</th>{cells}</tr>'


def _edge(position: int) -> str:
    """A line to the left of each task."""
    return "" if position else ' class="first"'


def _entry(entry: Entry) -> str:
    if entry.ours is None:
        text = NOTHING + _reference(entry.note)
    else:
        text = MARKS[entry.mark].format(entry.ours)
        text += f"<small>+ {entry.backward} backward</small>" if entry.backward else ""
        text += f"<small>± {entry.error}</small>" if entry.error else ""
        text += f"<small>n = {entry.num_images}</small>" if entry.num_images else ""
    if entry.paper:
        text += f'<small class="paper">{MARKS[entry.paper_mark].format(entry.paper)}</small>'
    return text


def _reference(note: int | None) -> str:
    return f'<sup><a href="#note{note}">{note}</a></sup>' if note else ""


def _notes(layout: Layout) -> str:
    text = "\n".join(f'<p class="remark">{escape(line)}</p>' for line in layout.remarks)
    notes = "\n".join(
        f'<li id="note{number}">{escape(note)}</li>' for number, note in enumerate(layout.notes, 1)
    )
    return f"{text}\n<ol>\n{notes}\n</ol>" if notes else text


def _task(layout: Layout, column: str, number: int) -> str:
    label = escape(layout.result.columns[column])
    parts = [scatter(layout, column, number), gallery(layout, column, number)]
    body = "\n".join(part for part in parts if part) or '<p class="soft">Nothing was measured.</p>'
    return f'<section id="task{number}">\n<h2>{label}</h2>\n{body}\n</section>\n'


def _how_it_was_made(layout: Layout) -> str:
    facts = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>"
        for name, value in layout.result.facts.items()
    )
    return (
        f'<section id="made">\n<h2>How it was made</h2>\n<dl>{facts}</dl>\n'
        "<details><summary>The exact configuration</summary>"
        f"<pre>{escape(layout.result.config)}</pre></details>\n</section>\n"
    )
