"""Writes a made table in all its forms."""

from pathlib import Path

from davi.system.files import disk_full_as_input_error, make_folder, write_text
from davi.tables.data_files import to_csv, to_json
from davi.tables.latex import to_latex
from davi.tables.layout import Layout
from davi.tables.markdown import to_markdown
from davi.tables.page import to_html
from davi.tables.result import TableResult


def write_table(result: TableResult, folder: Path) -> list[Path]:
    """Writes table.md, table.tex, table.csv, table.json and index.html, in place of older ones.

    Args:
        result: the table.
        folder: created if it does not exist.

    Returns:
        The five files.

    Raises:
        InputError: the folder cannot be written to.
    """
    layout = Layout(result)
    texts = {
        "table.md": to_markdown(layout),
        "table.tex": to_latex(layout),
        "table.csv": to_csv(layout),
        "table.json": to_json(result),
        "index.html": to_html(layout),
    }
    make_folder(folder)
    with disk_full_as_input_error(folder):
        for name, text in texts.items():
            write_text(folder / name, text)
    return [folder / name for name in texts]
