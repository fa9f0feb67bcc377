"""Write examples/notebooks/ from the first scripts of the gallery: python docs/notebooks.py."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples/notebooks"
NAMES = ("restore_photograph", "calibrated_intervals", "own_operator")
SHOW = """\
from IPython.display import Image, display

for picture in sorted(output.glob("*.png")):
    display(Image(picture))"""


def notebook(name: str) -> str:
    """Returns a script as a notebook of Jupyter, without outputs.

    A block between empty lines at the top level becomes a cell. Where the script takes a folder
    from the command line, the notebook names one; at its end it shows the pictures there.
    """
    script = (ROOT / f"examples/{name}.py").read_text(encoding="utf-8")
    _, said, code = script.split('"""', 2)
    title, _, more = said.partition("\n\n")
    title = re.sub(r": python .*", ".", title)
    folder = f'output = Path("runs/gallery/{name}")'
    code = code.replace("import sys\n", "").replace("Path(sys.argv[1])", "output")
    # What begins a line behind an empty one begins a block, and imports are one.
    blocks = re.split(r"\n\n+(?=\S)", code.strip())
    imports = [block for block in blocks if re.match("import |from ", block)]
    others = [block.replace("output = output\n", "") for block in blocks[len(imports) :]]
    origin = f"Written from `examples/{name}.py` by `docs/notebooks.py`."
    head = [f"# {title.rstrip('.')}", more.strip(), origin]
    cells = [_cell("markdown", 0, "\n\n".join(filter(None, head)))]
    for number, block in enumerate(["\n\n".join(imports), folder, *others, SHOW], start=1):
        cells.append(_cell("code", number, block))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    content = {
        "cells": cells,
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _cell(kind: str, number: int, text: str) -> dict:
    cell = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}}
    cell["source"] = text.splitlines(keepends=True)
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for each in NAMES:
        (FOLDER / f"{each}.ipynb").write_text(notebook(each), encoding="utf-8")
