r"""A made table in LaTeX: one tabular that needs \usepackage{booktabs} and nothing else."""

from davi.tables.layout import BEST, SECOND, Entry, Layout, heading

MARKS = {BEST: r"\textbf{{{}}}", SECOND: r"\underline{{{}}}", None: "{}"}
SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "[": "{[}",  # after the end of a line it would open an option
    "*": "{*}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "±": r"$\pm$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "Π": r"$\Pi$",
    "\N{GREEK SMALL LETTER SIGMA}": r"$\sigma$",
    "²": r"$^2$",
    "\N{EN DASH}": "--",
    "—": "---",
    "…": r"\ldots{}",
}
END = r" \\"


def to_latex(layout: Layout) -> str:
    """Returns the table as LaTeX; the paper's numbers follow ours in brackets."""
    result = layout.result
    width = len(result.metrics)
    rules = [
        rf"\cmidrule(lr){{{2 + width * index}-{1 + width * (index + 1)}}}"
        for index in range(len(result.columns))
    ]
    tasks = [
        rf"\multicolumn{{{width}}}{{c}}{{{escape(label)}}}" for label in result.columns.values()
    ]
    titles = [escape(heading(metric)) for _ in result.columns for metric in result.metrics]
    lines = [
        f"% {' '.join(result.title.split())}",
        r"% Needs \usepackage{booktabs}.",
        rf"\begin{{tabular}}{{l{'r' * len(titles)}}}",
        r"\toprule",
        " & ".join(["", *tasks]) + END,
        "".join(rules),
        " & ".join(["Method", *titles]) + END,
        r"\midrule",
        *(_row(layout, row) for row in result.rows),
        r"\bottomrule",
        r"\end{tabular}",
        *_notes(layout),
    ]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Returns text that LaTeX shows as it is."""
    return "".join(SPECIAL.get(character, character) for character in " ".join(text.split()))


def _row(layout: Layout, row: str) -> str:
    result = layout.result
    name = escape(result.rows[row]) + _reference(layout.row_note(row))
    entries = [
        _entry(layout.entries[row, column, metric])
        for column in result.columns
        for metric in result.metrics
    ]
    return " & ".join([name, *entries]) + END


def _entry(entry: Entry) -> str:
    if entry.ours is None:
        text = "--" + _reference(entry.note)
    else:
        text = MARKS[entry.mark].format(entry.ours)
        text += f" + {entry.backward}" if entry.backward else ""
        text += rf" {{\scriptsize $\pm$ {entry.error}}}" if entry.error else ""
        text += rf" {{\scriptsize (n = {entry.num_images})}}" if entry.num_images else ""
    if entry.paper:
        text += rf" {{\scriptsize ({MARKS[entry.paper_mark].format(entry.paper)})}}"
    return text


def _notes(layout: Layout) -> list[str]:
    brackets = ["The paper's numbers are in brackets."] if layout.quotes_paper else []
    remarks = [*brackets, *layout.remarks]
    notes = [f"{_reference(number)}{escape(note)}" for number, note in enumerate(layout.notes, 1)]
    lines = [rf"\par {text}" for text in [*map(escape, remarks), *notes]]
    return ["{\\footnotesize", *lines, r"\par}"]


def _reference(note: int | None) -> str:
    return rf"\textsuperscript{{{note}}}" if note else ""
