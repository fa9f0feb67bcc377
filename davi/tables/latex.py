r"""A made table in LaTeX: one tabular that needs \usepackage{booktabs} and nothing else."""

from davi.tables.layout import Layout
from davi.tables.template import fill

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
    "→": r"$\rightarrow$",
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
# Jinja's own signs stand for LaTeX already.
SIGNS = {
    "block_start_string": "<%",
    "block_end_string": "%>",
    "variable_start_string": "<<",
    "variable_end_string": ">>",
    "comment_start_string": "<#",
    "comment_end_string": "#>",
}


def to_latex(layout: Layout) -> str:
    """Returns the table as LaTeX; the paper's numbers follow ours in brackets."""
    return fill("table.tex.jinja", layout, {"escape": escape}, **SIGNS)


def escape(text: str) -> str:
    """Returns text that LaTeX shows as it is."""
    return "".join(SPECIAL.get(character, character) for character in " ".join(text.split()))
